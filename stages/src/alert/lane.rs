//! Lane: the way to one channel: its rate, its reserve for what is critical, and the digest of what exceeds them.

use serde::{Deserialize, Serialize};

use super::limit::Limit;
use crate::{
    Emission,
    incident::{Change, Incident, Severity, timestamp},
    notification::{Digest, Notification},
};

/// A digest waits at least so long, so that a flood becomes few of them.
const DIGEST_WAIT_MS: u64 = 15_000;

/// The way to one channel. It is one key of the state.
pub(super) struct Lane {
    channel: String,
    ordinary: Option<Limit>,
    /// A fifth of the rate, which only critical incidents that open may take.
    reserve: Option<Limit>,
    waiting: Option<Waiting>,
}

/// What exceeded the rate, and when it may go.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    due_ms: u64,
    digest: Digest,
}

/// A lane as it is stored.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    ordinary: u64,
    reserve: u64,
    waiting: Option<Waiting>,
}

impl Lane {
    pub(super) fn new(channel: &str, per_minute: u32) -> Self {
        Self::with(channel, per_minute, Stored::default())
    }

    fn with(channel: &str, per_minute: u32, stored: Stored) -> Self {
        let per_minute = per_minute.max(1);
        let reserve = if per_minute == 1 { 0 } else { (per_minute / 5).max(1) };
        Self {
            channel: channel.to_owned(),
            ordinary: Limit::per_minute(per_minute - reserve, stored.ordinary),
            reserve: Limit::per_minute(reserve, stored.reserve),
            waiting: stored.waiting,
        }
    }

    pub(super) fn restored(channel: &str, per_minute: u32, value: &[u8]) -> Result<Self, serde_json::Error> {
        Ok(Self::with(channel, per_minute, serde_json::from_slice(value)?))
    }

    pub(super) fn stored(&self) -> Vec<u8> {
        let taken = |limit: &Option<Limit>| limit.as_ref().map_or(0, Limit::taken);
        let stored =
            Stored { ordinary: taken(&self.ordinary), reserve: taken(&self.reserve), waiting: self.waiting.clone() };
        serde_json::to_vec(&stored).expect("a lane is plain data")
    }

    /// Sends what became of an incident, or adds it to the digest. While a digest waits, all that is
    /// ordinary joins it, so that nobody reads of an end before the beginning.
    pub(super) fn send(&mut self, incident: Incident, suppressed: u64, now_ms: u64) -> Option<Emission> {
        let takes = |limit: &Option<Limit>| limit.as_ref().is_some_and(|limit| limit.take(now_ms).is_ok());
        let urgent = incident.severity == Severity::Critical && incident.event == Change::Opened;
        if (self.waiting.is_none() && takes(&self.ordinary)) || (urgent && takes(&self.reserve)) {
            let notification = Notification::of_incident(&self.channel, timestamp(now_ms), incident, suppressed);
            return Some(emission(notification));
        }
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            due_ms: now_ms.saturating_add(DIGEST_WAIT_MS),
            digest: Digest::since(&incident, timestamp(now_ms)),
        });
        waiting.digest.add(&incident, suppressed);
        None
    }

    /// When the digest may go.
    pub(super) fn due_ms(&self) -> Option<u64> {
        self.waiting.as_ref().map(|waiting| waiting.due_ms)
    }

    /// Sends the digest if the rate allows, or waits until it does.
    pub(super) fn flush(&mut self, now_ms: u64) -> Option<Emission> {
        let waiting = self.waiting.as_mut()?;
        if let Some(Err(not_before_ms)) = self.ordinary.as_ref().map(|limit| limit.take(now_ms)) {
            waiting.due_ms = not_before_ms;
            return None;
        }
        let digest = self.waiting.take()?.digest;
        Some(emission(Notification::of_digest(&self.channel, timestamp(now_ms), digest)))
    }
}

fn emission(notification: Notification) -> Emission {
    Emission {
        body: serde_json::to_vec(&notification).expect("a notification is plain data"),
        id: notification.notification_id,
        route: notification.channel,
    }
}

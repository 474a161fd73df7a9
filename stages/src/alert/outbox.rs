//! Outbox: the way to one channel: its rate, what has the first claim on it, and the digest of what
//! exceeds it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::{Limit, Need};
use crate::{
    ChannelTerms, Emission,
    fingerprint::{hash, hex},
    incident::{Change, Incident, Severity, timestamp},
    notification::{Digest, GROUP_INCIDENTS_MAX, Grouped, Held, Notification, Why},
};

/// A digest waits at least so long, so that a flood becomes few of them.
const DIGEST_WAIT_MS: u64 = 15_000;
/// One that something urgent has joined waits no longer than this.
const URGENT_WAIT_MS: u64 = 1_000;
/// One that has waited so long is urgent itself.
const PATIENCE_MS: u64 = 60_000;

/// The way to one channel. It is one key of the state.
pub(super) struct Outbox {
    channel: String,
    limit: Limit,
    /// Whether it is told of ends.
    pub(super) send_resolved: bool,
    waiting: Option<Waiting>,
}

/// What exceeded the rate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    since_ms: u64,
    not_before_ms: u64,
    urgent: bool,
    /// Made of the ids of all that joined it.
    content: u64,
    digest: Digest,
}

/// An outbox as it is stored.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    taken: u64,
    waiting: Option<Waiting>,
}

/// What a group has to say to a channel.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// The life of the group, in hexadecimal digits.
    pub(super) life: String,
    /// Which message of the group it is.
    pub(super) number: u64,
    pub(super) why: Why,
    /// The labels by which the group is one.
    pub(super) by: BTreeMap<String, String>,
    /// Incidents of which something is new, as they are told.
    pub(super) news: Vec<Incident>,
    /// How many changes that tells: what is told late was counted before.
    pub(super) changes: u64,
    /// Others that go on, each without new errors.
    pub(super) rest: Vec<Incident>,
    pub(super) held: Held,
}

/// What became of a message.
pub(super) enum Sent {
    /// It is sent.
    Alone(Emission),
    /// It waits in the digest.
    Waits,
}

impl Outbox {
    pub(super) fn new(terms: &ChannelTerms) -> Self {
        Self {
            channel: terms.name.clone(),
            limit: Limit::per_minute(terms.per_minute, 0),
            send_resolved: terms.send_resolved,
            waiting: None,
        }
    }

    /// An outbox as it was stored. Of what an earlier version stored, the digest is kept if it can be
    /// read.
    pub(super) fn restored(terms: &ChannelTerms, value: &[u8]) -> Result<Self, serde_json::Error> {
        let mut outbox = Self::new(terms);
        let read: serde_json::Value = serde_json::from_slice(value)?;
        if read.get("ordinary").is_some() {
            let digest = serde_json::from_value::<Digest>(read["waiting"]["digest"].clone());
            outbox.waiting = digest.ok().map(|digest| {
                let since_ms = u64::try_from(digest.since.as_millisecond()).unwrap_or(0);
                let content = hash(&[&digest.first_incident_id, &since_ms.to_string()]);
                Waiting {
                    since_ms,
                    not_before_ms: since_ms + DIGEST_WAIT_MS,
                    urgent: false,
                    content,
                    digest,
                }
            });
            return Ok(outbox);
        }
        let Stored { taken, waiting } = serde_json::from_value(read)?;
        Ok(Self { limit: Limit::per_minute(terms.per_minute, taken), waiting, ..outbox })
    }

    pub(super) fn stored(&self) -> Vec<u8> {
        let stored = Stored { taken: self.limit.taken(), waiting: self.waiting.clone() };
        serde_json::to_vec(&stored).expect("an outbox is plain data")
    }

    /// Sends a message, or adds it to the digest. While a digest waits, all that is ordinary joins
    /// it, so that nobody reads of an end before the beginning; and while an urgent one waits, all
    /// joins it, so that nothing delays it.
    pub(super) fn send(&mut self, message: Message, now_ms: u64) -> Sent {
        let need = message.need();
        let passes = match &self.waiting {
            None => true,
            Some(waiting) => need == Need::Urgent && !waiting.is_urgent(now_ms),
        };
        if passes && self.limit.take(need, now_ms) {
            return Sent::Alone(emission(message.told(&self.channel, now_ms)));
        }
        let first = message.news.first().or(message.rest.first());
        let Some(first) = first else { return Sent::Waits };
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since_ms: now_ms,
            not_before_ms: now_ms.saturating_add(DIGEST_WAIT_MS),
            urgent: false,
            content: 0,
            digest: Digest::since(first, timestamp(now_ms)),
        });
        if need == Need::Urgent && !waiting.urgent {
            waiting.urgent = true;
            waiting.not_before_ms =
                waiting.not_before_ms.min(now_ms.saturating_add(URGENT_WAIT_MS));
        }
        waiting.content = hash(&[&hex(waiting.content), &message.id(&self.channel)]);
        waiting.digest.add_all(&message.news, message.changes, &message.rest, &message.held);
        Sent::Waits
    }

    /// When the digest may go, if nothing is sent before.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let waiting = self.waiting.as_ref()?;
        let soonest = |need, not_before: u64| not_before.max(self.limit.earliest_ms(need));
        let urgent = |not_before| soonest(Need::Urgent, not_before);
        Some(if waiting.urgent {
            urgent(waiting.not_before_ms)
        } else {
            soonest(Need::Ordinary, waiting.not_before_ms)
                .min(urgent(waiting.since_ms.saturating_add(PATIENCE_MS)))
        })
    }

    /// Sends the digest if it is due.
    pub(super) fn flush(&mut self, now_ms: u64) -> Option<Emission> {
        if self.due_ms()? > now_ms {
            return None;
        }
        let need =
            if self.waiting.as_ref()?.is_urgent(now_ms) { Need::Urgent } else { Need::Ordinary };
        if !self.limit.take(need, now_ms) {
            return None;
        }
        let Waiting { content, digest, .. } = self.waiting.take()?;
        let mut notification = Notification::of_digest(&self.channel, timestamp(now_ms), digest);
        notification.notification_id = format!("{}.digest.{}", self.channel, hex(content));
        notification.group = hex(hash(&["digest", &notification.notification_id]));
        Some(emission(notification))
    }
}

impl Waiting {
    fn is_urgent(&self, now_ms: u64) -> bool {
        self.urgent || now_ms.saturating_sub(self.since_ms) >= PATIENCE_MS
    }
}

impl Message {
    fn need(&self) -> Need {
        let critical = |incident: &Incident| {
            incident.severity == Severity::Critical
                && (incident.event.begins() || incident.event == Change::Escalated)
        };
        if self.why == Why::Unacknowledged || self.news.iter().any(critical) {
            Need::Urgent
        } else if self.news.iter().any(|incident| incident.event.begins()) {
            Need::Opening
        } else {
            Need::Ordinary
        }
    }

    /// The same for the same news, however often it is worked out, and for nothing else.
    fn id(&self, channel: &str) -> String {
        let mut news = vec![self.why.as_str().to_owned()];
        for incident in &self.news {
            let Incident { incident_id, event, severity, count, .. } = incident;
            news.push(format!("{incident_id} {} {} {count}", event.as_str(), severity.as_str()));
        }
        let news: Vec<&str> = news.iter().map(String::as_str).collect();
        format!("{channel}.{}.{}.{}", self.life, self.number, hex(hash(&news)))
    }

    fn told(self, channel: &str, now_ms: u64) -> Notification {
        let (id, at, changes) = (self.id(channel), timestamp(now_ms), self.changes);
        let Self { life, why, by, news, mut rest, held, .. } = self;
        let mut list = news;
        list.append(&mut rest);
        let mut notification = if list.len() == 1 {
            let incident = list.pop().expect("there is one");
            Notification::of_incident(id, channel, at, why, &life, incident, held)
        } else {
            let (resolved, errors) = (
                list.iter().filter(|incident| incident.is_over()).count(),
                list.iter().map(|i| i.count).sum(),
            );
            let firing = list.len() - resolved;
            list.sort_by_cached_key(|incident| {
                let Incident { severity, count, incident_id, .. } = incident;
                (incident.is_over(), std::cmp::Reverse((*severity, *count)), incident_id.clone())
            });
            list.truncate(GROUP_INCIDENTS_MAX);
            let grouped =
                Grouped { by, firing: firing as u64, resolved: resolved as u64, errors, list };
            Notification::of_group(id, channel, at, why, &life, grouped, held)
        };
        notification.news = changes;
        notification
    }
}

fn emission(notification: Notification) -> Emission {
    Emission {
        body: serde_json::to_vec(&notification).expect("a notification is plain data"),
        id: notification.notification_id,
        route: notification.channel,
    }
}

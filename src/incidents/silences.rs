//! Silences: made, listed and ended, each as one key of the state bucket.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use millstream_stages::operator::{SILENCE_KEYS, Silence};

use super::IncidentsError;
use crate::{broker::Broker, limits, wire::Names};

/// Phase of a silence, between its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Not begun.
    Pending,
    /// In force.
    Active,
    /// Over.
    Expired,
}

impl Phase {
    /// Phase of a silence at a time.
    pub fn of(silence: &Silence, now: Timestamp) -> Self {
        match (now < silence.starts_at, now < silence.ends_at) {
            (_, false) => Self::Expired,
            (true, true) => Self::Pending,
            (false, true) => Self::Active,
        }
    }

    /// Name of the phase, as in Alertmanager.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Active => "active",
            Self::Expired => "expired",
        }
    }
}

/// Every silence on record, the one that ends last first.
///
/// # Errors
/// [`IncidentsError::Ask`].
pub async fn all(broker: &Broker, names: &Names) -> Result<Vec<Silence>, IncidentsError> {
    let entries = broker.kv_entries(&names.state_bucket(), &format!("{SILENCE_KEYS}.")).await?;
    // One that cannot be read was not made by this program; the stage that reads it says so.
    let mut silences: Vec<Silence> =
        entries.iter().filter_map(|(_, value, _)| serde_json::from_slice(value).ok()).collect();
    silences.sort_by(|a, b| (b.ends_at, &a.id).cmp(&(a.ends_at, &b.id)));
    Ok(silences)
}

/// Writes a silence, and deletes those that ended long ago.
///
/// # Errors
/// [`IncidentsError`].
pub async fn put(broker: &Broker, names: &Names, silence: &Silence) -> Result<(), IncidentsError> {
    let value = serde_json::to_vec(silence).expect("a silence is plain data");
    broker.kv_put(&names.state_bucket(), &key(&silence.id), value).await?;
    let before = earlier(broker.timestamp(), limits::SILENCES_KEPT);
    for old in all(broker, names).await?.iter().filter(|old| old.ends_at < before) {
        broker.kv_delete(&names.state_bucket(), &key(&old.id)).await?;
    }
    Ok(())
}

/// Ends a silence now. It stays on record for a while.
///
/// # Errors
/// [`IncidentsError::Write`].
pub async fn end(
    broker: &Broker,
    names: &Names,
    silence: Silence,
) -> Result<Silence, IncidentsError> {
    let now = broker.timestamp();
    let ended = Silence { starts_at: silence.starts_at.min(now), ends_at: now, ..silence };
    let value = serde_json::to_vec(&ended).expect("a silence is plain data");
    broker.kv_put(&names.state_bucket(), &key(&ended.id), value).await?;
    Ok(ended)
}

fn key(id: &str) -> String {
    format!("{SILENCE_KEYS}.{id}")
}

/// Time so long before another.
pub fn earlier(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_sub(by).ok())
        .unwrap_or(Timestamp::MIN)
}

/// Time so long after another.
pub fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(Timestamp::MAX)
}

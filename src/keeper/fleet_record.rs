//! Fleet record: what one worker found when it looked at what the whole fleet needs.

use serde::{Deserialize, Serialize};

use crate::{
    broker::{AdminError, Broker},
    observe::ConditionRecord,
    wire::Names,
};

/// Record of the last look at the fleet, as the value of one key of the state bucket. It is written
/// every [`crate::limits::WATCH_LOOK`], changed or not: a sign that someone looks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct FleetRecord {
    /// Worker that looked.
    pub by: String,
    /// Time of the look on its clock, RFC 3339; for people.
    pub at: String,
    /// Streams, consumers and leases that were looked at.
    pub looked_at: LookedAt,
    /// Conditions that do not hold.
    pub conditions: Vec<ConditionRecord>,
    /// Sizes of queues and lags.
    pub gauges: Gauges,
}

/// Numbers of what was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LookedAt {
    /// Streams, buckets among them.
    pub streams: usize,
    /// Consumers.
    pub consumers: usize,
    /// Leases.
    pub leases: usize,
}

/// Numbers of the broker that every worker shows.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Gauges {
    /// Dead letters stored; `None`: not known.
    pub letters: Option<u64>,
    /// Events in the retry stream; `None`: not known.
    pub retries: Option<u64>,
    /// Feeds of map stages that have something to be read or settled; the others have nothing.
    pub lags: Vec<Lag>,
}

/// Lag of a stage on one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lag {
    /// Name of the stage.
    pub stage: String,
    /// Name of the stream.
    pub stream: String,
    /// Messages not yet delivered.
    pub pending: u64,
    /// Messages delivered and not settled.
    pub unsettled: u64,
}

impl FleetRecord {
    /// Key of the record.
    pub const KEY: &str = "fleet.record";

    /// Record as it was last written, and its revision; `None`: there is none that can be read.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn load(broker: &Broker, names: &Names) -> Result<Option<(Self, u64)>, AdminError> {
        let found = broker.kv_get(&names.state_bucket(), Self::KEY).await?;
        Ok(found
            .and_then(|(value, revision)| Some((serde_json::from_slice(&value).ok()?, revision))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_of_another_version_is_read_as_far_as_it_is_known() {
        let read: FleetRecord = serde_json::from_str(r#"{"by":"w","new":1}"#).unwrap();
        assert_eq!(read, FleetRecord { by: "w".into(), ..FleetRecord::default() });
    }
}

//! Floor: sequence up to which a consumer has settled all that it reads, as the value of one key.

use serde::{Deserialize, Serialize};

/// Floor of one consumer of a stream, in the state bucket. A consumer that is made anew goes on
/// behind it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct FloorRecord {
    /// Time the stream was created, in Unix milliseconds: a stream made anew counts from 1 again.
    pub created: u64,
    /// Stream sequence up to which everything is settled.
    pub floor: u64,
    /// Time of the record, in Unix milliseconds.
    pub at: u64,
    /// Deliveries of the consumer up to the floor, and all; older versions do not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deliveries: Option<(u64, u64)>,
}

impl FloorRecord {
    /// Key of the record of `reader` (a consumer, or a reduce stage) on `stream`.
    pub fn key(stream: &str, reader: &str) -> String {
        format!("floor.{stream}.{reader}")
    }

    /// Record from the value of its key; `None`: it cannot be read, and says nothing.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Value of its key.
    pub fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a floor is plain data")
    }

    /// Floor on the stream that was created at `created`; `None`: it is of another life of it.
    pub fn on(&self, created: u64) -> Option<u64> {
        (self.created == created).then_some(self.floor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_of_another_life_of_the_stream_says_nothing() {
        let written = FloorRecord { created: 7, floor: 1204, at: 9, deliveries: None }.written();
        assert_eq!(written, br#"{"created":7,"floor":1204,"at":9}"#);
        let record = FloorRecord::read(&written).unwrap();
        assert_eq!((record.on(7), record.on(8)), (Some(1204), None));
        assert_eq!(FloorRecord::read(b"floor"), None);
        let counted = FloorRecord { deliveries: Some((1204, 1210)), ..record };
        assert_eq!(FloorRecord::read(&counted.written()), Some(counted));
    }
}

//! Applied: consumers of the configuration that was applied last, as the value of one key.

use serde::{Deserialize, Serialize};

/// Consumers of the configuration that was applied last, in the state bucket. Workers of another
/// one may still run: what it does not name is not theirs to make.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppliedRecord {
    /// Stream and name of each.
    consumers: Vec<(String, String)>,
}

impl AppliedRecord {
    /// Key of the record.
    pub const KEY: &'static str = "applied";

    /// Record of these consumers, each by its stream and its name.
    pub fn of(consumers: impl IntoIterator<Item = (String, String)>) -> Self {
        Self { consumers: consumers.into_iter().collect() }
    }

    /// Record from the value of its key; `None`: it cannot be read, and says nothing.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Value of its key.
    ///
    /// # Panics
    ///
    /// Never: it is plain data.
    pub fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a list of names is plain data")
    }

    /// True if the configuration has this consumer.
    pub fn names(&self, stream: &str, consumer: &str) -> bool {
        self.consumers.iter().any(|(of, name)| of == stream && name == consumer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_names_its_consumers_by_their_streams() {
        let written = AppliedRecord::of([("in".to_owned(), "work".to_owned())]).written();
        assert_eq!(written, br#"{"consumers":[["in","work"]]}"#);
        let record = AppliedRecord::read(&written).unwrap();
        assert!(record.names("in", "work"));
        assert!(!record.names("retry", "work") && !record.names("in", "first"));
        assert_eq!(AppliedRecord::read(b"applied"), None);
    }
}

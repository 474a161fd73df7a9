//! Alias: names under which one stage is, or was, known, as the value of a key for each.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Names of one stage, in the state bucket under each of them. While workers of the configuration
/// before are still at work, each finds there whom else the letter of an event may be of.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AliasRecord {
    /// Name that the stage has now, then those that it had.
    pub names: Vec<String>,
}

impl AliasRecord {
    /// Prefix of the keys of all records.
    pub const PREFIX: &'static str = "alias.";

    /// Key of the record of a stage.
    pub fn key(stage: &str) -> String {
        format!("{}{stage}", Self::PREFIX)
    }

    /// Records by key, of stages that were renamed: the name before, and the name now.
    pub fn all(renamed: &[(String, String)]) -> BTreeMap<String, Self> {
        let mut by_name: BTreeMap<&str, Self> = BTreeMap::new();
        for (old, new) in renamed {
            let record = by_name.entry(new).or_default();
            if record.names.is_empty() {
                record.names.push(new.clone());
            }
            record.names.push(old.clone());
        }
        let each = by_name.into_values();
        let under = |record: Self| {
            let names = record.names.clone().into_iter();
            names.map(move |name| (Self::key(&name), record.clone())).collect::<Vec<_>>()
        };
        each.flat_map(under).collect()
    }

    /// Record from the value of its key; `None`: it cannot be read, and says nothing.
    pub fn read(value: &[u8]) -> Option<Self> {
        serde_json::from_slice(value).ok()
    }

    /// Value of its keys.
    pub fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a list of names is plain data")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_is_found_under_each_of_its_names() {
        let renamed = [("orders", "fulfil"), ("old", "fulfil"), ("a", "b")]
            .map(|(old, new)| (old.to_owned(), new.to_owned()));
        let all = AliasRecord::all(&renamed);
        let keys: Vec<&str> = all.keys().map(String::as_str).collect();
        assert_eq!(keys, ["alias.a", "alias.b", "alias.fulfil", "alias.old", "alias.orders"]);
        let written = all["alias.old"].written();
        assert_eq!(written, br#"{"names":["fulfil","orders","old"]}"#);
        assert_eq!(AliasRecord::read(&written).as_ref(), Some(&all["alias.fulfil"]));
        assert_eq!(AliasRecord::read(b"alias"), None);
    }
}

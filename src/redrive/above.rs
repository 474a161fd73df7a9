//! Above: letters of a job above its cursor whose fate is on record, so that each counts once.
//!
//! A letter is removed only once its record says that it was sent. Whoever carries the job on after
//! a crash knows of each letter that is gone that it was sent, and of each that is there and not on
//! record that it counts still.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Letters above the cursor of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Above {
    /// Sent, and being removed; not counted yet.
    pub sent: Seqs,
    /// Being marked permanent; not counted yet.
    pub marking: Seqs,
    /// Counted.
    pub counted: Seqs,
    /// Run of letters, all sent, that is being removed; not counted yet.
    pub run: Option<Run>,
}

/// Run of letters: every letter of the job's stage up to a sequence.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Run {
    /// Sequence of the last.
    pub up_to: u64,
    /// Number of them.
    pub count: u64,
}

/// Set of sequences; stored as ranges, since most are next to each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seqs(BTreeSet<u64>);

impl Above {
    /// Number of letters.
    pub fn len(&self) -> usize {
        self.sent.0.len() + self.marking.0.len() + self.counted.0.len()
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Forgets what is counted up to the cursor.
    pub(super) fn passed(&mut self, cursor: u64) {
        self.counted.0 = self.counted.0.split_off(&cursor.saturating_add(1));
    }
}

impl Seqs {
    /// True if the sequence is among them.
    pub fn contains(&self, seq: u64) -> bool {
        self.0.contains(&seq)
    }

    pub(super) fn insert(&mut self, seq: u64) {
        self.0.insert(seq);
    }

    pub(super) fn remove(&mut self, seq: u64) -> bool {
        self.0.remove(&seq)
    }

    /// Sequences, in order.
    pub(super) fn all(&self) -> Vec<u64> {
        self.0.iter().copied().collect()
    }
}

impl Serialize for Seqs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut ranges: Vec<(u64, u64)> = Vec::new();
        for seq in &self.0 {
            match ranges.last_mut() {
                Some((_, last)) if *last + 1 == *seq => *last = *seq,
                _ => ranges.push((*seq, *seq)),
            }
        }
        serializer.collect_seq(ranges)
    }
}

impl<'de> Deserialize<'de> for Seqs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let ranges = Vec::<(u64, u64)>::deserialize(deserializer)?;
        let most = crate::limits::JOB_ABOVE_MAX as u64;
        let all = ranges.into_iter().flat_map(|(first, last)| first..=last);
        // No record of ours has more; one that was tampered with must not fill the memory.
        Ok(Self(all.take(usize::try_from(2 * most).unwrap_or(usize::MAX)).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sequences_are_stored_as_ranges() {
        let mut above = Above::default();
        for seq in [7, 3, 4, 5, 9, 10] {
            above.counted.insert(seq);
        }
        above.sent.insert(12);
        let text = serde_json::to_string(&above).unwrap();
        assert_eq!(
            text,
            r#"{"sent":[[12,12]],"marking":[],"counted":[[3,5],[7,7],[9,10]],"run":null}"#
        );
        assert_eq!(serde_json::from_str::<Above>(&text).unwrap(), above);
        above.passed(7);
        assert_eq!((above.counted.all(), above.len()), (vec![9, 10], 3));
        assert!(serde_json::from_str::<Above>(r#"{"sent":[[0,18446744073709551615]]}"#).is_ok());
    }
}

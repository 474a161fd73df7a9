//! Held: what was not told by itself, counted by the reason why.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Why something that became of an incident was not told by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// A later change told it, or its incident was over before its group was told.
    Repeated,
    /// A silence matches it.
    Silenced,
    /// A worse incident explains it.
    Inhibited,
    /// The route is muted at that time.
    Muted,
    /// Someone has taken it on.
    Acknowledged,
    /// The rate of the channel was exceeded: it is in a digest.
    Digested,
    /// Its route has no channel, or the channel does not want ends.
    Unwanted,
}

impl Hold {
    /// Every reason, in the order of their discriminants.
    pub const ALL: [Self; 7] = [
        Self::Repeated,
        Self::Silenced,
        Self::Inhibited,
        Self::Muted,
        Self::Acknowledged,
        Self::Digested,
        Self::Unwanted,
    ];

    /// The word for it in JSON, in labels and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Repeated => "repeated",
            Self::Silenced => "silenced",
            Self::Inhibited => "inhibited",
            Self::Muted => "muted",
            Self::Acknowledged => "acknowledged",
            Self::Digested => "digested",
            Self::Unwanted => "unwanted",
        }
    }
}

/// How much was held back, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Held(pub BTreeMap<Hold, u64>);

impl Held {
    /// Adds to what was held back for a reason.
    pub fn add(&mut self, hold: Hold, count: u64) {
        if count > 0 {
            *self.0.entry(hold).or_default() += count;
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(hold, count)| self.add(*hold, *count));
    }

    /// All of it.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// Whether nothing was.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// `and 3 more changes that were held back: 2 repeated, 1 silenced`, a line; nothing where
    /// nothing was.
    pub(super) fn said(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let parts: Vec<String> =
            self.0.iter().map(|(hold, count)| format!("{count} {}", hold.as_str())).collect();
        format!("held back until now: {}\n", parts.join(", "))
    }
}

//! Held: changes that were not sent by themselves, counted by reason.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Reason why a change of an incident was not sent by itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hold {
    /// A later change covered it, or its incident was over before its group was notified.
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
    /// The route has no channel, or the channel does not want ends.
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

    /// Returns the word for it in JSON, in labels and in text.
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

/// Number of changes held back, by reason.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Held(pub BTreeMap<Hold, u64>);

impl Held {
    /// Adds changes held back for a reason.
    pub fn add(&mut self, hold: Hold, count: u64) {
        if count > 0 {
            *self.0.entry(hold).or_default() += count;
        }
    }

    /// Adds all of another.
    pub fn merge(&mut self, other: &Self) {
        other.0.iter().for_each(|(hold, count)| self.add(*hold, *count));
    }

    /// Returns the sum over all reasons.
    pub fn total(&self) -> u64 {
        self.0.values().sum()
    }

    /// True if nothing was held back.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns a line, `held back until now: 2 repeated, 1 silenced`; empty where nothing was.
    pub(super) fn said(&self) -> String {
        if self.is_empty() {
            return String::new();
        }
        let parts: Vec<String> =
            self.0.iter().map(|(hold, count)| format!("{count} {}", hold.as_str())).collect();
        format!("held back until now: {}\n", parts.join(", "))
    }
}

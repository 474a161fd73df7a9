//! Stored: parts of a cell in few bytes: a cell is written at every commit in which it changed.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error};

use crate::incident::{Sample, timestamp};

/// Minutes counted apart.
pub(super) const MINUTES: usize = 10;
const MINUTE_MS: u64 = 60_000;
/// Different users counted at the most.
const USERS_MAX: usize = 100;

/// Serde form of a number: the 16 digits of a fingerprint.
pub(super) mod digits {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use crate::fingerprint::hex;

    pub(in super::super) fn serialize<S: Serializer>(
        number: &u64,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&hex(*number))
    }

    pub(in super::super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<u64, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        u64::from_str_radix(text, 16).map_err(D::Error::custom)
    }
}

/// Times at which the latest errors were stored, in order; written as the first, then the gaps.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Times(std::collections::VecDeque<u64>);

impl Times {
    /// Adds a time and keeps the `most` latest.
    pub(super) fn add(&mut self, at_ms: u64, most: usize) {
        // Several streams may bring errors a little out of order.
        let place = self.0.partition_point(|ms| *ms <= at_ms);
        self.0.insert(place, at_ms);
        while self.0.len() > most {
            self.0.pop_front();
        }
    }

    /// Returns the first and the last.
    pub(super) fn ends(&self) -> Option<(u64, u64)> {
        Some((*self.0.front()?, *self.0.back()?))
    }

    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Forgets the times, and frees their memory.
    pub(super) fn clear(&mut self) {
        self.0 = Default::default();
    }
}

impl Serialize for Times {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut before = 0;
        serializer.collect_seq(self.0.iter().map(|at| at - std::mem::replace(&mut before, *at)))
    }
}

impl<'de> Deserialize<'de> for Times {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let gaps = Vec::<u64>::deserialize(deserializer)?;
        let add = |at: &mut u64, gap| {
            *at = at.saturating_add(gap);
            Some(*at)
        };
        Ok(Self(gaps.into_iter().scan(0, add).collect()))
    }
}

/// Errors in each minute of the clock, back from that of the last error.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Minutes([u64; MINUTES]);

impl Minutes {
    /// Counts one error at `at_ms`. The last error was at `before_ms`, and is now at `last_ms`.
    pub(super) fn add(&mut self, at_ms: u64, before_ms: u64, last_ms: u64) {
        let since = |from_ms: u64| {
            usize::try_from((last_ms / MINUTE_MS).saturating_sub(from_ms / MINUTE_MS))
                .unwrap_or(MINUTES)
        };
        let passed = since(before_ms).min(MINUTES);
        self.0.rotate_right(passed % MINUTES);
        self.0[..passed].fill(0);
        if let Some(count) = self.0.get_mut(since(at_ms)) {
            *count += 1;
        }
    }

    /// Returns the counts, the oldest first.
    pub(super) fn oldest_first(&self) -> Vec<u64> {
        self.0.iter().rev().copied().collect()
    }
}

impl Serialize for Minutes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let used = self.0.iter().rposition(|count| *count > 0).map_or(0, |at| at + 1);
        serializer.collect_seq(&self.0[..used])
    }
}

impl<'de> Deserialize<'de> for Minutes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let counts = Vec::<u64>::deserialize(deserializer)?;
        let mut minutes = Self::default();
        minutes.0.iter_mut().zip(counts).for_each(|(minute, count)| *minute = count);
        Ok(minutes)
    }
}

/// Different users affected, each as a hash of 32 bits; dropped once they are too many to count.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Users {
    /// Hashes, in order.
    Told(Vec<u32>),
    /// [`USERS_MAX`] or more.
    Many,
}

impl Default for Users {
    fn default() -> Self {
        Self::Told(Vec::new())
    }
}

impl Users {
    pub(super) fn add(&mut self, user: &str) {
        let Self::Told(users) = self else { return };
        let hash = crate::fingerprint::hash(&[user]);
        let hash = u32::try_from(hash >> 32).expect("half of 64 bits are 32");
        if let Err(place) = users.binary_search(&hash) {
            users.insert(place, hash);
        }
        if users.len() >= USERS_MAX {
            *self = Self::Many;
        }
    }

    pub(super) fn count(&self) -> u64 {
        match self {
            Self::Told(users) => users.len() as u64,
            Self::Many => USERS_MAX as u64,
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.count() == 0
    }
}

impl Serialize for Users {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Told(users) => {
                use std::fmt::Write as _;
                let mut text = String::with_capacity(8 * users.len());
                users.iter().for_each(|user| {
                    write!(text, "{user:08x}").expect("writing to a string does not fail")
                });
                serializer.serialize_str(&text)
            }
            Self::Many => serializer.serialize_str("*"),
        }
    }
}

impl<'de> Deserialize<'de> for Users {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = <&str>::deserialize(deserializer)?;
        if text == "*" {
            return Ok(Self::Many);
        }
        let read = |hash: &[u8]| {
            let hash = std::str::from_utf8(hash).map_err(D::Error::custom)?;
            u32::from_str_radix(hash, 16).map_err(D::Error::custom)
        };
        text.as_bytes().chunks(8).map(read).collect::<Result<_, _>>().map(Self::Told)
    }
}

/// A [`Sample`] with short names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct ShortSample {
    #[serde(rename = "t")]
    pub(super) at_ms: u64,
    #[serde(rename = "m")]
    pub(super) message: String,
    #[serde(rename = "e", default, skip_serializing_if = "Option::is_none")]
    pub(super) event_id: Option<String>,
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) trace_id: Option<String>,
}

impl From<&ShortSample> for Sample {
    fn from(short: &ShortSample) -> Self {
        Self {
            at: timestamp(short.at_ms),
            message: short.message.clone(),
            event_id: short.event_id.clone(),
            trace_id: short.trace_id.clone(),
        }
    }
}

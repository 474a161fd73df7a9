//! Log: what the last message to each channel of a group contained, as Alertmanager's notification
//! log.
//!
//! One record decides what a channel is owed. A change, or a message that leaves an incident out,
//! takes it off the record; whatever is off the record is sent as soon as nothing holds it back.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use crate::channel_names::CHANNELS_MAX;

/// Channels of one group, at the most: its own, and as many added later.
pub(super) const GROUP_CHANNELS_MAX: usize = 2 * CHANNELS_MAX;

/// Channels of a group that were sent a message; 64 at the most, so that what each knows of an
/// incident is one bit.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct Log(BTreeMap<String, Entry>);

/// Last message to a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Entry {
    /// Place of the channel's bit in the records of the members.
    bit: u32,
    /// Time, in milliseconds since 1970.
    at_ms: u64,
}

/// Channels that know of an incident, a bit each.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Told {
    /// Channels that were ever sent it.
    #[serde(skip_serializing_if = "is_zero")]
    heard: u64,
    /// Channels whose last message contains it as it is now.
    #[serde(skip_serializing_if = "is_zero")]
    current: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(bits: &u64) -> bool {
    *bits == 0
}

impl Log {
    /// Notes a message, or what stands for one, to a channel.
    pub(super) fn note(&mut self, channel: &str, at_ms: u64) {
        if let Some(entry) = self.0.get_mut(channel) {
            entry.at_ms = at_ms;
            return;
        }
        let used: u64 = self.0.values().fold(0, |used, entry| used | (1 << entry.bit));
        let bit = (!used).trailing_zeros().min(u64::BITS - 1);
        self.0.insert(channel.to_owned(), Entry { bit, at_ms });
    }

    /// Notes channels that know what was sent to others before; those that have an entry keep it.
    pub(super) fn note_all(&mut self, channels: &BTreeSet<String>, at_ms: u64) {
        for channel in channels {
            if !self.0.contains_key(channel) {
                self.note(channel, at_ms);
            }
        }
    }

    /// Forgets the channels that a group no longer has; returns their bits.
    pub(super) fn retain(&mut self, channels: &BTreeSet<String>) -> u64 {
        let mut gone = 0;
        self.0.retain(|channel, entry| {
            let kept = channels.contains(channel);
            gone |= if kept { 0 } else { 1 << entry.bit };
            kept
        });
        gone
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Time of the last message to any channel.
    pub(super) fn told_ms(&self) -> Option<u64> {
        self.0.values().map(|entry| entry.at_ms).max()
    }

    /// Time of the last message to a channel.
    pub(super) fn told_to_ms(&self, channel: &str) -> Option<u64> {
        self.0.get(channel).map(|entry| entry.at_ms)
    }

    fn bit(&self, channel: &str) -> u64 {
        self.0.get(channel).map_or(0, |entry| 1 << entry.bit)
    }
}

impl Told {
    /// Record of what every channel in the log knows as it is now.
    pub(super) fn all(log: &Log) -> Self {
        let all = log.0.values().fold(0, |all, entry| all | (1 << entry.bit));
        Self { heard: all, current: all }
    }

    /// True if the channel was ever sent it.
    pub(super) fn has_heard(self, log: &Log, channel: &str) -> bool {
        self.heard & log.bit(channel) != 0
    }

    /// True if the last message to the channel contains it as it is now.
    pub(super) fn knows(self, log: &Log, channel: &str) -> bool {
        self.current & log.bit(channel) != 0
    }

    /// Notes that a message to the channel contains it.
    pub(super) fn tell(&mut self, log: &Log, channel: &str) {
        self.heard |= log.bit(channel);
        self.current |= log.bit(channel);
    }

    /// Notes that the channel heard of it, and perhaps not of its latest change.
    pub(super) fn hear(&mut self, log: &Log, channel: &str) {
        self.heard |= log.bit(channel);
    }

    /// True if every channel that heard of it knows it as it is now.
    pub(super) fn is_current(self) -> bool {
        self.heard == self.current
    }

    /// Notes that a message to the channel leaves it out.
    pub(super) fn leave_out(&mut self, log: &Log, channel: &str) {
        self.current &= !log.bit(channel);
    }

    /// Notes that it changed: no channel knows it as it is now.
    pub(super) fn change(&mut self) {
        self.current = 0;
    }

    /// Notes that channels are gone, by their bits.
    pub(super) fn forget(&mut self, gone: u64) {
        self.heard &= !gone;
        self.current &= !gone;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_each_channel_knows_is_a_bit_that_is_free_again_when_the_channel_is_gone() {
        let mut log = Log::default();
        for n in 0..GROUP_CHANNELS_MAX {
            log.note(&format!("c{n}"), n as u64);
        }
        let mut told = Told::default();
        assert!(!told.has_heard(&log, "c63") && !told.knows(&log, "c63"));
        told.tell(&log, "c63");
        told.tell(&log, "c0");
        told.leave_out(&log, "c0");
        let seen = |told: Told, log: &Log, channel: &str| {
            (told.has_heard(log, channel), told.knows(log, channel))
        };
        assert_eq!(seen(told, &log, "c63"), (true, true));
        assert_eq!(seen(told, &log, "c0"), (true, false));
        assert_eq!(seen(told, &log, "c1"), (false, false));
        assert_eq!(seen(told, &log, "gone"), (false, false));
        let kept = (1..GROUP_CHANNELS_MAX).map(|n| format!("c{n}")).collect();
        told.forget(log.retain(&kept));
        log.note("new", 99);
        assert_eq!(seen(told, &log, "new"), (false, false));
        assert_eq!((log.told_ms(), log.told_to_ms("c5")), (Some(99), Some(5)));
        told.change();
        assert_eq!(seen(told, &log, "c63"), (true, false));
        let stored = serde_json::to_string(&(&log, &told)).unwrap();
        assert_eq!(serde_json::from_str::<(Log, Told)>(&stored).unwrap(), (log, told));
    }
}

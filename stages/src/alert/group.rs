//! Group: incidents that are notified together, the state of each, and the time of the next look.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::{
    log::{Log, Told},
    route::Terms,
};
use crate::{
    incident::{Change, Severity},
    notification::Held,
    units::ms,
};

/// Incidents of one group, at the most; more of the same make another group.
pub(super) const MEMBERS_MAX: usize = 1000;

/// Incidents of one route with the same channels and the same values of the labels that group them.
/// It is one key of the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Group {
    /// Id of its route.
    pub(super) route: u64,
    pub(super) by: BTreeMap<String, String>,
    pub(super) channels: BTreeSet<String>,
    /// Channels added later, by escalation or from a group that this one continues.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub(super) also: BTreeSet<String>,
    /// Number among the groups that are one, split as too large for one key.
    #[serde(default)]
    pub(super) shard: u32,
    /// Hash that tells it from a group of the same incidents before and after it.
    pub(super) life: u64,
    pub(super) born_ms: u64,
    /// Messages so far.
    #[serde(default)]
    pub(super) number: u64,
    /// Last message to each channel.
    #[serde(default, skip_serializing_if = "Log::is_empty")]
    pub(super) log: Log,
    /// Time of its last message, where a version before stored it for all channels.
    #[serde(default, rename = "toldMs", skip_serializing)]
    pub(super) legacy_told_ms: Option<u64>,
    /// Time of its first news since it was last looked at: from then on it waits for more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) news_ms: Option<u64>,
    /// Time since which people know of an incident that nobody has acknowledged.
    #[serde(default)]
    pub(super) since_ms: Option<u64>,
    /// Steps of the escalation done.
    #[serde(default)]
    pub(super) steps: usize,
    /// Incidents by id. Boxed: most groups have one, and a map has room for eleven from the first.
    pub(super) members: BTreeMap<u64, Box<Member>>,
    /// Changes held back since the last message to each channel.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) held: BTreeMap<String, Held>,
    /// Time it was last looked at. Not stored: looking changes nothing.
    #[serde(skip)]
    pub(super) checked_ms: u64,
    /// Time under which it is in the list of groups that are due.
    #[serde(skip)]
    pub(super) listed_ms: Option<u64>,
}

/// One incident of a group.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Member {
    /// Changes since it was notified, or counted as held back.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) pending: BTreeMap<Change, u64>,
    /// True where it changed since the group was last looked at.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) fresh: bool,
    /// Errors since it was last notified.
    #[serde(default)]
    pub(super) errors: u64,
    /// Severity at its last notification, if there was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) told: Option<Severity>,
    /// Channels that know of it.
    #[serde(default)]
    pub(super) told_to: Told,
    /// True where it changed since its last notification.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) changed: bool,
    /// True where it escalated since its last notification.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) worse: bool,
    pub(super) severity: Severity,
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) over: bool,
    /// True while someone has taken it on.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) acked: bool,
    /// True where it goes by another route now; here only its end is sent.
    #[serde(default, skip_serializing_if = "is_false")]
    pub(super) stale: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Member {
    /// Returns a member that nobody was sent.
    pub(super) fn new(severity: Severity) -> Self {
        Self {
            pending: BTreeMap::new(),
            fresh: false,
            errors: 0,
            told: None,
            told_to: Told::default(),
            changed: false,
            worse: false,
            severity,
            over: false,
            acked: false,
            stale: false,
        }
    }

    /// Adds a change.
    pub(super) fn note(&mut self, change: Change, severity: Severity, errors: u64) {
        *self.pending.entry(change).or_default() += 1;
        self.fresh = true;
        self.errors += errors;
        self.severity = severity;
        self.over = change == Change::Resolved;
        self.worse |= change == Change::Escalated;
        self.changed = true;
        self.told_to.change();
    }

    /// Notes that a channel heard of it, and knows it as it is now or not.
    pub(super) fn hear(&mut self, log: &Log, channel: &str, current: bool) {
        if current {
            self.told_to.tell(log, channel);
        } else {
            self.told_to.hear(log, channel);
        }
    }

    /// True if a channel is owed it, with nothing in the way: its last message does not contain it
    /// as it is now. An end is owed to those that heard of it.
    pub(super) fn is_owed(&self, log: &Log, channel: &str) -> bool {
        !self.told_to.knows(log, channel) && (!self.over || self.told_to.has_heard(log, channel))
    }

    /// True if it goes on, was notified, and nobody has taken it on.
    pub(super) fn alarms(&self) -> bool {
        self.told.is_some() && !self.over && !self.acked && !self.stale
    }

    /// True if someone has taken it on, and it has done no more than grow since.
    pub(super) fn rests(&self) -> bool {
        self.acked && self.pending.keys().all(|change| *change == Change::Updated)
    }

    /// True if there is something to send as soon as nothing is in the way.
    fn waits(&self, log: &Log, channels: &BTreeSet<&String>) -> bool {
        let owed = || channels.iter().any(|channel| self.is_owed(log, channel));
        self.over || (!self.stale && !self.rests() && owed())
    }

    /// True if it is worse than it was at its last notification.
    pub(super) fn is_worse(&self) -> bool {
        self.told.is_some_and(|told| self.severity > told || self.worse)
    }

    /// Takes out one change to send, the weightiest; the rest is held back.
    pub(super) fn take_told(&mut self) -> Option<Change> {
        let weight = |change: &Change| match change {
            Change::Acknowledged => 0,
            Change::Updated => 1,
            Change::Escalated => 2,
            Change::Opened | Change::Reopened => 3,
            Change::Resolved => 4,
        };
        let change = self.pending.keys().copied().max_by_key(weight)?;
        if let Some(count) = self.pending.get_mut(&change) {
            *count -= 1;
            if *count == 0 {
                self.pending.remove(&change);
            }
        }
        Some(change)
    }
}

impl Group {
    /// Returns every channel of the group.
    pub(super) fn all_channels(&self) -> BTreeSet<String> {
        self.channels.union(&self.also).cloned().collect()
    }

    /// Worst severity notified of a member whose end was not.
    fn worst(&self) -> Option<Severity> {
        self.members.values().filter_map(|member| member.told).max()
    }

    /// True if some news is too bad to wait for the interval.
    fn is_urgent(&self) -> bool {
        let worst = self.worst();
        self.members.values().filter(|member| member.fresh && !member.over && !member.stale).any(
            |member| {
                member.is_worse()
                    || (member.told.is_none()
                        && (member.severity == Severity::Critical || Some(member.severity) > worst))
            },
        )
    }

    /// Time of the next step of its escalation.
    pub(super) fn step_due_ms(&self, terms: &Terms) -> Option<u64> {
        let (after, _) = terms.escalate.get(self.steps)?;
        Some(self.since_ms?.saturating_add(ms(*after)))
    }

    /// Time of the next repeat to a channel.
    pub(super) fn repeat_due_ms(&self, channel: &str, terms: &Terms) -> Option<u64> {
        Some(self.log.told_to_ms(channel)?.saturating_add(ms(terms.repeat_interval)))
    }

    /// Time at which it has to be looked at next.
    ///
    /// The first news since the last look waits for more, and for the interval to pass.
    pub(super) fn due_ms(&self, terms: &Terms) -> Option<u64> {
        if self.members.is_empty() {
            return Some(0);
        }
        let interval = ms(terms.group_interval);
        let gathered = self.news_ms.unwrap_or(self.born_ms).saturating_add(ms(terms.group_wait));
        let told_ms = self.log.told_ms();
        let next = gathered.max(told_ms.map_or(0, |told| told.saturating_add(interval)));
        // Held members are looked at again: by a worker that has just taken over, as soon as the
        // group may send.
        let again = self.checked_ms.saturating_add(interval).max(next);
        let channels: BTreeSet<&String> = self.channels.union(&self.also).collect();
        let mut due = Vec::new();
        if self.members.values().any(|member| member.fresh) {
            due.push(if told_ms.is_some() && self.is_urgent() { 0 } else { next });
        }
        if self.members.values().any(|member| !member.fresh && member.waits(&self.log, &channels)) {
            due.push(again);
        }
        if self.members.values().any(|member| member.alarms()) {
            let repeats = channels.iter().filter_map(|name| self.repeat_due_ms(name, terms));
            let timers = repeats.chain(self.step_due_ms(terms));
            // One that was due when it was looked at, and is due still, was in some way held back.
            due.extend(timers.map(|at| if at <= self.checked_ms { again } else { at }));
        }
        due.into_iter().min()
    }

    /// Drops the record of channels that it no longer has, and takes what the others were told as
    /// told to those that are new.
    pub(super) fn pass_on(&mut self) {
        let (channels, told_ms) = (self.all_channels(), self.log.told_ms());
        let gone = self.log.retain(&channels);
        let Some(told_ms) = told_ms else { return };
        let new: Vec<&String> =
            channels.iter().filter(|name| self.log.told_to_ms(name).is_none()).collect();
        new.iter().for_each(|channel| self.log.note(channel, told_ms));
        for member in self.members.values_mut() {
            let current = member.told_to.is_current();
            member.told_to.forget(gone);
            if member.told.is_some() {
                new.iter().for_each(|channel| member.hear(&self.log, channel, current));
            }
        }
    }

    /// Makes the record of what a version before stored: all channels were told the same.
    pub(super) fn read_legacy(&mut self) {
        let Some(told_ms) = self.legacy_told_ms.take() else { return };
        self.log.note_all(&self.all_channels(), told_ms);
        for member in self.members.values_mut().filter(|member| member.told.is_some()) {
            member.told_to = Told::all(&self.log);
            if !member.pending.is_empty() {
                member.told_to.change();
                member.changed = true;
                member.worse = member.pending.contains_key(&Change::Escalated);
            }
        }
    }
}

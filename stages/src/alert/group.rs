//! Group: incidents that are notified together, the state of each, and the time of the next look.

use std::collections::{BTreeMap, BTreeSet};

use serde::{Deserialize, Serialize};

use super::route::Terms;
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
    /// Time of its last news or repeat, in milliseconds since 1970.
    #[serde(default)]
    pub(super) told_ms: Option<u64>,
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
    pub(super) fn new(severity: Severity, told: Option<Severity>) -> Self {
        Self {
            pending: BTreeMap::new(),
            fresh: false,
            errors: 0,
            told,
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
    }

    /// True if it goes on, was notified, and nobody has taken it on.
    pub(super) fn alarms(&self) -> bool {
        self.told.is_some() && !self.over && !self.acked && !self.stale
    }

    /// True if there is something to send as soon as nothing is in the way.
    pub(super) fn waits(&self) -> bool {
        if self.over {
            return true;
        }
        let only_grew = self.pending.keys().all(|change| *change == Change::Updated);
        if self.stale || (self.acked && only_grew) {
            return false;
        }
        self.told.is_none() || !self.pending.is_empty()
    }

    /// True if it is worse than it was at its last notification.
    pub(super) fn is_worse(&self) -> bool {
        self.told.is_some_and(|told| {
            self.severity > told || self.pending.contains_key(&Change::Escalated)
        })
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

    /// Time of its next repeat.
    pub(super) fn repeat_due_ms(&self, terms: &Terms) -> Option<u64> {
        Some(self.told_ms?.saturating_add(ms(terms.repeat_interval)))
    }

    /// Time at which it has to be looked at next.
    pub(super) fn due_ms(&self, terms: &Terms) -> Option<u64> {
        if self.members.is_empty() {
            return Some(0);
        }
        let interval = ms(terms.group_interval);
        let first = self.born_ms.saturating_add(ms(terms.group_wait));
        let next = self.told_ms.map_or(first, |told| told.saturating_add(interval));
        // Held members are looked at again: by a worker that has just taken over, as soon as the
        // group may send.
        let again = self.checked_ms.saturating_add(interval).max(next);
        let mut due = Vec::new();
        if self.members.values().any(|member| member.fresh) {
            due.push(if self.told_ms.is_some() && self.is_urgent() { 0 } else { next });
        }
        if self.members.values().any(|member| !member.fresh && member.waits()) {
            due.push(again);
        }
        if self.members.values().any(|member| member.alarms()) {
            let timers = self.repeat_due_ms(terms).into_iter().chain(self.step_due_ms(terms));
            // One that was due when it was looked at, and is due still, was in some way held back.
            due.extend(timers.map(|at| if at <= self.checked_ms { again } else { at }));
        }
        due.into_iter().min()
    }
}

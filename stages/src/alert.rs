//! Kind `alert`: incidents become notifications: routed, grouped, held back while nobody wants
//! them, within the rate of each channel.
//!
//! Nothing is dropped. Each change of an incident, for each group it reaches and each channel of
//! that group, is sent in one notification or counted as held back for one reason
//! ([`Hold`](crate::notification::Hold)); a change that waited and is sent late was counted when it
//! was held. An acknowledgement is no news: it is neither sent nor counted.
//!
//! The stages of a message are Alertmanager's: a group is inhibited, silenced, muted, and the rest
//! is compared with the notifications before. Where the meanings differ, the options say so.

mod accounts;
mod arrive;
mod flush;
mod group;
mod inhibit;
mod labels;
mod limit;
mod log;
mod options;
mod outbox;
mod route;
mod silences;
mod state;
mod times;

use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Build, ChannelTerms, Emission, Emits, Failure, Input, KEYS_PER_STEP_MAX, Kind, Problem, Reduce,
    Tally, World, channel_names::CHANNELS_MAX, failure::class, incident::Incident,
    operator::SILENCE_KEYS, slots::Slots,
};
use accounts::Accounts;
use group::Group;
use inhibit::Inhibits;
use options::Options;
use outbox::Outbox;
use route::Tree;
use silences::Silences;
use times::Times;

pub use accounts::Explained;
pub use labels::unknown_labels;
pub use route::{Terms, Visited};

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "alert",
    about: "sends incidents to channels, each within its rate, and folds what exceeds it into a \
            digest",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(|options, world| Ok(Box::new(Alert::build(options, world)?))),
    emits: Emits::Notifications,
    concurrency: 1,
    calls_out: false,
    checks_only: false,
    tallies: &[
        ("notifications_total", "Notifications decided on, digests included, by channel"),
        ("notifications_digests_total", "Digests among them, by channel"),
        (
            "notifications_held_total",
            "Changes of incidents that were not told by themselves, by channel and reason",
        ),
        ("alert_groups", "Groups of incidents that are remembered"),
        ("alert_incidents_firing", "Incidents that an alert stage knows to go on"),
        ("silences_active", "Silences that hold now"),
    ],
    follows: &[SILENCE_KEYS],
};

/// Groups at once; past it the oldest goes early.
const GROUPS_MAX: usize = 20_000;
/// Incidents at once that go on or whose end is still to be notified; past it the one that has been
/// quiet for longest goes early.
const KNOWN_MAX: usize = 20_000;
/// Keys of the state that one flush of a group changes, at the most: the group, the outbox of each
/// of its own channels and of those that an escalation adds, the accounts.
const FLUSH_KEYS: usize = 2 * CHANNELS_MAX + 2;
/// Keys of the state that putting one incident into its groups changes, at the most.
const REROUTE_KEYS: usize = 90;
/// Groups and incidents looked at in one tick, at the most: looking takes time even where nothing
/// is sent.
const LOOKS_PER_TICK_MAX: usize = 500;

/// An `alert` stage: its options, and its state.
pub struct Alert {
    tree: Tree,
    times: Times,
    inhibits: Inhibits,
    silences: Silences,
    declared: BTreeMap<String, ChannelTerms>,
    outboxes: BTreeMap<String, Outbox>,
    dirty_outboxes: BTreeSet<String>,
    groups: HashMap<u64, Box<Group>>,
    group_slots: Slots,
    /// Groups by the time at which each has to be looked at.
    due: BTreeSet<(u64, u64)>,
    /// Groups by the time at which each began.
    ages: BTreeSet<(u64, u64)>,
    known: HashMap<u64, Box<Known>>,
    known_slots: Slots,
    /// Incidents by the time of the last change of each.
    known_ages: BTreeSet<(u64, u64)>,
    /// Incidents that are over and notified, to be forgotten.
    spent: BTreeSet<u64>,
    /// Restored incidents, to be put into the groups they belong to by the options of now.
    strays: VecDeque<u64>,
    /// Keys of an earlier version, to be deleted; `deleted` has those whose turn it is.
    legacy: BTreeSet<String>,
    deleted: BTreeSet<String>,
    accounts: Accounts,
    /// True where something was restored since the indices were made.
    restored: bool,
    groups_max: usize,
    known_max: usize,
    /// Latest time seen: it never goes back, whichever worker's clock it comes from.
    now_ms: u64,
}

/// An incident that goes on, or whose end some group has still to notify; one key of the state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    incident: Incident,
    /// Someone has taken it on, and it has not become worse since.
    #[serde(default)]
    acked: bool,
    /// Time of its last change.
    at_ms: u64,
    /// Groups that it is in.
    #[serde(skip)]
    groups: Vec<u64>,
}

impl std::fmt::Debug for Alert {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Alert").field("groups", &self.groups.len()).finish_non_exhaustive()
    }
}

impl Alert {
    /// Builds the stage from its own keys.
    ///
    /// # Errors
    /// Everything that is wrong with them, each with its key path.
    pub fn build(options: &Value, world: &dyn World) -> Result<Self, Vec<Problem>> {
        let options: Options = serde_json::from_value(options.clone())
            .map_err(|error| vec![Problem::new(&[], error.to_string())])?;
        let mut problems = Vec::new();
        let times = Times::checked(&options.time, &mut problems);
        let tree = Tree::checked(&options, world, &times, &mut problems);
        let inhibits = Inhibits::checked(&options.inhibit, &mut problems);
        if !problems.is_empty() {
            return Err(problems);
        }
        let declared: BTreeMap<_, _> =
            world.channels().into_iter().map(|terms| (terms.name.clone(), terms)).collect();
        Ok(Self {
            tree,
            times,
            inhibits,
            silences: Silences::default(),
            outboxes: declared
                .iter()
                .map(|(name, terms)| (name.clone(), Outbox::new(terms)))
                .collect(),
            accounts: Accounts::new(declared.keys().map(String::as_str)),
            declared,
            dirty_outboxes: BTreeSet::new(),
            groups: HashMap::new(),
            group_slots: Slots::default(),
            due: BTreeSet::new(),
            ages: BTreeSet::new(),
            known: HashMap::new(),
            known_slots: Slots::default(),
            known_ages: BTreeSet::new(),
            spent: BTreeSet::new(),
            strays: VecDeque::new(),
            legacy: BTreeSet::new(),
            deleted: BTreeSet::new(),
            restored: false,
            groups_max: GROUPS_MAX,
            known_max: KNOWN_MAX,
            now_ms: 0,
        })
    }

    /// Returns every route that is looked at for an incident with these labels, in order, the root
    /// first: which match, and which take it.
    pub fn routes_of(&self, labels: &BTreeMap<String, String>) -> Vec<Visited> {
        self.tree.visited(labels)
    }

    /// Begins a list of the changes that are held back, with reasons. Off at first, since a list
    /// takes memory.
    pub fn explain(&mut self) {
        self.accounts.explain();
    }

    /// Takes the list since the last call; empty unless [`Alert::explain`] was called.
    pub fn take_explained(&mut self) -> Vec<Explained> {
        self.accounts.take_explained()
    }

    /// True if so many keys more may change in the step that began with `step` keys changed.
    fn has_room(&self, step: usize, keys: usize) -> bool {
        self.dirty_len() + keys <= step + KEYS_PER_STEP_MAX
    }

    /// Changes a group, if there is one of that key, and notes when it is due.
    fn change(&mut self, key: u64, change: impl FnOnce(&mut Group)) {
        let Some(mut group) = self.groups.remove(&key) else { return };
        change(&mut group);
        self.unlist(key, &mut group);
        self.list(key, &mut group);
        self.groups.insert(key, group);
        self.group_slots.touch(key);
    }

    fn list(&mut self, key: u64, group: &mut Group) {
        let route = self.tree.get(group.route).unwrap_or_else(|| self.tree.root());
        group.listed_ms = group.due_ms(&route.terms);
        self.due.extend(group.listed_ms.map(|due| (due, key)));
    }

    fn unlist(&mut self, key: u64, group: &mut Group) {
        if let Some(due) = group.listed_ms.take() {
            self.due.remove(&(due, key));
        }
    }

    fn step(&mut self, now_ms: u64) -> usize {
        self.now_ms = self.now_ms.max(now_ms);
        self.index_restored();
        self.dirty_len()
    }
}

impl Reduce for Alert {
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        self.restore_key(key, value)
    }

    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure> {
        let step = self.step(input.now_ms);
        if let Some(key) = input.key {
            let id = key.strip_prefix(SILENCE_KEYS).and_then(|rest| rest.strip_prefix('.'));
            let id = id
                .ok_or_else(|| Failure::reject(class::DECODE, "the key is not one of a silence"))?;
            let applied = self.silences.apply(id, input.body, self.now_ms);
            return applied.map_err(|why| Failure::reject(class::DECODE, why));
        }
        let reject = |error: serde_json::Error| {
            Failure::reject(class::DECODE, format!("not an incident: {error}"))
        };
        let incident: Incident = serde_json::from_slice(input.body).map_err(reject)?;
        self.arrive(incident, input.at_ms, step, out);
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        let step = self.step(now_ms);
        self.silences.expire(self.now_ms, silences::EXPIRED_AT_ONCE_MAX);
        let due: Vec<String> = self
            .outboxes
            .iter()
            .filter(|(_, l)| is_due(l.due_ms(), self.now_ms))
            .map(|(n, _)| n.clone())
            .collect();
        for channel in due {
            if self.has_room(step, 2)
                && let Some(emission) =
                    self.outboxes.get_mut(&channel).and_then(|outbox| outbox.flush(self.now_ms))
            {
                out.push(emission);
                self.accounts.sent(&channel, true);
                self.dirty_outboxes.insert(channel);
            }
        }
        let mut looks = 0..LOOKS_PER_TICK_MAX;
        while !self.strays.is_empty() && self.has_room(step, REROUTE_KEYS) && looks.next().is_some()
        {
            self.place_stray();
        }
        while let Some((due_ms, key)) = self.due.first().copied()
            && due_ms <= self.now_ms
            && self.has_room(step, FLUSH_KEYS)
            && looks.next().is_some()
        {
            self.flush(key, out);
        }
        while !self.spent.is_empty() && self.has_room(step, 1) {
            self.spent.first().copied().into_iter().for_each(|id| self.forget(id));
        }
        while self.has_room(step, 1)
            && let Some(key) = self.legacy.pop_first()
        {
            self.deleted.insert(key);
        }
    }

    fn next_timer_ms(&self) -> Option<u64> {
        let now = self.restored
            || !(self.spent.is_empty() && self.strays.is_empty() && self.legacy.is_empty());
        let group = self.due.first().map(|(due_ms, _)| *due_ms);
        let outboxes = self.outboxes.values().filter_map(Outbox::due_ms);
        outboxes.chain(group).chain(self.silences.next_end_ms()).chain(now.then_some(0)).min()
    }

    fn tallies(&self) -> Vec<Tally> {
        let mut tallies = self.accounts.tallies();
        let firing = self.known.values().filter(|known| !known.incident.is_over()).count();
        let gauges = [
            ("alert_groups", self.groups.len()),
            ("alert_incidents_firing", firing),
            ("silences_active", self.silences.active(self.now_ms)),
        ];
        tallies.extend(gauges.map(|(name, value)| Tally {
            name,
            labels: Vec::new(),
            value: value as u64,
        }));
        tallies
    }

    fn dirty_len(&self) -> usize {
        self.group_slots.dirty_len()
            + self.known_slots.dirty_len()
            + self.dirty_outboxes.len()
            + self.silences.dirty_len()
            + self.accounts.dirty_len()
            + self.deleted.len()
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        self.stored_changes()
    }
}

fn is_due(due_ms: Option<u64>, now_ms: u64) -> bool {
    due_ms.is_some_and(|due_ms| due_ms <= now_ms)
}

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

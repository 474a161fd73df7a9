//! kind = "alert": incidents become notifications: routed, grouped, held back while nobody wants
//! them, within the rate of each channel.
//!
//! Nothing is dropped. Each change of an incident, for each group it reaches and each channel of
//! that group, is told in one notification or counted as held back for one reason
//! ([`Hold`](crate::notification::Hold)); what waited and is told late was counted when it was
//! held. An acknowledgement is no news: it is neither told nor counted.
//!
//! The stages of a message are Alertmanager's: a group is inhibited, silenced, muted, and what is
//! left is compared with what was told. Where the meanings differ, the options say so.

mod accounts;
mod arrive;
mod flush;
mod group;
mod inhibit;
mod limit;
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
    Tally, World, failure::class, incident::Incident, operator::SILENCE_KEYS, slots::Slots,
};
use accounts::Accounts;
use group::Group;
use inhibit::Inhibits;
use options::Options;
use outbox::Outbox;
use route::{CHANNELS_MAX, Tree};
use silences::Silences;
use times::Times;

pub use accounts::Explained;
pub use route::{Terms, Visited};

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "alert",
    about: "sends incidents to channels, each within its rate, and folds what exceeds it into a digest",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(|options, world| Ok(Box::new(Alert::build(options, world)?))),
    follows: &[SILENCE_KEYS],
};

/// Groups at once; past it the oldest goes early.
const GROUPS_MAX: usize = 20_000;
/// Incidents at once that go on or whose end is still to be told; past it the one that has been
/// quiet for longest goes early.
const KNOWN_MAX: usize = 20_000;
/// The keys of the state that telling one group changes, at the most: the group, the outbox of each
/// of its own channels and of those that an escalation adds, the accounts.
const FLUSH_KEYS: usize = 2 * CHANNELS_MAX + 2;
/// The keys that putting one incident into its groups changes, at the most.
const REROUTE_KEYS: usize = 90;
/// Groups and incidents looked at in one tick, at the most: looking takes time even where nothing
/// is told.
const LOOKS_PER_TICK_MAX: usize = 500;

/// What is wrong with a list of channels at `at`.
pub(crate) fn channel_problems(
    at: &[&str],
    channels: &[String],
    world: &dyn World,
) -> Vec<Problem> {
    let mut problems = Vec::new();
    if channels.len() > CHANNELS_MAX {
        problems.push(Problem::new(at, format!("expected at most {CHANNELS_MAX} channels")));
    }
    let declared = world.channels();
    for (n, name) in channels
        .iter()
        .enumerate()
        .filter(|(_, name)| declared.iter().all(|known| known.name != **name))
    {
        let problem = Problem::new(
            &[at, &[&n.to_string()]].concat(),
            format!("channel \"{name}\" is not declared"),
        );
        problems.push(problem.hint(format!("declare it with [channel.{name}]")));
    }
    problems
}

/// An `alert` stage: what it was told to do, and what it remembers.
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
    /// When which group has to be looked at.
    due: BTreeSet<(u64, u64)>,
    /// When which group was born.
    ages: BTreeSet<(u64, u64)>,
    known: HashMap<u64, Box<Known>>,
    known_slots: Slots,
    /// When something last became of which incident.
    known_ages: BTreeSet<(u64, u64)>,
    /// Incidents that are over and told, to be forgotten.
    spent: BTreeSet<u64>,
    /// Incidents that were restored, to be put where they belong by the options of now.
    strays: VecDeque<u64>,
    /// Keys of an earlier version, to be deleted; and those of them whose turn it is.
    legacy: BTreeSet<String>,
    deleted: BTreeSet<String>,
    accounts: Accounts,
    /// Whether something was restored since the indices were made.
    restored: bool,
    groups_max: usize,
    known_max: usize,
    /// Time never goes back, whichever worker's clock it comes from.
    now_ms: u64,
}

/// An incident that goes on, or that some group has still to tell the end of. It is one key of the
/// state.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Known {
    incident: Incident,
    /// Someone has taken it on, and it has not become worse since.
    #[serde(default)]
    acked: bool,
    /// When something last became of it.
    at_ms: u64,
    /// The groups that it is in.
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

    /// Every route that is looked at for an incident with these labels, in order, the root first:
    /// which match, and which take it.
    pub fn routes_of(&self, labels: &BTreeMap<String, String>) -> Vec<Visited> {
        self.tree.visited(labels)
    }

    /// From now on lists why what is not told by itself is not told. It is off at first, since a
    /// list takes memory.
    pub fn explain(&mut self) {
        self.accounts.explain();
    }

    /// What was listed since the last call; nothing unless [`Alert::explain`] was called.
    pub fn take_explained(&mut self) -> Vec<Explained> {
        self.accounts.take_explained()
    }

    /// Whether so many keys more may change in the step that began with `step` keys changed.
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
    fn emits(&self) -> Emits {
        Emits::Notifications
    }

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

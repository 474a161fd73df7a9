//! kind = "alert": incidents become notifications: routed, repeats held back, within the rate of each channel.
//!
//! Nothing is dropped. What becomes of an incident ends in one notification, or in one digest, or is
//! counted as held back in a later one of either.

mod lane;
mod limit;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Build, Emission, Emits, Failure, Input, KEYS_PER_STEP_MAX, Kind, Problem, Reduce, World,
    aggregate_errors::ms,
    failure::class,
    fingerprint::{hash, hex},
    incident::{Change, Incident, Severity},
    retry::glob_matches,
    units::Period,
};
use lane::Lane;

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "alert",
    about: "sends incidents to channels, each within its rate, and folds what exceeds it into a digest",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(|options, world| {
        Ok(Box::new(Alert::new(Options::checked(options, world)?, &world.channel_rates())))
    }),
};

/// Groups remembered at once; they are forgotten when their suppression is over. Past it the oldest goes early.
const GROUPS_MAX: usize = 100_000;
/// Channels of one incident, at the most: each changes up to three keys of the state.
const CHANNELS_MAX: usize = 32;

/// The keys of an `alert` stage.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Where incidents go that neither their own rule nor a route sends elsewhere.
    channels: Vec<String>,
    /// The same news of the same group is not sent again for so long, unless it is worse.
    suppress: Period,
    /// What makes incidents one group.
    group_by: Vec<Field>,
    /// Where incidents go; the first that matches wins. The channels of an incident's own rule go before.
    route: Vec<Route>,
}

/// What incidents may be grouped by.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Field {
    Fingerprint,
    Code,
    Service,
    Severity,
}

/// Where some incidents go.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
struct Route {
    /// Severities it is for; empty: all.
    severity: Vec<Severity>,
    /// Error codes it is for, with `*` for any text; empty: all.
    code: Vec<String>,
    /// Where they go; empty: nowhere.
    channels: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            channels: vec!["log".to_owned()],
            suppress: Period::seconds(300),
            group_by: vec![Field::Fingerprint],
            route: Vec::new(),
        }
    }
}

impl Options {
    fn checked(options: &Value, world: &dyn World) -> Result<Self, Vec<Problem>> {
        let read: Self = serde_json::from_value(options.clone()).map_err(|e| vec![Problem::new(&[], e.to_string())])?;
        let mut problems = channel_problems(&["channels"], &read.channels, world);
        for (n, route) in read.route.iter().enumerate() {
            problems.extend(channel_problems(&["route", &n.to_string(), "channels"], &route.channels, world));
        }
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    fn route(&self, incident: &Incident) -> &[String] {
        let fits = |route: &&Route| {
            (route.severity.is_empty() || route.severity.contains(&incident.severity))
                && (route.code.is_empty() || route.code.iter().any(|glob| glob_matches(glob, &incident.code)))
        };
        self.route.iter().find(fits).map_or(&self.channels, |route| &route.channels)
    }
}

/// What is wrong with a list of channels at `at`.
pub(crate) fn channel_problems(at: &[&str], channels: &[String], world: &dyn World) -> Vec<Problem> {
    let mut problems = Vec::new();
    if channels.len() > CHANNELS_MAX {
        problems.push(Problem::new(at, format!("expected at most {CHANNELS_MAX} channels")));
    }
    for (n, name) in channels.iter().enumerate().filter(|(_, name)| !world.has_channel(name)) {
        let mut problem = Problem::new(at, format!("channel \"{name}\" is not declared"));
        problem.at.push(n.to_string());
        problems.push(problem.hint(format!("declare it with [channel.{name}]")));
    }
    problems
}

/// What was sent of one group to one channel. It is one key of the state.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Group {
    channel: String,
    /// What was last sent of each sort of news.
    told: BTreeMap<Change, Told>,
    held: Option<Held>,
}

#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Told {
    at_ms: u64,
    severity: Severity,
}

/// What was held back since, and the latest of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Held {
    count: u64,
    latest: Incident,
}

impl Group {
    /// When what was held back is sent, or, if there is nothing, when the group is forgotten.
    fn due_ms(&self, suppress_ms: u64) -> u64 {
        let told = match &self.held {
            Some(held) => self.told.get(&held.latest.event).map(|told| told.at_ms),
            None => self.told.values().map(|told| told.at_ms).max(),
        };
        told.unwrap_or(0).saturating_add(suppress_ms)
    }
}

/// The state: a group per channel and group key, a lane per channel.
struct Alert {
    options: Options,
    suppress_ms: u64,
    rates: BTreeMap<String, u32>,
    lanes: BTreeMap<String, Lane>,
    groups: HashMap<u64, Group>,
    due: BTreeSet<(u64, u64)>,
    dirty_groups: HashSet<u64>,
    dirty_lanes: BTreeSet<String>,
    /// Time never goes back, whichever worker's clock it comes from.
    now_ms: u64,
}

impl Alert {
    fn new(options: Options, rates: &[(String, u32)]) -> Self {
        Self {
            suppress_ms: ms(options.suppress),
            options,
            rates: rates.iter().cloned().collect(),
            lanes: rates.iter().map(|(name, rate)| (name.clone(), Lane::new(name, *rate))).collect(),
            groups: HashMap::new(),
            due: BTreeSet::new(),
            dirty_groups: HashSet::new(),
            dirty_lanes: BTreeSet::new(),
            now_ms: 0,
        }
    }

    /// The channels an incident goes to: those of its own rule that still exist, else those of its route.
    fn channels(&self, incident: &Incident) -> BTreeSet<String> {
        let own: BTreeSet<_> =
            incident.channels.iter().filter(|name| self.lanes.contains_key(*name)).cloned().collect();
        if own.is_empty() { self.options.route(incident).iter().cloned().collect() } else { own }
    }

    fn group_key(&self, channel: &str, incident: &Incident) -> u64 {
        let fields = self.options.group_by.iter().map(|field| match field {
            Field::Fingerprint => incident.fingerprint.as_str(),
            Field::Code => incident.code.as_str(),
            Field::Service => incident.services.first().map_or("", String::as_str),
            Field::Severity => incident.severity.as_str(),
        });
        hash(&[channel].into_iter().chain(fields).collect::<Vec<_>>())
    }

    fn send(&mut self, channel: &str, incident: Incident, suppressed: u64, out: &mut Vec<Emission>) {
        // Every channel that is routed to is declared, so that it has a lane.
        if let Some(lane) = self.lanes.get_mut(channel) {
            out.extend(lane.send(incident, suppressed, self.now_ms));
            self.dirty_lanes.insert(channel.to_owned());
        }
    }

    /// Sends the news to one channel, or holds it back.
    fn notify(&mut self, channel: &str, incident: &Incident, out: &mut Vec<Emission>) {
        let key = self.group_key(channel, incident);
        if self.groups.len() >= GROUPS_MAX
            && !self.groups.contains_key(&key)
            && let Some((_, oldest)) = self.due.first().copied()
        {
            self.release(oldest, out);
            self.forget(oldest);
        }
        let now_ms = self.now_ms;
        let group = self.groups.entry(key).or_insert_with(|| Group {
            channel: channel.to_owned(),
            told: BTreeMap::new(),
            held: None,
        });
        self.due.remove(&(group.due_ms(self.suppress_ms), key));
        let repeats = group.told.get(&incident.event).is_some_and(|told| {
            now_ms.saturating_sub(told.at_ms) < self.suppress_ms && incident.severity <= told.severity
        });
        let mut news = None;
        if repeats {
            let count = group.held.as_ref().map_or(0, |held| held.count) + 1;
            group.held = Some(Held { count, latest: incident.clone() });
        } else {
            group.told.insert(incident.event, Told { at_ms: now_ms, severity: incident.severity });
            news = Some(group.held.take().map_or(0, |held| held.count));
        }
        self.due.insert((group.due_ms(self.suppress_ms), key));
        self.dirty_groups.insert(key);
        if let Some(suppressed) = news {
            self.send(channel, incident.clone(), suppressed, out);
        }
    }

    /// Sends the latest of what was held back of a group; false if nothing was.
    fn release(&mut self, key: u64, out: &mut Vec<Emission>) -> bool {
        let Some(group) = self.groups.get_mut(&key) else { return false };
        let due_ms = group.due_ms(self.suppress_ms);
        let Some(held) = group.held.take() else { return false };
        group.told.insert(held.latest.event, Told { at_ms: self.now_ms, severity: held.latest.severity });
        let channel = group.channel.clone();
        self.due.remove(&(due_ms, key));
        self.due.insert((group.due_ms(self.suppress_ms), key));
        self.dirty_groups.insert(key);
        self.send(&channel, held.latest, held.count - 1, out);
        true
    }

    fn forget(&mut self, key: u64) {
        if let Some(group) = self.groups.remove(&key) {
            self.due.remove(&(group.due_ms(self.suppress_ms), key));
            self.dirty_groups.insert(key);
        }
    }
}

impl Reduce for Alert {
    fn emits(&self) -> Emits {
        Emits::Notifications
    }

    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let unread = |error: serde_json::Error| format!("cannot read the state under \"{key}\": {error}");
        if let Some(channel) = key.strip_prefix("channel.") {
            // A channel that is no longer declared has no rate; what waited for it has nowhere to go.
            if let Some(rate) = self.rates.get(channel) {
                let lane = Lane::restored(channel, *rate, value).map_err(unread)?;
                self.lanes.insert(channel.to_owned(), lane);
            }
            return Ok(());
        }
        let hash = key.strip_prefix("g.").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let hash = hash.ok_or_else(|| format!("no state of alert has the key \"{key}\""))?;
        let group: Group = serde_json::from_slice(value).map_err(unread)?;
        self.due.insert((group.due_ms(self.suppress_ms), hash));
        self.groups.insert(hash, group);
        Ok(())
    }

    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure> {
        let reject = |why: String| Failure::reject(class::DECODE, format!("not an incident: {why}"));
        let incident: Incident = serde_json::from_slice(input.body).map_err(|error| reject(error.to_string()))?;
        if incident.channels.len() > CHANNELS_MAX {
            return Err(reject(format!("it names more than {CHANNELS_MAX} channels")));
        }
        self.now_ms = self.now_ms.max(input.now_ms);
        for channel in self.channels(&incident) {
            self.notify(&channel, &incident, out);
        }
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        self.now_ms = self.now_ms.max(now_ms);
        let mut steps = KEYS_PER_STEP_MAX / 2;
        for (channel, lane) in &mut self.lanes {
            if steps > 0 && lane.due_ms().is_some_and(|due_ms| due_ms <= self.now_ms) {
                steps -= 1;
                out.extend(lane.flush(self.now_ms));
                self.dirty_lanes.insert(channel.clone());
            }
        }
        while let Some((due_ms, key)) = self.due.first().copied()
            && due_ms <= self.now_ms
            && steps > 0
        {
            steps -= 1;
            if !self.release(key, out) {
                self.forget(key);
            }
        }
    }

    fn next_timer_ms(&self) -> Option<u64> {
        let group = self.due.first().map(|(due_ms, _)| *due_ms);
        self.lanes.values().filter_map(Lane::due_ms).chain(group).min()
    }

    fn dirty_len(&self) -> usize {
        self.dirty_groups.len() + self.dirty_lanes.len()
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        let write = |group: &Group| serde_json::to_vec(group).expect("a group is plain data");
        let (groups, lanes) = (&self.groups, &self.lanes);
        let mut taken: Vec<_> =
            self.dirty_groups.drain().map(|key| (format!("g.{}", hex(key)), groups.get(&key).map(write))).collect();
        let names = std::mem::take(&mut self.dirty_lanes);
        taken.extend(names.iter().map(|name| (format!("channel.{name}"), lanes.get(name).map(Lane::stored))));
        taken
    }
}

#[cfg(test)]
mod tests;

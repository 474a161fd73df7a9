//! kind = "aggregate-errors": error events become incidents, by fingerprint, with exact counts.

mod cell;
mod report;

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    Build, Emission, Failure, Input, KEYS_PER_STEP_MAX, Kind, Problem, Reduce, World,
    failure::class,
    fingerprint::{hash, hex, normalise},
    incident::{Change, Severity},
    retry::glob_matches,
    units::Period,
};
use cell::Cell;
use report::Report;

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "aggregate-errors",
    about: "groups error events by fingerprint and opens an incident when many fall within a window",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(|options, world| Ok(Box::new(AggregateErrors::new(Options::checked(options, world)?)))),
};

/// Fingerprints remembered at once. About 1 KiB each; past it the one longest idle is forgotten, and counted.
pub const FINGERPRINTS_MAX: usize = 100_000;
/// The largest threshold: so many times are kept per fingerprint.
const THRESHOLD_MAX: usize = 1000;
/// The key of what is known of forgotten fingerprints.
const FORGOTTEN: &str = "forgotten";

/// The keys of an `aggregate-errors` stage.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Options {
    /// Errors of one fingerprint within the window that open an incident.
    #[schemars(range(min = 1, max = 1000))]
    threshold: usize,
    /// The window, which slides.
    window: Period,
    /// An incident resolves when no error came for so long.
    quiet: Period,
    /// How bad an incident is where neither a rule nor the errors say.
    severity: Severity,
    /// Exceptions by error code; the first that matches wins.
    rule: Vec<Rule>,
}

/// An exception: the codes it is for, and what then holds instead.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
struct Rule {
    /// Error codes it is for, with `*` for any text; empty: all.
    code: Vec<String>,
    /// How bad its incidents are, whatever the errors say.
    severity: Option<Severity>,
    /// Errors within the window that open an incident.
    #[schemars(range(min = 1, max = 1000))]
    threshold: Option<usize>,
    /// The window, which slides.
    window: Option<Period>,
    /// Where its incidents are sent, before any route of the alert stage.
    channels: Vec<String>,
}

/// What holds for the errors of one code.
#[derive(Debug, Clone, Copy)]
struct Terms<'a> {
    threshold: usize,
    window_ms: u64,
    quiet_ms: u64,
    /// The severity that a rule sets.
    severity: Option<Severity>,
    /// The severity where nothing else says.
    otherwise: Severity,
    channels: &'a [String],
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 5,
            window: Period::seconds(300),
            quiet: Period::seconds(600),
            severity: Severity::Medium,
            rule: Vec::new(),
        }
    }
}

impl Options {
    fn checked(options: &Value, world: &dyn World) -> Result<Self, Vec<Problem>> {
        let read: Self = serde_json::from_value(options.clone()).map_err(|e| vec![Problem::new(&[], e.to_string())])?;
        let mut problems = Vec::new();
        let mut check = |at: &[&str], threshold: Option<usize>, window: Option<Period>| {
            if threshold.is_some_and(|n| !(1..=THRESHOLD_MAX).contains(&n)) {
                let at: Vec<&str> = at.iter().copied().chain(["threshold"]).collect();
                problems.push(Problem::new(&at, format!("expected a threshold from 1 to {THRESHOLD_MAX}")));
            }
            if window.is_some_and(|window| window.0 == Duration::ZERO) {
                let at: Vec<&str> = at.iter().copied().chain(["window"]).collect();
                problems.push(Problem::new(&at, "expected a window longer than nothing"));
            }
        };
        check(&[], Some(read.threshold), Some(read.window));
        for (n, rule) in read.rule.iter().enumerate() {
            check(&["rule", &n.to_string()], rule.threshold, rule.window);
        }
        if read.quiet.0 == Duration::ZERO {
            problems.push(Problem::new(&["quiet"], "expected a quiet period longer than nothing"));
        }
        for (n, rule) in read.rule.iter().enumerate() {
            let at = ["rule", &n.to_string(), "channels"];
            problems.extend(crate::alert::channel_problems(&at, &rule.channels, world));
        }
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }

    fn terms(&self, code: &str) -> Terms<'_> {
        let fits = |rule: &&Rule| rule.code.is_empty() || rule.code.iter().any(|glob| glob_matches(glob, code));
        let rule = self.rule.iter().find(fits);
        Terms {
            threshold: rule.and_then(|rule| rule.threshold).unwrap_or(self.threshold),
            window_ms: ms(rule.and_then(|rule| rule.window).unwrap_or(self.window)),
            quiet_ms: ms(self.quiet),
            severity: rule.and_then(|rule| rule.severity),
            otherwise: self.severity,
            channels: rule.map_or(&[], |rule| &rule.channels),
        }
    }
}

/// A period in milliseconds.
pub(crate) fn ms(period: Period) -> u64 {
    u64::try_from(period.0.as_millis()).unwrap_or(u64::MAX)
}

/// What is left of fingerprints that were forgotten to keep memory bounded.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Forgotten {
    fingerprints: u64,
    errors: u64,
}

/// The state: one cell per fingerprint, and who is due when.
struct AggregateErrors {
    options: Options,
    cells: HashMap<u64, Cell>,
    /// Open incidents by when their quiet period is over.
    due: BTreeSet<(u64, u64)>,
    /// Fingerprints without an open incident by when they were last seen.
    idle: BTreeSet<(u64, u64)>,
    forgotten: Forgotten,
    forgotten_dirty: bool,
    dirty: HashSet<u64>,
    fingerprints_max: usize,
}

impl AggregateErrors {
    fn new(options: Options) -> Self {
        Self {
            options,
            cells: HashMap::new(),
            due: BTreeSet::new(),
            idle: BTreeSet::new(),
            forgotten: Forgotten::default(),
            forgotten_dirty: false,
            dirty: HashSet::new(),
            fingerprints_max: FINGERPRINTS_MAX,
        }
    }

    /// Where a cell stands in the two orders.
    fn index(&mut self, key: u64, add: bool) {
        let Some(cell) = self.cells.get(&key) else { return };
        let open = cell.open.is_some();
        let quiet_ms = self.options.terms(&cell.code).quiet_ms;
        let at = if open { cell.last_seen_ms.saturating_add(quiet_ms) } else { cell.last_seen_ms };
        let order = if open { &mut self.due } else { &mut self.idle };
        if add {
            order.insert((at, key));
        } else {
            order.remove(&(at, key));
        }
    }

    /// Resolves an open incident, as of the end of its quiet period.
    fn resolve(&mut self, key: u64, out: &mut Vec<Emission>) {
        self.index(key, false);
        if let Some(cell) = self.cells.get_mut(&key) {
            let terms = self.options.terms(&cell.code);
            out.extend(cell.tell(key, Change::Resolved, &terms));
            cell.close();
        }
        self.index(key, true);
        self.dirty.insert(key);
    }

    /// Makes room for one fingerprint: an idle one goes first, then the open one that is due first.
    fn make_room(&mut self, out: &mut Vec<Emission>) {
        if self.cells.len() < self.fingerprints_max {
            return;
        }
        let oldest = self.idle.first().or(self.due.first()).copied();
        let Some((_, key)) = oldest else { return };
        if self.cells.get(&key).is_some_and(|cell| cell.open.is_some()) {
            self.resolve(key, out);
        }
        self.index(key, false);
        if let Some(cell) = self.cells.remove(&key) {
            self.forgotten.fingerprints += 1;
            self.forgotten.errors += cell.total;
            self.forgotten_dirty = true;
            self.dirty.insert(key);
        }
    }
}

impl Reduce for AggregateErrors {
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        let unread = |error: serde_json::Error| format!("cannot read the state under \"{key}\": {error}");
        if key == FORGOTTEN {
            self.forgotten = serde_json::from_slice(value).map_err(unread)?;
            return Ok(());
        }
        let hash = key.strip_prefix("fp.").and_then(|hex| u64::from_str_radix(hex, 16).ok());
        let hash = hash.ok_or_else(|| format!("no state of aggregate-errors has the key \"{key}\""))?;
        self.index(hash, false);
        self.cells.insert(hash, serde_json::from_slice(value).map_err(unread)?);
        self.index(hash, true);
        Ok(())
    }

    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure> {
        let report = Report::read(input.body)
            .map_err(|wrong| Failure::reject(class::DECODE, format!("not an error event: {wrong}")))?;
        let message = normalise(&report.message);
        let key = hash(&[&report.error_code, &report.service_name, &message]);
        // The quiet period may have passed unnoticed, in a replay or between two ticks.
        if let Some(cell) = self.cells.get(&key) {
            let quiet_ms = self.options.terms(&cell.code).quiet_ms;
            if cell.open.is_some() && input.at_ms >= cell.last_seen_ms.saturating_add(quiet_ms) {
                self.resolve(key, out);
            }
        } else {
            self.make_room(out);
            self.cells.insert(key, Cell::new(&report, &message, input.at_ms));
        }
        self.index(key, false);
        let cell = self.cells.get_mut(&key).expect("the cell was just found or made");
        let terms = self.options.terms(&cell.code);
        if let Some(change) = cell.count(&report, input.at_ms, &terms) {
            out.extend(cell.tell(key, change, &terms));
        }
        self.index(key, true);
        self.dirty.insert(key);
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        for _ in 0..KEYS_PER_STEP_MAX {
            match self.due.first().copied() {
                Some((due_ms, key)) if due_ms <= now_ms => self.resolve(key, out),
                _ => return,
            }
        }
    }

    fn next_timer_ms(&self) -> Option<u64> {
        self.due.first().map(|(due_ms, _)| *due_ms)
    }

    fn dirty_len(&self) -> usize {
        self.dirty.len() + usize::from(self.forgotten_dirty)
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        let write = |cell: &Cell| serde_json::to_vec(cell).expect("a cell is plain data");
        let cells = &self.cells;
        let mut taken: Vec<_> =
            self.dirty.drain().map(|key| (format!("fp.{}", hex(key)), cells.get(&key).map(write))).collect();
        if std::mem::take(&mut self.forgotten_dirty) {
            let value = serde_json::to_vec(&self.forgotten).expect("two numbers are plain data");
            taken.push((FORGOTTEN.to_owned(), Some(value)));
        }
        taken
    }
}

#[cfg(test)]
mod tests;

//! Kind `aggregate-errors`: error events become incidents, by fingerprint, with exact counts.

mod cell;
mod options;
mod part;
mod report;
mod rules;
mod state;
mod stored;
mod tell;
mod totals;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use serde_json::Value;

use crate::{
    Build, Emission, Emits, Failure, Input, KEYS_PER_STEP_MAX, Kind, Problem, Reduce, Tally, World,
    failure::class,
    fingerprint::normalise,
    incident::{Change, Incident, OperatorAction, Severity},
    matcher::LABELS,
    operator::{Action, INCIDENT_KEYS, IncidentAction},
    slots::Slots,
    text::excerpt,
};
use cell::Cell;
use options::Options;
use part::Part;
use report::{Facts, Report};
use rules::Rules;
use tell::End;
use totals::Totals;

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "aggregate-errors",
    about: "groups error events by fingerprint and opens an incident when many fall within a \
            window",
    options: || schemars::schema_for!(Options),
    build: Build::Reduce(|options, world| Ok(Box::new(AggregateErrors::build(options, world)?))),
    emits: Emits::Incidents,
    concurrency: 1,
    calls_out: false,
    checks_only: false,
    tallies: &[
        ("errors_counted_total", "Error events counted by an aggregate-errors stage"),
        ("incidents_total", "What became of incidents, by event"),
        ("incidents_open", "Incidents that go on, by severity"),
        ("fingerprints", "Fingerprints that are remembered"),
        ("fingerprints_forgotten_total", "Fingerprints that were forgotten to keep memory bounded"),
        ("errors_forgotten_total", "Errors of the fingerprints that were forgotten"),
    ],
    follows: &[INCIDENT_KEYS],
};

/// Returns the labels that the incidents of a stage with these options may have.
pub fn labels_of(options: &Value) -> BTreeSet<String> {
    let mut labels: BTreeSet<String> = LABELS.map(str::to_owned).into();
    let Ok(options) = serde_json::from_value::<Options>(options.clone()) else { return labels };
    let of_rules = options.rule.iter().filter_map(|rule| rule.fingerprint.as_ref());
    let parts = std::iter::once(&options.fingerprint).chain(of_rules).flatten();
    let extra = parts.filter_map(|name| Part::named(name)).filter(Part::is_extra);
    labels.extend(extra.map(|part| part.name().into_owned()));
    labels
}

/// Bytes kept of a name or a reason that an operator gives.
const SAID_BYTES_MAX: usize = 512;

/// State machine of an `aggregate-errors` stage: a cell per fingerprint, and when each is due.
#[derive(Debug)]
pub struct AggregateErrors {
    rules: Rules,
    fingerprints_max: usize,
    cells: HashMap<u64, Cell>,
    order: Order,
    totals: Totals,
    totals_dirty: bool,
    slots: Slots,
    /// Keys of an earlier version, to be deleted.
    legacy: Vec<String>,
}

/// Fingerprints in the order in which they are due or forgotten; each is in one of the two sets.
#[derive(Debug, Default)]
struct Order {
    /// Fingerprints with an open incident, by the end of its quiet period.
    due: BTreeSet<(u64, u64)>,
    /// Fingerprints without one, by the time they were last seen.
    idle: BTreeSet<(u64, u64)>,
}

/// Place of a cell in the order: true while its incident is open, and the time.
type Place = (bool, u64);

/// Returns the place of a cell in the order.
fn place(cell: &Cell, rules: &Rules) -> Place {
    match cell.due_ms(rules.terms(cell.rule)) {
        Some(due_ms) => (true, due_ms),
        None => (false, cell.last_seen_ms),
    }
}

impl Order {
    fn add(&mut self, (open, at_ms): Place, key: u64) {
        let order = if open { &mut self.due } else { &mut self.idle };
        order.insert((at_ms, key));
    }

    fn remove(&mut self, (open, at_ms): Place, key: u64) {
        let order = if open { &mut self.due } else { &mut self.idle };
        order.remove(&(at_ms, key));
    }
}

impl AggregateErrors {
    /// Builds the stage that these options describe, with no fingerprint known yet.
    ///
    /// # Errors
    /// Everything that is wrong with the options.
    pub fn build(options: &Value, world: &dyn World) -> Result<Self, Vec<Problem>> {
        Ok(Self::new(&Options::checked(options, world)?))
    }

    fn new(options: &Options) -> Self {
        Self {
            rules: Rules::new(options),
            fingerprints_max: options.fingerprints_max,
            cells: HashMap::new(),
            order: Order::default(),
            totals: Totals::default(),
            totals_dirty: false,
            slots: Slots::in_pages(cell::CELLS_PER_PAGE),
            legacy: Vec::new(),
        }
    }

    /// Every open incident as it is now, the worst first and then the one with the most errors.
    ///
    /// [`Incident::event`] is [`Change::Acknowledged`] where someone has taken it on, else
    /// [`Change::Updated`]. `new_errors` are those that no emission has reported yet.
    pub fn incidents(&self) -> Vec<Incident> {
        let incident = |(_, key): &(u64, u64)| {
            let cell = self.cells.get(key)?;
            let taken_on = cell.open.as_ref().is_some_and(|open| open.acknowledged.is_some());
            let event = if taken_on { Change::Acknowledged } else { Change::Updated };
            cell.incident(event, None, self.rules.terms(cell.rule))
        };
        let mut incidents: Vec<Incident> = self.order.due.iter().filter_map(incident).collect();
        incidents.sort_by(|a, b| {
            (b.severity, b.count)
                .cmp(&(a.severity, a.count))
                .then_with(|| a.incident_id.cmp(&b.incident_id))
        });
        incidents
    }

    /// Channels that the rule for an incident with these labels names; none where no rule does. Its
    /// severity counts as what was reported.
    pub fn channels_of(&self, labels: &BTreeMap<String, String>) -> &[String] {
        let label = |name: &str| labels.get(name).map(String::as_str);
        let about = Facts {
            code: label("code").unwrap_or_default(),
            service: label("service").unwrap_or_default(),
            stage: label("stage"),
            tenant: label("tenant"),
            severity: label("severity").and_then(Severity::meant_by),
        };
        &self.rules.terms(self.rules.number(&about)).channels
    }

    /// Names of the parts that the fingerprint of such an error is made of.
    pub fn fingerprint_parts(&self, code: &str, service: &str, stage: Option<&str>) -> Vec<String> {
        let about = Facts { code, service, stage, tenant: None, severity: None };
        self.rules.parts(&about).iter().map(|part| part.name().into_owned()).collect()
    }

    fn emit(&mut self, emission: Option<Emission>, change: Change, out: &mut Vec<Emission>) {
        if let Some(emission) = emission {
            out.push(emission);
            self.totals.count(change);
            self.totals_dirty = true;
        }
    }

    /// Resolves the open incident of a fingerprint.
    fn resolve(&mut self, key: u64, end: &End, out: &mut Vec<Emission>) {
        let Some(cell) = self.cells.get(&key) else { return };
        self.order.remove(place(cell, &self.rules), key);
        let cell = self.cells.get_mut(&key).expect("the cell was just found");
        let told = cell.tell(Change::Resolved, Some(end), self.rules.terms(cell.rule));
        cell.close(end.at_ms);
        cell.rule = self.rules.number(&cell.about());
        self.order.add((false, cell.last_seen_ms), key);
        self.slots.touch(key);
        self.emit(told, Change::Resolved, out);
    }

    /// Resolves the incident of a fingerprint if its quiet period is over by now.
    fn resolve_if_due(&mut self, key: u64, now_ms: u64, out: &mut Vec<Emission>) {
        let due_ms = self.cells.get(&key).and_then(|cell| cell.due_ms(self.rules.terms(cell.rule)));
        if let Some(at_ms) = due_ms.filter(|due_ms| *due_ms <= now_ms) {
            self.resolve(key, &End { at_ms, by: None }, out);
        }
    }

    /// Makes room for one fingerprint: the longest idle goes first; where none is, the open one
    /// that is due first.
    fn make_room(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        // More than one goes only after the limit was lowered, and then a few with each new one.
        for _ in 0..KEYS_PER_STEP_MAX - 2 {
            if self.cells.len() < self.fingerprints_max {
                return;
            }
            // What is over counts as idle, whether a tick came in between or not: a replay forgets
            // the same.
            if let Some((due_ms, key)) =
                self.order.due.first().copied().filter(|(due_ms, _)| *due_ms <= now_ms)
            {
                self.resolve(key, &End { at_ms: due_ms, by: None }, out);
                continue;
            }
            let oldest = self.order.idle.first().or(self.order.due.first()).copied();
            let Some((_, key)) = oldest else { return };
            self.forget(key, now_ms, out);
        }
    }

    /// Forgets a fingerprint. Its incident, if it has one, is over.
    fn forget(&mut self, key: u64, now_ms: u64, out: &mut Vec<Emission>) {
        if let Some(open) = self.cells.get(&key).and_then(|cell| cell.open.as_ref()) {
            let at_ms = now_ms.max(open.opened_ms);
            self.resolve(key, &End { at_ms, by: None }, out);
        }
        if let Some(cell) = self.cells.remove(&key) {
            self.order.remove(place(&cell, &self.rules), key);
            self.slots.release(key);
            self.totals.forgot(cell.total);
            self.totals_dirty = true;
        }
    }

    /// Counts one error.
    fn take_in(&mut self, report: &Report<'_>, at_ms: u64, seq: u64, out: &mut Vec<Emission>) {
        let message = normalise(&report.message);
        let parts = self.rules.parts(&report.about());
        let key = part::key(parts, report, &message);
        if self.cells.contains_key(&key) {
            // The quiet period may have passed unnoticed, in a replay or between two ticks.
            self.resolve_if_due(key, at_ms, out);
        } else {
            let mut cell = Cell::new(key, report, parts, &message, at_ms);
            cell.rule = self.rules.number(&cell.about());
            self.make_room(at_ms, out);
            self.order.add((false, at_ms), key);
            self.cells.insert(key, cell);
        }
        let cell = self.cells.get_mut(&key).expect("the cell was just found or made");
        let before = place(cell, &self.rules);
        if cell.note(report, at_ms, self.rules.terms(cell.rule)) {
            cell.rule = self.rules.number(&cell.about());
        }
        let terms = self.rules.terms(cell.rule);
        let change = cell.count(at_ms, seq, terms);
        let told = change.and_then(|change| cell.tell(change, None, terms));
        let after = place(cell, &self.rules);
        if before != after {
            self.order.remove(before, key);
            self.order.add(after, key);
        }
        self.slots.touch(key);
        self.totals.errors += 1;
        self.totals_dirty = true;
        if let Some(change) = change {
            self.emit(told, change, out);
        }
    }

    /// Applies an operator's action to an incident. One that is unknown or over stays as it is.
    fn operate(
        &mut self,
        key: &str,
        input: &Input<'_>,
        out: &mut Vec<Emission>,
    ) -> Result<(), Failure> {
        let reject = |why: String| {
            Failure::reject(class::DECODE, format!("not an action on an incident: {why}"))
        };
        let named = key.strip_prefix(INCIDENT_KEYS).and_then(|rest| rest.strip_prefix('.'));
        let named = named.ok_or_else(|| reject(format!("its key is \"{}\"", excerpt(key, 80))))?;
        if input.body.is_empty() {
            return Ok(());
        }
        let read: IncidentAction =
            serde_json::from_slice(input.body).map_err(|error| reject(error.to_string()))?;
        let IncidentAction { incident_id, action, by, at, reason } = read;
        if incident_id != named {
            let (said, named) = (excerpt(&incident_id, 80), excerpt(named, 80));
            return Err(reject(format!("it is about \"{said}\" and its key about \"{named}\"")));
        }
        let fingerprint = incident_id
            .split_once('-')
            .and_then(|(digits, _)| u64::from_str_radix(digits, 16).ok());
        let Some(fingerprint) = fingerprint else { return Ok(()) };
        self.resolve_if_due(fingerprint, input.at_ms, out);
        let Some(cell) =
            self.cells.get_mut(&fingerprint).filter(|cell| cell.incident_id() == incident_id)
        else {
            return Ok(());
        };
        let Some(opened_ms) = cell.open.as_ref().map(|open| open.opened_ms) else { return Ok(()) };
        let short = |text: String| excerpt(&text, SAID_BYTES_MAX);
        let said = OperatorAction { by: short(by), at, reason: reason.map(short) };
        match action {
            Action::Acknowledge => {
                if cell.acknowledge(said) {
                    let told = cell.tell(Change::Acknowledged, None, self.rules.terms(cell.rule));
                    self.slots.touch(fingerprint);
                    self.emit(told, Change::Acknowledged, out);
                }
            }
            Action::Resolve => {
                let at_ms = u64::try_from(at.as_millisecond()).unwrap_or(0).max(opened_ms);
                self.resolve(fingerprint, &End { at_ms, by: Some(said) }, out);
            }
        }
        Ok(())
    }
}

impl Reduce for AggregateErrors {
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        self.restored(key, value)
    }

    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure> {
        if let Some(key) = input.key {
            return self.operate(key, input, out);
        }
        let report = Report::read(input.body).map_err(|wrong| {
            Failure::reject(class::DECODE, format!("not an error event: {wrong}"))
        })?;
        self.take_in(&report, input.at_ms, input.seq, out);
        Ok(())
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        // The totals are one key more.
        for _ in 1..KEYS_PER_STEP_MAX {
            match self.order.due.first().copied() {
                Some((due_ms, key)) if due_ms <= now_ms => {
                    self.resolve(key, &End { at_ms: due_ms, by: None }, out);
                }
                _ => return,
            }
        }
    }

    fn next_timer_ms(&self) -> Option<u64> {
        self.order.due.first().map(|(due_ms, _)| *due_ms)
    }

    fn tallies(&self) -> Vec<Tally> {
        let tally = |name, value| Tally { name, labels: Vec::new(), value };
        let open = self
            .order
            .due
            .iter()
            .filter_map(|(_, key)| Some(self.cells.get(key)?.open.as_ref()?.severity));
        let mut by_severity =
            [Severity::Low, Severity::Medium, Severity::High, Severity::Critical].map(|s| (s, 0));
        open.for_each(|severity| by_severity[severity as usize].1 += 1);
        let labelled = |name, label, value: &str, count| Tally {
            name,
            labels: vec![(label, value.to_owned())],
            value: count,
        };
        let mut all = vec![
            tally("errors_counted_total", self.totals.errors),
            tally("fingerprints", self.cells.len() as u64),
            tally("fingerprints_forgotten_total", self.totals.fingerprints_forgotten),
            tally("errors_forgotten_total", self.totals.errors_forgotten),
        ];
        let told = Change::ALL.map(|change| (change.as_str(), self.totals.times_told(change)));
        all.extend(told.map(|(event, count)| labelled("incidents_total", "event", event, count)));
        all.extend(
            by_severity.map(|(s, count)| labelled("incidents_open", "severity", s.as_str(), count)),
        );
        all
    }

    fn dirty_len(&self) -> usize {
        self.slots.dirty_len() + usize::from(self.totals_dirty) + self.legacy_due()
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        self.changes()
    }
}

#[cfg(test)]
mod tests;

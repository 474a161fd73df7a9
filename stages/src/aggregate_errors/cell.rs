//! Cell: what is known of one fingerprint, and when it opens, grows and resolves.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Terms, report::Report};
use crate::{
    Emission,
    fingerprint::{cut, hash, hex},
    incident::{Change, Incident, Sample, Severity, timestamp},
};

/// Text from outside that is kept: the rest of it adds nothing that a person needs.
const TEXT_BYTES_MAX: usize = 512;
/// Codes, services and ids that are kept, in bytes.
const NAME_BYTES_MAX: usize = 256;
const SAMPLES_MAX: usize = 3;
const SERVICES_MAX: usize = 10;
/// Different users that are told apart.
const USERS_MAX: usize = 100;

/// What is known of one fingerprint. It is one key of the state.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    pub(super) code: String,
    message: String,
    services: BTreeSet<String>,
    /// The worst that a reporter said since it was last quiet.
    severity: Option<Severity>,
    /// Errors ever.
    pub(super) total: u64,
    first_seen_ms: u64,
    pub(super) last_seen_ms: u64,
    /// When the latest errors were stored, in order, at most the threshold.
    latest_ms: VecDeque<u64>,
    samples: Vec<Sample>,
    /// Hashes of the users it happened to.
    users: BTreeSet<u64>,
    /// How often it opened.
    generation: u64,
    pub(super) open: Option<Open>,
}

/// An open incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    started_ms: u64,
    opened_ms: u64,
    /// Errors in it.
    count: u64,
    /// Errors that were told of.
    told: u64,
    /// The count at which it is told of again.
    next: u64,
}

impl Cell {
    pub(super) fn new(report: &Report<'_>, message: &str, at_ms: u64) -> Self {
        Self {
            code: cut(&report.error_code, NAME_BYTES_MAX).to_owned(),
            message: cut(message, TEXT_BYTES_MAX).to_owned(),
            services: BTreeSet::new(),
            severity: None,
            total: 0,
            first_seen_ms: at_ms,
            last_seen_ms: at_ms,
            latest_ms: VecDeque::new(),
            samples: Vec::new(),
            users: BTreeSet::new(),
            generation: 0,
            open: None,
        }
    }

    /// Counts one error, and says what becomes of its incident.
    pub(super) fn count(&mut self, report: &Report<'_>, at_ms: u64, terms: &Terms<'_>) -> Option<Change> {
        self.total += 1;
        self.first_seen_ms = self.first_seen_ms.min(at_ms);
        self.last_seen_ms = self.last_seen_ms.max(at_ms);
        self.severity = self.severity.max(report.severity());
        self.note(report, at_ms);
        // Several streams may bring errors a little out of order.
        let place = self.latest_ms.partition_point(|ms| *ms <= at_ms);
        self.latest_ms.insert(place, at_ms);
        while self.latest_ms.len() > terms.threshold {
            self.latest_ms.pop_front();
        }
        if let Some(open) = &mut self.open {
            open.count += 1;
            if open.count < open.next {
                return None;
            }
            open.next = open.next.saturating_mul(2);
            return Some(Change::Updated);
        }
        let (first, last) = (self.latest_ms.front().copied()?, self.latest_ms.back().copied()?);
        if self.latest_ms.len() < terms.threshold || last - first > terms.window_ms {
            return None;
        }
        self.generation += 1;
        let count = self.latest_ms.len() as u64;
        self.open = Some(Open { started_ms: first, opened_ms: at_ms, count, told: 0, next: count.saturating_mul(2) });
        Some(Change::Opened)
    }

    /// Keeps what a person may want to see of an error.
    fn note(&mut self, report: &Report<'_>, at_ms: u64) {
        if self.services.len() < SERVICES_MAX {
            let service = cut(&report.service_name, NAME_BYTES_MAX);
            if !self.services.contains(service) {
                self.services.insert(service.to_owned());
            }
        }
        if self.users.len() < USERS_MAX
            && let Some(user) = report.user()
        {
            self.users.insert(hash(&[&user]));
        }
        // The errors that led to the incident, not the oldest ever.
        if self.open.is_none() && self.samples.len() == SAMPLES_MAX {
            self.samples.remove(0);
        }
        if self.samples.len() < SAMPLES_MAX {
            let short = |id: &Value| id.as_str().map(|text| cut(text, NAME_BYTES_MAX).to_owned());
            let metadata = report.metadata();
            self.samples.push(Sample {
                at: timestamp(at_ms),
                message: cut(&report.message, TEXT_BYTES_MAX).to_owned(),
                event_id: short(&metadata.event_id),
                trace_id: short(&metadata.trace_id),
            });
        }
    }

    /// Forgets what belongs to the incident that is over; what comes is counted anew.
    pub(super) fn close(&mut self) {
        self.open = None;
        self.latest_ms.clear();
        self.samples.clear();
        self.users.clear();
        self.severity = None;
    }

    /// Tells what became of the open incident.
    pub(super) fn tell(&mut self, key: u64, change: Change, terms: &Terms<'_>) -> Option<Emission> {
        let open = self.open.as_mut()?;
        let fingerprint = hex(key);
        let span_ms = self.last_seen_ms.saturating_sub(open.started_ms).max(1000);
        let per_minute = open.count as f64 * 60_000.0 / span_ms as f64;
        let resolved_ms = self.last_seen_ms.saturating_add(terms.quiet_ms);
        let incident = Incident {
            incident_id: format!("{fingerprint}-{}", self.generation),
            event: change,
            generation: self.generation,
            code: self.code.clone(),
            severity: terms.severity.or(self.severity).unwrap_or(terms.otherwise),
            message: self.message.clone(),
            services: self.services.iter().cloned().collect(),
            count: open.count,
            new_errors: open.count - open.told,
            total: self.total,
            rate_per_minute: (per_minute * 10.0).round() / 10.0,
            first_seen: timestamp(self.first_seen_ms),
            last_seen: timestamp(self.last_seen_ms),
            opened_at: timestamp(open.opened_ms),
            resolved_at: (change == Change::Resolved).then(|| timestamp(resolved_ms)),
            users: self.users.len() as u64,
            samples: self.samples.clone(),
            channels: terms.channels.to_vec(),
            fingerprint,
        };
        open.told = open.count;
        let what = match change {
            Change::Opened | Change::Resolved => change.as_str().to_owned(),
            Change::Updated => format!("updated-{}", open.count),
        };
        Some(Emission {
            id: format!("{}.{}.{what}", incident.fingerprint, incident.generation),
            route: change.as_str().to_owned(),
            body: serde_json::to_vec(&incident).expect("an incident is plain data"),
        })
    }
}

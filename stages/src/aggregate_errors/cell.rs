//! Cell: record of one fingerprint, which opens, grows, gets worse and ends its incident.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    part::Part,
    report::{Facts, Report},
    rules::Terms,
    stored::{Minutes, ShortSample, Times, Users, digits},
};
use crate::{
    fingerprint::cut,
    incident::{Change, OperatorAction, Severity},
};

/// Cells of a page of the state. In a flood every page changes between two commits, and few large
/// keys are cheaper than many small ones; at other times one cell changes, and a few KiB are
/// written in vain.
pub(super) const CELLS_PER_PAGE: u32 = 8;
/// Bytes kept of text from outside: the rest adds nothing that a person needs.
const TEXT_BYTES_MAX: usize = 512;
/// Bytes kept of a code, a service or an id.
const NAME_BYTES_MAX: usize = 256;
const SAMPLES_MAX: usize = 3;
const SERVICES_MAX: usize = 10;

/// Record of one fingerprint. It is written at every commit in which it changed, hence the short
/// names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// Fingerprint.
    #[serde(rename = "f", with = "digits")]
    pub(super) key: u64,
    #[serde(rename = "c")]
    pub(super) code: String,
    /// Services that reported it, in the order in which they did.
    #[serde(rename = "s")]
    pub(super) services: Vec<String>,
    /// Stage, of a failed attempt.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<String>,
    /// Tenant of its first error, unless it is a label.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// Other parts of the fingerprint, by name.
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(rename = "m")]
    pub(super) message: String,
    /// Worst severity reported since it was last quiet.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    severity: Option<Severity>,
    /// Errors since it became known.
    #[serde(rename = "n")]
    pub(super) total: u64,
    #[serde(rename = "a")]
    pub(super) first_seen_ms: u64,
    #[serde(rename = "z")]
    pub(super) last_seen_ms: u64,
    /// Times of the latest errors, at most the threshold, while no incident is open.
    #[serde(rename = "w", default, skip_serializing_if = "Times::is_empty")]
    latest: Times,
    #[serde(rename = "b")]
    pub(super) minutes: Minutes,
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) samples: Vec<ShortSample>,
    #[serde(rename = "u", default, skip_serializing_if = "Users::is_none")]
    pub(super) users: Users,
    /// Openings so far.
    #[serde(rename = "g")]
    pub(super) generation: u64,
    /// End of the incident before, in milliseconds since 1970.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) resolved_ms: Option<u64>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<Open>,
    /// Number of the rule that holds, which follows from the rest.
    #[serde(skip)]
    pub(super) rule: usize,
}

/// An open incident.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Open {
    #[serde(rename = "s")]
    pub(super) started_ms: u64,
    #[serde(rename = "o")]
    pub(super) opened_ms: u64,
    /// Sequence of the error that opened it, which tells it from every other of its fingerprint.
    #[serde(rename = "q")]
    pub(super) opened_seq: u64,
    /// Errors in the incident.
    #[serde(rename = "c")]
    pub(super) count: u64,
    /// Errors already reported.
    #[serde(rename = "t")]
    pub(super) told: u64,
    /// Count at which growth is reported again.
    #[serde(rename = "n")]
    next: u64,
    /// Worst severity reported.
    #[serde(rename = "v")]
    pub(super) severity: Severity,
    /// Acknowledgement, once someone has taken it on.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<OperatorAction>,
}

impl Cell {
    pub(super) fn new(
        key: u64,
        report: &Report<'_>,
        parts: &[Part],
        message: &str,
        at_ms: u64,
    ) -> Self {
        let name = |text: &str| cut(text, NAME_BYTES_MAX).to_owned();
        let extra = parts.iter().filter(|part| part.is_extra());
        let labels =
            extra.map(|part| (part.name().into_owned(), name(&part.value(report, message))));
        let labels: BTreeMap<_, _> = labels.filter(|(_, value)| !value.is_empty()).collect();
        Self {
            key,
            code: name(&report.error_code),
            services: Vec::new(),
            stage: report.stage().map(name),
            tenant: report.tenant().filter(|_| !labels.contains_key("tenant")).map(name),
            labels,
            message: cut(message, TEXT_BYTES_MAX).to_owned(),
            severity: None,
            total: 0,
            first_seen_ms: at_ms,
            last_seen_ms: at_ms,
            latest: Times::default(),
            minutes: Minutes::default(),
            samples: Vec::new(),
            users: Users::default(),
            generation: 0,
            resolved_ms: None,
            open: None,
            rule: 0,
        }
    }

    /// Returns the facts that rules match; only those that are kept, so that a restart under other
    /// rules decides as if they had always held.
    pub(super) fn about(&self) -> Facts<'_> {
        Facts {
            code: &self.code,
            service: self.services.first().map_or("", String::as_str),
            stage: self.stage.as_deref(),
            tenant: self.tenant.as_deref().or(self.labels.get("tenant").map(String::as_str)),
            severity: self.severity,
        }
    }

    /// Number of error times kept.
    #[cfg(test)]
    pub(super) fn latest_len(&self) -> usize {
        self.latest.len()
    }

    /// End of its quiet period, where an incident is open.
    pub(super) fn due_ms(&self, terms: &Terms) -> Option<u64> {
        self.open.as_ref().map(|_| self.last_seen_ms.saturating_add(terms.quiet_ms))
    }

    /// Notes an error, before the rule that holds is known; true where another rule may hold now.
    pub(super) fn note(&mut self, report: &Report<'_>, at_ms: u64, terms: &Terms) -> bool {
        let (before, is_new) = (self.severity, self.total == 0);
        // What was before so long a pause can open nothing any more, and says nothing of what comes
        // now.
        let pause_ms = terms.quiet_ms.max(terms.window_ms);
        if self.open.is_none() && at_ms.saturating_sub(self.last_seen_ms) > pause_ms {
            self.forget_errors();
        }
        self.total += 1;
        let before_ms = self.last_seen_ms;
        self.first_seen_ms = self.first_seen_ms.min(at_ms);
        self.last_seen_ms = before_ms.max(at_ms);
        self.minutes.add(at_ms, before_ms, self.last_seen_ms);
        self.severity = self.severity.max(report.severity());
        if self.services.len() < SERVICES_MAX {
            let service = cut(&report.service_name, NAME_BYTES_MAX);
            if !self.services.iter().any(|known| known == service) {
                self.services.push(service.to_owned());
            }
        }
        if let Some(user) = report.user() {
            self.users.add(user);
        }
        self.sample(report, at_ms);
        is_new || self.severity != before
    }

    /// Keeps the error as a sample: those that led to an incident, not the oldest ever.
    fn sample(&mut self, report: &Report<'_>, at_ms: u64) {
        if self.samples.len() >= SAMPLES_MAX {
            if self.open.is_some() {
                return;
            }
            self.samples.remove(0);
        }
        let short = |id: Option<&str>| id.map(|text| cut(text, NAME_BYTES_MAX).to_owned());
        self.samples.push(ShortSample {
            at_ms,
            message: cut(&report.message, TEXT_BYTES_MAX).to_owned(),
            event_id: short(report.metadata.event_id.text()),
            trace_id: short(report.metadata.trace_id.text()),
        });
    }

    /// Counts the error that was just noted, and returns the change of its incident.
    pub(super) fn count(&mut self, at_ms: u64, seq: u64, terms: &Terms) -> Option<Change> {
        let severity = self.severity_by(terms, self.open.as_ref().map_or(0, |open| open.count + 1));
        if let Some(open) = &mut self.open {
            open.count += 1;
            let has_doubled = open.count >= open.next;
            while open.count >= open.next {
                open.next = open.next.saturating_mul(2);
            }
            if severity > open.severity {
                open.severity = severity;
                return Some(Change::Escalated);
            }
            return has_doubled.then_some(Change::Updated);
        }
        self.latest.add(at_ms, terms.threshold);
        let (first, last) = self.latest.ends()?;
        if self.latest.len() < terms.threshold || last - first > terms.window_ms {
            return None;
        }
        self.generation += 1;
        let count = self.latest.len() as u64;
        self.latest.clear();
        self.open = Some(Open {
            started_ms: first,
            opened_ms: at_ms,
            opened_seq: seq,
            count,
            told: 0,
            next: count.saturating_mul(2),
            severity,
            acknowledged: None,
        });
        Some(if self.generation == 1 { Change::Opened } else { Change::Reopened })
    }

    /// Severity of an incident of so many errors.
    fn severity_by(&self, terms: &Terms, count: u64) -> Severity {
        let mut severity = terms.severity.or(self.severity).unwrap_or(terms.otherwise);
        let mut next = (terms.threshold as u64).saturating_mul(terms.escalate);
        while terms.escalate > 1 && count >= next && severity < Severity::Critical {
            severity = severity.worse();
            next = next.saturating_mul(terms.escalate);
        }
        severity
    }

    /// Acknowledges the incident; true unless the same person had.
    pub(super) fn acknowledge(&mut self, said: OperatorAction) -> bool {
        let Some(open) = &mut self.open else { return false };
        if open.acknowledged.as_ref().is_some_and(|before| before.by == said.by) {
            return false;
        }
        open.acknowledged = Some(said);
        true
    }

    /// Resolves the incident; later errors are counted anew.
    pub(super) fn close(&mut self, at_ms: u64) {
        self.open = None;
        self.resolved_ms = Some(at_ms);
        self.forget_errors();
    }

    /// Forgets times, samples, users and severity of the errors so far.
    fn forget_errors(&mut self) {
        self.latest.clear();
        self.samples.clear();
        self.users = Users::default();
        self.severity = None;
    }
}

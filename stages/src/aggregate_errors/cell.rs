//! Cell: what is known of one fingerprint, and when it opens, grows, gets worse and is over.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{
    report::Report,
    rules::{About, Part, Terms},
    stored::{Minutes, ShortSample, Times, Users, digits},
};
use crate::{
    fingerprint::cut,
    incident::{Change, Said, Severity},
};

/// Text from outside that is kept: the rest of it adds nothing that a person needs.
const TEXT_BYTES_MAX: usize = 512;
/// Codes, services and ids that are kept, in bytes.
const NAME_BYTES_MAX: usize = 256;
const SAMPLES_MAX: usize = 3;
const SERVICES_MAX: usize = 10;

/// What is known of one fingerprint. It is one key of the state, hence the short names.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Cell {
    /// The fingerprint.
    #[serde(rename = "f", with = "digits")]
    pub(super) key: u64,
    #[serde(rename = "c")]
    pub(super) code: String,
    /// Who reported it, in the order in which they did.
    #[serde(rename = "s")]
    pub(super) services: Vec<String>,
    /// The stage, of a failed attempt.
    #[serde(rename = "p", default, skip_serializing_if = "Option::is_none")]
    pub(super) stage: Option<String>,
    /// The tenant of its first error, unless it is a label.
    #[serde(rename = "i", default, skip_serializing_if = "Option::is_none")]
    tenant: Option<String>,
    /// What else the fingerprint is made of.
    #[serde(rename = "l", default, skip_serializing_if = "BTreeMap::is_empty")]
    pub(super) labels: BTreeMap<String, String>,
    #[serde(rename = "m")]
    pub(super) message: String,
    /// The worst that a reporter said since it was last quiet.
    #[serde(rename = "v", default, skip_serializing_if = "Option::is_none")]
    severity: Option<Severity>,
    /// Errors ever.
    #[serde(rename = "n")]
    pub(super) total: u64,
    #[serde(rename = "a")]
    pub(super) first_seen_ms: u64,
    #[serde(rename = "z")]
    pub(super) last_seen_ms: u64,
    /// When the latest errors were stored, at most the threshold, while no incident is open.
    #[serde(rename = "w", default, skip_serializing_if = "Times::is_empty")]
    latest: Times,
    #[serde(rename = "b")]
    pub(super) minutes: Minutes,
    #[serde(rename = "x", default, skip_serializing_if = "Vec::is_empty")]
    pub(super) samples: Vec<ShortSample>,
    #[serde(rename = "u", default, skip_serializing_if = "Users::is_none")]
    pub(super) users: Users,
    /// How often it opened.
    #[serde(rename = "g")]
    pub(super) generation: u64,
    /// When the incident before was over.
    #[serde(rename = "r", default, skip_serializing_if = "Option::is_none")]
    pub(super) resolved_ms: Option<u64>,
    #[serde(rename = "o", default, skip_serializing_if = "Option::is_none")]
    pub(super) open: Option<Open>,
    /// The number of the rule that holds, which follows from the rest.
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
    /// The sequence of the error that opened it, which tells it from every other of its
    /// fingerprint.
    #[serde(rename = "q")]
    pub(super) opened_seq: u64,
    /// Errors in it.
    #[serde(rename = "c")]
    pub(super) count: u64,
    /// Errors that were told of.
    #[serde(rename = "t")]
    pub(super) told: u64,
    /// The count at which it is told of again.
    #[serde(rename = "n")]
    next: u64,
    /// The worst that was told.
    #[serde(rename = "v")]
    pub(super) severity: Severity,
    /// Who has taken it on.
    #[serde(rename = "k", default, skip_serializing_if = "Option::is_none")]
    pub(super) acknowledged: Option<Said>,
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

    /// What rules go by. Only what is kept, so that a restart under other rules decides as if they
    /// had always held.
    pub(super) fn about(&self) -> About<'_> {
        About {
            code: &self.code,
            service: self.services.first().map_or("", String::as_str),
            stage: self.stage.as_deref(),
            tenant: self.tenant.as_deref().or(self.labels.get("tenant").map(String::as_str)),
            severity: self.severity,
        }
    }

    /// How many times are kept of it.
    #[cfg(test)]
    pub(super) fn latest_len(&self) -> usize {
        self.latest.len()
    }

    /// When its quiet period is over, where an incident is open.
    pub(super) fn due_ms(&self, terms: &Terms) -> Option<u64> {
        self.open.as_ref().map(|_| self.last_seen_ms.saturating_add(terms.quiet_ms))
    }

    /// Notes an error, before it is known which rule holds; true where another may.
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

    /// Keeps the errors that led to an incident, not the oldest ever.
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

    /// Counts the error that was just noted, and says what becomes of its incident.
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

    /// How bad an incident of so many errors is.
    fn severity_by(&self, terms: &Terms, count: u64) -> Severity {
        let mut severity = terms.severity.or(self.severity).unwrap_or(terms.otherwise);
        let mut next = (terms.threshold as u64).saturating_mul(terms.escalate);
        while terms.escalate > 1 && count >= next && severity < Severity::Critical {
            severity = severity.worse();
            next = next.saturating_mul(terms.escalate);
        }
        severity
    }

    /// Notes that someone has taken the incident on; true where that is news.
    pub(super) fn acknowledge(&mut self, said: Said) -> bool {
        let Some(open) = &mut self.open else { return false };
        if open.acknowledged.as_ref().is_some_and(|before| before.by == said.by) {
            return false;
        }
        open.acknowledged = Some(said);
        true
    }

    /// Ends the incident; what comes is counted anew.
    pub(super) fn close(&mut self, at_ms: u64) {
        self.open = None;
        self.resolved_ms = Some(at_ms);
        self.forget_errors();
    }

    /// Forgets what the errors so far said.
    fn forget_errors(&mut self) {
        self.latest.clear();
        self.samples.clear();
        self.users = Users::default();
        self.severity = None;
    }
}

//! Digest: notifications that exceeded the rate of a channel, added up, with the worst incidents.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::Held;
use crate::incident::{Change, Incident, Severity};

/// Number of incidents that a digest names.
pub const TOP: usize = 5;

/// Notifications that exceeded the rate of a channel, added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// Id of the first incident in it.
    pub first_incident_id: String,
    /// Time at which it began.
    pub since: Timestamp,
    /// Incidents that opened.
    pub opened: u64,
    /// Incidents that grew or became worse, each time counted.
    pub updated: u64,
    /// Incidents that resolved.
    pub resolved: u64,
    /// Incidents of which nothing is new: they were to be repeated, or nobody has acknowledged
    /// them.
    #[serde(default)]
    pub ongoing: u64,
    /// Errors that these events are about, each counted once.
    pub errors: u64,
    /// Worst severity.
    pub severity: Severity,
    /// Worst incidents, at most [`TOP`].
    pub top: Vec<Line>,
    /// Other changes held back until now.
    #[serde(default, skip_serializing_if = "Held::is_empty")]
    pub held: Held,
}

/// One incident in a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// Severity of the incident.
    pub severity: Severity,
    /// Errors in the incident.
    pub count: u64,
    /// Id of the incident.
    pub incident_id: String,
    /// Last change of the incident.
    pub event: Change,
    /// Code of its errors.
    pub code: String,
    /// Message that its errors share.
    pub message: String,
}

impl Digest {
    /// Returns an empty digest that begins with this incident.
    pub fn since(incident: &Incident, at: Timestamp) -> Self {
        Self {
            first_incident_id: incident.incident_id.clone(),
            since: at,
            opened: 0,
            updated: 0,
            resolved: 0,
            ongoing: 0,
            errors: 0,
            severity: Severity::Low,
            top: Vec::new(),
            held: Held::default(),
        }
    }

    /// Adds a change of an incident, and the changes held back before it.
    pub fn add(&mut self, incident: &Incident, held: &Held) {
        self.add_all(std::slice::from_ref(incident), 1, &[], held);
    }

    /// Adds incidents with news, of which the first `changes` are changes not counted before;
    /// others that only go on; and the changes held back before all of these.
    pub fn add_all(&mut self, news: &[Incident], changes: u64, rest: &[Incident], held: &Held) {
        for (n, incident) in (1..).zip(news) {
            match incident.event {
                _ if n > changes => self.ongoing += 1,
                Change::Opened | Change::Reopened => self.opened += 1,
                Change::Updated | Change::Escalated | Change::Acknowledged => self.updated += 1,
                Change::Resolved => self.resolved += 1,
            }
            self.line(incident);
        }
        if news.is_empty() {
            self.ongoing += rest.len() as u64;
            rest.iter().for_each(|incident| self.line(incident));
        }
        self.held.merge(held);
    }

    /// Names an incident, if it is one of the worst.
    fn line(&mut self, incident: &Incident) {
        self.errors += incident.new_errors;
        self.severity = self.severity.max(incident.severity);
        self.top.retain(|line| line.incident_id != incident.incident_id);
        self.top.push(Line {
            severity: incident.severity,
            count: incident.count,
            incident_id: incident.incident_id.clone(),
            event: incident.event,
            code: incident.code.clone(),
            message: incident.message.clone(),
        });
        self.top.sort_by(|a, b| {
            (b.severity, b.count, &a.incident_id).cmp(&(a.severity, a.count, &b.incident_id))
        });
        self.top.truncate(TOP);
    }

    /// Number of changes that this digest reports, without those held back.
    pub fn events(&self) -> u64 {
        self.opened + self.updated + self.resolved
    }
}

/// Returns the counts in words, without zeros: `38 incidents opened, 2 resolved`.
pub(super) fn added_up(digest: &Digest) -> String {
    let Digest { opened, updated, resolved, ongoing, .. } = *digest;
    let parts = [
        (opened, "opened"),
        (updated, "updated"),
        (resolved, "resolved"),
        (ongoing, "still going on"),
    ];
    let said: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).collect();
    let word = |(at, (n, what)): (usize, &&(u64, &str))| match (at, n) {
        (0, 1) => format!("1 incident {what}"),
        (0, n) => format!("{n} incidents {what}"),
        (_, n) => format!("{n} {what}"),
    };
    said.iter().enumerate().map(word).collect::<Vec<_>>().join(", ")
}

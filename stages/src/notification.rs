//! Notification: what is sent to a channel, about one incident or many.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::incident::{Change, Incident, Severity};

/// The incidents that a digest names.
pub const TOP: usize = 5;

/// What is sent to a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Derived from what it says, so that a repeat can be told.
    pub notification_id: String,
    /// The channel it is for.
    pub channel: String,
    /// When it was decided on.
    pub at: Timestamp,
    /// One line.
    pub title: String,
    /// The whole of it as plain text, without the title.
    pub text: String,
    /// How bad it is; of a digest, the worst in it.
    pub severity: Severity,
    /// What it is about.
    #[serde(flatten)]
    pub about: About,
    /// What else became of these incidents, and was held back until now.
    pub suppressed: u64,
}

/// What a notification is about.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum About {
    /// One incident.
    Incident {
        /// The incident.
        incident: Box<Incident>,
    },
    /// What exceeded the rate of the channel.
    Digest {
        /// What it was.
        digest: Digest,
    },
}

/// What exceeded the rate of a channel, added up.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Digest {
    /// The first incident in it.
    pub first_incident_id: String,
    /// When it began.
    pub since: Timestamp,
    /// Incidents that opened.
    pub opened: u64,
    /// Incidents that grew, each time counted.
    pub updated: u64,
    /// Incidents that resolved.
    pub resolved: u64,
    /// Errors that these events are about, each counted once.
    pub errors: u64,
    /// The worst severity.
    pub severity: Severity,
    /// The five worst incidents.
    pub top: Vec<Line>,
    /// What else was held back until now.
    pub suppressed: u64,
}

/// One incident in a digest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Line {
    /// How bad it is.
    pub severity: Severity,
    /// Errors in it.
    pub count: u64,
    /// Which incident.
    pub incident_id: String,
    /// What has become of it.
    pub event: Change,
    /// The code of its errors.
    pub code: String,
    /// The message that its errors share.
    pub message: String,
}

impl Digest {
    /// An empty digest that begins with this incident.
    pub fn since(incident: &Incident, at: Timestamp) -> Self {
        Self {
            first_incident_id: incident.incident_id.clone(),
            since: at,
            opened: 0,
            updated: 0,
            resolved: 0,
            errors: 0,
            severity: Severity::Low,
            top: Vec::new(),
            suppressed: 0,
        }
    }

    /// Adds what became of an incident, and what was held back before it.
    pub fn add(&mut self, incident: &Incident, suppressed: u64) {
        match incident.event {
            Change::Opened => self.opened += 1,
            Change::Updated => self.updated += 1,
            Change::Resolved => self.resolved += 1,
        }
        self.errors += incident.new_errors;
        self.severity = self.severity.max(incident.severity);
        self.suppressed += suppressed;
        self.top.retain(|line| line.incident_id != incident.incident_id);
        self.top.push(Line {
            severity: incident.severity,
            count: incident.count,
            incident_id: incident.incident_id.clone(),
            event: incident.event,
            code: incident.code.clone(),
            message: incident.message.clone(),
        });
        self.top.sort_by(|a, b| (b.severity, b.count, &a.incident_id).cmp(&(a.severity, a.count, &b.incident_id)));
        self.top.truncate(TOP);
    }

    /// What became of incidents, that this digest is about: the held back not counted.
    pub fn events(&self) -> u64 {
        self.opened + self.updated + self.resolved
    }
}

impl Notification {
    /// A notification about one incident.
    pub fn of_incident(channel: &str, at: Timestamp, incident: Incident, suppressed: u64) -> Self {
        let Incident { event, severity, count, .. } = incident;
        let what = if event == Change::Updated { format!("updated-{count}") } else { event.as_str().to_owned() };
        let services = incident.services.join(", ");
        let mut text = format!(
            "{}\n{count} errors, {} a minute, in {services}\nfirst seen {}, last seen {}\n",
            incident.message, incident.rate_per_minute, incident.first_seen, incident.last_seen,
        );
        if incident.users > 0 {
            text += &format!("users: {}\n", incident.users);
        }
        if let Some(sample) = incident.samples.first() {
            text += &format!("for example: {}\n", sample.message);
        }
        Self {
            notification_id: format!("{channel}.{}.{what}", incident.incident_id),
            channel: channel.to_owned(),
            at,
            title: format!(
                "[{}] {} {}: {count} errors in {services}",
                severity.as_str(),
                incident.code,
                event.as_str()
            ),
            text: text + &held_back(suppressed),
            severity,
            about: About::Incident { incident: Box::new(incident) },
            suppressed,
        }
    }

    /// A notification about what exceeded the rate of the channel.
    pub fn of_digest(channel: &str, at: Timestamp, digest: Digest) -> Self {
        let Digest { errors, suppressed, severity, .. } = digest;
        let mut text = format!("{} since {}\n", added_up(&digest), digest.since);
        for line in &digest.top {
            let (severity, event) = (line.severity.as_str(), line.event.as_str());
            text += &format!("[{severity}] {} {event}: {} errors: {}\n", line.code, line.count, line.message);
        }
        Self {
            notification_id: format!("{channel}.digest.{}.{}", digest.first_incident_id, digest.events()),
            channel: channel.to_owned(),
            at,
            title: format!("[{}] {}, {errors} errors", severity.as_str(), added_up(&digest)),
            text: text + &held_back(suppressed),
            severity,
            about: About::Digest { digest },
            suppressed,
        }
    }
}

/// `38 incidents opened, 2 resolved`: what there is none of is not said.
fn added_up(digest: &Digest) -> String {
    let parts = [(digest.opened, "opened"), (digest.updated, "updated"), (digest.resolved, "resolved")];
    let said: Vec<_> = parts.iter().filter(|(n, _)| *n > 0).collect();
    let word = |(at, (n, what)): (usize, &&(u64, &str))| match (at, n) {
        (0, 1) => format!("1 incident {what}"),
        (0, n) => format!("{n} incidents {what}"),
        (_, n) => format!("{n} {what}"),
    };
    said.iter().enumerate().map(word).collect::<Vec<_>>().join(", ")
}

fn held_back(suppressed: u64) -> String {
    if suppressed == 0 { String::new() } else { format!("and {suppressed} more events that were held back\n") }
}

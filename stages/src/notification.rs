//! Notification: message to a channel about one incident or many.

mod digest;
mod held;

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{
    incident::{Change, Incident, Severity},
    units::Period,
};
pub use digest::{Digest, Line, TOP};
pub use held::{Held, Hold};

use digest::added_up;

/// Most incidents that the notification of a group holds; the rest is counted.
pub const GROUP_INCIDENTS_MAX: usize = 20;

/// Message to a channel.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Id, the same for a repeat of the same notification, and for nothing else.
    pub notification_id: String,
    /// Channel it is for.
    pub channel: String,
    /// Time at which it was decided on.
    pub at: Timestamp,
    /// Title, one line.
    pub title: String,
    /// Plain text of all of it, without the title.
    pub text: String,
    /// Worst severity in it.
    pub severity: Severity,
    /// Status of its incidents.
    pub status: Status,
    /// Reason why it is sent.
    pub why: Why,
    /// Life of its group: 16 hexadecimal digits, the same from its first notification to its end.
    /// State at the receiver (an incident at PagerDuty, a thread) goes by it.
    pub group: String,
    /// Labels by which its only incident is grouped; those of several are with them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub by: BTreeMap<String, String>,
    /// Content: one incident, a group or a digest.
    #[serde(flatten)]
    pub about: About,
    /// Changes of incidents that it reports: at most one of each incident, any number in a digest;
    /// none in a repeat.
    #[serde(default)]
    pub news: u64,
    /// Other changes of these incidents, held back until now, by reason.
    #[serde(default, skip_serializing_if = "Held::is_empty")]
    pub held: Held,
}

/// Status of a notification's incidents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// At least one incident goes on.
    Firing,
    /// Every incident is over.
    Resolved,
}

impl Status {
    /// The word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "firing",
            Self::Resolved => "resolved",
        }
    }
}

/// Reason why a notification is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Why {
    /// An incident opened.
    Opened,
    /// An incident came back.
    Reopened,
    /// An incident grew.
    Updated,
    /// An incident became worse.
    Escalated,
    /// Nobody acknowledged it in time, and this channel is the next to be notified.
    Unacknowledged,
    /// Nothing is new, and it still goes on after the repeat interval.
    Repeated,
    /// Everything in it is over.
    Resolved,
    /// The rate of the channel was exceeded.
    Digest,
    /// Someone tries the channel.
    Test,
}

impl Why {
    /// The word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Updated => "updated",
            Self::Escalated => "escalated",
            Self::Unacknowledged => "unacknowledged",
            Self::Repeated => "repeated",
            Self::Resolved => "resolved",
            Self::Digest => "digest",
            Self::Test => "test",
        }
    }
}

impl From<Change> for Why {
    /// Returns the reason of a change's notification. (An acknowledgement counts as an update.)
    fn from(change: Change) -> Self {
        match change {
            Change::Opened => Self::Opened,
            Change::Reopened => Self::Reopened,
            Change::Updated | Change::Acknowledged => Self::Updated,
            Change::Escalated => Self::Escalated,
            Change::Resolved => Self::Resolved,
        }
    }
}

/// Content of a notification.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum About {
    /// One incident.
    Incident {
        /// Incident.
        incident: Box<Incident>,
    },
    /// Several incidents of one group.
    Group {
        /// Group.
        incidents: Grouped,
    },
    /// Notifications that exceeded the rate of the channel.
    Digest {
        /// Their digest.
        digest: Digest,
    },
}

/// Incidents of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Grouped {
    /// Labels that they share, by which they are grouped.
    pub by: BTreeMap<String, String>,
    /// Number of incidents that go on.
    pub firing: u64,
    /// Number of incidents newly over.
    pub resolved: u64,
    /// Errors in all of them.
    pub errors: u64,
    /// Worst of them, at most [`GROUP_INCIDENTS_MAX`], those that go on first.
    pub list: Vec<Incident>,
}

impl Notification {
    /// Returns a notification about one incident.
    pub fn of_incident(
        id: String,
        channel: &str,
        at: Timestamp,
        why: Why,
        group: &str,
        incident: Incident,
        held: Held,
    ) -> Self {
        let Incident { severity, count, .. } = incident;
        let services = incident.services.join(", ");
        let mut text = format!("{}\n", incident.message);
        text += &format!("{}\n", reason(why, &incident));
        text += &format!(
            "{count} errors, {} a minute, {}, in {services}\n",
            incident.rate_per_minute,
            incident.trend.as_str(),
        );
        text += &format!(
            "first seen {:.0}, last seen {:.0}\n",
            incident.first_seen, incident.last_seen
        );
        if incident.users > 0 {
            text += &format!("users: {}\n", incident.users);
        }
        if let Some(sample) = incident.samples.last() {
            text += &format!("for example: {}\n", sample.message);
        }
        if let Some(said) = &incident.acknowledged {
            text += &format!("acknowledged by {}\n", said.by);
        }
        let what = if why == Why::Test { "test" } else { what(why, &incident) };
        Self {
            notification_id: id,
            channel: channel.to_owned(),
            at,
            title: format!(
                "[{}] {} {what}: {count} errors in {services}",
                severity.as_str(),
                incident.code
            ),
            text: text + &held.said(),
            severity,
            status: if incident.is_over() { Status::Resolved } else { Status::Firing },
            why,
            group: group.to_owned(),
            by: BTreeMap::new(),
            about: About::Incident { incident: Box::new(incident) },
            news: 0,
            held,
        }
    }

    /// Returns a notification about several incidents of one group, those that go on first, the
    /// worst of each first.
    pub fn of_group(
        id: String,
        channel: &str,
        at: Timestamp,
        why: Why,
        group: &str,
        mut incidents: Grouped,
        held: Held,
    ) -> Self {
        let Grouped { firing, resolved, errors, .. } = incidents;
        let worst = incidents.list.iter().filter(|incident| firing == 0 || !incident.is_over());
        let severity = worst.map(|incident| incident.severity).max().unwrap_or_default();
        let by: Vec<String> =
            incidents.by.iter().map(|(label, value)| format!("{label}={value}")).collect();
        let counts = match (firing, resolved) {
            (0, 1) => "1 incident resolved".to_owned(),
            (0, resolved) => format!("{resolved} incidents resolved"),
            (1, 0) => "1 incident firing".to_owned(),
            (firing, 0) => format!("{firing} incidents firing"),
            (1, resolved) => format!("1 incident firing, {resolved} resolved"),
            (firing, resolved) => format!("{firing} incidents firing, {resolved} resolved"),
        };
        let mut text = String::new();
        for incident in &incidents.list {
            let Incident { code, severity, event, count, message, .. } = incident;
            text += &format!(
                "[{}] {code} {}: {count} errors: {message}\n",
                severity.as_str(),
                event.as_str()
            );
        }
        incidents.list.truncate(GROUP_INCIDENTS_MAX);
        let left = (firing + resolved).saturating_sub(incidents.list.len() as u64);
        if left > 0 {
            text += &format!("and {left} more\n");
        }
        let of = if by.is_empty() { String::new() } else { format!(" ({})", by.join(", ")) };
        Self {
            notification_id: id,
            channel: channel.to_owned(),
            at,
            title: format!("[{}] {counts}{of}: {errors} errors", severity.as_str()),
            text: text + &held.said(),
            severity,
            status: if firing == 0 { Status::Resolved } else { Status::Firing },
            why,
            group: group.to_owned(),
            by: BTreeMap::new(),
            about: About::Group { incidents },
            news: 0,
            held,
        }
    }

    /// Returns the notification that sends a digest.
    pub fn of_digest(channel: &str, at: Timestamp, digest: Digest) -> Self {
        let Digest { errors, severity, .. } = digest;
        let mut text = format!(
            "{} since {}: more than the channel's rate allows one by one\n",
            added_up(&digest),
            digest.since
        );
        for line in &digest.top {
            let (severity, event) = (line.severity.as_str(), line.event.as_str());
            text += &format!(
                "[{severity}] {} {event}: {} errors: {}\n",
                line.code, line.count, line.message
            );
        }
        let id = format!(
            "{channel}.digest.{}.{}.{}",
            digest.since.as_millisecond(),
            digest.first_incident_id,
            digest.events()
        );
        Self {
            group: crate::fingerprint::hex(crate::fingerprint::hash(&["digest", &id])),
            notification_id: id,
            channel: channel.to_owned(),
            at,
            title: format!("[{}] {}, {errors} errors", severity.as_str(), added_up(&digest)),
            text: text + &digest.held.said(),
            severity,
            status: if digest.ongoing == 0 && digest.events() == digest.resolved {
                Status::Resolved
            } else {
                Status::Firing
            },
            why: Why::Digest,
            by: BTreeMap::new(),
            news: digest.events(),
            held: digest.held.clone(),
            about: About::Digest { digest },
        }
    }

    /// Returns the labels by which its incidents are grouped; a digest has none.
    pub fn group_labels(&self) -> &BTreeMap<String, String> {
        match &self.about {
            About::Group { incidents } => &incidents.by,
            About::Incident { .. } | About::Digest { .. } => &self.by,
        }
    }

    /// Returns the incidents that it holds whole; a digest holds none.
    pub fn incidents(&self) -> &[Incident] {
        match &self.about {
            About::Incident { incident } => std::slice::from_ref(incident),
            About::Group { incidents } => &incidents.list,
            About::Digest { .. } => &[],
        }
    }
}

/// Returns the word of the title for the state of an incident.
fn what(why: Why, incident: &Incident) -> &'static str {
    match why {
        Why::Unacknowledged => "unacknowledged",
        Why::Repeated => "still going on",
        Why::Opened
        | Why::Reopened
        | Why::Updated
        | Why::Escalated
        | Why::Resolved
        | Why::Digest
        | Why::Test => incident.event.as_str(),
    }
}

/// Returns the reason why an incident is notified, in a few words.
fn reason(why: Why, incident: &Incident) -> String {
    let window = Period(std::time::Duration::from_millis(incident.window_ms));
    let (threshold, count) = (incident.threshold, incident.count);
    match (why, incident.event) {
        (Why::Test, _) => "a test: nothing is wrong".to_owned(),
        (Why::Unacknowledged, _) => {
            format!("nobody has acknowledged it since {}", incident.opened_at)
        }
        (Why::Repeated, _) => format!("it still goes on, since {}", incident.opened_at),
        (_, Change::Opened) => format!("{threshold} errors within {window}"),
        (_, Change::Reopened) => match &incident.last_resolved_at {
            Some(at) => {
                format!("it is back: {threshold} errors within {window}, resolved before at {at}")
            }
            None => format!("it is back: {threshold} errors within {window}"),
        },
        (_, Change::Updated | Change::Acknowledged) => format!("it has grown to {count} errors"),
        (_, Change::Escalated) => {
            format!("it has become worse: {count} errors, where {threshold} open an incident")
        }
        (_, Change::Resolved) => match &incident.resolved_by {
            Some(said) => format!("{} says that it is over", said.by),
            None => "no error for the quiet period".to_owned(),
        },
    }
}

//! Incident: errors of one fingerprint that are worth a person's attention, as `aggregate-errors`
//! tells of them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// How bad it is.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Default,
    Serialize,
    Deserialize,
    JsonSchema,
)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub enum Severity {
    /// Worth knowing.
    Low,
    /// Worth looking at today.
    #[default]
    Medium,
    /// Worth looking at now.
    High,
    /// Worth waking someone.
    Critical,
}

impl Severity {
    /// The severity that a reporter means by this word, whatever the language it logs in; `None` if
    /// it is none.
    pub fn meant_by(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "low" | "info" | "notice" | "debug" => Some(Self::Low),
            "medium" | "warn" | "warning" | "moderate" => Some(Self::Medium),
            "high" | "error" | "major" => Some(Self::High),
            "critical" | "fatal" | "emergency" | "alert" => Some(Self::Critical),
            _ => None,
        }
    }

    /// The next worse one; the worst is its own.
    #[must_use]
    pub const fn worse(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }

    /// The word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// What has become of an incident. It is also the token that ends the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The threshold was reached, for the first time.
    Opened,
    /// The threshold was reached again after the incident was over: a regression.
    Reopened,
    /// The number of errors has doubled.
    Updated,
    /// It is worse than it was told to be.
    Escalated,
    /// Someone has taken it on.
    Acknowledged,
    /// No error for the quiet period, or someone says that it is over.
    Resolved,
}

impl Change {
    /// Every change, in the order of their discriminants.
    pub const ALL: [Self; 6] = [
        Self::Opened,
        Self::Reopened,
        Self::Updated,
        Self::Escalated,
        Self::Acknowledged,
        Self::Resolved,
    ];

    /// The word for it in JSON, in subjects and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Opened => "opened",
            Self::Reopened => "reopened",
            Self::Updated => "updated",
            Self::Escalated => "escalated",
            Self::Acknowledged => "acknowledged",
            Self::Resolved => "resolved",
        }
    }

    /// Whether an incident begins with it.
    pub const fn begins(self) -> bool {
        matches!(self, Self::Opened | Self::Reopened)
    }
}

/// Where the number of errors is going: the last five minutes against the five before.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Trend {
    /// At least half as many again.
    Rising,
    /// About as many.
    #[default]
    Steady,
    /// At most two thirds.
    Falling,
}

impl Trend {
    /// The word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rising => "rising",
            Self::Steady => "steady",
            Self::Falling => "falling",
        }
    }
}

/// What an operator said of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Said {
    /// Who.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, if they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// One thing that became of an incident, with what is known of it by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// `<fingerprint>-<generation>`: a fingerprint that comes back is a new incident.
    pub incident_id: String,
    /// What has become of it.
    pub event: Change,
    /// Which failure it is, see [`crate::fingerprint`].
    pub fingerprint: String,
    /// How often the fingerprint has opened, this time included.
    pub generation: u64,
    /// The code of its errors.
    pub code: String,
    /// How bad it is.
    pub severity: Severity,
    /// The message that its errors share, what varies replaced.
    pub message: String,
    /// Who reported it, the first ten.
    pub services: Vec<String>,
    /// What matchers see: always `code`, `severity`, `service` (the first) and `fingerprint`;
    /// `stage` for a failed attempt; and whatever else the fingerprint is made of, such as
    /// `tenant`.
    pub labels: BTreeMap<String, String>,
    /// Errors within `window_ms` that open such an incident.
    pub threshold: u64,
    /// The sliding window, in milliseconds.
    pub window_ms: u64,
    /// Errors in this incident so far.
    pub count: u64,
    /// Errors since the last that was said of this incident: they add up to `count`.
    pub new_errors: u64,
    /// Errors of this fingerprint ever, outside incidents too.
    pub total: u64,
    /// Errors a minute, from the first of this incident to the last, over a minute at the least.
    pub rate_per_minute: f64,
    /// Where the number of errors is going.
    pub trend: Trend,
    /// Errors in each of the last ten minutes up to the last error, the oldest first.
    pub per_minute: Vec<u64>,
    /// When the fingerprint was first seen.
    pub first_seen: Timestamp,
    /// When it was last seen.
    pub last_seen: Timestamp,
    /// When the threshold was reached.
    pub opened_at: Timestamp,
    /// When the quiet period was over, or someone said that it is over.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// Who said that it is over, if someone did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<Said>,
    /// Who has taken it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<Said>,
    /// When the incident before was over, of one that comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resolved_at: Option<Timestamp>,
    /// Different users it happened to; counted up to 100.
    pub users: u64,
    /// Errors that led to it, at most three.
    pub samples: Vec<Sample>,
    /// The channels that the rule for its code names; empty: the alert stage's routes decide.
    pub channels: Vec<String>,
}

impl Incident {
    /// Whether it is over.
    pub fn is_over(&self) -> bool {
        self.event == Change::Resolved
    }
}

/// One error of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// When it was reported.
    pub at: Timestamp,
    /// Its message, at most 512 bytes.
    pub message: String,
    /// The event that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// The trace it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Milliseconds since 1970 as a time; what lies past the year 9999 is the end of it.
pub fn timestamp(at_ms: u64) -> Timestamp {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

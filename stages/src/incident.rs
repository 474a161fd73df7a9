//! Incident: errors of one fingerprint that are worth a person's attention, as `aggregate-errors`
//! publishes them.

use std::collections::BTreeMap;

use jiff::Timestamp;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Severity of an incident.
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
    /// Every severity, the least first.
    pub const ALL: [Self; 4] = [Self::Low, Self::Medium, Self::High, Self::Critical];

    /// Returns the severity that a reporter means by this word, whatever the language it logs in;
    /// `None` if it is none.
    pub fn meant_by(word: &str) -> Option<Self> {
        match word.to_ascii_lowercase().as_str() {
            "low" | "info" | "notice" | "debug" => Some(Self::Low),
            "medium" | "warn" | "warning" | "moderate" => Some(Self::Medium),
            "high" | "error" | "major" => Some(Self::High),
            "critical" | "fatal" | "emergency" | "alert" => Some(Self::Critical),
            _ => None,
        }
    }

    /// Returns the next worse severity; that of the worst is itself.
    #[must_use]
    pub const fn worse(self) -> Self {
        match self {
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }

    /// Returns the word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Critical => "critical",
        }
    }
}

/// Change of an incident, which is also the last token of the subject.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Change {
    /// The threshold was reached, for the first time.
    Opened,
    /// The threshold was reached again after the incident was over: a regression.
    Reopened,
    /// The number of errors has doubled.
    Updated,
    /// The severity is worse than it was reported.
    Escalated,
    /// Someone has taken the incident on.
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

    /// Returns the word for it in JSON, in subjects and in text.
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

    /// True if an incident begins with it.
    pub const fn begins(self) -> bool {
        matches!(self, Self::Opened | Self::Reopened)
    }
}

/// Trend of the number of errors: the last five minutes against the five before.
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
    /// Returns the word for it in JSON and in text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Rising => "rising",
            Self::Steady => "steady",
            Self::Falling => "falling",
        }
    }
}

/// Action of an operator on an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct OperatorAction {
    /// Name of the operator.
    pub by: String,
    /// Time of the action.
    pub at: Timestamp,
    /// Reason, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Incident event: a change of an incident, with its state by then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Incident {
    /// `<fingerprint>-<generation>`: a fingerprint that comes back is a new incident.
    pub incident_id: String,
    /// Change of the incident.
    pub event: Change,
    /// Fingerprint of its errors, see [`crate::fingerprint`].
    pub fingerprint: String,
    /// Openings of the fingerprint so far, this one included.
    pub generation: u64,
    /// Code of its errors.
    pub code: String,
    /// Severity of the incident.
    pub severity: Severity,
    /// Message that its errors share, with placeholders for all that varies.
    pub message: String,
    /// Services that reported it, the first ten.
    pub services: Vec<String>,
    /// Labels that matchers see: always `code`, `severity`, `service` (the first) and
    /// `fingerprint`; `stage` for a failed attempt; and whatever else the fingerprint is made of,
    /// such as `tenant`.
    pub labels: BTreeMap<String, String>,
    /// Errors within `window_ms` that open such an incident.
    pub threshold: u64,
    /// Sliding window, in milliseconds.
    pub window_ms: u64,
    /// Errors in this incident so far.
    pub count: u64,
    /// Errors since the incident event before: they add up to `count`.
    pub new_errors: u64,
    /// Errors of this fingerprint ever, outside incidents too.
    pub total: u64,
    /// Errors a minute, from the first of this incident to the last, over a minute at the least.
    pub rate_per_minute: f64,
    /// Trend of the number of errors.
    pub trend: Trend,
    /// Errors in each of the last ten minutes up to the last error, the oldest first.
    pub per_minute: Vec<u64>,
    /// Time at which the fingerprint was first seen.
    pub first_seen: Timestamp,
    /// Time at which it was last seen.
    pub last_seen: Timestamp,
    /// Time at which the threshold was reached.
    pub opened_at: Timestamp,
    /// End of the quiet period, or time at which someone resolved it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_at: Option<Timestamp>,
    /// Operator who resolved it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resolved_by: Option<OperatorAction>,
    /// Operator who has taken it on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub acknowledged: Option<OperatorAction>,
    /// End of the incident before, where the fingerprint comes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_resolved_at: Option<Timestamp>,
    /// Different users affected, counted up to 100.
    pub users: u64,
    /// Errors that led to it, at most three.
    pub samples: Vec<Sample>,
    /// Channels that the rule for its errors names; empty: the alert stage's routes decide.
    pub channels: Vec<String>,
}

impl Incident {
    /// True if it is over.
    pub fn is_over(&self) -> bool {
        self.event == Change::Resolved
    }
}

/// One error of an incident.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Sample {
    /// Time at which it was reported.
    pub at: Timestamp,
    /// Message, at most 512 bytes.
    pub message: String,
    /// Event that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event_id: Option<String>,
    /// Trace it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub trace_id: Option<String>,
}

/// Converts milliseconds since 1970 to a time; any past the year 9999 becomes its end.
pub fn timestamp(at_ms: u64) -> Timestamp {
    i64::try_from(at_ms)
        .ok()
        .and_then(|ms| Timestamp::from_millisecond(ms).ok())
        .unwrap_or(Timestamp::MAX)
}

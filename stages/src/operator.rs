//! Operator: actions of people on incidents and alerts, as values of keys in the state bucket that
//! a reduce stage follows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::matcher::Matchers;

/// Prefix of keys that hold an [`IncidentAction`]: `incident.<incident id>`.
pub const INCIDENT_KEYS: &str = "incident";
/// Prefix of keys that hold a [`Silence`]: `silence.<id>`.
pub const SILENCE_KEYS: &str = "silence";

/// Action of a person on an incident: the value of the key `incident.<incident id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentAction {
    /// Id of the incident.
    pub incident_id: String,
    /// Action.
    pub action: Action,
    /// Name of the person.
    pub by: String,
    /// Time of the action.
    pub at: Timestamp,
    /// Reason, if one was given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Action on an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Someone has taken it on: no repeats and no escalation until it is worse, over or back.
    Acknowledge,
    /// The incident is over; later errors are counted anew.
    Resolve,
}

/// Notifications that are not wanted for a while: the value of the key `silence.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// Id.
    pub id: String,
    /// Incidents it is for: all of these match.
    pub matchers: Matchers,
    /// Name of the person who made it.
    pub by: String,
    /// Reason.
    pub reason: String,
    /// Time at which it was made.
    pub made_at: Timestamp,
    /// Time at which it begins.
    pub starts_at: Timestamp,
    /// Time at which it ends. One that is removed ends at once.
    pub ends_at: Timestamp,
}

impl Silence {
    /// True if it holds at this time, in milliseconds since 1970.
    pub fn holds_at(&self, at_ms: u64) -> bool {
        let at = crate::incident::timestamp(at_ms);
        self.starts_at <= at && at < self.ends_at
    }
}

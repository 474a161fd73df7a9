//! Operator: what people say of incidents and alerts, as the values of keys in the state bucket
//! that a reduce stage follows.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::matcher::Matchers;

/// The prefix of keys that hold an [`IncidentAction`]: `incident.<incident id>`.
pub const INCIDENT_KEYS: &str = "incident";
/// The prefix of keys that hold a [`Silence`]: `silence.<id>`.
pub const SILENCE_KEYS: &str = "silence";

/// What someone does to an incident: the value of the key `incident.<incident id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IncidentAction {
    /// Which incident.
    pub incident_id: String,
    /// What is done.
    pub action: Action,
    /// Who does it.
    pub by: String,
    /// When.
    pub at: Timestamp,
    /// Why, if they said so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// What is done to an incident.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// Someone has taken it on: no repeats and no escalation until it is worse, over or back.
    Acknowledge,
    /// It is over; what comes is counted anew.
    Resolve,
}

/// Notifications that are not wanted for a while: the value of the key `silence.<id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Silence {
    /// Its id.
    pub id: String,
    /// The incidents it is for: all of these match.
    pub matchers: Matchers,
    /// Who made it.
    pub by: String,
    /// Why.
    pub reason: String,
    /// When it was made.
    pub made_at: Timestamp,
    /// When it begins.
    pub starts_at: Timestamp,
    /// When it ends. One that is removed ends at once.
    pub ends_at: Timestamp,
}

impl Silence {
    /// Whether it holds at this time, in milliseconds since 1970.
    pub fn holds_at(&self, at_ms: u64) -> bool {
        let at = crate::incident::timestamp(at_ms);
        self.starts_at <= at && at < self.ends_at
    }
}

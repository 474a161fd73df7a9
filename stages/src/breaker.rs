//! Breaker: when a handler's failures mean that what it depends on is down.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Period;

/// The keys of `breaker = { … }` on a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Failures in a row, of as many different events, that open it.
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    /// The share of calls within `window` whose failure opens it, once there are `calls` of them.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub rate: f64,
    /// Calls within `window` before `rate` says anything.
    #[schemars(range(min = 1, max = 100_000))]
    pub calls: u32,
    /// The time that `rate` is taken over.
    pub window: Period,
    /// How long it stays open before the first probe; each probe that fails doubles it.
    pub wait: Period,
    /// No wait is longer.
    pub max_wait: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            rate: 0.5,
            calls: 20,
            window: Period::seconds(10),
            wait: Period::seconds(1),
            max_wait: Period::seconds(15),
        }
    }
}

//! Totals: exact counts of an `aggregate-errors` stage since it began, forgotten errors included.

use serde::{Deserialize, Serialize};

use crate::incident::Change;

/// Counts since the stage began.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Totals {
    /// Errors: every message of the streams that was an error event.
    #[serde(rename = "n")]
    pub(super) errors: u64,
    /// Emissions, in the order of [`Change::ALL`].
    #[serde(rename = "e")]
    told: [u64; Change::ALL.len()],
    #[serde(rename = "f")]
    pub(super) fingerprints_forgotten: u64,
    /// Errors of forgotten fingerprints.
    #[serde(rename = "x")]
    pub(super) errors_forgotten: u64,
}

impl Totals {
    pub(super) const fn count(&mut self, change: Change) {
        self.told[change as usize] += 1;
    }

    pub(super) const fn times_told(&self, change: Change) -> u64 {
        self.told[change as usize]
    }

    /// Counts a forgotten fingerprint, with so many errors.
    pub(super) const fn forgot(&mut self, errors: u64) {
        self.fingerprints_forgotten += 1;
        self.errors_forgotten += errors;
    }
}

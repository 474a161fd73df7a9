//! Readiness: the conditions that must hold before a worker may be counted on.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

/// Conditions that must hold before a worker may be counted on, by name. None named yet: not ready.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Reason that a condition does not hold; `None`: it holds.
    conditions: Mutex<BTreeMap<String, Option<String>>>,
}

impl Readiness {
    /// Records that a condition holds.
    pub fn ok(&self, condition: &str) {
        self.conditions().insert(condition.to_owned(), None);
    }

    /// Records that a condition does not hold, and why. Also how a condition is first named, before
    /// anything is ready.
    pub fn failing(&self, condition: &str, reason: impl Into<String>) {
        self.conditions().insert(condition.to_owned(), Some(reason.into()));
    }

    /// Removes a condition that no longer matters.
    pub fn forget(&self, condition: &str) {
        self.conditions().remove(condition);
    }

    /// Conditions that do not hold, each with its reason; empty when the worker is ready.
    pub fn missing(&self) -> Vec<(String, String)> {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return vec![("worker".to_owned(), "it has not started".to_owned())];
        }
        let failing =
            conditions.iter().filter_map(|(what, why)| Some((what.clone(), why.clone()?)));
        failing.collect()
    }

    fn conditions(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

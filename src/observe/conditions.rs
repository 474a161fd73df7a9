//! Conditions: what a worker needs, each with its state, since when, and what to do about it.
//!
//! `/readyz`, the log, findings and `status` read this list; nothing else says that a worker is
//! ready. A condition is named by what it is about: `stream shop-dlq`, `task router`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

/// Conditions of one worker, by name. None named yet: not ready.
#[derive(Debug, Default)]
pub struct Conditions {
    by_name: Mutex<BTreeMap<String, Condition>>,
}

/// State of one thing that a worker needs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Time since which it is so.
    pub since: SystemTime,
    /// What is wrong; `None`: it holds.
    pub trouble: Option<Trouble>,
}

/// What is wrong with something, and what someone can do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// Cause, as one clause: `the stream is full (512 MB)`.
    pub why: String,
    /// Remedy, as a command or one clause; `None`: it passes by itself, or nobody knows.
    pub remedy: Option<String>,
    /// True if the work goes on all the same: the worker is ready.
    pub is_harmless: bool,
}

impl Trouble {
    /// Trouble that passes by itself, or whose remedy nobody knows.
    pub fn new(why: impl Into<String>) -> Self {
        Self { why: why.into(), remedy: None, is_harmless: false }
    }

    /// Trouble with its remedy.
    pub fn with_remedy(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { remedy: Some(remedy.into()), ..Self::new(why) }
    }

    /// Trouble that stops no work, with its remedy.
    pub fn harmless(why: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { is_harmless: true, ..Self::with_remedy(why, remedy) }
    }
}

impl Conditions {
    /// Records that a condition holds. Logs the end of a trouble.
    pub fn ok(&self, name: &str) {
        let before = self.set(name, None);
        if let Some(Condition { trouble: Some(_), since }) = before {
            let lasted = since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(condition = name, lasted_s = lasted, "well again");
        }
    }

    /// Records that a condition does not hold. Logs it once for each cause, at WARN.
    pub fn failing(&self, name: &str, trouble: Trouble) {
        let before = self.set(name, Some(trouble.clone()));
        if before.is_none_or(|before| before.trouble.as_ref() != Some(&trouble)) {
            let Trouble { why, remedy, .. } = trouble;
            tracing::warn!(condition = name, why, remedy, "trouble");
        }
    }

    /// Names a condition that is not known to hold yet, without a word in the log.
    pub fn expect(&self, name: &str, why: impl Into<String>) {
        self.set(name, Some(Trouble::new(why)));
    }

    /// Removes a condition that no longer matters.
    pub fn forget(&self, name: &str) {
        self.all_mut().remove(name);
    }

    /// Conditions that do not hold, by name; empty when the worker is ready.
    pub fn failed(&self) -> Vec<(String, Condition)> {
        let mut all = self.all();
        if all.is_empty() {
            let trouble = Some(Trouble::new("it has not started"));
            return vec![("worker".to_owned(), Condition { since: SystemTime::now(), trouble })];
        }
        all.retain(|(_, condition)| condition.trouble.as_ref().is_some_and(|it| !it.is_harmless));
        all
    }

    /// Conditions that do not hold and stop no work, by name.
    pub fn harmless(&self) -> Vec<(String, Condition)> {
        let mut all = self.all();
        all.retain(|(_, condition)| condition.trouble.as_ref().is_some_and(|it| it.is_harmless));
        all
    }

    /// Conditions, by name.
    pub fn all(&self) -> Vec<(String, Condition)> {
        self.all_mut().iter().map(|(name, state)| (name.clone(), state.clone())).collect()
    }

    /// Sets the state of a condition, and returns the one before.
    fn set(&self, name: &str, trouble: Option<Trouble>) -> Option<Condition> {
        let mut all = self.all_mut();
        let before = all.get(name).cloned();
        let since = match &before {
            Some(before) if before.trouble.is_some() == trouble.is_some() => before.since,
            _ => SystemTime::now(),
        };
        all.insert(name.to_owned(), Condition { since, trouble });
        before
    }

    fn all_mut(&self) -> MutexGuard<'_, BTreeMap<String, Condition>> {
        self.by_name.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trouble_lasts_since_it_began_whatever_is_said_of_it() {
        let conditions = Conditions::default();
        assert_eq!(conditions.failed()[0].0, "worker");
        conditions.ok("broker");
        assert!(conditions.failed().is_empty());
        conditions.failing("broker", Trouble::new("no answer"));
        let since = conditions.failed()[0].1.since;
        conditions.failing("broker", Trouble::with_remedy("refused", "grant it"));
        let (name, condition) = conditions.failed().remove(0);
        assert_eq!((name.as_str(), condition.since), ("broker", since));
        assert_eq!(condition.trouble, Some(Trouble::with_remedy("refused", "grant it")));
        conditions.ok("broker");
        assert!(conditions.failed().is_empty() && conditions.all()[0].1.since >= since);
        conditions.failing("clock", Trouble::harmless("it is 3 s ahead", "set it"));
        assert!(conditions.failed().is_empty() && conditions.harmless()[0].0 == "clock");
        conditions.forget("clock");
        conditions.forget("broker");
        assert!(conditions.all().is_empty());
    }
}

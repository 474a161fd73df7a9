//! Conditions: what a worker needs, each with its state, since when, and what to do about it.
//!
//! `/readyz`, the log, findings and `status` read this list; nothing else says that a worker is
//! ready. A condition is named by what it is about: `stream shop-dlq`, `task router`.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use millstream_stages::text::excerpt;
use serde::{Deserialize, Serialize};

use super::kinds;
use crate::{
    limits,
    wire::{parse_rfc3339, rfc3339},
};

/// Conditions of one worker, by name. None named yet: not ready.
#[derive(Debug, Default)]
pub struct Conditions {
    /// Conditions that this worker sees by itself, each with true if the log tells its trouble.
    own: Mutex<BTreeMap<String, (Condition, bool)>>,
    /// Troubles of the fleet, as one worker found them for all.
    fleet: Mutex<BTreeMap<String, FleetTrouble>>,
}

/// Trouble of the fleet.
#[derive(Debug, Clone)]
struct FleetTrouble {
    condition: Condition,
    /// True if this worker cannot do its part meanwhile.
    stops_us: bool,
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
        let before = self.set(name, None, false);
        if let Some((Condition { trouble: Some(_), since }, true)) = before {
            let lasted = since.elapsed().unwrap_or_default().as_secs();
            tracing::info!(condition = name, lasted_s = lasted, "well again");
        }
    }

    /// Records that a condition does not hold. Logs it once for each cause, at WARN.
    pub fn failing(&self, name: &str, trouble: Trouble) {
        let before = self.set(name, Some(trouble.clone()), true);
        let is_same = |(before, is_told): (Condition, bool)| {
            is_told && before.trouble.as_ref() == Some(&trouble)
        };
        if !before.is_some_and(is_same) {
            let Trouble { why, remedy, .. } = trouble;
            tracing::warn!(condition = name, why, remedy, "trouble");
        }
    }

    /// Records that a condition does not hold, where the log has told it by itself.
    pub fn noted(&self, name: &str, trouble: Trouble) {
        self.set(name, Some(trouble), true);
    }

    /// Names a condition that is not known to hold yet, without a word in the log.
    pub fn expect(&self, name: &str, why: impl Into<String>) {
        self.set(name, Some(Trouble::new(why)), false);
    }

    /// Removes a condition that no longer matters.
    pub fn forget(&self, name: &str) {
        lock(&self.own).remove(name);
    }

    /// Takes in all that is wrong with the fleet, each with true if this worker cannot do its part
    /// meanwhile. Logs what is new at WARN, and what is over.
    pub fn heard(&self, troubles: Vec<(ConditionRecord, bool)>) {
        let own = lock(&self.own).clone();
        let is_known = |name: &str| own.get(name).is_some_and(|(own, _)| own.trouble.is_some());
        let mut fleet = lock(&self.fleet);
        let before = std::mem::take(&mut *fleet);
        for (record, stops_us) in troubles.into_iter().take(limits::CONDITIONS_MAX) {
            let ConditionRecord { name, why, remedy, since } = record;
            let told = before.get(&name).and_then(|known| known.condition.trouble.as_ref());
            if told.is_none_or(|told| told.why != why) && !is_known(&name) {
                tracing::warn!(condition = name, why, remedy, "trouble");
            }
            let since = parse_rfc3339(&since).unwrap_or_else(SystemTime::now);
            let condition =
                Condition { since, trouble: Some(Trouble { why, remedy, is_harmless: false }) };
            fleet.insert(name, FleetTrouble { condition, stops_us });
        }
        for name in before.keys().filter(|name| !fleet.contains_key(*name) && !is_known(name)) {
            tracing::info!(condition = name, "well again");
        }
    }

    /// Conditions that do not hold and keep this worker from its part, by name; empty when it is
    /// ready.
    pub fn failed(&self) -> Vec<(String, Condition)> {
        let mut failed = self.own_failed();
        failed.retain(|(_, it)| it.trouble.as_ref().is_some_and(|it| !it.is_harmless));
        if failed.is_empty() && lock(&self.own).is_empty() {
            let trouble = Some(Trouble::new("it has not started"));
            failed.push(("worker".to_owned(), Condition { since: SystemTime::now(), trouble }));
        }
        failed.extend(self.of_fleet(true, &failed));
        failed.sort_by(|(a, _), (b, _)| a.cmp(b));
        failed
    }

    /// Conditions that do not hold and stop no work, by name.
    pub fn harmless(&self) -> Vec<(String, Condition)> {
        let mut failed = self.own_failed();
        failed.retain(|(_, it)| it.trouble.as_ref().is_some_and(|it| it.is_harmless));
        failed
    }

    /// Conditions of the fleet that do not hold, and that this worker can work without.
    pub fn elsewhere(&self) -> Vec<(String, Condition)> {
        self.of_fleet(false, &self.failed())
    }

    /// Conditions that do not hold as this worker sees by itself, by name.
    pub fn own_failed(&self) -> Vec<(String, Condition)> {
        let own = lock(&self.own);
        let failed = own.iter().filter(|(_, (condition, _))| condition.trouble.is_some());
        failed.map(|(name, (condition, _))| (name.clone(), condition.clone())).collect()
    }

    /// Conditions that this worker sees by itself, by name.
    pub fn all(&self) -> Vec<(String, Condition)> {
        lock(&self.own).iter().map(|(name, (state, _))| (name.clone(), state.clone())).collect()
    }

    fn of_fleet(&self, stops_us: bool, but: &[(String, Condition)]) -> Vec<(String, Condition)> {
        let fleet = lock(&self.fleet);
        let of = fleet.iter().filter(|(name, told)| {
            told.stops_us == stops_us && !but.iter().any(|(known, _)| known == *name)
        });
        of.map(|(name, told)| (name.clone(), told.condition.clone())).collect()
    }

    /// Sets the state of a condition, and returns the one before.
    fn set(
        &self,
        name: &str,
        trouble: Option<Trouble>,
        is_told: bool,
    ) -> Option<(Condition, bool)> {
        debug_assert!(kinds::of(name).is_some(), "\"{name}\" is of no kind in observe/kinds.rs");
        let mut all = lock(&self.own);
        let before = all.get(name).cloned();
        let since = match &before {
            Some((before, _)) if before.trouble.is_some() == trouble.is_some() => before.since,
            _ => SystemTime::now(),
        };
        all.insert(name.to_owned(), (Condition { since, trouble }, is_told));
        before
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Condition that does not hold, as records of workers and of the fleet have it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ConditionRecord {
    /// Name of the condition.
    pub name: String,
    /// Cause, as one clause.
    pub why: String,
    /// Remedy, as a command or one clause.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub remedy: Option<String>,
    /// Time since which it is so, RFC 3339.
    pub since: String,
}

impl ConditionRecord {
    /// Record of a condition; `None`: it holds. Its texts are cut to
    /// [`limits::CONDITION_TEXT_BYTES_MAX`].
    pub fn of(name: &str, condition: &Condition) -> Option<Self> {
        let Trouble { why, remedy, .. } = condition.trouble.as_ref()?;
        Some(Self {
            name: cut(name),
            why: cut(why),
            remedy: remedy.as_deref().map(cut),
            since: rfc3339(condition.since),
        })
    }
}

fn cut(text: &str) -> String {
    excerpt(text, limits::CONDITION_TEXT_BYTES_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(name: &str, why: &str) -> ConditionRecord {
        let since = SystemTime::UNIX_EPOCH;
        let condition = Condition { since, trouble: Some(Trouble::new(why)) };
        ConditionRecord::of(name, &condition).unwrap()
    }

    fn names(failed: Vec<(String, Condition)>) -> Vec<String> {
        failed.into_iter().map(|(name, _)| name).collect()
    }

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

    #[test]
    fn what_is_wrong_with_the_fleet_is_told_of_others_and_stops_only_whom_it_concerns() {
        let conditions = Conditions::default();
        conditions.ok("broker");
        let (stream, lease) = (record("stream shop-dlq", "gone"), record("lease errors", "free"));
        conditions.heard(vec![(stream.clone(), true), (lease, false)]);
        assert_eq!(names(conditions.failed()), ["stream shop-dlq"]);
        assert_eq!(conditions.failed()[0].1.since, SystemTime::UNIX_EPOCH, "since it was found");
        assert_eq!(names(conditions.elsewhere()), ["lease errors"]);
        assert!(conditions.own_failed().is_empty(), "it is not this worker's to record");
        // One that this worker sees by itself is named once.
        conditions.failing("stream shop-dlq", Trouble::new("refused"));
        let failed = conditions.failed();
        assert_eq!((failed.len(), &failed[0].1.trouble), (1, &Some(Trouble::new("refused"))));
        conditions.ok("stream shop-dlq");
        assert_eq!(names(conditions.failed()), ["stream shop-dlq"], "the fleet's look holds");
        conditions.heard(Vec::new());
        assert!(conditions.failed().is_empty() && conditions.elsewhere().is_empty());
    }

    #[test]
    fn a_record_is_bounded() {
        let long = Trouble::with_remedy("w\n".repeat(5000), "r".repeat(5000));
        let condition = Condition { since: SystemTime::now(), trouble: Some(long) };
        let record = ConditionRecord::of("broker", &condition).unwrap();
        assert!(serde_json::to_vec(&record).unwrap().len() < 1000, "{record:?}");
        let well = Condition { trouble: None, ..condition };
        assert_eq!(ConditionRecord::of("broker", &well), None);
    }
}

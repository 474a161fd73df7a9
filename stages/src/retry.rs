//! Retry: policies, and the waits between deliveries.

use std::time::Duration;

use backon::BackoffBuilder;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Period;

/// A `[retry.<name>]` table: how often a delivery is tried, and how long between.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Policy {
    /// Total deliveries, the first included.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: u32,
    /// The waits between them.
    pub backoff: Backoff,
    /// Exceptions by class or type; the first that matches wins.
    pub rule: Vec<Rule>,
}

/// An exception to a policy: what it matches, and what then holds instead.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Rule {
    /// Error classes it is for; empty: all.
    pub class: Vec<String>,
    /// Event types it is for, with `*` for any text; empty: all.
    #[serde(rename = "type")]
    pub event_type: Vec<String>,
    /// Total deliveries, the first included.
    #[schemars(range(min = 1, max = 1000))]
    pub attempts: Option<u32>,
    /// The waits between them.
    pub backoff: Option<Backoff>,
}

/// How the wait grows: `exponential`, `linear` or `fixed`, by the wait after the first attempt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The wait after the first attempt; each later one is `factor` times the one before.
    pub exponential: Option<Period>,
    /// The wait after the first attempt; each later one is longer by as much again.
    pub linear: Option<Period>,
    /// The wait after every attempt.
    pub fixed: Option<Period>,
    /// By how much an exponential wait grows each time. 2 unless told.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: Option<f32>,
    /// No wait is longer.
    pub max: Option<Period>,
    /// How far a wait may stray either way, as a share of it: 0.1 is ten per cent.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: Option<f64>,
}

/// What holds for one failure.
#[derive(Debug, Clone, Copy)]
pub struct Terms<'a> {
    /// Total deliveries, the first included.
    pub attempts: u32,
    /// The waits between them.
    pub backoff: &'a Backoff,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts: 5,
            backoff: Backoff {
                exponential: Some(Period::seconds(1)),
                max: Some(Period::seconds(60)),
                jitter: Some(0.1),
                ..Backoff::default()
            },
            rule: Vec::new(),
        }
    }
}

impl Policy {
    /// What holds for a failure of this class on an event of this type.
    pub fn terms(&self, event_type: &str, class: &str) -> Terms<'_> {
        let rule = self.rule.iter().find(|rule| {
            (rule.class.is_empty() || rule.class.iter().any(|glob| glob_matches(glob, class)))
                && (rule.event_type.is_empty() || rule.event_type.iter().any(|glob| glob_matches(glob, event_type)))
        });
        Terms {
            attempts: rule.and_then(|rule| rule.attempts).unwrap_or(self.attempts),
            backoff: rule.and_then(|rule| rule.backoff.as_ref()).unwrap_or(&self.backoff),
        }
    }

    /// The most deliveries that any failure is given.
    pub fn attempts_max(&self) -> u32 {
        self.rule.iter().filter_map(|rule| rule.attempts).chain([self.attempts]).max().unwrap_or(self.attempts)
    }
}

impl Backoff {
    /// The wait after attempt number `attempt` (from 1), before jitter.
    pub fn base_after(&self, attempt: u32) -> Duration {
        let max = self.max.map_or(Duration::from_secs(60), |max| max.0);
        let steps = attempt.max(1) - 1;
        if let Some(first) = self.exponential {
            let mut waits = backon::ExponentialBuilder::default()
                .with_min_delay(first.0.min(max))
                .with_max_delay(max)
                .with_factor(self.factor.unwrap_or(2.0))
                .without_max_times()
                .build();
            // Past some thousand steps the wait has long reached its maximum.
            return waits.nth(steps.min(4096) as usize).unwrap_or(max);
        }
        if let Some(step) = self.linear {
            return step.0.saturating_mul(steps.saturating_add(1)).min(max);
        }
        self.fixed.map_or(Duration::from_secs(1), |wait| wait.0)
    }

    /// The wait after attempt number `attempt` of the event `event_id`.
    ///
    /// The jitter comes from the event and the attempt, not from chance: whoever computes the wait
    /// again, in a log, a timetable or after a crash, gets the same one.
    pub fn after(&self, attempt: u32, event_id: &str) -> Duration {
        let jitter = self.jitter.unwrap_or(0.0).clamp(0.0, 1.0);
        let stray = 1.0 + jitter * (2.0 * share(event_id, attempt) - 1.0);
        self.base_after(attempt).mul_f64(stray)
    }
}

/// Evenly spread over 0..1 by the event and the attempt (FNV-1a, then a finaliser).
fn share(event_id: &str, attempt: u32) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in event_id.bytes().chain(attempt.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// Whether `text` matches `glob`, where `*` stands for any run of characters.
pub fn glob_matches(glob: &str, text: &str) -> bool {
    let Some((head, rest)) = glob.split_once('*') else { return glob == text };
    let Some(mut text) = text.strip_prefix(head) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    let tail = parts.pop().unwrap_or_default();
    for part in parts {
        match text.find(part) {
            Some(at) => text = &text[at + part.len()..],
            None => return false,
        }
    }
    text.ends_with(tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn backoff(exponential: Option<u64>, linear: Option<u64>, jitter: f64) -> Backoff {
        Backoff {
            exponential: exponential.map(|ms| Period(Duration::from_millis(ms))),
            linear: linear.map(|ms| Period(Duration::from_millis(ms))),
            max: Some(Period::seconds(60)),
            jitter: Some(jitter),
            ..Backoff::default()
        }
    }

    #[test]
    fn an_exponential_wait_doubles_up_to_its_maximum() {
        let waits: Vec<u64> =
            (1..=8).map(|attempt| backoff(Some(1000), None, 0.0).after(attempt, "e").as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let waits: Vec<u64> =
            (1..=4).map(|attempt| backoff(None, Some(5000), 0.0).after(attempt, "e").as_secs()).collect();
        assert_eq!(waits, [5, 10, 15, 20]);
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let policy = Policy {
            rule: vec![
                Rule { class: vec!["ValidationError".into()], attempts: Some(1), ..Rule::default() },
                Rule { event_type: vec!["payment.*".into()], attempts: Some(9), ..Rule::default() },
            ],
            ..Policy::default()
        };
        assert_eq!(policy.terms("payment.failed", "ValidationError").attempts, 1);
        assert_eq!(policy.terms("payment.failed", "TimeoutError").attempts, 9);
        assert_eq!(policy.terms("order.created", "TimeoutError").attempts, 5);
        assert_eq!(policy.attempts_max(), 9);
    }

    #[test]
    fn a_glob_matches_any_run_of_characters() {
        for (glob, text, matches) in [
            ("order.*", "order.created", true),
            ("order.*", "orders", false),
            ("*", "", true),
            ("*_FAILED", "DEVICE_START_FAILED", true),
            ("DEVICE_*_FAILED", "DEVICE_STOP_FAILED", true),
            ("a*a", "a", false),
            ("a*b*c", "a-b-c-b", false),
            ("exact", "exact", true),
        ] {
            assert_eq!(glob_matches(glob, text), matches, "{glob} against {text}");
        }
    }

    proptest! {
        #[test]
        fn a_wait_never_leaves_its_bounds_and_is_the_same_each_time(first in 0..100_000_u64, attempt: u32, jitter in 0.0..=1.0_f64, id: String) {
            for backoff in [backoff(Some(first), None, jitter), backoff(None, Some(first), jitter)] {
                let wait = backoff.after(attempt, &id);
                prop_assert!(wait <= Duration::from_secs(60).mul_f64(1.0 + jitter));
                prop_assert_eq!(wait, backoff.after(attempt, &id));
            }
        }
    }
}

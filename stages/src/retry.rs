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
    /// A longer wait leaves the consumer, where it would take up `max_ack_pending`, and passes in
    /// the retry stream.
    pub park_after: Period,
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

/// Growth of the wait: `exponential`, `linear` or `fixed`, by the wait after the first attempt.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Backoff {
    /// The wait after the first attempt; each later one is `factor` times the one before.
    pub exponential: Option<Period>,
    /// The wait after the first attempt; each later one is longer by as much again.
    pub linear: Option<Period>,
    /// The wait after every attempt.
    pub fixed: Option<Period>,
    /// Factor by which an exponential wait grows each time; by default, 2.
    #[schemars(range(min = 1.0, max = 100.0))]
    pub factor: Option<f32>,
    /// No wait is longer.
    pub max: Option<Period>,
    /// Jitter of a wait, either way, as a share of it: 0.1 is ten per cent.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub jitter: Option<f64>,
}

/// Terms of one failure.
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
            park_after: Period::seconds(30),
            rule: Vec::new(),
        }
    }
}

impl Policy {
    /// Returns the terms of a failure of this class on an event of this type.
    pub fn terms(&self, event_type: &str, class: &str) -> Terms<'_> {
        let rule = self.rule.iter().find(|rule| {
            (rule.class.is_empty() || rule.class.iter().any(|glob| glob_matches(glob, class)))
                && (rule.event_type.is_empty()
                    || rule.event_type.iter().any(|glob| glob_matches(glob, event_type)))
        });
        Terms {
            attempts: rule.and_then(|rule| rule.attempts).unwrap_or(self.attempts),
            backoff: rule.and_then(|rule| rule.backoff.as_ref()).unwrap_or(&self.backoff),
        }
    }

    /// Longest wait that passes in the consumer.
    pub fn park_after(&self) -> Duration {
        self.park_after.0
    }

    /// Shortest wait that any failure is given.
    pub fn shortest_wait(&self) -> Duration {
        let own = self.rule.iter().filter_map(|rule| rule.backoff.as_ref());
        let shortest = |backoff: &Backoff| {
            let jitter = backoff.jitter.unwrap_or(0.0).clamp(0.0, 1.0);
            backoff.base_after(1).mul_f64(1.0 - jitter)
        };
        own.chain([&self.backoff]).map(shortest).min().unwrap_or_default()
    }

    /// Most deliveries that any failure is given.
    pub fn attempts_max(&self) -> u32 {
        self.rule
            .iter()
            .filter_map(|rule| rule.attempts)
            .chain([self.attempts])
            .max()
            .unwrap_or(self.attempts)
    }
}

impl Backoff {
    /// Returns the wait after attempt number `attempt` (from 1), before jitter.
    pub fn base_after(&self, attempt: u32) -> Duration {
        let max = self.max();
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

    /// Longest wait of one that grows.
    fn max(&self) -> Duration {
        self.max.map_or(Duration::from_secs(60), |max| max.0)
    }

    /// Returns the wait after attempt number `attempt` of the event `event_id`.
    ///
    /// The wait strays from [`Self::base_after`] by the jitter, and never past the maximum: there
    /// it strays downwards only, evenly, so that events whose waits have grown as long as they may
    /// still do not all come at once. The jitter comes from the event and the attempt, not from
    /// chance: whoever computes the wait again, in a log, a timetable or after a crash, gets the
    /// same one.
    pub fn after(&self, attempt: u32, event_id: &str) -> Duration {
        let jitter = self.jitter.unwrap_or(0.0).clamp(0.0, 1.0);
        let base = self.base_after(attempt);
        let shortest = base.saturating_sub(part(base, jitter));
        let longest = base.saturating_add(part(base, jitter));
        let longest = if self.grows() { longest.min(self.max()) } else { longest };
        shortest.saturating_add(part(longest.saturating_sub(shortest), share(event_id, attempt)))
    }

    fn grows(&self) -> bool {
        self.exponential.is_some() || self.linear.is_some()
    }
}

/// Returns a share, 0 to 1, of a wait. Never more than all of it, whatever the rounding.
fn part(of: Duration, share: f64) -> Duration {
    Duration::try_from_secs_f64(of.as_secs_f64() * share).map_or(of, |part| part.min(of))
}

/// Returns a share of 0..1, evenly spread by the event and the attempt (FNV-1a, then a finaliser).
fn share(event_id: &str, attempt: u32) -> f64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in event_id.bytes().chain(attempt.to_le_bytes()) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    (hash >> 11) as f64 / (1_u64 << 53) as f64
}

/// True if `text` matches `glob`, where `*` stands for any run of characters.
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
    use crate::{
        Failure,
        settle::{Settlement, settle},
    };
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
    fn the_shortest_wait_of_a_policy_is_that_of_any_rule_less_its_jitter() {
        assert_eq!(Policy::default().shortest_wait(), Duration::from_millis(900));
        let rule = Rule { backoff: Some(backoff(Some(200), None, 0.5)), ..Rule::default() };
        let policy = Policy { rule: vec![rule], ..Policy::default() };
        assert_eq!(policy.shortest_wait(), Duration::from_millis(100));
    }

    #[test]
    fn an_exponential_wait_doubles_up_to_its_maximum() {
        let waits: Vec<u64> = (1..=8)
            .map(|attempt| backoff(Some(1000), None, 0.0).after(attempt, "e").as_secs())
            .collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        let waits: Vec<u64> = (1..=4)
            .map(|attempt| backoff(None, Some(5000), 0.0).after(attempt, "e").as_secs())
            .collect();
        assert_eq!(waits, [5, 10, 15, 20]);
    }

    #[test]
    fn the_first_rule_that_matches_wins() {
        let policy = Policy {
            rule: vec![
                Rule {
                    class: vec!["ValidationError".into()],
                    attempts: Some(1),
                    ..Rule::default()
                },
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

    fn any_backoff() -> impl Strategy<Value = Backoff> {
        (0..3, 0..100_000_u64, 1.0..4.0_f32, 0..200_000_u64, proptest::option::of(0.0..=1.0_f64))
            .prop_map(|(way, first_ms, factor, more_ms, jitter)| {
                let (first, max) = (
                    Period(Duration::from_millis(first_ms)),
                    Duration::from_millis(first_ms + more_ms),
                );
                let of = |n| (way == n).then_some(first);
                Backoff {
                    exponential: of(0),
                    linear: of(1),
                    fixed: of(2),
                    factor: (way == 0).then_some(factor),
                    max: (way != 2).then_some(Period(max)),
                    jitter,
                }
            })
    }

    /// Policies with rules by class and type, and attempts from few to many.
    fn any_policy() -> impl Strategy<Value = Policy> {
        let globs =
            |of: &'static [&str]| proptest::collection::vec(proptest::sample::select(of), 0..3);
        let rule = (
            globs(&["TimeoutError", "Http*", "*"]),
            globs(&["order.*", "payment.failed"]),
            proptest::option::of(1..12_u32),
            proptest::option::of(any_backoff()),
        )
            .prop_map(|(class, event_type, attempts, backoff)| {
                let owned = |globs: Vec<&str>| globs.into_iter().map(str::to_owned).collect();
                Rule { class: owned(class), event_type: owned(event_type), attempts, backoff }
            });
        (1..12_u32, any_backoff(), proptest::collection::vec(rule, 0..4)).prop_map(
            |(attempts, backoff, rule)| Policy { attempts, backoff, rule, ..Policy::default() },
        )
    }

    const CLASSES: [&str; 4] = ["TimeoutError", "HttpServerError", "Flaky", "HttpOther"];

    proptest! {
        #[test]
        fn a_wait_never_leaves_its_bounds(backoff in any_backoff(), attempt: u32, id: String) {
            let (wait, base) = (backoff.after(attempt, &id), backoff.base_after(attempt));
            let jitter = backoff.jitter.unwrap_or(0.0);
            // For what a float cannot say of a day in nanoseconds.
            let slack = Duration::from_nanos(1_000);
            prop_assert!(wait + slack >= base.mul_f64(1.0 - jitter), "{wait:?} after {base:?}");
            prop_assert!(wait <= base.mul_f64(1.0 + jitter) + slack, "{wait:?} after {base:?}");
            if let Some(max) = backoff.max {
                prop_assert!(base <= max.0 && wait <= max.0, "{wait:?} exceeds {max:?}");
            }
            if jitter == 0.0 {
                prop_assert_eq!(wait, base);
            }
        }

        #[test]
        fn a_wait_that_grows_never_shrinks(backoff in any_backoff(), attempt in 0..2000_u32) {
            prop_assert!(backoff.base_after(attempt) <= backoff.base_after(attempt + 1));
        }

        #[test]
        fn the_same_event_never_waits_two_ways(
            policy in any_policy(),
            attempt in 1..20_u32,
            class in proptest::sample::select(&CLASSES[..]),
            id: String,
        ) {
            let wait = || {
                let answer = Err(Failure::retry(class, "no"));
                match settle(answer, &id, "order.created", attempt, &policy) {
                    Settlement::RetryAfter(wait, _) => Some(wait),
                    Settlement::Forward(_)
                    | Settlement::DeferFor(..)
                    | Settlement::DeadLetter(..) => None,
                }
            };
            prop_assert_eq!(wait(), wait());
            let terms = policy.terms("order.created", class);
            let own = (attempt < terms.attempts).then(|| terms.backoff.after(attempt, &id));
            prop_assert_eq!(wait(), own);
        }

        #[test]
        fn attempts_never_exceed_the_policy_whatever_fails(
            policy in any_policy(),
            event_type in proptest::sample::select(vec!["order.created", "payment.failed", "x"]),
            classes in proptest::collection::vec(proptest::sample::select(&CLASSES[..]), 20),
        ) {
            let end = (1..).zip(&classes).find(|(attempt, class)| {
                let answer = Err(Failure::retry(**class, "no"));
                let settled = settle(answer, "e", event_type, *attempt, &policy);
                matches!(settled, Settlement::DeadLetter(..))
            });
            let (attempts, class) = end.expect("no policy has as many attempts");
            prop_assert!(attempts <= policy.attempts_max());
            prop_assert!(attempts >= policy.terms(event_type, class).attempts);
            let spared = (1..attempts)
                .zip(&classes)
                .all(|(n, class)| n < policy.terms(event_type, class).attempts);
            prop_assert!(spared, "it lived on only where the policy lets it");
        }
    }
}

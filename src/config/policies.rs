//! Policies: checks of `[retry.<name>]` tables, and the timetable of a policy.

use std::{collections::BTreeMap, time::Duration};

use millstream_stages::retry::{Backoff, Policy, Terms};
use serde_json::Value;

use super::{Finder, KeyPath, shape::what};

/// One delivery in a timetable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Number of the delivery, from 1.
    pub attempt: u32,
    /// The wait before it, before jitter.
    pub wait: Duration,
    /// Time from the first delivery to this one.
    pub since: Duration,
}

/// Timetable of the deliveries, if every one fails at once.
pub fn timetable(terms: Terms<'_>) -> Vec<Turn> {
    let mut since = Duration::ZERO;
    (1..=terms.attempts)
        .map(|attempt| {
            let wait =
                if attempt == 1 { Duration::ZERO } else { terms.backoff.base_after(attempt - 1) };
            since += wait;
            Turn { attempt, wait, since }
        })
        .collect()
}

/// Checks the meaning of the policies and returns them by name; `default` is always among them.
pub fn check(
    root: &Value,
    written: Vec<(KeyPath, String, Policy)>,
    finder: &mut Finder,
) -> BTreeMap<String, Policy> {
    for (at, name, policy) in &written {
        if at.join("backoff").find(root).is_some() {
            backoff(&at.join("backoff"), &policy.backoff, finder);
        }
        for (n, rule) in policy.rule.iter().enumerate() {
            let at = at.join("rule").join(n.to_string());
            let place = format!("rule {} of retry policy \"{name}\"", n + 1);
            if let Some(own) = &rule.backoff {
                backoff(&at.join("backoff"), own, finder);
            } else if rule.attempts.is_none() && !finder.is_spoilt(&at) {
                finder
                    .error_on(&at, format!("{place} changes nothing"))
                    .hint("give it attempts, backoff, or both");
            }
            let all = rule.class.is_empty() && rule.event_type.is_empty();
            if all && n + 1 < policy.rule.len() {
                finder
                    .warn_on(
                        &at,
                        format!("{place} matches every failure, so the rules after it never hold"),
                    )
                    .hint("give it class or type, or put it last");
            }
        }
    }
    let mut policies = BTreeMap::from([("default".to_owned(), Policy::default())]);
    policies.extend(written.into_iter().map(|(_, name, policy)| (name, policy)));
    policies
}

fn backoff(at: &KeyPath, backoff: &Backoff, finder: &mut Finder) {
    if finder.is_spoilt(at) {
        return;
    }
    let what = what(at);
    let written: Vec<&str> = [
        ("exponential", backoff.exponential),
        ("linear", backoff.linear),
        ("fixed", backoff.fixed),
    ]
    .iter()
    .filter_map(|(name, wait)| wait.map(|_| *name))
    .collect();
    let first = match written.as_slice() {
        [_] => backoff.exponential.or(backoff.linear),
        [] => {
            finder
                .error_at(at, format!("{what} does not say how the wait grows"))
                .hint("give one of exponential, linear and fixed, as in { exponential = \"1s\" }");
            return;
        }
        [one, two, ..] => {
            finder
                .error_at(at, format!("{what} says both \"{one}\" and \"{two}\""))
                .hint("a wait grows in one way: keep one of them");
            return;
        }
    };
    if backoff.factor.is_some() && backoff.exponential.is_none() {
        let message =
            format!("\"factor\" has no meaning in {what}: only an exponential wait is multiplied");
        finder.error_at(&at.join("factor"), message).hint("remove it, or use exponential");
    }
    match (first, backoff.max) {
        (None, Some(_)) => {
            let message = format!("\"max\" has no meaning in {what}: a fixed wait does not grow");
            finder
                .error_at(&at.join("max"), message)
                .hint("remove it, or use exponential or linear");
        }
        (Some(first), Some(max)) if first > max => {
            let message =
                format!("{what} begins with {first}, which is longer than its max, {max}");
            finder.error_at(&at.join("max"), message).hint("raise max, or begin with less");
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_timetable_adds_up_the_waits() {
        let turns = timetable(Policy::default().terms("order.created", "TimeoutError"));
        let seconds: Vec<_> = turns
            .iter()
            .map(|turn| (turn.attempt, turn.wait.as_secs(), turn.since.as_secs()))
            .collect();
        assert_eq!(seconds, [(1, 0, 0), (2, 1, 1), (3, 2, 3), (4, 4, 7), (5, 8, 15)]);
    }
}

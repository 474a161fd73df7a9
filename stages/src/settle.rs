//! Settle: settlement of one delivery, decided once.

use std::{fmt, time::Duration};

use crate::{Disposition, Event, Failure, failure::class, retry::Policy};

/// Settlement of one delivery.
#[derive(Debug)]
pub enum Settlement {
    /// Publish these, then ack.
    Forward(Vec<Event>),
    /// Report the failure, then let the event come back after this wait; the attempt counts.
    RetryAfter(Duration, Failure),
    /// Report the failure, then let the event come back after this wait; the attempt does not
    /// count.
    DeferFor(Duration, Failure),
    /// Report the failure, publish the dead letter, then terminate.
    DeadLetter(Reason, Failure),
}

/// Reason of a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// Every attempt was spent.
    Exhausted,
    /// The failure will not go away.
    Rejected,
    /// The workers that ran it died of it.
    Crashed,
    /// The payload is not an event in the declared envelope.
    Undecodable,
    /// The event waited longer than it may.
    Expired,
    /// The stage is gone, and an operator gave up what it held.
    Abandoned,
}

impl Reason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::Exhausted,
        Self::Rejected,
        Self::Crashed,
        Self::Undecodable,
        Self::Expired,
        Self::Abandoned,
    ];

    /// Returns the reason of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reason| reason.as_str() == name)
    }

    /// Returns the value of the `Millstream-Reason` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Exhausted => "exhausted",
            Self::Rejected => "rejected",
            Self::Crashed => "crashed",
            Self::Undecodable => "undecodable",
            Self::Expired => "expired",
            Self::Abandoned => "abandoned",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Chooses the settlement of one delivery.
///
/// The wait is sent with the nak: JetStream applies a consumer's own `backoff` only to missed acks.
/// Do not set both: with `backoff` set, the wait of a nak is lengthened by `backoff[n] -
/// backoff[0]`. A wait that the handler asked for (`Retry-After`) holds where it is longer than the
/// policy's, up to an hour.
///
/// Source: nats-server 2.15, `server/consumer.go`, `processNak` and `checkPending`.
pub fn settle(
    answer: Result<Vec<Event>, Failure>,
    event_id: &str,
    event_type: &str,
    attempt: u32,
    policy: &Policy,
) -> Settlement {
    let failure = match answer {
        Ok(events) => return Settlement::Forward(events),
        Err(failure) => failure,
    };
    let terms = policy.terms(event_type, &failure.class);
    let wait = |asked: Option<Duration>| {
        let own = terms.backoff.after(attempt, event_id);
        asked.map_or(own, |asked| asked.min(ASKED_WAIT_MAX).max(own))
    };
    match failure.disposition {
        Disposition::Reject if failure.class == class::DECODE => {
            Settlement::DeadLetter(Reason::Undecodable, failure)
        }
        Disposition::Reject => Settlement::DeadLetter(Reason::Rejected, failure),
        Disposition::Defer { after } => Settlement::DeferFor(wait(after), failure),
        Disposition::Retry { .. } if attempt >= terms.attempts => {
            Settlement::DeadLetter(Reason::Exhausted, failure)
        }
        Disposition::Retry { after } => Settlement::RetryAfter(wait(after), failure),
    }
}

/// Longest wait that a handler may ask for.
const ASKED_WAIT_MAX: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_last_attempt_dead_letters_and_a_rejection_does_so_at_once() {
        let policy = Policy::default();
        let answer = || Err(Failure::retry("TimeoutError", "no answer in 5s"));
        assert!(matches!(settle(answer(), "e", "t", 4, &policy), Settlement::RetryAfter(..)));
        assert!(matches!(
            settle(answer(), "e", "t", 5, &policy),
            Settlement::DeadLetter(Reason::Exhausted, _)
        ));
        let reject = Err(Failure::reject("ValidationError", "no"));
        assert!(matches!(
            settle(reject, "e", "t", 1, &policy),
            Settlement::DeadLetter(Reason::Rejected, _)
        ));
        let defer = Err(Failure::defer("ConnectionError", "down"));
        assert!(matches!(settle(defer, "e", "t", 99, &policy), Settlement::DeferFor(..)));
    }

    #[test]
    fn a_wait_that_was_asked_for_holds_if_it_is_longer() {
        let answer = |s| Err(Failure::retry("RateLimited", "429").after(Duration::from_secs(s)));
        let wait = |s| match settle(answer(s), "e", "t", 1, &Policy::default()) {
            Settlement::RetryAfter(wait, _) => wait,
            other @ (Settlement::Forward(_)
            | Settlement::DeferFor(..)
            | Settlement::DeadLetter(..)) => {
                panic!("{other:?}")
            }
        };
        assert_eq!(wait(20), Duration::from_secs(20));
        assert!(wait(0) >= Duration::from_millis(900));
        assert_eq!(wait(1 << 40), Duration::from_secs(3600));
    }

    proptest! {
        #[test]
        fn attempts_never_exceed_the_policy(attempts in 1..50_u32, attempt in 1..100_u32) {
            let policy = Policy { attempts, ..Policy::default() };
            let settled = settle(Err(Failure::retry("X", "x")), "e", "t", attempt, &policy);
            let is_exhausted = matches!(settled, Settlement::DeadLetter(Reason::Exhausted, _));
            prop_assert_eq!(is_exhausted, attempt >= attempts);
        }
    }
}

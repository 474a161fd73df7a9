//! Limit: rate of notifications to a channel, by governor, on a clock and a state of ours.

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use governor::{
    Quota, RateLimiter,
    clock::{Clock as _, FakeRelativeClock, Reference as _},
    middleware::NoOpMiddleware,
    nanos::Nanos,
    state::{NotKeyed, StateStore},
};

use crate::rate::Rate;

/// Rate limiter of a channel; its state is one number, which can be stored and restored.
pub(super) struct Limit {
    limiter: RateLimiter<NotKeyed, Taken, FakeRelativeClock, NoOpMiddleware<Nanos>>,
    taken: Taken,
    every_ns: u64,
    burst: u32,
}

/// Urgency of a notification: the share of the burst that must remain for more pressing ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// Half of what may go at once must remain.
    Ordinary,
    /// A quarter must remain.
    Opening,
    /// Nothing need remain.
    Urgent,
}

/// State of governor, one number: the theoretical arrival time, in nanoseconds since 1970; 0 at
/// first.
#[derive(Clone)]
struct Taken(Arc<AtomicU64>);

impl StateStore for Taken {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, decide: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let (answer, taken) = decide(Some(Nanos::from(self.0.load(Relaxed))))?;
        self.0.store(taken.as_u64(), Relaxed);
        Ok(answer)
    }
}

impl Limit {
    /// Lets so many notifications through in any period of the rate, a quarter of them at once.
    ///
    /// A bucket of `b` that is refilled every `t` lets through `b + period / t - 1` in a period at
    /// the most, so that `t` is `period / (most - b + 1)`. A rate of 0 is taken for 1.
    pub(super) fn of(rate: Rate, taken: u64) -> Self {
        let most = rate.count.max(1);
        let burst = NonZeroU32::new(most / 4).unwrap_or(NonZeroU32::MIN);
        let period_ns = u64::try_from(rate.per.length().as_nanos()).unwrap_or(u64::MAX);
        // Rounded up: no period may hold one too many.
        let every_ns = period_ns.div_ceil(u64::from(most - burst.get() + 1));
        let quota =
            Quota::with_period(Duration::from_nanos(every_ns)).expect("rounded up, it is not zero");
        let taken = Taken(Arc::new(taken.into()));
        let limiter =
            RateLimiter::new(quota.allow_burst(burst), taken.clone(), FakeRelativeClock::default());
        Self { limiter, taken, every_ns, burst: burst.get() }
    }

    /// Takes a token, if there is one for such a need.
    pub(super) fn take(&self, need: Urgency, now_ms: u64) -> bool {
        let now = Nanos::from(Duration::from_millis(now_ms));
        // A worker whose clock was ahead may have left a time that lies further ahead than a full
        // bucket: it would stop the channel.
        let full = now.as_u64().saturating_add(self.every_ns.saturating_mul(u64::from(self.burst)));
        self.taken.0.fetch_min(full, Relaxed);
        if now_ms < self.earliest_ms(need) {
            return false;
        }
        let clock = self.limiter.clock();
        clock.advance(now.duration_since(clock.now()).into());
        self.limiter.check().is_ok()
    }

    /// Time of the next token for such a need, in milliseconds since 1970, if none is taken until
    /// then.
    pub(super) fn earliest_ms(&self, need: Urgency) -> u64 {
        let remains = match need {
            Urgency::Ordinary => self.burst / 2,
            Urgency::Opening => self.burst / 4,
            Urgency::Urgent => 0,
        };
        let bucket =
            self.every_ns.saturating_mul(u64::from(self.burst - 1 - remains.min(self.burst - 1)));
        self.taken().saturating_sub(bucket).div_ceil(1_000_000)
    }

    /// Returns the state to store, in nanoseconds since 1970.
    pub(super) fn taken(&self) -> u64 {
        self.taken.0.load(Relaxed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rate::Per;

    const NOW: u64 = 1_700_000_000_000;

    fn taken_at_once(per_minute: u32) -> [usize; 3] {
        let limit = Limit::of(Rate::per_minute(per_minute), 0);
        [Urgency::Ordinary, Urgency::Opening, Urgency::Urgent]
            .map(|need| (0..99).take_while(|_| limit.take(need, NOW)).count())
    }

    #[test]
    fn what_is_more_pressing_finds_more() {
        assert_eq!(taken_at_once(20), [3, 1, 1]);
        assert_eq!(taken_at_once(80), [10, 5, 5]);
        assert_eq!(taken_at_once(8), [1, 1, 0]);
        assert_eq!(taken_at_once(1), [1, 0, 0]);
    }

    #[test]
    fn the_earliest_time_is_when_it_can_be_taken() {
        let limit = Limit::of(Rate::per_minute(20), 0);
        while limit.take(Urgency::Urgent, NOW) {}
        for need in [Urgency::Urgent, Urgency::Opening, Urgency::Ordinary] {
            let at = limit.earliest_ms(need);
            assert!(at > NOW && !limit.take(need, at - 1) && limit.take(need, at), "{need:?}");
        }
    }

    #[test]
    fn a_clock_that_was_ahead_does_not_stop_the_channel() {
        let limit = Limit::of(Rate::per_minute(20), (NOW + 86_400_000) * 1_000_000);
        assert!(!limit.take(Urgency::Urgent, NOW));
        assert!(limit.earliest_ms(Urgency::Urgent) < NOW + 4000);
    }

    proptest::proptest! {
        #[test]
        fn no_period_holds_more_than_the_rate(
            most in 1..60_u32,
            per in proptest::sample::select(vec![Per::Second, Per::Minute, Per::Hour]),
            steps in proptest::collection::vec((0..4_u8, 0..4000_u64), 50..400),
        ) {
            let length_ms = u64::try_from(per.length().as_millis()).unwrap();
            let limit = Limit::of(Rate { count: most, per }, 0);
            let (mut now_ms, mut taken) = (NOW, Vec::new());
            for (need, wait) in steps {
                let needs = [Urgency::Ordinary, Urgency::Opening, Urgency::Urgent, Urgency::Urgent];
                let need = needs[usize::from(need)];
                now_ms += wait * length_ms / 60_000;
                // Whatever can be taken is taken.
                while limit.take(need, now_ms) {
                    taken.push(now_ms);
                }
            }
            for (n, from) in taken.iter().enumerate() {
                let within = taken[n..].iter().take_while(|at| *at - from < length_ms).count();
                proptest::prop_assert!(
                    within <= most as usize,
                    "{} within a period of {}",
                    within,
                    most
                );
            }
        }
    }
}

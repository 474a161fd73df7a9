//! Limit: how many notifications a minute a channel is sent, by governor, on a clock and a state of ours.

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

/// A share of a channel's rate. What it has let through is one number, which can be stored and put back.
pub(super) struct Limit {
    limiter: RateLimiter<NotKeyed, Taken, FakeRelativeClock, NoOpMiddleware<Nanos>>,
    taken: Taken,
}

/// Where governor keeps its one number: the theoretical arrival time, in nanoseconds since 1970; 0 at first.
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
    /// Lets `most` notifications through in any minute, a quarter of them at once.
    ///
    /// A bucket of `b` that is refilled every `t` lets through `b + 60 s / t - 1` in a minute at the most,
    /// so that `t` is `60 s / (most - b + 1)`. Where `most` is 0 there is no limit to take from.
    pub(super) fn per_minute(most: u32, taken: u64) -> Option<Self> {
        let burst = NonZeroU32::new((most / 4).max(1).min(most))?;
        // Rounded up: no minute may hold one too many.
        let every = Duration::from_nanos(60_000_000_000_u64.div_ceil(u64::from(most - burst.get() + 1)));
        let quota = Quota::with_period(every)?.allow_burst(burst);
        let taken = Taken(Arc::new(taken.into()));
        Some(Self { limiter: RateLimiter::new(quota, taken.clone(), FakeRelativeClock::default()), taken })
    }

    /// Takes one from the share, or says when there will be one, in milliseconds since 1970.
    pub(super) fn take(&self, now_ms: u64) -> Result<(), u64> {
        let clock = self.limiter.clock();
        let now = Nanos::from(Duration::from_millis(now_ms));
        clock.advance(now.duration_since(clock.now()).into());
        self.limiter.check().map_err(|not_until| not_until.earliest_possible().as_u64().div_ceil(1_000_000))
    }

    /// What it has let through, to be stored.
    pub(super) fn taken(&self) -> u64 {
        self.taken.0.load(Relaxed)
    }
}

//! Pulse: time at which this process last ran, so that what came while it was paused is seen to be
//! old.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use crate::limits;

/// Time by two clocks: the steady one stands still while a machine is suspended, the other may be
/// set.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    steady: Instant,
    wall: SystemTime,
}

impl Moment {
    pub(super) fn now() -> Self {
        Self { steady: Instant::now(), wall: SystemTime::now() }
    }

    /// Time since `earlier`, by the clock that shows more.
    fn since(self, earlier: Self) -> Duration {
        let wall = self.wall.duration_since(earlier.wall).unwrap_or_default();
        self.steady.saturating_duration_since(earlier.steady).max(wall)
    }

    /// Moment so long ago, by the clock that may be set.
    #[cfg(test)]
    pub(super) fn ago(past: Duration) -> Self {
        let now = Self::now();
        Self { wall: now.wall - past, ..now }
    }

    pub(super) fn elapsed(self) -> Duration {
        Self::now().since(self)
    }
}

/// Pulse of a worker. What is read now came after the time that it shows.
#[derive(Debug)]
pub struct Pulse(Mutex<Ticks>);

#[derive(Debug)]
struct Ticks {
    last: Moment,
    /// Time that is shown: after a pause that of its beginning, until what came during it was read.
    shown: Moment,
    paused_until: Option<Moment>,
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(Ticks::new(Moment::now())))
    }
}

impl Pulse {
    /// Ticks until `stop`.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut ticks = tokio::time::interval(limits::PULSE);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).tick(Moment::now());
        }
    }

    /// Time before which nothing came that is read now.
    pub(super) fn shown(&self) -> Moment {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).shown
    }
}

impl Ticks {
    fn new(now: Moment) -> Self {
        Self { last: now, shown: now, paused_until: None }
    }

    fn tick(&mut self, now: Moment) {
        if now.since(self.last) >= limits::PAUSE_MIN {
            self.paused_until =
                Some(Moment { steady: now.steady + limits::PAUSE_READ, wall: now.wall });
        }
        self.last = now;
        if self.paused_until.is_none_or(|until| now.steady >= until.steady) {
            (self.shown, self.paused_until) = (now, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Moment, steady_ms: u64, wall_ms: u64) -> Moment {
        Moment {
            steady: start.steady + Duration::from_millis(steady_ms),
            wall: start.wall + Duration::from_millis(wall_ms),
        }
    }

    #[test]
    fn what_is_read_after_a_pause_counts_as_come_before_it_until_all_of_it_is_read() {
        for (steady, wall) in [(60_000, 60_000), (0, 60_000), (60_000, 0)] {
            let start = Moment::now();
            let mut ticks = Ticks::new(start);
            ticks.tick(at(start, 250, 250));
            ticks.tick(at(start, 250 + steady, 250 + wall));
            let shown = |ticks: &Ticks| ticks.shown.since(start);
            assert_eq!(shown(&ticks), Duration::from_millis(250));
            ticks.tick(at(start, 750 + steady, 750 + wall));
            assert_eq!(shown(&ticks), Duration::from_millis(250));
            ticks.tick(at(start, 1250 + steady, 1250 + wall));
            assert_eq!(shown(&ticks), Duration::from_millis(1250 + steady.max(wall)));
        }
    }

    #[test]
    fn a_worker_that_runs_shows_its_last_tick() {
        let start = Moment::now();
        let mut ticks = Ticks::new(start);
        for n in 1..100 {
            ticks.tick(at(start, 250 * n, 250 * n));
            assert_eq!(ticks.shown.since(start), Duration::from_millis(250 * n));
        }
    }
}

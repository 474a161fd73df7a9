//! Pulse: time at which this process last ran, so that what came while it was paused is seen to be
//! old.

use std::sync::{Arc, Mutex, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::{limits, steady::Moment};

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
            self.paused_until = Some(now + limits::PAUSE_READ);
        }
        self.last = now;
        if self.paused_until.is_none_or(|until| now >= until) {
            (self.shown, self.paused_until) = (now, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(start: Moment, ms: u64) -> Moment {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn what_is_read_after_a_pause_counts_as_come_before_it_until_all_of_it_is_read() {
        let start = Moment::now();
        let mut ticks = Ticks::new(start);
        ticks.tick(at(start, 250));
        ticks.tick(at(start, 60_250));
        let shown = |ticks: &Ticks| ticks.shown.since(start);
        assert_eq!(shown(&ticks), Duration::from_millis(250));
        ticks.tick(at(start, 60_750));
        assert_eq!(shown(&ticks), Duration::from_millis(250));
        ticks.tick(at(start, 61_250));
        assert_eq!(shown(&ticks), Duration::from_millis(61_250));
    }

    #[test]
    fn a_worker_that_runs_shows_its_last_tick() {
        let start = Moment::now();
        let mut ticks = Ticks::new(start);
        for n in 1..100 {
            ticks.tick(at(start, 250 * n));
            assert_eq!(ticks.shown.since(start), Duration::from_millis(250 * n));
        }
    }
}

//! Breaker: decides from a handler's failures that its dependency is down.
//!
//! Closed, it opens on failures in a row, of as many different events, or on their share of the
//! calls lately. Open, it waits. Then it lets one event at a time through: a success closes it, a
//! failure opens it again for twice as long.

pub mod tenants;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeSet,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    Failure,
    failure::{Disposition, class},
    units::Period,
};

/// The keys of `breaker = { … }` on a stage.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// Failures in a row, of as many different events, that open it.
    #[schemars(range(min = 1, max = 1000))]
    pub failures: u32,
    /// The share of calls within `window` whose failure opens it, once there are `calls` of them.
    #[schemars(range(min = 0.01, max = 1.0))]
    pub rate: f64,
    /// Calls within `window` before `rate` says anything.
    #[schemars(range(min = 1, max = 100_000))]
    pub calls: u32,
    /// The time that `rate` is taken over.
    pub window: Period,
    /// Wait before the first probe; each probe that fails doubles it.
    pub wait: Period,
    /// No wait is longer.
    pub max_wait: Period,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            failures: 5,
            rate: 0.5,
            calls: 20,
            window: Period::seconds(10),
            wait: Period::seconds(1),
            max_wait: Period::seconds(15),
        }
    }
}

impl Settings {
    /// Wait after so many openings in a row: the one that the service asked for, else twice as long
    /// each time.
    fn wait_of(&self, failure: &Failure, opens: u32) -> Duration {
        let asked = match failure.disposition {
            Disposition::Retry { after } | Disposition::Defer { after }
                if failure.class == class::RATE_LIMITED =>
            {
                after
            }
            Disposition::Retry { .. } | Disposition::Defer { .. } | Disposition::Reject => None,
        };
        let Self { wait, max_wait, .. } = self;
        match asked {
            Some(asked) => asked.clamp(wait.0.min(ASKED_WAIT_MAX), ASKED_WAIT_MAX),
            None => {
                wait.0.saturating_mul(2_u32.saturating_pow(opens.saturating_sub(1))).min(max_wait.0)
            }
        }
    }
}

/// Longest wait that a handler can ask for (`Retry-After`) while its stage stands still.
pub const ASKED_WAIT_MAX: Duration = Duration::from_secs(300);

/// Parts of the window: a call older than the window less one part may be left out.
const PARTS: usize = 10;

/// True if a failure means that the handler's dependency is down, rather than something about the
/// event.
pub fn is_outage(failure: &Failure) -> bool {
    match failure.disposition {
        Disposition::Reject => false,
        Disposition::Defer { .. } => true,
        Disposition::Retry { .. } => {
            [class::TIMEOUT, class::CONNECTION, class::HTTP_SERVER, class::RATE_LIMITED]
                .contains(&&*failure.class)
        }
    }
}

/// One call of a handler that failed.
#[derive(Debug, Clone, Copy)]
pub struct Call<'a> {
    /// Event it was about.
    pub event_id: &'a str,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// Time at which it began.
    pub began: Duration,
}

/// State of a breaker, by the events that it lets through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything.
    Closed,
    /// Nothing, until its wait is over.
    Open,
    /// One event at a time, whose outcome decides.
    Probe,
}

/// Meaning of a failure to a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing out of the ordinary: the attempt is spent.
    Spent,
    /// The breaker opened; the attempt is spent.
    Opened,
    /// The handler counts as down already: the event is deferred.
    Deferred,
    /// A probe that failed: the event is deferred, and the wait before the next probe is longer.
    Reopened,
    /// The handler answers again, though not with a success: the breaker closed; the attempt is
    /// spent.
    Closed,
}

/// One circuit breaker. Every time is since a moment of the caller's choice, on a clock that never
/// goes back.
#[derive(Debug)]
pub struct Breaker {
    settings: Settings,
    phase: Phase,
    /// Time of the last success. A call that began before it and failed did so by itself.
    succeeded_at: Option<Duration>,
    /// Events that failed since the last success, at most as many as open it.
    streak: BTreeSet<u64>,
    window: Window,
    /// Openings in a row, failed probes included, and the wait of the last one.
    opens: u32,
    wait: Duration,
    /// Time it last closed. An opening soon after counts as the same row.
    closed_at: Option<Duration>,
}

#[derive(Debug)]
enum Phase {
    Closed,
    Open {
        until: Duration,
    },
    Probe {
        since: Duration,
        /// Failures in a row that were no outage.
        answers: u32,
    },
}

impl Breaker {
    /// Returns a closed breaker.
    pub fn new(settings: Settings) -> Self {
        let window = Window::of(settings.window.0);
        let (phase, streak) = (Phase::Closed, BTreeSet::new());
        Self {
            settings,
            phase,
            succeeded_at: None,
            streak,
            window,
            opens: 0,
            wait: Duration::ZERO,
            closed_at: None,
        }
    }

    /// Returns its state.
    pub fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { .. } => State::Open,
            Phase::Probe { .. } => State::Probe,
        }
    }

    /// Openings in a row: the first, and one more for each probe that failed.
    pub fn opens(&self) -> u32 {
        self.opens
    }

    /// Time it stays open, or stayed the last time.
    pub fn wait(&self) -> Duration {
        self.wait
    }

    /// Time at which an open breaker lets a probe through.
    pub fn probe_at(&self) -> Option<Duration> {
        match self.phase {
            Phase::Open { until } => Some(until),
            Phase::Closed | Phase::Probe { .. } => None,
        }
    }

    /// Notes that a call that began at `began` succeeded; true if that closed the breaker.
    pub fn succeeded(&mut self, now: Duration, began: Duration) -> bool {
        match self.phase {
            Phase::Closed => {
                self.succeeded_at = Some(now);
                self.streak.clear();
                self.window.count(now, None);
                false
            }
            Phase::Probe { since, .. } if began >= since => {
                self.close(now);
                true
            }
            // The call began before it opened.
            Phase::Open { .. } | Phase::Probe { .. } => false,
        }
    }

    /// Notes that a call failed, and returns its meaning.
    ///
    /// Only first attempts open it: at the end of a day, when all that is left are events that have
    /// failed before, nothing else succeeds between their failures, and nothing is down. Nor does a
    /// call count towards the row if another succeeded while it was under way.
    pub fn failed(&mut self, now: Duration, call: Call<'_>, failure: &Failure) -> Verdict {
        let is_outage = is_outage(failure);
        match &mut self.phase {
            Phase::Closed if call.attempt > 1 => Verdict::Spent,
            Phase::Closed => {
                let event = digest(call.event_id);
                self.window.count(now, is_outage.then_some(event));
                if !is_outage {
                    return Verdict::Spent;
                }
                if self.succeeded_at.is_none_or(|at| at <= call.began) {
                    self.streak.insert(event);
                }
                if self.streak.len() < self.settings.failures as usize && !self.is_rate_reached(now)
                {
                    return Verdict::Spent;
                }
                let soon = self
                    .closed_at
                    .is_some_and(|at| now.saturating_sub(at) < self.settings.window.0);
                self.opens = if soon { self.opens } else { 0 };
                self.open(now, failure);
                Verdict::Opened
            }
            Phase::Open { .. } if is_outage => Verdict::Deferred,
            Phase::Open { .. } => Verdict::Spent,
            Phase::Probe { since, .. } if is_outage && call.began < *since => Verdict::Deferred,
            Phase::Probe { .. } if is_outage => {
                self.open(now, failure);
                Verdict::Reopened
            }
            Phase::Probe { answers, .. } => {
                *answers += 1;
                if *answers < self.settings.failures {
                    return Verdict::Spent;
                }
                self.close(now);
                Verdict::Closed
            }
        }
    }

    /// Lets a probe through if the wait is over; true if it was over just now.
    pub fn tick(&mut self, now: Duration) -> bool {
        match self.phase {
            Phase::Open { until } if now >= until => {
                self.phase = Phase::Probe { since: now, answers: 0 };
                true
            }
            Phase::Closed | Phase::Open { .. } | Phase::Probe { .. } => false,
        }
    }

    /// Opens for `wait` from now on, as another worker opened it or found by a probe that it stays
    /// so.
    pub fn adopt_open(&mut self, now: Duration, wait: Duration, opens: u32) {
        self.opens = opens.max(1);
        self.wait = wait.min(self.settings.max_wait.0.max(ASKED_WAIT_MAX));
        self.stop(now);
    }

    /// Closes, as another worker closed it.
    pub fn adopt_closed(&mut self, now: Duration) {
        if self.state() != State::Closed {
            self.close(now);
        }
    }

    fn open(&mut self, now: Duration, failure: &Failure) {
        self.opens = self.opens.saturating_add(1);
        self.wait = self.settings.wait_of(failure, self.opens);
        self.stop(now);
    }

    fn stop(&mut self, now: Duration) {
        self.phase = Phase::Open { until: now.saturating_add(self.wait) };
        self.forget();
    }

    fn close(&mut self, now: Duration) {
        self.phase = Phase::Closed;
        self.closed_at = Some(now);
        self.forget();
    }

    fn forget(&mut self) {
        self.streak.clear();
        self.window = Window::of(self.settings.window.0);
    }

    /// True if the share of outages opens it. One event alone never does, however often it is
    /// tried.
    fn is_rate_reached(&self, now: Duration) -> bool {
        let (calls, outages, several) = self.window.sums(now);
        several
            && calls >= u64::from(self.settings.calls)
            && outages as f64 >= self.settings.rate * calls as f64
    }
}

/// Calls of the last `window`, counted in parts of it, so that they take the same memory however
/// many.
#[derive(Debug)]
struct Window {
    part: Duration,
    parts: [Slice; PARTS],
}

#[derive(Debug, Clone, Copy, Default)]
struct Slice {
    /// Number of the part, from the begin of the clock.
    number: u64,
    calls: u64,
    outages: u64,
    /// Event of its first outage failure; `several` is true where another event had one too.
    event: Option<u64>,
    several: bool,
}

impl Window {
    fn of(length: Duration) -> Self {
        Self {
            part: (length / PARTS as u32).max(Duration::from_nanos(1)),
            parts: [Slice::default(); PARTS],
        }
    }

    fn number(&self, now: Duration) -> u64 {
        let ns = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        ns(now) / ns(self.part)
    }

    /// Counts one call; `outage` is the event if it failed by an outage.
    fn count(&mut self, now: Duration, outage: Option<u64>) {
        let number = self.number(now);
        let part = &mut self.parts[(number % PARTS as u64) as usize];
        if part.number < number {
            *part = Slice { number, ..Slice::default() };
        }
        part.calls += 1;
        if let Some(event) = outage {
            part.outages += 1;
            part.several |= part.event.is_some_and(|first| first != event);
            part.event.get_or_insert(event);
        }
    }

    /// Returns calls, outage failures, and true if those were of several events.
    fn sums(&self, now: Duration) -> (u64, u64, bool) {
        let number = self.number(now);
        let recent = || self.parts.iter().filter(|part| part.number + PARTS as u64 > number);
        let several = recent().any(|part| part.several);
        let mut events = recent().filter_map(|part| part.event);
        let first = events.next();
        (
            recent().map(|part| part.calls).sum(),
            recent().map(|part| part.outages).sum(),
            several || events.any(|event| Some(event) != first),
        )
    }
}

/// Hash of an event id. Two ids that share it count as one event, which only delays the opening.
fn digest(event_id: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    event_id.hash(&mut hasher);
    hasher.finish()
}

//! Counters: how one stage counts, for a few atomic additions an event.

use std::{fmt, time::Duration};

use millstream_stages::{Tally, breaker, settle::Reason};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    bounded::Bounded,
    durations::{DurationCounts, Durations},
    families::{Counters, Families, as_gauge},
    tallies::Tallies,
};
use crate::limits;

/// What became of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its results were published, and it was acked.
    Done,
    /// It failed and comes back; the attempt counts.
    Retried,
    /// It comes back; the attempt does not count.
    Deferred,
    /// It was given up on.
    DeadLettered,
    /// It was given back unhandled: the worker stops, or its results could not be published.
    Released,
}

/// How one map stage counts. Every call is a few atomic additions; the text of a label is looked up
/// under a read lock.
pub struct StageMetrics {
    families: Families,
    stage: String,
    handled: Bounded<[Counter; Outcome::ALL.len()]>,
    took: Durations,
    settling: [Durations; Outcome::FAILED.len()],
    errors: Bounded<Counter>,
    retry_queued: Counter,
    retried: Counter,
    deferred: Counter,
    parked: Counter,
    reprocessed: Counter,
    recovered: Counter,
    permanent: Counter,
    dead_lettered: [Counter; Reason::ALL.len()],
    published: Counter,
    completed_late: Counter,
    rebinds: Counter,
    active: Gauge,
}

/// What one reduce stage of this worker counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReduceSnapshot {
    /// Messages taken into the state, those that were rejected included.
    pub applied: u64,
    /// Checkpoints written.
    pub commits: u64,
    /// Whether the worker runs the stage now.
    pub leading: bool,
}

/// How one reduce stage counts.
pub struct ReduceMetrics {
    applied: Counter,
    rejected: Counter,
    emitted: Bounded<Counter>,
    commits: Counter,
    leading: Gauge,
    stage: String,
    tallies: Tallies,
}

/// One event in hand. When it is dropped, it no longer is.
#[derive(Debug)]
#[must_use = "the event counts as in hand until this is dropped"]
pub struct ActiveEvent(Gauge);

/// What one stage had counted at one time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StageSnapshot {
    /// Deliveries settled, by any outcome.
    pub handled: u64,
    /// Deliveries whose results were published and which were acked.
    pub done: u64,
    /// Attempts that failed, by any class.
    pub failed: u64,
    /// Events given up on.
    pub dead_lettered: u64,
    /// Events in hand now.
    pub active: u64,
    /// How long deliveries took.
    pub took: DurationCounts,
}

impl Outcome {
    /// Every outcome, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Done, Self::Retried, Self::Deferred, Self::DeadLettered, Self::Released];

    /// What may become of a failed attempt.
    pub const FAILED: [Self; 3] = [Self::Retried, Self::Deferred, Self::DeadLettered];

    /// The value of the `status` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::Retried => "retried",
            Self::Deferred => "deferred",
            Self::DeadLettered => "dead_lettered",
            Self::Released => "released",
        }
    }
}

impl StageMetrics {
    pub(super) fn new(families: &Families, stage: &str) -> Self {
        let labels = vec![("stage", stage.to_owned())];
        let of = |family: &Counters| family.get_or_create_owned(&labels);
        let with = |label, value: &str| vec![labels[0].clone(), (label, value.to_owned())];
        let (handled, errors, base) =
            (families.handled.clone(), families.errors.clone(), labels[0].clone());
        let error_base = base.clone();
        Self {
            handled: Bounded::new(limits::EVENT_TYPE_LABELS_MAX, move |event_type| {
                Outcome::ALL.map(|outcome| {
                    let event_type = ("event_type", event_type.to_owned());
                    handled.get_or_create_owned(&vec![
                        base.clone(),
                        event_type,
                        ("status", outcome.as_str().into()),
                    ])
                })
            }),
            errors: Bounded::new(limits::CLASS_LABELS_MAX, move |class| {
                errors.get_or_create_owned(&vec![error_base.clone(), ("class", class.to_owned())])
            }),
            took: families.took.get_or_create_owned(&labels),
            settling: Outcome::FAILED.map(|outcome| {
                families.settling.get_or_create_owned(&with("status", outcome.as_str()))
            }),
            retry_queued: of(&families.retry_queued),
            retried: of(&families.retried),
            deferred: of(&families.deferred),
            parked: of(&families.parked),
            reprocessed: of(&families.reprocessed),
            recovered: of(&families.recovered),
            permanent: of(&families.permanent),
            dead_lettered: Reason::ALL.map(|reason| {
                families.dead_lettered.get_or_create_owned(&with("reason", reason.as_str()))
            }),
            published: of(&families.published),
            completed_late: of(&families.completed_late),
            rebinds: of(&families.rebinds),
            active: families.active.get_or_create_owned(&labels),
            families: families.clone(),
            stage: stage.to_owned(),
        }
    }

    /// Work on an event begins; it is in hand until the guard is dropped.
    pub fn started(&self) -> ActiveEvent {
        self.active.inc();
        ActiveEvent(self.active.clone())
    }

    /// A delivery was settled.
    pub fn handled(&self, event_type: &str, outcome: Outcome, took: Duration) {
        self.handled.with(event_type, |outcomes| outcomes[outcome as usize].inc());
        self.took.observe(took);
    }

    /// What becomes of a failed attempt is stored.
    pub fn settled(&self, outcome: Outcome, took: Duration) {
        if let Some(at) = Outcome::FAILED.iter().position(|failed| *failed == outcome) {
            self.settling[at].observe(took);
        }
    }

    /// How long it took to store what became of failed attempts, by what it was.
    pub fn settling(&self, outcome: Outcome) -> DurationCounts {
        let at = Outcome::FAILED.iter().position(|failed| *failed == outcome);
        at.map(|at| self.settling[at].snapshot()).unwrap_or_default()
    }

    /// An attempt failed.
    pub fn failed(&self, class: &str) {
        self.errors.with(class, Counter::inc);
    }

    /// A failed event was sent back to come again after a wait.
    pub fn retry_queued(&self) {
        self.retry_queued.inc();
    }

    /// A delivery is a second or later attempt.
    pub fn retried(&self) {
        self.retried.inc();
    }

    /// A delivery was put off without spending an attempt.
    pub fn deferred(&self) {
        self.deferred.inc();
    }

    /// An event was given up on.
    pub fn dead_lettered(&self, reason: Reason) {
        let at =
            Reason::ALL.iter().position(|known| *known == reason).expect("ALL lists every reason");
        self.dead_lettered[at].inc();
    }

    /// `n` results were published.
    pub fn published(&self, n: u64) {
        self.published.inc_by(n);
    }

    /// An event was put into the retry stream for a long wait.
    pub fn parked(&self) {
        self.parked.inc();
    }

    /// An event completed although there is a dead letter of it.
    pub fn completed_late(&self) {
        self.completed_late.inc();
    }

    /// Sets how many events of one stream will be given to nobody again.
    pub fn set_orphans(&self, stream: &str, orphans: u64) {
        let labels = vec![("stage", self.stage.clone()), ("stream", stream.to_owned())];
        self.families.orphans.get_or_create(&labels).set(as_gauge(orphans));
    }

    /// The events of `n` dead letters were sent back to the stage, by whomever it was asked for.
    pub fn reprocessed(&self, n: u64) {
        self.reprocessed.inc_by(n);
    }

    /// The events of `n` dead letters were sent back because the stage is up again.
    pub fn recovered(&self, n: u64) {
        self.recovered.inc_by(n);
    }

    /// `n` dead letters were marked permanent: recovery does not redrive them.
    pub fn permanent(&self, n: u64) {
        self.permanent.inc_by(n);
    }

    /// A consumer was gone and was opened again.
    pub fn rebound(&self) {
        self.rebinds.inc();
    }

    /// Sets how far behind the stage is on one stream: messages not yet delivered, and delivered
    /// but not settled.
    pub fn set_lag(&self, feed: &str, pending: u64, ack_pending: u64) {
        let labels = vec![("stage", self.stage.clone()), ("stream", feed.to_owned())];
        self.families.lag.get_or_create(&labels).set(as_gauge(pending));
        self.families.ack_pending.get_or_create(&labels).set(as_gauge(ack_pending));
    }

    /// Sets what the stage's circuit breaker lets through. A stage without one never says.
    pub fn set_breaker(&self, state: breaker::State) {
        let labels = vec![("stage", self.stage.clone())];
        let value = match state {
            breaker::State::Closed => 0,
            breaker::State::Open => 1,
            breaker::State::Probe => 2,
        };
        self.families.breaker_state.get_or_create(&labels).set(value);
        // So that it is there, at zero, before it first opens.
        drop(self.families.breaker_opens.get_or_create(&labels));
    }

    /// This worker opened the stage's circuit breaker. A probe that failed does not count.
    pub fn breaker_opened(&self) {
        self.families.breaker_opens.get_or_create(&vec![("stage", self.stage.clone())]).inc();
    }

    /// Deliveries that ended well.
    pub fn done(&self) -> u64 {
        self.handled.all(|_, outcomes| outcomes[Outcome::Done as usize].get()).into_iter().sum()
    }

    pub(super) fn snapshot(&self) -> StageSnapshot {
        let by_type = self.handled.all(|_, outcomes| {
            (outcomes.iter().map(Counter::get).sum::<u64>(), outcomes[Outcome::Done as usize].get())
        });
        StageSnapshot {
            handled: by_type.iter().map(|(handled, _)| handled).sum(),
            done: by_type.iter().map(|(_, done)| done).sum(),
            failed: self.errors.all(|_, errors| errors.get()).into_iter().sum(),
            dead_lettered: self.dead_lettered.iter().map(Counter::get).sum(),
            active: u64::try_from(self.active.get()).unwrap_or(0),
            took: self.took.snapshot(),
        }
    }
}

impl ReduceMetrics {
    pub(super) fn new(families: &Families, stage: &str) -> Self {
        let labels = vec![("stage", stage.to_owned())];
        let (emitted, base) = (families.emitted.clone(), labels[0].clone());
        Self {
            applied: families.applied.get_or_create_owned(&labels),
            rejected: families.rejected.get_or_create_owned(&labels),
            emitted: Bounded::new(limits::CLASS_LABELS_MAX, move |route| {
                emitted.get_or_create_owned(&vec![base.clone(), ("route", route.to_owned())])
            }),
            commits: families.commits.get_or_create_owned(&labels),
            leading: families.leading.get_or_create_owned(&labels),
            stage: stage.to_owned(),
            tallies: families.tallies.clone(),
        }
    }

    /// `n` messages were taken into the state.
    pub fn applied(&self, n: u64) {
        self.applied.inc_by(n);
    }

    /// A message could not be understood.
    pub fn rejected(&self) {
        self.rejected.inc();
    }

    /// A message was published: its `Emission::route` is a kind of incident event or a channel.
    pub fn emitted(&self, route: &str) {
        self.emitted.with(route, Counter::inc);
    }

    /// A checkpoint was written, with these numbers in it.
    pub fn commits(&self, tallies: Vec<Tally>) {
        self.commits.inc();
        self.tallied(tallies);
    }

    /// Sets the numbers that the stage keeps.
    pub fn tallied(&self, tallies: Vec<Tally>) {
        self.tallies.set(&self.stage, tallies);
    }

    /// What it has counted so far.
    pub fn snapshot(&self) -> ReduceSnapshot {
        ReduceSnapshot {
            applied: self.applied.get(),
            commits: self.commits.get(),
            leading: self.leading.get() == 1,
        }
    }

    /// Sets whether this worker runs the stage, or stands by.
    pub fn leading(&self, leading: bool) {
        self.leading.set(leading.into());
        if !leading {
            self.tallied(Vec::new());
        }
    }
}

impl Drop for ActiveEvent {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl fmt::Debug for StageMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StageMetrics").field("stage", &self.stage).finish_non_exhaustive()
    }
}

impl fmt::Debug for ReduceMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReduceMetrics").finish_non_exhaustive()
    }
}

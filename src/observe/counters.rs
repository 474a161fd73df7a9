//! Counters: counts of one stage, at a few atomic additions an event.

use std::{fmt, time::Duration};

use millstream_stages::{Tally, breaker, settle::Reason};
use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::{
    bounded::Bounded,
    durations::{DurationCounts, Durations},
    families::{Counters, Families},
    gauges::as_gauge,
    tallies::Tallies,
};
use crate::limits;

/// Outcome of one delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acked, with its results published.
    Done,
    /// Failed and comes back; the attempt counts.
    Retried,
    /// Comes back; the attempt does not count.
    Deferred,
    /// Given up on.
    DeadLettered,
    /// Given back unhandled: the worker stops, or its results could not be published.
    Released,
}

/// Verdict on an event whose last delivery has no known end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Every worker that may have had it is alive, or ended well.
    Innocent,
    /// A worker may have died of it, or hung.
    Suspect,
}

/// Counters of one map stage. Every call is a few atomic additions; the text of a label is looked
/// up under a read lock.
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
    redelivered: [Counter; Verdict::ALL.len()],
    lapsed: Counter,
    active: Gauge,
}

/// Snapshot of the counters of one reduce stage of this worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReduceSnapshot {
    /// Messages taken into the state, those that were rejected included.
    pub applied: u64,
    /// Checkpoints written.
    pub commits: u64,
    /// True while the worker runs the stage.
    pub leading: bool,
}

/// Counters of one reduce stage.
pub struct ReduceMetrics {
    applied: Counter,
    rejected: Counter,
    restarted: Counter,
    emitted: Bounded<Counter>,
    commits: Counter,
    leading: Gauge,
    stage: String,
    tallies: Tallies,
}

/// Guard of one event in flight, which counts until this is dropped.
#[derive(Debug)]
#[must_use = "the event counts as in hand until this is dropped"]
pub struct ActiveEvent(Gauge);

/// Snapshot of the counters of one map stage.
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
    /// Events in flight now.
    pub active: u64,
    /// Durations of the deliveries that ran.
    pub took: DurationCounts,
}

impl Outcome {
    /// Every outcome, in the order of their discriminants.
    pub const ALL: [Self; 5] =
        [Self::Done, Self::Retried, Self::Deferred, Self::DeadLettered, Self::Released];

    /// Outcomes of a failed attempt.
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

impl Verdict {
    /// Every verdict, in the order of their discriminants.
    pub const ALL: [Self; 2] = [Self::Innocent, Self::Suspect];

    /// The value of the `verdict` label.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Innocent => "innocent",
            Self::Suspect => "suspect",
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
            redelivered: Verdict::ALL.map(|verdict| {
                families.redelivered.get_or_create_owned(&with("verdict", verdict.as_str()))
            }),
            lapsed: of(&families.lapsed),
            active: families.active.get_or_create_owned(&labels),
            families: families.clone(),
            stage: stage.to_owned(),
        }
    }

    /// Counts an event as in flight until the guard is dropped.
    pub fn started(&self) -> ActiveEvent {
        self.active.inc();
        ActiveEvent(self.active.clone())
    }

    /// Counts a settled delivery, and the time that it ran; `None`: it did not run.
    pub fn handled(&self, event_type: &str, outcome: Outcome, ran: Option<Duration>) {
        self.handled.with(event_type, |outcomes| outcomes[outcome as usize].inc());
        if let Some(ran) = ran {
            self.took.observe(ran);
        }
    }

    /// Counts the time that it took to store the outcome of a failed attempt.
    pub fn settled(&self, outcome: Outcome, took: Duration) {
        if let Some(at) = Outcome::FAILED.iter().position(|failed| *failed == outcome) {
            self.settling[at].observe(took);
        }
    }

    /// Durations of storing this outcome of failed attempts.
    pub fn settling(&self, outcome: Outcome) -> DurationCounts {
        let at = Outcome::FAILED.iter().position(|failed| *failed == outcome);
        at.map(|at| self.settling[at].snapshot()).unwrap_or_default()
    }

    /// Counts a failed attempt.
    pub fn failed(&self, class: &str) {
        self.errors.with(class, Counter::inc);
    }

    /// Counts a failed event that was sent back to come again after a wait.
    pub fn retry_queued(&self) {
        self.retry_queued.inc();
    }

    /// Counts a delivery that is a second or later attempt.
    pub fn retried(&self) {
        self.retried.inc();
    }

    /// Counts a delivery that was put off without spending an attempt.
    pub fn deferred(&self) {
        self.deferred.inc();
    }

    /// Counts an event that was given up on.
    pub fn dead_lettered(&self, reason: Reason) {
        let at =
            Reason::ALL.iter().position(|known| *known == reason).expect("ALL lists every reason");
        self.dead_lettered[at].inc();
    }

    /// Counts `n` published results.
    pub fn published(&self, n: u64) {
        self.published.inc_by(n);
    }

    /// Counts an event that was put into the retry stream for a long wait.
    pub fn parked(&self) {
        self.parked.inc();
    }

    /// Counts an event that completed although there is a dead letter of it.
    pub fn completed_late(&self) {
        self.completed_late.inc();
    }

    /// Sets the number of events of one stream that will be given to nobody again.
    pub fn set_orphans(&self, stream: &str, orphans: u64) {
        let labels = vec![("stage", self.stage.clone()), ("stream", stream.to_owned())];
        self.families.orphans.get_or_create(&labels).set(as_gauge(orphans));
    }

    /// Counts the events of `n` dead letters sent back to the stage, whoever asked for it.
    pub fn reprocessed(&self, n: u64) {
        self.reprocessed.inc_by(n);
    }

    /// Counts the events of `n` dead letters sent back because the stage is up again.
    pub fn recovered(&self, n: u64) {
        self.recovered.inc_by(n);
    }

    /// Counts `n` dead letters marked permanent: recovery does not redrive them.
    pub fn permanent(&self, n: u64) {
        self.permanent.inc_by(n);
    }

    /// Counts a delivery after one without a known end.
    pub fn redelivered(&self, verdict: Verdict) {
        self.redelivered[verdict as usize].inc();
    }

    /// Counts a delivery that was left to the server.
    pub fn lapsed(&self) {
        self.lapsed.inc();
    }

    /// Counts a consumer that was gone and was opened again.
    pub fn rebound(&self) {
        self.rebinds.inc();
    }

    /// Sets the stage's lag on one stream: messages not yet delivered, and delivered but not
    /// settled.
    pub fn set_lag(&self, feed: &str, pending: u64, ack_pending: u64) {
        let labels = vec![("stage", self.stage.clone()), ("stream", feed.to_owned())];
        self.families.lag.get_or_create(&labels).set(as_gauge(pending));
        self.families.ack_pending.get_or_create(&labels).set(as_gauge(ack_pending));
    }

    /// Sets the state of the stage's circuit breaker. Never called for a stage without one.
    pub fn set_breaker(&self, state: breaker::State) {
        let labels = vec![("stage", self.stage.clone())];
        let value = match state {
            breaker::State::Closed => 0,
            breaker::State::Open => 1,
            breaker::State::Probe => 2,
        };
        self.families.breaker_state.get_or_create(&labels).set(value);
        // So that the counter is there, at zero, before the breaker first opens.
        drop(self.families.breaker_opens.get_or_create(&labels));
    }

    /// Counts an opening of the stage's circuit breaker by this worker. A failed probe does not
    /// count.
    pub fn breaker_opened(&self) {
        self.families.breaker_opens.get_or_create(&vec![("stage", self.stage.clone())]).inc();
    }

    /// Number of deliveries that ended well.
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
            restarted: families.restarted.get_or_create_owned(&labels),
            emitted: Bounded::new(limits::CLASS_LABELS_MAX, move |route| {
                emitted.get_or_create_owned(&vec![base.clone(), ("route", route.to_owned())])
            }),
            commits: families.commits.get_or_create_owned(&labels),
            leading: families.leading.get_or_create_owned(&labels),
            stage: stage.to_owned(),
            tallies: families.tallies.clone(),
        }
    }

    /// Counts `n` messages taken into the state.
    pub fn applied(&self, n: u64) {
        self.applied.inc_by(n);
    }

    /// Counts a message that could not be understood.
    pub fn rejected(&self) {
        self.rejected.inc();
    }

    /// Counts a stream that was another one than before.
    pub fn restarted(&self) {
        self.restarted.inc();
    }

    /// Counts a published message: its `Emission::route` is a kind of incident event or a channel.
    pub fn emitted(&self, route: &str) {
        self.emitted.with(route, Counter::inc);
    }

    /// Counts a written checkpoint, with these numbers in it.
    pub fn commits(&self, tallies: Vec<Tally>) {
        self.commits.inc();
        self.tallied(tallies);
    }

    /// Sets the numbers that the stage keeps.
    pub fn tallied(&self, tallies: Vec<Tally>) {
        self.tallies.set(&self.stage, tallies);
    }

    /// Snapshot of the counters.
    pub fn snapshot(&self) -> ReduceSnapshot {
        ReduceSnapshot {
            applied: self.applied.get(),
            commits: self.commits.get(),
            leading: self.leading.get() == 1,
        }
    }

    /// Sets if this worker runs the stage, or stands by.
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

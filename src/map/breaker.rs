//! Breaker: circuit breaker of a stage's handler, agreed over the fleet, and the pace of its pulls.
//!
//! Each worker decides by itself, at once, and notifies the others through one key per stage
//! ([`BreakerRecord`]). A write that lost the race adopts what won. The time of the next probe is
//! each worker's own affair, counted on its own clock from when it saw that the breaker is open: no
//! two clocks are compared, and with the broker away a breaker works all the same.

mod fleet;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use millstream_stages::{
    Event, Failure,
    breaker::{
        Breaker as Machine, Call, Settings, State, Verdict,
        tenants::{Limit, Tenants},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::{Duration, Instant},
};

use crate::{
    broker::{Broker, header},
    observe::StageMetrics,
    wire::breaker_record::{BreakerRecord, BreakerState},
};
pub use fleet::Breakers;

/// Pace at which a stage may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Not at all: what it holds goes back unhandled.
    Stopped,
    /// One event at a time: its outcome shows if the handler is up again.
    Probe,
    /// As fast as it can.
    Full,
}

/// Circuit breaker of one stage, as this worker knows it.
#[derive(Debug)]
pub struct Breaker {
    pace: watch::Sender<Pace>,
    guard: Option<Guard>,
}

/// Parts of a breaker that can open.
#[derive(Debug)]
struct Guard {
    stage: String,
    worker: String,
    /// Connection, for the broker's time in records.
    broker: Broker,
    metrics: Arc<StageMetrics>,
    known: Mutex<Known>,
    /// Start of the machine's clock.
    born: Instant,
    /// Woken when there is something to report to the fleet.
    unreported: Arc<Notify>,
    /// Woken when the time of the next probe has changed.
    timer: Arc<Notify>,
}

#[derive(Debug)]
struct Known {
    machine: Machine,
    settings: Settings,
    tenants: Tenants,
    /// Last record of it, made here or elsewhere.
    record: BreakerRecord,
    /// Revision of the key as we know it; 0: there is no key.
    revision: u64,
    /// True if `record` is ours and not yet in the key.
    is_unreported: bool,
    /// Time at which it opened, or was seen to be open.
    open_since: Option<Instant>,
}

impl Breaker {
    /// Breaker that never opens.
    pub fn none() -> Self {
        Self { pace: watch::Sender::new(Pace::Full), guard: None }
    }

    fn new(
        stage: &str,
        worker: &str,
        broker: &Broker,
        settings: Settings,
        metrics: Arc<StageMetrics>,
        (unreported, timer): (&Arc<Notify>, &Arc<Notify>),
    ) -> Self {
        metrics.set_breaker(State::Closed);
        let known = Known {
            machine: Machine::new(settings.clone()),
            settings,
            tenants: Tenants::default(),
            record: BreakerRecord::default(),
            revision: 0,
            is_unreported: false,
            open_since: None,
        };
        let guard = Guard {
            stage: stage.to_owned(),
            worker: worker.to_owned(),
            broker: broker.clone(),
            metrics,
            known: Mutex::new(known),
            born: Instant::now(),
            unreported: Arc::clone(unreported),
            timer: Arc::clone(timer),
        };
        Self { pace: watch::Sender::new(Pace::Full), guard: Some(guard) }
    }

    /// Pace at which the stage may pull, now and from now on.
    pub fn pace(&self) -> watch::Receiver<Pace> {
        self.pace.subscribe()
    }

    /// Time for which events of this tenant are held back; `None`: they may run.
    pub fn holds(&self, tenant: Option<&str>) -> Option<Duration> {
        let (guard, tenant) = (self.guard.as_ref()?, tenant?);
        guard.known().tenants.held(guard.now(), tenant)
    }

    /// Notes that a call of the handler for an event succeeded, after so long.
    pub fn succeeded(&self, tenant: Option<&str>, took: Duration) {
        let Some(guard) = &self.guard else { return };
        let mut known = guard.known();
        if let Some(tenant) = tenant
            && known.tenants.succeeded(tenant)
        {
            tracing::info!(stage = guard.stage, tenant = %header(tenant), "a tenant goes on");
        }
        let now = guard.now();
        if known.machine.succeeded(now, now.saturating_sub(took)) {
            self.closed(guard, &mut known);
        }
    }

    /// Notes that a call of the handler for this attempt of an event failed, after so long; a wait
    /// if the handler counted as down already, or the event's tenant as held back: then the event
    /// is deferred for so long, and no attempt is spent. The failure that opens the breaker, or
    /// begins the hold, is an attempt.
    pub fn failed(
        &self,
        event: &Event,
        attempt: u32,
        took: Duration,
        failure: &Failure,
    ) -> Option<Duration> {
        let guard = self.guard.as_ref()?;
        let mut known = guard.known();
        let now = guard.now();
        let mut call = Call { event_id: &event.id, attempt, began: now.saturating_sub(took) };
        if let Some(tenant) = event.tenant.as_deref().filter(|_| Tenants::is_limit(failure)) {
            let Known { tenants, settings, .. } = &mut *known;
            match tenants.failed(now, tenant, call, failure, settings) {
                Limit::Spent => {}
                Limit::Held(wait) => {
                    let (stage, tenant, wait_s) =
                        (&guard.stage, header(tenant), wait.as_secs_f64());
                    tracing::warn!(
                        stage,
                        %tenant,
                        wait_s,
                        reason = %header(&failure.message),
                        "a tenant is held back for its limit: others go on"
                    );
                }
                Limit::Deferred(wait) => return Some(wait),
            }
            // However many of its events fail, it is one that fails.
            call.event_id = tenant;
        }
        let verdict = known.machine.failed(now, call, failure);
        match verdict {
            Verdict::Spent | Verdict::Deferred => {}
            Verdict::Opened | Verdict::Reopened => self.opened(guard, &mut known, failure, verdict),
            Verdict::Closed => self.closed(guard, &mut known),
        }
        // Nothing is pulled before it is up again, so the event needs no wait of its own.
        matches!(verdict, Verdict::Deferred | Verdict::Reopened).then_some(Duration::ZERO)
    }

    fn opened(&self, guard: &Guard, known: &mut Known, failure: &Failure, verdict: Verdict) {
        let (wait, opens) = (known.machine.wait(), known.machine.opens());
        let now = guard.broker.timestamp();
        let opened_at =
            Some(known.record.opened_at.clone()).filter(|_| verdict == Verdict::Reopened).flatten();
        known.record = BreakerRecord::open(failure, wait, opens, opened_at, now, &guard.worker);
        let (stage, wait, reason) = (&guard.stage, wait.as_secs_f64(), &known.record.reason);
        if verdict == Verdict::Opened {
            known.open_since = Some(Instant::now());
            guard.metrics.breaker_opened();
            tracing::warn!(
                stage,
                wait_s = wait,
                reason,
                "the circuit breaker opened: the stage does not pull until its handler is up again"
            );
        } else {
            tracing::debug!(
                stage,
                wait_s = wait,
                opens,
                reason,
                "a probe failed; the circuit breaker stays open"
            );
        }
        self.report(guard, known);
    }

    fn closed(&self, guard: &Guard, known: &mut Known) {
        known.record.close(guard.broker.timestamp(), &guard.worker);
        let open_s = known.open_since.take().map_or(0.0, |since| since.elapsed().as_secs_f64());
        tracing::info!(
            stage = guard.stage,
            open_s,
            "the circuit breaker closed: the handler is up again"
        );
        self.report(guard, known);
    }

    fn report(&self, guard: &Guard, known: &mut Known) {
        known.is_unreported = true;
        guard.unreported.notify_one();
        self.show(guard, known);
    }

    /// Shows the machine's state to everyone here. Under the lock, so that the last to be shown is
    /// the last that was.
    fn show(&self, guard: &Guard, known: &Known) {
        let state = known.machine.state();
        let pace = match state {
            State::Closed => Pace::Full,
            State::Open => Pace::Stopped,
            State::Probe => Pace::Probe,
        };
        guard.metrics.set_breaker(state);
        self.pace.send_if_modified(|shown| std::mem::replace(shown, pace) != pace);
        guard.timer.notify_one();
    }

    /// Takes in the record in the key, as another worker or we ourselves wrote it; `None`: it was
    /// deleted, or cannot be read.
    fn seen(&self, record: Option<BreakerRecord>, revision: u64) {
        let Some(guard) = &self.guard else { return };
        let mut known = guard.known();
        if revision <= known.revision {
            return;
        }
        known.revision = revision;
        let record = record.unwrap_or_default();
        if record.by == guard.worker {
            // Our own write, which may have been followed by another that is not reported yet.
            known.is_unreported &= known.record != record;
            return;
        }
        let (now, was) = (guard.now(), known.machine.state());
        match record.state {
            BreakerState::Open => {
                known.machine.adopt_open(now, record.wait(), record.opens);
                known.open_since.get_or_insert_with(Instant::now);
            }
            BreakerState::Closed => {
                known.machine.adopt_closed(now);
                known.open_since = None;
            }
        }
        (known.record, known.is_unreported) = (record, false);
        if was != known.machine.state() {
            let BreakerRecord { state, reason, by, .. } = &known.record;
            tracing::debug!(
                stage = guard.stage,
                ?state,
                reason,
                by,
                "another worker moved the circuit breaker"
            );
        }
        self.show(guard, &known);
    }

    /// Takes in that the key was deleted. Where none was known there is nothing new in that: it was
    /// before what this worker found since.
    fn deleted(&self, revision: u64) {
        if self.guard.as_ref().is_some_and(|guard| guard.known().revision > 0) {
            self.seen(None, revision);
        }
    }

    /// Record that is to be written, and the revision that it replaces.
    fn unreported(&self) -> Option<(BreakerRecord, u64)> {
        let known = self.guard.as_ref()?.known();
        known.is_unreported.then(|| (known.record.clone(), known.revision))
    }

    /// Notes that `record` was written.
    fn reported(&self, record: &BreakerRecord, revision: u64) {
        let Some(guard) = &self.guard else { return };
        let mut known = guard.known();
        // The key may have been read since, and something newer found in it.
        known.revision = known.revision.max(revision);
        known.is_unreported &= known.record != *record;
    }

    /// Notes that there is no key, whatever we knew of it.
    fn no_key(&self) {
        if let Some(guard) = &self.guard {
            guard.known().revision = 0;
        }
    }

    /// Lets a probe through if it is time; the time of the next.
    fn tick(&self) -> Option<Instant> {
        let guard = self.guard.as_ref()?;
        let mut known = guard.known();
        if known.machine.tick(guard.now()) {
            tracing::debug!(
                stage = guard.stage,
                "the circuit breaker lets one event through at a time"
            );
            self.show(guard, &known);
        }
        known.machine.probe_at().map(|at| guard.born + at)
    }
}

impl Guard {
    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

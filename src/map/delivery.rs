//! Delivery: the life of one delivery, from its arrival to its one settlement.

use std::{
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use millstream_stages::{Delivery, Event, Failure, failure::class, settle::Reason};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    Carries, Stage,
    attempt::Attempt,
    breaker::Pace,
    decode,
    decode::Arrival,
    give_up::GivenUp,
    park::Parking,
    past::{self, Decision, Past},
};
use crate::{
    broker::{Delivered, PublishError, header},
    dead_letter::{
        late,
        record::{Report, Spent},
    },
    limits,
    observe::{Outcome, metrics::InFlight, span, trace::TraceContext},
};

/// How the server is told.
pub(super) enum Settled {
    Ack,
    Nak(Duration),
    Term(Reason),
}

/// One delivery, as it came.
pub(super) struct Arrived<'a> {
    pub(super) stage: &'a Stage,
    pub(super) carries: Carries,
    pub(super) delivered: &'a Delivered,
    pub(super) arrival: Arrival,
    pub(super) company: Company,
}

/// That a delivery is in hand: its place among those that run at once, and in the count of them.
type InHand = Option<(OwnedSemaphorePermit, InFlight)>;

/// When a delivery may be handled, and when no longer.
#[derive(Clone)]
pub(super) struct Turn {
    /// One permit per event in hand.
    pub(super) slots: Arc<Semaphore>,
    /// How fast the stage may pull; what has not begun when it stops goes back.
    pub(super) pace: watch::Receiver<Pace>,
    /// The feeds have ended: what has not begun goes back.
    pub(super) closed: CancellationToken,
    /// The worker ends: what is in hand is given back.
    pub(super) abandon: CancellationToken,
}

/// In whose company an event runs.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Company {
    /// With whatever else the worker has in hand.
    Any,
    /// With nothing else in hand.
    None,
}

/// Lives one delivery to its settlement. Everything that must be stored is stored before it is
/// settled.
pub(super) async fn live(
    stage: &Stage,
    carries: Carries,
    delivered: Delivered,
    turn: Turn,
    company: Company,
) {
    let abandon = turn.abandon.clone();
    let (settled, in_hand) = {
        let arrived = Arrived {
            stage,
            carries,
            delivered: &delivered,
            arrival: Arrival::of(&delivered, carries),
            company,
        };
        // Pinned where it is made: moved, it would take its place in this future twice.
        let mut work = std::pin::pin!(arrived.run(turn));
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                // After a while, so that it does not come straight back to us by what is still
                // asked for.
                () = abandon.cancelled() => break (Settled::Nak(limits::DRAIN_PULL_MAX), None),
                () = tokio::time::sleep(stage.ack_wait / 2) => delivered.progress().await,
            }
        }
    };
    match settled {
        Settled::Ack => delivered.ack().await,
        Settled::Nak(wait) => delivered.nak(wait).await,
        Settled::Term(reason) => delivered.term(reason.as_str()).await,
    }
    drop(in_hand);
}

impl Turn {
    /// Waits for its turn; `None` if it will not have one here.
    async fn come(&mut self) -> Option<OwnedSemaphorePermit> {
        let free = !self.closed.is_cancelled() && *self.pace.borrow() != Pace::Stopped;
        if free && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            Ok(_) = self.pace.wait_for(|pace| *pace == Pace::Stopped) => None,
            slot = Arc::clone(&self.slots).acquire_owned() => Some(slot.expect("the semaphore is never closed")),
        }
    }
}

impl Arrived<'_> {
    /// The rare paths are boxed: their state would make every delivery's future several times as
    /// large.
    async fn run(&self, mut turn: Turn) -> (Settled, InHand) {
        let Self { stage, carries, delivered, arrival, .. } = self;
        let event = match decode::event(delivered, *carries) {
            Ok(event) => event,
            Err(failure) => {
                let spent =
                    Spent { attempts: arrival.origin.attempts_spent + 1, ..Spent::default() };
                return (
                    Box::pin(self.give_up(None, spent, Reason::Undecodable, &failure)).await,
                    None,
                );
            }
        };
        if !stage.line.takes(&event.event_type) {
            return (Settled::Ack, None);
        }
        let spent = match self.in_order(&event).await {
            Ok(spent) => spent,
            Err(settled) => return (settled, None),
        };
        let Some(slot) = turn.come().await else {
            return (Box::pin(self.release(&event, spent)).await, None);
        };
        let in_flight = stage.metrics.started();
        (self.handle(&event, spent).await, Some((slot, in_flight)))
    }

    /// What the event has behind it, if it may run now; else what became of it.
    async fn in_order(&self, event: &Event) -> Result<Spent, Settled> {
        if self.delivered.deliveries <= 1 && self.arrival.origin.queued_at.is_none() {
            return Ok(Spent::default());
        }
        Box::pin(async move {
            let past = past::past(self.stage, &self.arrival, self.delivered).await;
            let (Past::Known(spent) | Past::Decided(spent, _) | Past::Unknown(spent)) = past;
            if let Past::Decided(_, decision) = past {
                return Err(match decision {
                    Decision::Return(wait) => self.send_back(event, spent, wait).await,
                    Decision::GiveUp(reason, failure) => {
                        self.given_up(Some(event), spent, reason, &failure).bury().await
                    }
                });
            }
            if let Some(failure) = self.expired() {
                return Err(self.give_up(Some(event), spent, Reason::Expired, &failure).await);
            }
            match past {
                Past::Unknown(_) => self.suspect(event, spent).await,
                Past::Known(_) | Past::Decided(..) => Ok(spent),
            }
        })
        .await
    }

    /// An event whose last delivery nobody knows the end of runs with nothing else in hand: if it
    /// kills its worker, it does so alone. Where the policy allows one attempt only there is no
    /// second one.
    async fn suspect(&self, event: &Event, spent: Spent) -> Result<Spent, Settled> {
        let Self { stage, delivered, arrival, company, .. } = self;
        let attempts_max = stage.line.policy().attempts_max();
        let runs_max = match company {
            _ if attempts_max == 1 => 1,
            Company::None => limits::CHANCES,
            // Here because it could not be set apart.
            Company::Any => attempts_max + limits::CHANCES,
        };
        if delivered.deliveries > runs_max {
            // What is set apart has run in company once.
            let unknown = delivered.deliveries - 1 + u32::from(*company == Company::None);
            let spent = Spent { attempts: spent.attempts.saturating_add(unknown), ..spent };
            let failure = Failure::reject(
                class::CRASHED,
                format!(
                    "{unknown} deliveries were never settled: the worker died or hung each time"
                ),
            );
            return Err(self.give_up(Some(event), spent, Reason::Crashed, &failure).await);
        }
        if *company == Company::Any {
            tracing::warn!(
                stage = stage.line.name(), event_id = %header(&event.id), source = %arrival.origin.source,
                "its last delivery was never settled; it runs again with nothing else in hand"
            );
            if self.parking(event, spent).alone().await.is_ok() {
                return Err(Settled::Ack);
            }
        }
        Ok(spent)
    }

    /// Why it may wait no longer, if so.
    fn expired(&self) -> Option<Failure> {
        let waited = SystemTime::now().duration_since(self.arrival.origin.queued_at?).ok()?;
        let most = self.stage.retry_max_age;
        (!most.is_zero() && waited > most).then(|| Failure::expired(most))
    }

    /// Puts the event back where the stage pulls from, unhandled.
    async fn release(&self, event: &Event, spent: Spent) -> Settled {
        self.stage.metrics.handled(&event.event_type, Outcome::Released, Duration::ZERO);
        if self.company == Company::None {
            return match self.parking(event, spent).alone().await {
                Ok(()) => Settled::Ack,
                Err(_) => Settled::Nak(Duration::ZERO),
            };
        }
        self.send_back(event, spent, Duration::ZERO).await
    }

    /// Puts the event into the retry stream, to come back after `wait`.
    pub(super) async fn send_back(&self, event: &Event, spent: Spent, wait: Duration) -> Settled {
        let parking = self.parking(event, spent);
        let stored =
            if wait.is_zero() { parking.for_now().await } else { parking.for_later(wait).await };
        match stored {
            Ok(()) => Settled::Ack,
            // It fitted once and does not with our headers: let it wait in the consumer instead.
            Err(_) => Settled::Nak(wait),
        }
    }

    fn parking<'a>(&'a self, event: &'a Event, spent: Spent) -> Parking<'a> {
        Parking {
            stage: self.stage,
            delivered: self.delivered,
            event,
            origin: &self.arrival.origin,
            spent,
        }
    }

    pub(super) fn given_up<'a>(
        &'a self,
        event: Option<&'a Event>,
        spent: Spent,
        reason: Reason,
        failure: &'a Failure,
    ) -> GivenUp<'a> {
        let Self { stage, carries, delivered, arrival, .. } = self;
        GivenUp {
            stage,
            failed_in: &stage.line,
            delivered,
            carries: *carries,
            arrival,
            event,
            spent,
            reason,
            failure,
        }
    }

    async fn give_up(
        &self,
        event: Option<&Event>,
        spent: Spent,
        reason: Reason,
        failure: &Failure,
    ) -> Settled {
        self.given_up(event, spent, reason, failure).unhandled().await
    }

    /// Whether someone else may have given up on the event while it ran since `began`.
    pub(super) fn may_be_dead(&self, began: Instant) -> bool {
        self.delivered.deliveries > 1 || began.elapsed() >= self.stage.ack_wait
    }

    /// If someone else did, the letter says from now on that the event completed all the same.
    pub(super) async fn completed_late(&self) {
        let (stage, life) = (self.stage.line.name(), &self.arrival.origin.life);
        match late::completed_late(
            &self.stage.broker,
            &self.stage.names,
            stage,
            life,
            SystemTime::now(),
        )
        .await
        {
            Ok(true) => self.stage.metrics.completed_late(),
            Ok(false) => {}
            // The event is done; a letter that does not say so is looked at by people.
            Err(error) => {
                tracing::warn!(stage, error = %error, "could not look whether a late event was given up on")
            }
        }
    }

    async fn handle(&self, event: &Event, spent: Spent) -> Settled {
        let Self { stage, arrival, .. } = self;
        if spent.attempts > 0 {
            stage.metrics.retried();
        }
        let parent = arrival.trace.unwrap_or_else(|| TraceContext::root(&event.id));
        let mut delivery = Delivery {
            stage: stage.line.name().to_owned(),
            attempt: spent.attempts + 1,
            now: SystemTime::now(),
            traceparent: None,
        };
        let span = span::handle(stage.line.name(), event, &delivery, &parent);
        delivery.traceparent = Some(span::outgoing(&span, &parent).to_string());
        let attempt = Attempt { arrived: self, event, delivery: &delivery, spent };
        attempt.carry_out(&span).instrument(span.clone()).await
    }
}

/// Publishes the error event of a failed attempt and waits until it is stored: counts are made from
/// it, and so is the number of the next attempt, so it comes before the settlement.
pub(super) async fn report(stage: &Stage, report: &Report<'_>) {
    let message = report.message(&stage.names);
    if let Err(error) = until_stored(report.stage, || stage.broker.publish(message.clone())).await {
        tracing::error!(stage = report.stage, error = %error, "could not report a failed attempt");
    }
}

/// Publishes until it is stored. A broker that is down or full holds the event back; it never loses
/// it.
///
/// # Errors
/// Only what trying again cannot change: the message is too large.
pub(super) async fn until_stored<T, F>(
    stage: &str,
    publish: impl Fn() -> F,
) -> Result<T, PublishError>
where
    F: Future<Output = Result<T, PublishError>>,
{
    loop {
        match publish().await {
            Err(error @ PublishError::Failed { .. }) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(stage, error = %error, cause, "could not publish; holding the event and trying again");
                tokio::time::sleep(limits::PUBLISH_AGAIN_AFTER).await;
            }
            Ok(stored) => return Ok(stored),
            Err(error) => return Err(error),
        }
    }
}

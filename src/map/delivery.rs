//! Delivery: life of one delivery, from its arrival to its one settlement.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_stages::{Delivery, Event, Failure, failure::class, settle::Reason};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::Instrument as _;

use super::{
    attempt::Attempt,
    decode::{self, Arrival},
    give_up::GivenUp,
    lives::{InHand, Taken},
    park::Parking,
    prior_delivery::{self, Decision, Prior},
    stage::{Carries, Isolation, MapStage, StageConsumer},
};
use crate::{
    broker::{Delivered, header},
    dead_letter::completed_late,
    limits,
    map::{
        quarantine::Place,
        stored::Settled,
        turn::{Come, Turn},
    },
    observe::{ActiveEvent, Outcome, Returned, Verdict, span},
    wire::{TraceContext, attempt_record::Spent},
};

/// Delivery, as it came.
pub(super) struct Arrived<'a> {
    pub(super) stage: &'a MapStage,
    pub(super) carries: Carries,
    pub(super) delivered: &'a Delivered,
    pub(super) arrival: Arrival,
    pub(super) isolation: Isolation,
    consumer: &'a str,
    hand: &'a InHand<'a>,
}

/// Hold of a delivery in flight: its place among those that run at once, and in the count of them.
type InFlightHold = Option<(OwnedSemaphorePermit, ActiveEvent)>;

/// Takes one delivery to its settlement. Everything that must be stored is stored before it is
/// settled.
pub(super) async fn live(stage: &MapStage, feed: &StageConsumer, delivered: Delivered, turn: Turn) {
    let abandon = turn.abandon.clone();
    let arrival = Arrival::of(&delivered, feed.carries);
    let Some(hand) = take(stage, &delivered, &arrival, &abandon).await else {
        stage.metrics.lapsed();
        return;
    };
    let (settled, in_flight) = {
        let arrived = Arrived {
            stage,
            carries: feed.carries,
            delivered: &delivered,
            arrival,
            isolation: feed.isolation,
            consumer: &feed.consumer,
            hand: &hand,
        };
        // Pinned where it is made: moved, it would take its place in this future twice.
        let mut work = std::pin::pin!(arrived.run(turn));
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                // After a while, so that it does not come straight back to us by what is still
                // asked for.
                () = abandon.cancelled() => break match hand.has_lapsed(stage.ack_wait) {
                    true => (Settled::Lapsed, None),
                    false => (Settled::Nak(limits::DRAIN_PULL_MAX), None),
                },
                () = tokio::time::sleep(stage.ack_wait / 2) => {
                    if hand.has_lapsed(stage.ack_wait) {
                        break (Settled::Lapsed, None);
                    }
                    delivered.progress().await;
                    if stage.broker.is_connected() {
                        hand.renew();
                    }
                }
            }
        }
    };
    match settled {
        Settled::Ack => delivered.ack().await,
        Settled::Term(reason) => delivered.term(reason.as_str()).await,
        Settled::Nak(wait) => {
            // It may be back before this returns.
            drop(hand);
            delivered.nak(wait).await;
        }
        Settled::Lapsed => stage.metrics.lapsed(),
    }
    drop(in_flight);
}

/// Takes a delivery in hand, once nothing else of its life is; `None` if it is in hand already,
/// which settles this one, too, or the worker ends.
async fn take<'a>(
    stage: &'a MapStage,
    delivered: &Delivered,
    arrival: &Arrival,
    abandon: &CancellationToken,
) -> Option<InHand<'a>> {
    let life = (Arc::clone(&arrival.origin.life.stream), arrival.origin.life.seq);
    let message = (Arc::clone(&delivered.stream), delivered.seq, delivered.stored_at);
    let came = stage.pulse.shown();
    match stage.lives.take(life.clone(), message.clone(), came) {
        Taken::InHand(hand) => Some(hand),
        Taken::Same => None,
        Taken::Other => {
            Box::pin(async move {
                let mut hand = std::pin::pin!(stage.lives.take_in_turn(life, message, came));
                loop {
                    tokio::select! {
                        hand = &mut hand => return hand,
                        () = abandon.cancelled() => return None,
                        () = tokio::time::sleep(stage.ack_wait / 2) => delivered.progress().await,
                    }
                }
            })
            .await
        }
    }
}

impl Arrived<'_> {
    /// Runs the delivery, and decides its settlement. The rare paths are boxed: their state would
    /// make every delivery's future several times as large.
    async fn run(&self, mut turn: Turn) -> (Settled, InFlightHold) {
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
        if let Some(wait) = stage.line.breaker().holds(event.tenant.as_deref()) {
            stage.metrics.deferred();
            return (Box::pin(self.send_back(&event, spent, wait)).await, None);
        }
        let come = turn.come().await;
        if self.hand.has_lapsed(stage.ack_wait) {
            return (Settled::Lapsed, None);
        }
        let Some(Come { slot, place }) = come else {
            return (Box::pin(self.release(&event, spent)).await, None);
        };
        // Or left by its connection, which broke while it waited.
        if !delivered.begin() {
            return (Settled::Lapsed, None);
        }
        self.hand.begin();
        let in_flight = stage.metrics.started();
        (self.handle(&event, spent, place).await, Some((slot, in_flight)))
    }

    /// Attempts that the event has behind it, if it may run now; else its settlement.
    async fn in_order(&self, event: &Event) -> Result<Spent, Settled> {
        if self.delivered.deliveries <= 1 && self.arrival.origin.queued_at.is_none() {
            return Ok(Spent::default());
        }
        Box::pin(async move {
            let prior = prior_delivery::look_up(self.stage, &self.arrival, self.delivered).await;
            let (Prior::Known(spent) | Prior::Decided(spent, _) | Prior::Unknown(spent)) = prior;
            if let Prior::Decided(_, decision) = prior {
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
            match prior {
                Prior::Unknown(_) => self.judge(event, spent).await,
                Prior::Known(_) | Prior::Decided(..) => Ok(spent),
            }
        })
        .await
    }

    /// Tells an event that was lost on its way from one that a worker may have died of.
    async fn judge(&self, event: &Event, spent: Spent) -> Result<Spent, Settled> {
        let Self { stage, delivered, .. } = self;
        // Whoever runs an event says so twice in an ack wait.
        let within = (stage.ack_wait / 2).saturating_sub(limits::HEARTBEAT);
        let returned = Returned {
            seq: delivered.seq,
            stored_at: delivered.stored_at,
            arrived: Instant::now(),
            within: within.min(limits::HEARD_WITHIN),
        };
        let verdict = loop {
            let ask = stage.roll_call.verdict(&delivered.stream, self.consumer, returned);
            match ask.await {
                Some(verdict) => break verdict,
                // Without records nothing will ever be known.
                None if stage.broker.is_connected() => break Verdict::Suspect,
                None => {}
            }
        };
        if self.hand.has_lapsed(stage.ack_wait) {
            return Err(Settled::Lapsed);
        }
        stage.metrics.redelivered(verdict);
        match verdict {
            Verdict::Innocent => self.innocent(event, spent).await,
            Verdict::Suspect => self.suspect(event, spent).await,
        }
    }

    /// Lets an event run that was lost on its way. Where the server's count of deliveries matters,
    /// it is stored anew, so that it is not held against the event.
    async fn innocent(&self, event: &Event, spent: Spent) -> Result<Spent, Settled> {
        let Self { stage, delivered, isolation, .. } = self;
        if *isolation == Isolation::Quarantined {
            let stored = self.parking(event, spent).quarantine().await;
            return stored.map_or(Ok(spent), |()| Err(Settled::Ack));
        }
        if delivered.deliveries > stage.line.policy().attempts_max() + 1 {
            let stored = self.parking(event, spent).for_now().await;
            return stored.map_or(Ok(spent), |()| Err(Settled::Ack));
        }
        Ok(spent)
    }

    /// Quarantines an event that a worker may have died of: it runs beside few other suspects, so
    /// that one that kills its workers is found out. Where the policy allows one attempt only there
    /// is no second one.
    async fn suspect(&self, event: &Event, spent: Spent) -> Result<Spent, Settled> {
        let Self { stage, delivered, arrival, isolation, .. } = self;
        let attempts_max = stage.line.policy().attempts_max();
        let runs_max = match isolation {
            _ if attempts_max == 1 => 1,
            Isolation::Quarantined => limits::QUARANTINED_RUNS_MAX,
            // Here because it could not be quarantined.
            Isolation::Shared => attempts_max + limits::SPARE_DELIVERIES,
        };
        if delivered.deliveries > runs_max {
            let unknown = match isolation {
                // What is quarantined has run among others once.
                Isolation::Quarantined => delivered.deliveries,
                // Any before the last were lost on the way: the first that was not ends it.
                Isolation::Shared if attempts_max == 1 => 1,
                Isolation::Shared => delivered.deliveries - 1,
            };
            let spent = Spent { attempts: spent.attempts.saturating_add(unknown), ..spent };
            let failure = Failure::reject(
                class::CRASHED,
                match unknown {
                    1 => "a delivery was never settled: its worker died or hung".to_owned(),
                    _ => format!(
                        "{unknown} deliveries were never settled: the worker died or hung each time"
                    ),
                },
            );
            return Err(self.give_up(Some(event), spent, Reason::Crashed, &failure).await);
        }
        if *isolation == Isolation::Shared {
            tracing::warn!(
                stage = stage.line.name(),
                event_id = %header(&event.id),
                source = %arrival.origin.source,
                "a worker may have died of it; it runs again in quarantine"
            );
            if self.parking(event, spent).quarantine().await.is_ok() {
                return Err(Settled::Ack);
            }
        }
        Ok(spent)
    }

    /// Failure of an event that may wait no longer, if so.
    fn expired(&self) -> Option<Failure> {
        let waited = self.stage.broker.now().duration_since(self.arrival.origin.queued_at?).ok()?;
        let most = self.stage.retry_max_age;
        (!most.is_zero() && waited > most).then(|| Failure::expired(most))
    }

    /// Puts the event back where the stage pulls from, unhandled.
    async fn release(&self, event: &Event, spent: Spent) -> Settled {
        self.stage.metrics.handled(&event.event_type, Outcome::Released, None);
        if self.isolation == Isolation::Quarantined {
            return match self.parking(event, spent).quarantine().await {
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

    /// True if someone else may have given up on the event while it ran since `began`.
    pub(super) fn may_be_dead(&self, began: Instant) -> bool {
        self.delivered.deliveries > 1 || began.elapsed() >= self.stage.ack_wait
    }

    /// Marks the letter, if someone else wrote one, as that of an event that completed late.
    pub(super) async fn completed_late(&self) {
        let (stage, life) = (self.stage.line.name(), &self.arrival.origin.life);
        match completed_late::completed_late(
            &self.stage.broker,
            &self.stage.names,
            stage,
            life,
            self.stage.broker.now(),
        )
        .await
        {
            Ok(true) => self.stage.metrics.completed_late(),
            Ok(false) => {}
            // The event is done; a letter that does not say so is looked at by people.
            Err(error) => {
                tracing::warn!(
                    stage,
                    error = %error,
                    "could not look whether a late event was given up on"
                )
            }
        }
    }

    async fn handle(&self, event: &Event, spent: Spent, place: Option<Place>) -> Settled {
        let Self { stage, arrival, .. } = self;
        if spent.attempts > 0 {
            stage.metrics.retried();
        }
        let parent = arrival.trace.unwrap_or_else(|| TraceContext::root(&event.id));
        let mut delivery = Delivery {
            stage: stage.line.name().to_owned(),
            attempt: spent.attempts + 1,
            now: stage.broker.now(),
            traceparent: None,
            edit: arrival.origin.edit,
        };
        let span = span::handle(stage.line.name(), event, &delivery, &parent);
        delivery.traceparent = Some(span::outgoing(&span, &parent).to_string());
        let attempt = Attempt { arrived: self, event, delivery: &delivery, spent };
        attempt.carry_out(&span, place).instrument(span.clone()).await
    }
}

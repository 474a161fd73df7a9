//! Attempt: one run of an event through its line, and its outcome.

use std::time::{Duration, Instant};

use millstream_stages::{
    Delivery, Disposition, Event, Failure,
    failure::class,
    headers,
    settle::{Settlement, settle},
};
use tracing::Span;

use super::{
    delivery::Arrived,
    give_up::GivenUp,
    line::{Applied, Failed, Line, Output},
    prior_delivery::delivery_id,
    quarantine::Place,
    stage::Isolation,
    stored::{Settled, report, until_stored},
};
use crate::{
    broker::{Expects, Headers, Outgoing, set},
    observe::{Outcome, span},
    wire::{
        attempt_record::{AttemptReport, Spent},
        write_identity,
    },
};

/// One run of an event through its line.
pub(super) struct Attempt<'a> {
    pub(super) arrived: &'a Arrived<'a>,
    pub(super) event: &'a Event,
    pub(super) delivery: &'a Delivery,
    pub(super) spent: Spent,
}

impl Attempt<'_> {
    /// Runs the event through its line, and stores the results or the failure. A suspect has its
    /// place until it has run: what comes after kills no worker, and may take long.
    pub(super) async fn carry_out(&self, span: &Span, place: Option<Place>) -> Settled {
        let (mut applied, began) = (Applied::default(), Instant::now());
        let ran = self.arrived.stage.line.apply(self.event, self.delivery, &mut applied).await;
        drop(place);
        let failed = match ran {
            Ok(()) => match self.publish(&applied.outputs).await {
                Ok(()) => {
                    self.count_done(&applied);
                    span::settled(span, Outcome::Done, None);
                    if self.arrived.may_be_dead(began) {
                        Box::pin(self.arrived.completed_late()).await;
                    }
                    return Settled::Ack;
                }
                Err(failed) => failed,
            },
            Err(failed) => failed,
        };
        // The rare paths are boxed: their state would make every delivery's future several times as
        // large.
        Box::pin(self.fail(failed, span)).await
    }

    /// Publishes every output, pipelined, and waits until all are stored.
    async fn publish<'a>(&self, outputs: &[Output<'a>]) -> Result<(), Failed<'a>> {
        match outputs {
            [] => {}
            [one] => self.publish_one(0, one).await?,
            several => {
                let publishes =
                    several.iter().enumerate().map(|(n, output)| self.publish_one(n, output));
                Box::pin(futures_util::future::try_join_all(publishes)).await?;
            }
        }
        for Output { stage: line, .. } in outputs {
            line.metrics().published(1);
        }
        Ok(())
    }

    async fn publish_one<'a>(&self, n: usize, output: &Output<'a>) -> Result<(), Failed<'a>> {
        let Output { stage: line, event } = output;
        let Arrived { stage, arrival, .. } = self.arrived;
        let make = || {
            let mut all = Headers::new();
            write_identity(event, &mut all);
            arrival.origin.write_source(&mut all);
            if let Some(traceparent) = &self.delivery.traceparent {
                set(&mut all, headers::TRACEPARENT, traceparent.as_str());
            }
            if line.dedups() {
                let life = &arrival.origin.life;
                set(&mut all, headers::MSG_ID, format!("{life}:{}:{n}", line.name()));
            }
            let subject = stage.names.out_subject(line.name(), &event.event_type);
            Outgoing { subject, headers: all, body: event.body.clone(), expects: Expects::Anything }
        };
        let stored = until_stored(line.name(), || stage.broker.publish_made(make)).await;
        stored.map(|_| ()).map_err(|error| Failed {
            stage: line,
            failure: Failure::reject(
                class::HANDLER,
                format!("a result could not be stored: {error}"),
            ),
            took: None,
        })
    }

    fn count_done(&self, applied: &Applied<'_>) {
        for (line, took) in &applied.ran {
            line.metrics().handled(&self.event.event_type, Outcome::Done, *took);
        }
        let (stage, attempt) = (self.arrived.stage.line.name(), self.delivery.attempt);
        tracing::debug!(stage, event_id = self.event.id, attempt, "handled");
    }

    async fn fail(&self, failed: Failed<'_>, span: &Span) -> Settled {
        let began = Instant::now();
        let Failed { stage: line, failure, took } = failed;
        let Self { arrived, event, delivery, spent } = self;
        line.metrics().failed(&failure.class);
        let first_failed_at = spent.first_failed_at.or(Some(arrived.stage.broker.now()));
        let before = Spent { first_failed_at, ..*spent };
        let after = Spent { attempts: delivery.attempt, first_failed_at };
        let settlement =
            match held_back(line, event, delivery.attempt, took.unwrap_or_default(), &failure) {
                Some(wait) => Settlement::DeferFor(wait, failure),
                None => settle(
                    Err(failure),
                    &event.id,
                    &event.event_type,
                    delivery.attempt,
                    line.policy(),
                ),
            };
        let (outcome, settled) = match settlement {
            Settlement::Forward(_) => unreachable!("a failure is never forwarded"),
            Settlement::RetryAfter(wait, failure) => {
                // What ran in quarantine has an outcome on record now, and goes back to the others.
                let parks = wait > line.policy().park_after()
                    || arrived.isolation == Isolation::Quarantined
                    || !arrived.stage.waiting.take(wait, arrived.stage.roll_call.alive());
                span::settled(span, Outcome::Retried, Some(&failure));
                self.report(
                    line,
                    &failure,
                    if parks { "park" } else { "retry" },
                    Some(wait),
                    after,
                )
                .await;
                line.metrics().retry_queued();
                let settled = if parks {
                    arrived.send_back(event, after, wait).await
                } else {
                    Settled::Nak(wait)
                };
                (Outcome::Retried, settled)
            }
            Settlement::DeferFor(wait, failure) => {
                span::settled(span, Outcome::Deferred, Some(&failure));
                self.report(line, &failure, "defer", Some(wait), before).await;
                line.metrics().deferred();
                // A nak would count as an attempt with the server; a parked event does not.
                (Outcome::Deferred, arrived.send_back(event, before, wait).await)
            }
            Settlement::DeadLetter(reason, failure) => {
                span::settled(span, Outcome::DeadLettered, Some(&failure));
                self.report(line, &failure, reason.as_str(), None, after).await;
                let given_up = arrived.given_up(Some(event), after, reason, &failure);
                (Outcome::DeadLettered, GivenUp { failed_in: line, ..given_up }.bury().await)
            }
        };
        line.metrics().handled(&event.event_type, outcome, took);
        line.metrics().settled(outcome, began.elapsed());
        settled
    }

    async fn report(
        &self,
        line: &Line,
        failure: &Failure,
        outcome: &str,
        wait: Option<Duration>,
        spent: Spent,
    ) {
        let Arrived { stage, arrival, delivered, .. } = self.arrived;
        let reported = AttemptReport {
            stage: line.name(),
            failure,
            outcome,
            wait,
            delivery_id: &delivery_id(delivered),
            attempt: self.delivery.attempt,
            spent,
            origin: &arrival.origin,
            who: self.event.into(),
            traceparent: self.delivery.traceparent.as_deref(),
        };
        report(stage, &reported).await;
    }
}

/// Reports a failure to the breaker; a wait if what the handler depends on counts as down, or
/// limits the event's tenant, so that the failure is not the event's.
fn held_back(
    line: &Line,
    event: &Event,
    attempt: u32,
    took: Duration,
    failure: &Failure,
) -> Option<Duration> {
    // What this worker lacks says nothing about whom it would have called.
    if failure.class == class::SHORTAGE {
        return None;
    }
    match failure.disposition {
        // It answered, and said no; unless it was never asked.
        Disposition::Reject => {
            if ![class::DECODE, class::CONDITION, class::HANDLER].contains(&&*failure.class) {
                line.breaker().succeeded(event.tenant.as_deref(), took);
            }
            None
        }
        Disposition::Retry { .. } | Disposition::Defer { .. } => {
            line.breaker().failed(event, attempt, took, failure)
        }
    }
}

//! Delivery: the life of one delivery, from its arrival to its one settlement.

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, SystemTime},
};

use millstream_stages::{
    Delivery, Event, Failure,
    failure::class,
    headers,
    settle::{Reason, Settlement, settle},
};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, Span};

use super::{
    Carries, Line, Stage, apart, decode,
    decode::Arrival,
    line::{Applied, Failed, Output},
    park::park,
    report::{self, Report},
};
use crate::{
    broker::{Delivered, Headers, Outgoing, PublishError, header, set},
    dead_letter::{
        Letter,
        letter::{Identity, write_identity},
    },
    limits,
    observe::{Outcome, span, trace::TraceContext},
};

/// How the server is told.
enum Settled {
    Ack,
    Nak(Duration),
    Term(Reason),
}

/// What one delivery is about, once its event is known.
struct Hand<'a> {
    stage: &'a Stage,
    arrival: &'a Arrival,
    event: &'a Event,
    delivery: &'a Delivery,
}

/// When a delivery may be handled, and when no longer.
#[derive(Clone)]
pub(super) struct Turn {
    /// One permit per event in hand.
    pub(super) slots: Arc<Semaphore>,
    /// The feed has ended: what has not begun is given back.
    pub(super) closed: CancellationToken,
    /// The worker ends: what is in hand is given back.
    pub(super) abandon: CancellationToken,
}

/// Lives one delivery to its settlement. Everything that must be stored is stored before it is settled.
pub(super) async fn live(stage: &Stage, carries: Carries, delivered: Delivered, turn: &Turn) {
    let arrival = Arrival::of(&delivered, carries);
    let (settled, in_flight) = {
        // Pinned where it is made: moved, it would take its place in this future twice.
        let mut work = std::pin::pin!(async {
            // Not in its turn: whatever it is that kills workers, this event is soon out of its way.
            if let Some(spent) = apart::due(stage, &arrival, &delivered)
                && Box::pin(apart::set(stage, carries, &arrival, &delivered, spent)).await
            {
                return (Settled::Ack, None);
            }
            let slot = tokio::select! {
                biased;
                () = turn.closed.cancelled() => return (Settled::Nak(Duration::ZERO), None),
                slot = turn.slots.acquire() => slot.expect("the semaphore is never closed"),
            };
            let in_flight = stage.metrics.started();
            (handle(stage, carries, &arrival, &delivered).await, Some((slot, in_flight)))
        });
        loop {
            tokio::select! {
                biased;
                done = &mut work => break done,
                () = turn.abandon.cancelled() => break (Settled::Nak(Duration::ZERO), None),
                () = tokio::time::sleep(stage.ack_wait / 2) => delivered.progress().await,
            }
        }
    };
    match settled {
        Settled::Ack => delivered.ack().await,
        Settled::Nak(wait) => delivered.nak(wait).await,
        Settled::Term(reason) => delivered.term(reason.as_str()).await,
    }
    drop(in_flight);
}

async fn handle(stage: &Stage, carries: Carries, arrival: &Arrival, delivered: &Delivered) -> Settled {
    let decoded = decode::event(delivered, carries);
    if apart::is_over(stage, arrival) {
        let failure = Failure::reject(
            class::CRASHED,
            format!("{} deliveries, and the last was never settled: its worker died or hung", arrival.attempt - 1),
        );
        let give_up = give_up(stage, arrival, delivered, decoded.as_ref().ok(), carries, Reason::Crashed, &failure);
        return Box::pin(give_up).await;
    }
    let event = match decoded {
        Ok(event) => event,
        Err(failure) => {
            let give_up = give_up(stage, arrival, delivered, None, carries, Reason::Undecodable, &failure);
            return Box::pin(give_up).await;
        }
    };
    if !stage.line.takes(&event.event_type) {
        return Settled::Ack;
    }
    if arrival.attempt > 1 {
        stage.metrics.retried();
    }
    let parent = arrival.trace.unwrap_or_else(|| TraceContext::root(&event.id));
    let mut delivery = Delivery {
        stage: stage.line.name().to_owned(),
        attempt: arrival.attempt,
        now: SystemTime::now(),
        traceparent: None,
    };
    let span = span::handle(stage.line.name(), &event, &delivery, &parent);
    delivery.traceparent = Some(span::outgoing(&span, &parent).to_string());
    let hand = Hand { stage, arrival, event: &event, delivery: &delivery };
    hand.carry_out(delivered, carries, &span).instrument(span.clone()).await
}

impl Hand<'_> {
    async fn carry_out(&self, delivered: &Delivered, carries: Carries, span: &Span) -> Settled {
        let mut applied = Applied::default();
        let failed = match self.stage.line.apply(self.event, self.delivery, &mut applied).await {
            Ok(()) => match self.publish(&applied.outputs).await {
                Ok(()) => {
                    self.count_done(&applied);
                    span::settled(span, Outcome::Done, None);
                    return Settled::Ack;
                }
                Err(failed) => failed,
            },
            Err(failed) => failed,
        };
        // The rare paths are boxed: their state would make every delivery's future several times as large.
        Box::pin(self.fail(delivered, carries, failed, span)).await
    }

    /// Publishes every output, pipelined, and waits until all are stored.
    async fn publish<'a>(&self, outputs: &[Output<'a>]) -> Result<(), Failed<'a>> {
        match outputs {
            [] => {}
            [one] => self.publish_one(0, one).await?,
            several => {
                let publishes = several.iter().enumerate().map(|(n, output)| self.publish_one(n, output));
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
        let make = || {
            let mut all = Headers::new();
            write_identity(event, &mut all);
            self.arrival.origin.write_source(&mut all);
            if let Some(traceparent) = &self.delivery.traceparent {
                set(&mut all, headers::TRACEPARENT, traceparent.as_str());
            }
            if line.dedups() {
                let life = &self.arrival.origin.life;
                set(&mut all, headers::MSG_ID, format!("{life}:{}:{n}", line.name()));
            }
            let subject = self.stage.names.out_subject(line.name(), &event.event_type);
            Outgoing { subject, headers: all, body: event.body.clone(), first_on_subject: false }
        };
        let stored = until_stored(line.name(), || self.stage.broker.publish_made(make)).await;
        stored.map(|_| ()).map_err(|error| Failed {
            stage: line,
            failure: Failure::reject(class::HANDLER, format!("a result could not be stored: {error}")),
            took: Duration::ZERO,
        })
    }

    fn count_done(&self, applied: &Applied<'_>) {
        for (line, took) in &applied.ran {
            line.metrics().handled(&self.event.event_type, Outcome::Done, *took);
        }
        let Self { stage, arrival, event, .. } = self;
        tracing::debug!(stage = stage.line.name(), event_id = event.id, attempt = arrival.attempt, "handled");
    }

    async fn fail(&self, delivered: &Delivered, carries: Carries, failed: Failed<'_>, span: &Span) -> Settled {
        let Failed { stage: line, failure, took } = failed;
        let Self { stage, arrival, event, .. } = self;
        line.metrics().failed(&failure.class);
        let settlement = settle(Err(failure), &event.id, &event.event_type, arrival.attempt, line.policy());
        let (outcome, settled) = match settlement {
            Settlement::Forward(_) => unreachable!("a failure is never forwarded"),
            Settlement::RetryAfter(wait, failure) => {
                span::settled(span, Outcome::Retried, Some(&failure));
                self.report(delivered, line, &failure, "retry", Some(wait)).await;
                line.metrics().retry_queued();
                let settled = if wait > limits::PARK_AFTER {
                    self.park(delivered, arrival.attempt, wait).await
                } else {
                    Settled::Nak(wait)
                };
                (Outcome::Retried, settled)
            }
            Settlement::DeferFor(wait, failure) => {
                span::settled(span, Outcome::Deferred, Some(&failure));
                self.report(delivered, line, &failure, "defer", Some(wait)).await;
                line.metrics().deferred();
                // A nak would count as an attempt with the server; a parked event does not.
                (Outcome::Deferred, self.park(delivered, arrival.attempt - 1, wait).await)
            }
            Settlement::DeadLetter(reason, failure) => {
                span::settled(span, Outcome::DeadLettered, Some(&failure));
                self.report(delivered, line, &failure, reason.as_str(), None).await;
                let settled = bury(stage, arrival, delivered, Some(event), carries, reason, &failure, line).await;
                (Outcome::DeadLettered, settled)
            }
        };
        line.metrics().handled(&event.event_type, outcome, took);
        settled
    }

    async fn report(
        &self,
        delivered: &Delivered,
        line: &Line,
        failure: &Failure,
        outcome: &str,
        wait: Option<Duration>,
    ) {
        let report = Report {
            stage: line.name(),
            failure,
            outcome,
            wait,
            delivery_id: &delivery_id(delivered),
            attempt: self.arrival.attempt,
            origin: &self.arrival.origin,
            event: Some(self.event),
            traceparent: self.delivery.traceparent.as_deref(),
        };
        report::publish(self.stage, &report).await;
    }

    async fn park(&self, delivered: &Delivered, attempts_spent: u32, wait: Duration) -> Settled {
        let origin = &self.arrival.origin;
        let parked = park(self.stage, delivered, self.event, origin, attempts_spent, wait);
        match parked.await {
            Ok(()) => Settled::Ack,
            // It fitted once and does not with our headers: let it wait in the consumer instead.
            Err(_) => Settled::Nak(wait),
        }
    }
}

/// Reports an event that never reached its handler, and writes its dead letter.
async fn give_up(
    stage: &Stage,
    arrival: &Arrival,
    delivered: &Delivered,
    event: Option<&Event>,
    carries: Carries,
    reason: Reason,
    failure: &Failure,
) -> Settled {
    stage.metrics.failed(&failure.class);
    let traceparent = arrival.trace.as_ref().map(ToString::to_string);
    let report = Report {
        stage: stage.line.name(),
        failure,
        outcome: reason.as_str(),
        wait: None,
        delivery_id: &delivery_id(delivered),
        attempt: arrival.attempt,
        origin: &arrival.origin,
        event,
        traceparent: traceparent.as_deref(),
    };
    report::publish(stage, &report).await;
    let event_type = event.map_or("", |event| event.event_type.as_str());
    stage.metrics.handled(event_type, Outcome::DeadLettered, Duration::ZERO);
    bury(stage, arrival, delivered, event, carries, reason, failure, &stage.line).await
}

/// Writes the dead letter; only then may the delivery be terminated.
#[expect(clippy::too_many_arguments, reason = "what a letter says comes from as many places")]
async fn bury(
    stage: &Stage,
    arrival: &Arrival,
    delivered: &Delivered,
    event: Option<&Event>,
    carries: Carries,
    reason: Reason,
    failure: &Failure,
    failed_in: &Line,
) -> Settled {
    let now = SystemTime::now();
    let attempts = arrival.attempt.min(stage.line.policy().attempts_max());
    let waited = event.map_or(Duration::ZERO, |event| {
        let terms = failed_in.policy().terms(&event.event_type, &failure.class);
        (1..attempts).map(|attempt| terms.backoff.after(attempt, &event.id)).sum()
    });
    let traceparent = arrival.trace.map(|context| context.to_string());
    let identity = match (event, carries) {
        (Some(event), _) => Identity::Event(Cow::Borrowed(event)),
        (None, Carries::Envelope(envelope)) => Identity::Unread(envelope),
        (None, Carries::Headers) => Identity::Unread(
            delivered.header(headers::ENVELOPE).and_then(millstream_stages::Envelope::named).unwrap_or_default(),
        ),
    };
    let letter = Letter {
        stage: stage.line.name(),
        reason,
        failure,
        attempts,
        first_failed_at: now.checked_sub(waited).unwrap_or(now),
        dead_at: now,
        origin: &arrival.origin,
        identity,
        traceparent: traceparent.as_deref(),
        config: &stage.config,
        body: delivered.body().clone(),
    };
    let written = until_stored(stage.line.name(), || letter.publish(&stage.broker, &stage.names)).await;
    match written {
        Ok(first) => {
            if first {
                stage.metrics.dead_lettered(reason);
            }
            let event_id = event.map(|event| header(&event.id).to_string());
            tracing::info!(
                stage = stage.line.name(), event_id, source = %arrival.origin.source, reason = reason.as_str(),
                class = %header(&failure.class), error = %header(&failure.message), "dead letter"
            );
            Settled::Term(reason)
        }
        Err(error) => {
            // Not even its headers fit: it stays where it is, and the operator is told.
            tracing::error!(stage = stage.line.name(), error = %error, "could not write a dead letter; the event stays in its stream");
            Settled::Nak(limits::REBIND_WAIT_MAX)
        }
    }
}

/// Which handing-over it is: `<stream>:<seq>:<deliveries>`.
fn delivery_id(delivered: &Delivered) -> String {
    format!("{}:{}:{}", delivered.stream, delivered.seq, delivered.deliveries)
}

/// Publishes until it is stored. A broker that is down or full holds the event back; it never loses it.
///
/// # Errors
/// Only what trying again cannot change: the message is too large.
pub(super) async fn until_stored<T, F>(stage: &str, publish: impl Fn() -> F) -> Result<T, PublishError>
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

//! Give up: dead letter of an event, written before its delivery may be terminated.

use std::borrow::Cow;

use millstream_stages::{Event, Failure, headers, settle::Reason};

use super::{
    decode::Arrival,
    line::Line,
    prior_delivery::delivery_id,
    stage::{Carries, MapStage},
    stored::{Settled, report, until_stored},
};
use crate::{
    broker::{Delivered, header},
    dead_letter::{Letter, letter::Identity},
    limits,
    observe::Outcome,
    wire::attempt_record::{AttemptReport, Spent, Who},
};

/// Event that is given up on.
pub(super) struct GivenUp<'a> {
    pub(super) stage: &'a MapStage,
    /// Stage of the line that failed.
    pub(super) failed_in: &'a Line,
    pub(super) delivered: &'a Delivered,
    pub(super) carries: Carries,
    pub(super) arrival: &'a Arrival,
    /// Event, if its payload could be read.
    pub(super) event: Option<&'a Event>,
    /// Attempts spent, the last included.
    pub(super) spent: Spent,
    pub(super) reason: Reason,
    pub(super) failure: &'a Failure,
}

impl GivenUp<'_> {
    /// Reports an event that never reached its handler, and writes its dead letter.
    pub(super) async fn unhandled(&self) -> Settled {
        let Self { stage, arrival, event, failure, .. } = self;
        stage.metrics.failed(&failure.class);
        let traceparent = arrival.trace.as_ref().map(ToString::to_string);
        let reported = AttemptReport {
            stage: stage.line.name(),
            failure,
            outcome: self.reason.as_str(),
            wait: None,
            delivery_id: &delivery_id(self.delivered),
            attempt: self.spent.attempts,
            spent: self.spent,
            origin: &arrival.origin,
            who: event.map_or(Who::default(), Who::from),
            traceparent: traceparent.as_deref(),
        };
        report(stage, &reported).await;
        let event_type = event.map_or("", |event| event.event_type.as_str());
        stage.metrics.handled(event_type, Outcome::DeadLettered, None);
        self.bury().await
    }

    /// Writes the dead letter.
    pub(super) async fn bury(&self) -> Settled {
        let Self { stage, arrival, delivered, event, reason, failure, .. } = self;
        let now = stage.broker.now();
        let traceparent = arrival.trace.map(|context| context.to_string());
        let identity = match (event, self.carries) {
            (Some(event), _) => Identity::Event(Cow::Borrowed(*event)),
            (None, Carries::Envelope(envelope)) => Identity::Unread(envelope),
            (None, Carries::Headers) => Identity::Unread(
                delivered
                    .header(headers::ENVELOPE)
                    .and_then(millstream_stages::Envelope::named)
                    .unwrap_or_default(),
            ),
        };
        let letter = Letter {
            stage: stage.line.name(),
            reason: *reason,
            failure,
            attempts: self.spent.attempts,
            first_failed_at: self.spent.first_failed_at.unwrap_or(now),
            dead_at: now,
            origin: &arrival.origin,
            identity,
            traceparent: traceparent.as_deref(),
            config: &stage.config,
            body: delivered.body().clone(),
            malformed: delivered.malformed(),
        };
        let written =
            until_stored(stage.line.name(), || letter.publish(&stage.broker, &stage.names)).await;
        match written {
            Ok(first) => {
                if first {
                    stage.metrics.dead_lettered(*reason);
                }
                let event_id = event.map(|event| header(&event.id).to_string());
                let failed_in =
                    Some(self.failed_in.name()).filter(|name| *name != stage.line.name());
                tracing::info!(
                    stage = stage.line.name(),
                    failed_in,
                    event_id,
                    source = %arrival.origin.source,
                    reason = reason.as_str(),
                    class = %header(&failure.class),
                    error = %header(&failure.message),
                    "dead letter"
                );
                Settled::Term(*reason)
            }
            Err(error) => {
                // Not even its headers fit: it stays where it is, and an operator must act.
                tracing::error!(
                    stage = stage.line.name(),
                    error = %error,
                    "could not write a dead letter; the event stays in its stream"
                );
                Settled::Nak(limits::REBIND_WAIT_MAX)
            }
        }
    }
}

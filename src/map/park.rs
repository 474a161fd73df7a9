//! Park: an event put into the retry stream: for later, for now, or to run in quarantine.
//!
//! A nak with a long wait would occupy `max_ack_pending`, and every nak counts as a delivery. What
//! is in the retry stream does neither. For later, the server publishes it to
//! `<pipeline>.retry.<stage>` when its time has come.
//!
//! Source: NATS ADR-51, server 2.12 or newer; the headers `Nats-Schedule` and
//! `Nats-Schedule-Target`.

use std::time::Duration;

use millstream_stages::{Event, headers};

use super::{prior_delivery::delivery_id, stage::MapStage, stored::until_stored};
use crate::{
    broker::{Delivered, Expects, Headers, Outgoing, PublishError, header, set},
    wire::{Origin, attempt_record::Spent, rfc3339, write_identity},
};

/// Event to put into the retry stream, and the attempts that it has behind it.
pub(super) struct Parking<'a> {
    pub(super) stage: &'a MapStage,
    pub(super) delivered: &'a Delivered,
    pub(super) event: &'a Event,
    pub(super) origin: &'a Origin,
    pub(super) spent: Spent,
}

impl Parking<'_> {
    /// Stores the event to come back after `wait`.
    ///
    /// The schedule's subject names the life, so parking it twice replaces the first: one event
    /// comes back.
    ///
    /// # Errors
    /// The event does not fit together with its headers.
    pub(super) async fn for_later(&self, wait: Duration) -> Result<(), PublishError> {
        let (stage, life) = (self.stage, &self.origin.life);
        let mut all = self.headers();
        all.insert("Nats-Schedule", format!("@at {}", rfc3339(stage.broker.now() + wait)));
        all.insert("Nats-Schedule-Target", stage.names.retry_subject(stage.line.name()));
        self.store(stage.names.parked_subject(stage.line.name(), life), all).await?;
        stage.metrics.parked();
        Ok(())
    }

    /// Stores the event to come back as soon as the stage pulls.
    ///
    /// # Errors
    /// As [`Parking::for_later`].
    pub(super) async fn for_now(&self) -> Result<(), PublishError> {
        let mut all = self.headers();
        set(&mut all, headers::MSG_ID, format!("release:{}", delivery_id(self.delivered)).as_str());
        self.store(self.stage.names.retry_subject(self.stage.line.name()), all).await
    }

    /// Stores the event to run in quarantine.
    ///
    /// # Errors
    /// As [`Parking::for_later`].
    pub(super) async fn quarantine(&self) -> Result<(), PublishError> {
        let mut all = self.headers();
        set(&mut all, headers::MSG_ID, format!("alone:{}", delivery_id(self.delivered)).as_str());
        self.store(self.stage.names.quarantine_subject(self.stage.line.name()), all).await
    }

    fn headers(&self) -> Headers {
        let mut all = Headers::new();
        write_identity(self.event, &mut all);
        self.origin.write_source(&mut all);
        all.insert(headers::LIFE, self.origin.life.to_string());
        set(&mut all, headers::ATTEMPTS, u64::from(self.spent.attempts));
        if let Some(at) = self.spent.first_failed_at {
            all.insert(headers::FIRST_FAILED_AT, rfc3339(at));
        }
        all.insert(
            headers::QUEUED_AT,
            rfc3339(self.origin.queued_at.unwrap_or_else(|| self.stage.broker.now())),
        );
        if let Some(traceparent) = self.delivered.header(headers::TRACEPARENT) {
            all.insert(headers::TRACEPARENT, header(traceparent));
        }
        all
    }

    async fn store(&self, subject: String, headers: Headers) -> Result<(), PublishError> {
        let outgoing = Outgoing {
            subject,
            headers,
            body: self.delivered.body().clone(),
            expects: Expects::Anything,
        };
        until_stored(self.stage.line.name(), || self.stage.broker.publish(outgoing.clone()))
            .await?;
        Ok(())
    }
}

//! Park: takes an event out of the consumer until a later time, by a message schedule.
//!
//! A nak with a long wait would occupy `max_ack_pending`, and every nak counts as a delivery. A parked event
//! does neither: the server publishes it to `<pipeline>.retry.<stage>` when its time has come.
//!
//! Source: NATS ADR-51, server 2.12 or newer; the headers `Nats-Schedule` and `Nats-Schedule-Target`.

use std::time::{Duration, SystemTime};

use millstream_stages::{Event, headers};

use super::{Stage, delivery::until_stored};
use crate::{
    broker::{Delivered, Headers, Outgoing, PublishError},
    dead_letter::{
        Origin,
        letter::{rfc3339, write_identity},
    },
};

/// Stores the event to come back after `wait`, `attempts_spent` attempts into its life.
///
/// The schedule's subject names the life, so parking it twice replaces the first: one event comes back.
///
/// # Errors
/// The event does not fit together with its headers.
pub(super) async fn park(
    stage: &Stage,
    delivered: &Delivered,
    event: &Event,
    origin: &Origin,
    attempts_spent: u32,
    wait: Duration,
) -> Result<(), PublishError> {
    let name = stage.line.name();
    let mut all = Headers::new();
    write_identity(event, &mut all);
    origin.write_source(&mut all);
    all.insert(headers::LIFE, origin.life.to_string());
    all.insert(headers::ATTEMPTS, attempts_spent.to_string());
    if let Some(traceparent) = delivered.header(headers::TRACEPARENT) {
        all.insert(headers::TRACEPARENT, crate::broker::header(traceparent));
    }
    all.insert("Nats-Schedule", format!("@at {}", rfc3339(SystemTime::now() + wait)));
    all.insert("Nats-Schedule-Target", stage.names.retry_subject(name));
    let subject = stage.names.parked_subject(name, &origin.life.stream, origin.life.seq);
    let outgoing = Outgoing { subject, headers: all, body: delivered.body().clone(), first_on_subject: false };
    until_stored(name, || stage.broker.publish(outgoing.clone())).await?;
    stage.metrics.parked();
    Ok(())
}

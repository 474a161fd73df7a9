//! Router: dead letters of what the server gave up on, as no worker settled its last delivery.
//!
//! The router works from the server's `MAX_DELIVERIES` advisories, captured in a stream. They are
//! hints: they may be missing, repeated, or come after the event was settled late. So it looks at
//! the stored message first, and the letter's subject lets only one writer through.

use std::time::SystemTime;

use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::bury::{Burial, BuryError, Why};
use crate::{
    broker::{AdminError, Delivered},
    error_chain::{causes_of, chain},
    limits,
    wire::Names,
};

/// Notice of the server that it will not deliver a message again.
///
/// Source: `io.nats.jetstream.advisory.v1.max_deliver`, nats-server 2.15.1.
#[derive(Debug, Deserialize)]
struct Advisory {
    stream: String,
    consumer: String,
    stream_seq: u64,
    deliveries: u64,
}

/// The dead-letter router. Every worker runs one; they share a consumer.
#[derive(Debug)]
pub struct Router(pub Burial);

impl Router {
    /// Routes advisories until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let names = self.0.pipeline.names();
        let (stream, consumer) = (names.advisories_stream(), names.router_consumer());
        while !stop.is_cancelled() {
            let mut pull = match self.0.broker.pull(&stream, &consumer, limits::ROUTER_BATCH).await
            {
                Ok(pull) => pull,
                Err(error) => {
                    // That it is not there, or does not answer, is a condition of the fleet.
                    let error = chain(&error);
                    tracing::debug!(stream, consumer, error, "the router waits for its consumer");
                    tokio::select! {
                        () = tokio::time::sleep(limits::REBIND_WAIT_MAX) => continue,
                        () = stop.cancelled() => return,
                    }
                }
            };
            loop {
                let next = tokio::select! {
                    next = pull.next() => next,
                    () = stop.cancelled() => return,
                };
                match next {
                    Some(Ok(delivered)) => self.settle(&names, delivered).await,
                    Some(Err(_)) => {}
                    None => break,
                }
            }
        }
    }

    async fn settle(&self, names: &Names, delivered: Delivered) {
        let Ok(advisory) = serde_json::from_slice::<Advisory>(delivered.body()) else {
            tracing::warn!(subject = delivered.subject(), "an advisory could not be read");
            return delivered.term("not an advisory").await;
        };
        match self.route(names, &advisory, delivered.stored_at).await {
            Ok(()) => delivered.ack().await,
            Err(error) => {
                let cause = causes_of(&error);
                tracing::warn!(
                    stream = advisory.stream,
                    stream_seq = advisory.stream_seq,
                    error = %error,
                    cause,
                    "could not route an advisory; trying again"
                );
                delivered.nak(limits::REBIND_WAIT_MAX).await;
            }
        }
    }

    /// Deals with a notice that the server stored at `at`.
    async fn route(
        &self,
        names: &Names,
        advisory: &Advisory,
        at: SystemTime,
    ) -> Result<(), BuryError> {
        match names.stage_of_consumer(&advisory.consumer) {
            Some(stage) => {
                let Advisory { stream, consumer, stream_seq, deliveries } = advisory;
                let there = self.0.broker.message(stream, *stream_seq).await?;
                if there.is_some_and(|message| message.stored_at > at) {
                    tracing::info!(
                        stage,
                        stream,
                        stream_seq,
                        "passing over a notice about a stream that was made anew since"
                    );
                    return Ok(());
                }
                self.give_up(stage, stream, consumer, *stream_seq, *deliveries).await
            }
            None => Ok(()),
        }
    }

    /// Writes the letter of a message that the server will not deliver to `consumer` again, and
    /// settles it.
    ///
    /// # Errors
    /// [`BuryError`]; the message is where it was.
    pub async fn give_up(
        &self,
        stage: &str,
        stream: &str,
        consumer: &str,
        seq: u64,
        deliveries: u64,
    ) -> Result<(), BuryError> {
        let state = match self.0.broker.consumer_state(stream, consumer).await {
            Ok(state) => Some(state),
            // The stage is on its way out, or in again: the event is still an event given up on.
            Err(AdminError::NoConsumer { .. }) => None,
            Err(AdminError::NoStream { .. }) => {
                tracing::info!(
                    stage,
                    stream,
                    stream_seq = seq,
                    "passing over a notice about a stream that is gone"
                );
                return Ok(());
            }
            Err(error @ (AdminError::Read { .. } | AdminError::Change { .. })) => {
                return Err(error.into());
            }
        };
        // A late settlement may have removed it: then it is done, and there is nothing to give up
        // on.
        let Some(message) = self.0.broker.message(stream, seq).await? else { return Ok(()) };
        if state.as_ref().is_some_and(|state| state.delivered < seq || state.num_redelivered == 0) {
            // The new one delivers everything again from the start.
            tracing::info!(
                stage,
                stream,
                stream_seq = seq,
                "passing over a notice about a consumer that was made anew since"
            );
            return Ok(());
        }
        self.0.bury(stage, stream, &message, Why::Deliveries(deliveries)).await?;
        if state.is_none() {
            return Ok(());
        }
        // On an interest or work-queue stream the message would stay for ever; on any, it counts as
        // given up on.
        self.0.broker.settle_for(stream, consumer, seq).await?;
        Ok(())
    }
}

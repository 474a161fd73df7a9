//! Router: dead-letters what the server gave up on because no worker settled its last delivery.
//!
//! It works from the server's `MAX_DELIVERIES` advisories, captured in a stream. They are hints: they may be
//! missing, repeated, or come after the event was settled late. So it looks at the stored message first, and
//! the letter's subject lets only one writer through.

use std::{sync::Arc, time::SystemTime};

use millstream_stages::{Failure, failure::class, headers, settle::Reason};
use serde::Deserialize;
use tokio_util::sync::CancellationToken;

use super::{Letter, letter::Identity};
use crate::{
    broker::{AdminError, Broker, Delivered, PublishError},
    config::Pipeline,
    limits,
    observe::metrics::Metrics,
    topology::Names,
};

/// The server's notice that it will not deliver a message again.
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
pub struct Router {
    /// The connection.
    pub broker: Broker,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

#[derive(Debug, thiserror::Error)]
enum RouteError {
    #[error("could not read or settle the message")]
    Admin(#[from] AdminError),
    #[error("could not write the dead letter")]
    Publish(#[from] PublishError),
}

impl Router {
    /// Routes advisories until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let names = self.pipeline.names();
        let (stream, consumer) = (names.advisories_stream(), names.router_consumer());
        while !stop.is_cancelled() {
            let mut pull = match self.broker.pull(&stream, &consumer, limits::ROUTER_BATCH).await {
                Ok(pull) => pull,
                Err(error) => {
                    tracing::warn!(stream, consumer, error = %error, "the dead-letter router waits for its consumer");
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
        match self.route(names, &advisory).await {
            Ok(()) => delivered.ack().await,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(stream = advisory.stream, stream_seq = advisory.stream_seq, error = %error, cause, "could not route an advisory; trying again");
                delivered.nak(limits::REBIND_WAIT_MAX).await;
            }
        }
    }

    async fn route(&self, names: &Names, advisory: &Advisory) -> Result<(), RouteError> {
        let Some(stage) = names.stage_of_consumer(&advisory.consumer) else { return Ok(()) };
        // A late settlement may have removed it: then it is done, and there is nothing to give up on.
        let Some(message) = self.broker.message(&advisory.stream, advisory.stream_seq).await? else { return Ok(()) };

        let (origin, identity) = Identity::stored(&self.pipeline, &advisory.stream, &message);
        let declared = self.pipeline.stage(stage);
        let attempts = declared
            .map_or(u32::try_from(advisory.deliveries).unwrap_or(u32::MAX), |stage| stage.policy.attempts_max());
        let failure = Failure::reject(class::CRASHED, format!("{} deliveries and no settlement", advisory.deliveries));
        let now = SystemTime::now();
        let letter = Letter {
            stage,
            reason: Reason::Crashed,
            failure: &failure,
            attempts,
            first_failed_at: now,
            dead_at: now,
            origin: &origin,
            identity,
            traceparent: message.headers.get(headers::TRACEPARENT).map(|value| value.as_str()),
            config: &self.pipeline.config_hash,
            body: message.body.clone(),
        };
        if letter.publish(&self.broker, names).await? {
            self.metrics.stage(stage).dead_lettered(Reason::Crashed);
            tracing::info!(stage, source = %origin.source, reason = "crashed", "dead letter, written by the router");
        }
        // On an interest or work-queue stream the message would stay for ever.
        self.broker.settle_for(&advisory.stream, &advisory.consumer, advisory.stream_seq).await?;
        Ok(())
    }
}

//! Pull: deliveries from a durable consumer, as many at a time as there is room for.

use std::{sync::Arc, time::Duration};

use async_nats::jetstream::{ErrorCode, consumer::PullConsumer, stream::ConsumerErrorKind};

use super::{
    Broker, Delivered,
    connection::Connection,
    demand::{Came, Demand},
};
use crate::limits;

/// Deliveries from one durable consumer. Ends when the consumer is gone: open it again.
///
/// Whoever pulls says how much it has room for, so that all that was asked for can be taken in at
/// once and kept alive while it waits, and can be waited for when the pulling ends.
pub struct Pull {
    connection: Connection,
    stream: Arc<str>,
    demand: Demand,
    ack_wait: Duration,
    pending_max: u64,
    gone: bool,
}

/// Failed wait for a delivery.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Consumer that is gone, or whose stream is, or that is not there yet.
    #[error("consumer \"{consumer}\" on stream \"{stream}\" is gone")]
    Gone {
        /// Name of the stream.
        stream: String,
        /// Name of the consumer.
        consumer: String,
    },
    /// Consumer that could not be opened: no server, or another answer.
    #[error("could not open consumer \"{consumer}\" on stream \"{stream}\"")]
    Open {
        /// Name of the stream.
        stream: String,
        /// Name of the consumer.
        consumer: String,
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Trouble that passes: the next delivery may come all the same.
    #[error("waiting for the broker")]
    Passing {
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Broker {
    /// Opens a durable consumer, to pull as many as `batch` messages ahead.
    ///
    /// # Errors
    /// [`PullError::Gone`] if there is no such consumer, [`PullError::Open`] for anything else.
    pub async fn pull(
        &self,
        stream: &str,
        consumer: &str,
        batch: usize,
    ) -> Result<Pull, PullError> {
        let opened: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(consumer, stream).await;
        let opened: PullConsumer = opened.map_err(|error| {
            let (stream, consumer) = (stream.to_owned(), consumer.to_owned());
            let missing = [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND];
            match error.kind() {
                ConsumerErrorKind::JetStream(error) if missing.contains(&error.error_code()) => {
                    PullError::Gone { stream, consumer }
                }
                ConsumerErrorKind::JetStream(_)
                | ConsumerErrorKind::TimedOut
                | ConsumerErrorKind::Request
                | ConsumerErrorKind::InvalidConsumerType
                | ConsumerErrorKind::InvalidName
                | ConsumerErrorKind::Other => {
                    PullError::Open { stream, consumer, source: error.into() }
                }
            }
        })?;
        let info = opened.cached_info();
        let room = batch.clamp(1, limits::PREFETCH_MAX);
        Ok(Pull {
            connection: self.connection.clone(),
            stream: stream.into(),
            demand: Demand::new(self, stream, &info.name, room),
            ack_wait: info.config.ack_wait,
            // Below one: no limit.
            pending_max: u64::try_from(info.config.max_ack_pending)
                .ok()
                .filter(|most| *most > 0)
                .unwrap_or(u64::MAX),
            gone: false,
        })
    }
}

impl Pull {
    /// Sets how many messages there is room for, those that are due included.
    pub fn make_room(&mut self, room: usize) {
        self.demand.make_room(room.min(limits::PREFETCH_MAX));
    }

    /// `max_ack_pending` of the consumer.
    pub fn pending_max(&self) -> u64 {
        self.pending_max
    }

    /// Room from which on it is worth looking again.
    pub fn worth(&self) -> usize {
        self.demand.worth()
    }

    /// Next delivery; `None` once the consumer is gone. Asks for more where there is room. Nothing
    /// is lost when the future is dropped.
    ///
    /// # Errors
    /// [`PullError::Passing`]: the next delivery may come all the same.
    pub async fn next(&mut self) -> Option<Result<Delivered, PullError>> {
        while !self.gone {
            let came = self.demand.next().await;
            if let Some(next) = self.take(came) {
                return Some(next);
            }
        }
        None
    }

    /// Next delivery of those asked for, without asking for more; `None` once all have come, or
    /// none has for [`limits::DRAIN_QUIET`]. What comes after the pull was dropped is lost to
    /// everyone until its ack wait is over.
    pub async fn last(&mut self) -> Option<Delivered> {
        while let Some(came) = self.demand.last(limits::DRAIN_QUIET).await {
            if let Some(Ok(delivered)) = self.take(came) {
                return Some(delivered);
            }
        }
        None
    }

    fn take(&mut self, came: Came) -> Option<Result<Delivered, PullError>> {
        match came {
            Came::Message(frame, held) => {
                let delivered =
                    Delivered::new(&self.stream, &self.connection, self.ack_wait, &frame, held);
                Some(delivered.ok_or_else(|| PullError::Passing {
                    source: "a delivery has a reply subject that cannot be read".into(),
                }))
            }
            Came::Trouble(why) => Some(Err(PullError::Passing { source: why.into() })),
            Came::Gone => {
                self.gone = true;
                None
            }
            Came::Beat(_) | Came::Quiet => None,
        }
    }
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").finish_non_exhaustive()
    }
}

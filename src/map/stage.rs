//! MapStage: a map stage at work, and the consumers that it pulls from.

use std::{sync::Arc, time::Duration};

use millstream_stages::Envelope;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{in_flight::InFlight, line::Line, turn::Turn};
use crate::{
    broker::Broker,
    observe::{Readiness, StageMetrics},
    topology::{Feed, FeedInput},
    wire::Names,
};

/// One durable consumer that a stage pulls from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConsumer {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// How its messages say what they are.
    pub carries: Carries,
}

impl From<Feed> for StageConsumer {
    fn from(feed: Feed) -> Self {
        let carries = match feed.input {
            FeedInput::Source(envelope) => Carries::Envelope(envelope),
            FeedInput::Edge
            | FeedInput::Failed
            | FeedInput::Retry
            | FeedInput::Quarantine
            | FeedInput::Said => Carries::Headers,
        };
        Self { stream: feed.stream, consumer: feed.consumer, carries }
    }
}

impl StageConsumer {
    /// The name under which the worker says whether it is ready for this feed.
    pub fn condition(&self) -> String {
        format!("consumer {} on stream {}", self.consumer, self.stream)
    }
}

/// How the messages of a feed say what they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// By their envelope alone: anyone may have published them.
    Envelope(Envelope),
    /// By the headers that Millstream wrote.
    Headers,
}

/// A stage at work: what its deliveries share.
pub struct MapStage {
    /// The connection.
    pub broker: Broker,
    /// The names of the pipeline's objects.
    pub names: Names,
    /// The hash of the configuration, for dead letters.
    pub config: String,
    /// What is done with each event.
    pub line: Line,
    /// How long the server waits for a sign of life.
    pub ack_wait: Duration,
    /// Events in hand at once.
    pub concurrency: usize,
    /// How long an event may be in the retry stream.
    pub retry_max_age: Duration,
    /// What the worker has in hand over all of its stages.
    pub in_flight: Arc<InFlight>,
    /// Where the stage counts.
    pub metrics: Arc<StageMetrics>,
    /// Where it says whether it is ready.
    pub readiness: Arc<Readiness>,
}

impl MapStage {
    /// Turns of the deliveries of one run; `abandon` ends them all.
    pub(super) fn turn(&self, abandon: CancellationToken) -> Turn {
        Turn {
            slots: Arc::new(Semaphore::new(self.concurrency)),
            pace: self.line.pace(),
            closed: CancellationToken::new(),
            abandon,
        }
    }
}

//! Stage: a map stage at work, and the consumers that it pulls from.

use std::{sync::Arc, time::Duration};

use millstream_stages::Envelope;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use super::{
    in_flight::InFlight, line::Line, lives::Lives, pulse::Pulse, quarantine::Company, turn::Turn,
    waiting::Waiting,
};
use crate::{
    broker::Broker,
    observe::{Conditions, RollCall, StageMetrics},
    supervise::Supervisor,
    topology::{Feed, FeedInput},
    wire::Names,
};

/// Durable consumer that a stage pulls from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageConsumer {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// Carrier of the identity of its events.
    pub carries: Carries,
    /// Company that its events run in.
    pub isolation: Isolation,
}

/// Isolation: company that an event runs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Isolation {
    /// Any.
    Shared,
    /// Few other suspects, and fewer each time ([`Company`]).
    Quarantined,
}

impl From<Feed> for StageConsumer {
    fn from(feed: Feed) -> Self {
        let isolation = match feed.input {
            FeedInput::Quarantine => Isolation::Quarantined,
            FeedInput::Source(_)
            | FeedInput::Edge
            | FeedInput::Failed
            | FeedInput::Retry
            | FeedInput::Operator => Isolation::Shared,
        };
        let carries = match feed.input {
            FeedInput::Source(envelope) => Carries::Envelope(envelope),
            FeedInput::Edge
            | FeedInput::Failed
            | FeedInput::Retry
            | FeedInput::Quarantine
            | FeedInput::Operator => Carries::Headers,
        };
        Self { stream: feed.stream, consumer: feed.consumer, carries, isolation }
    }
}

impl StageConsumer {
    /// Name of this feed's condition.
    pub fn condition(&self) -> String {
        format!("consumer {} on stream {}", self.consumer, self.stream)
    }
}

/// Carrier of the identity of the events of a feed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Carries {
    /// Envelope only: anyone may have published them.
    Envelope(Envelope),
    /// Headers, which Millstream wrote.
    Headers,
}

/// Stage at work: what its deliveries share.
pub struct MapStage {
    /// The connection.
    pub broker: Broker,
    /// Names of the pipeline's objects.
    pub names: Names,
    /// Hash of the configuration, for dead letters.
    pub config: String,
    /// Line that each event runs through.
    pub line: Line,
    /// Ack wait: time the server gives a delivery before it hands it out again.
    pub ack_wait: Duration,
    /// Limit of the events in flight at once.
    pub concurrency: usize,
    /// Slots: one permit per event in flight, in quarantine or not.
    pub slots: Arc<Semaphore>,
    /// Limit of the time that an event is in the retry stream.
    pub retry_max_age: Duration,
    /// Deliveries in flight: of the stage, or of all stages of the worker with one attempt only.
    pub in_flight: Arc<InFlight>,
    /// Suspects that run in the worker.
    pub company: Arc<Company>,
    /// Lives of events that the worker has in hand at this stage.
    pub lives: Lives,
    /// Events that wait in the stage's consumers.
    pub waiting: Waiting,
    /// Who else is in the fleet, and when each was heard of.
    pub roll_call: Arc<RollCall>,
    /// Time at which the worker last ran.
    pub pulse: Arc<Pulse>,
    /// Counters of the stage.
    pub metrics: Arc<StageMetrics>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
    /// Supervisor of the worker's tasks.
    pub supervisor: Supervisor,
}

impl MapStage {
    /// Name of the condition of its task and of its deliveries.
    pub fn condition(&self) -> String {
        format!("stage {}", self.line.name())
    }

    /// Turn of the deliveries of one run; `abandon` ends them all.
    pub(super) fn turn(&self, abandon: CancellationToken) -> Turn {
        Turn {
            slots: Arc::clone(&self.slots),
            pace: self.line.pace(),
            closed: CancellationToken::new(),
            abandon,
            entry: None,
        }
    }
}

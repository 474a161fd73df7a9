//! Map: the map worker. Pulls, decodes, applies, publishes, settles. Touches the broker and nothing
//! else of the world.
//!
//! - [`mod@line`]: a stage and those chained to it, as one function from an event to what is to be
//!   published
//! - [`decode`]: what a delivery says of its event
//! - `feed`: pulls from one consumer, and opens it again when it is gone
//! - `delivery`: the life of one delivery, to its one settlement
//! - `past`: what became of the delivery before this one
//! - `attempt`: one run of an event through its line
//! - `give_up`: the dead letter of an event
//! - `park`: puts an event into the retry stream
//! - [`breaker`]: whether what a handler depends on counts as down
//! - [`hands`]: what the worker has in hand over all of its stages
//! - [`alone`]: runs what may kill its worker with nothing else in hand
//! - `sole`: stages that one worker of the fleet runs at a time

pub mod alone;
mod attempt;
pub mod breaker;
pub mod decode;
mod delivery;
mod feed;
mod give_up;
pub mod hands;
pub mod line;
mod park;
mod past;
mod sole;

use std::{sync::Arc, time::Duration};

use millstream_stages::Envelope;
use tokio::sync::Semaphore;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    broker::Broker,
    observe::{Readiness, StageMetrics},
    topology::{self, FeedInput, Names},
};

pub use alone::Loner;
pub use breaker::Breakers;
pub use hands::Hands;
pub use line::Line;
pub use sole::Sole;

use delivery::Turn;
use feed::Feeding;

/// One durable consumer that a stage pulls from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// How its messages say what they are.
    pub carries: Carries,
}

impl From<topology::Feed> for Feed {
    fn from(feed: topology::Feed) -> Self {
        let carries = match feed.input {
            FeedInput::Source(envelope) => Carries::Envelope(envelope),
            FeedInput::Edge
            | FeedInput::Failed
            | FeedInput::Retry
            | FeedInput::Alone
            | FeedInput::Said => Carries::Headers,
        };
        Self { stream: feed.stream, consumer: feed.consumer, carries }
    }
}

impl Feed {
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
pub struct Stage {
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
    pub hands: Arc<Hands>,
    /// Where the stage counts.
    pub metrics: Arc<StageMetrics>,
    /// Where it says whether it is ready.
    pub readiness: Arc<Readiness>,
}

impl Stage {
    /// Runs the stage on its feeds until `stop`, then drains: stops pulling, gives back what was
    /// pulled ahead, and finishes what is in hand.
    ///
    /// `abandon` ends the drain early: what is still in hand comes again later.
    pub async fn run(
        self: Arc<Self>,
        feeds: Vec<Feed>,
        stop: CancellationToken,
        abandon: CancellationToken,
    ) {
        let turn = self.turn(abandon.clone());
        let in_hand = TaskTracker::new();
        let feeding = feeds.into_iter().map(|feed| {
            Feeding::new(Arc::clone(&self), feed, turn.clone(), in_hand.clone(), stop.clone()).run()
        });
        futures_util::future::join_all(feeding).await;
        // Nothing is pulled any more, so what is given back does not come straight back to us.
        turn.closed.cancel();
        in_hand.close();
        tokio::select! {
            () = in_hand.wait() => {}
            () = abandon.cancelled() => {
                tracing::warn!(stage = self.line.name(), in_hand = in_hand.len(), "drain ended with events in hand; they come again");
            }
        }
    }

    fn turn(&self, abandon: CancellationToken) -> Turn {
        Turn {
            slots: Arc::new(Semaphore::new(self.concurrency)),
            pace: self.line.pace(),
            closed: CancellationToken::new(),
            abandon,
        }
    }
}

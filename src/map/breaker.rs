//! Breaker: whether a stage's handler counts as down, agreed over the fleet, and how fast the stage may pull.

use millstream_stages::Failure;
use tokio::sync::watch;

/// How fast a stage may pull.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Pace {
    /// Not at all: what it holds goes back unhandled.
    Stopped,
    /// One event at a time: what becomes of it tells whether the handler is up again.
    Probe,
    /// As fast as it can.
    Full,
}

/// The circuit breaker of one stage, as this worker knows it.
#[derive(Debug)]
pub struct Breaker {
    pace: watch::Sender<Pace>,
}

impl Breaker {
    /// One that never opens.
    pub fn none() -> Self {
        Self { pace: watch::Sender::new(Pace::Full) }
    }

    /// How fast the stage may pull, now and from now on.
    pub fn pace(&self) -> watch::Receiver<Pace> {
        self.pace.subscribe()
    }

    /// A call of the handler succeeded.
    pub fn succeeded(&self) {}

    /// A call of the handler failed. Whether the handler counts as down for it: then the event is deferred, and no attempt is
    /// spent.
    pub fn failed(&self, _event_id: &str, _failure: &Failure) -> bool {
        false
    }
}

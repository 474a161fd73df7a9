//! Feed: pulls of a stage from one consumer, which is opened again when it is gone.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    breaker::Pace,
    delivery,
    stage::{Isolation, MapStage, StageConsumer},
    turn::Turn,
};
use crate::{
    broker::{Delivered, Pull, PullError},
    error_chain::{causes_of, chain},
    limits,
    observe::Trouble,
};

/// Remedy of a consumer that is not there.
const CREATE: &str = "create it with `millstream apply`";

/// Feed at work.
pub(super) struct Feeding {
    pub(super) stage: Arc<MapStage>,
    pub(super) feed: Arc<StageConsumer>,
    pub(super) turn: Turn,
    pub(super) deliveries: TaskTracker,
    pub(super) stop: CancellationToken,
    /// Room for as many events as may be in flight or wait for their turn.
    room: Arc<Semaphore>,
    room_max: usize,
    /// Name of the stage's condition.
    name: Arc<str>,
}

/// Reason why a pull ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The consumer is gone, or does not answer.
    Gone,
    /// The worker stops, or the stage is to pull more slowly, or faster.
    Told,
}

impl Feeding {
    pub(super) fn new(
        stage: Arc<MapStage>,
        feed: StageConsumer,
        turn: Turn,
        deliveries: TaskTracker,
        stop: CancellationToken,
    ) -> Self {
        // As much again as is in flight waits for its turn, so that no worker waits for the
        // network.
        let room_max = match feed.isolation {
            Isolation::Shared => (2 * stage.concurrency).min(limits::PREFETCH_MAX),
            // A suspect that is delivered must run: it counts.
            Isolation::Quarantined => 1,
        };
        Self {
            name: stage.condition().into(),
            stage,
            feed: Arc::new(feed),
            turn,
            deliveries,
            stop,
            room: Arc::new(Semaphore::new(room_max)),
            room_max,
        }
    }

    /// Pulls and starts deliveries until the worker stops. All that came by then is in flight.
    pub(super) async fn run(self) {
        let (stage, feed) = (&self.stage, &self.feed);
        let condition = feed.condition();
        let (mut pace, mut quiet) = (self.turn.pace.clone(), stage.in_flight.quiet());
        let mut refusals = stage.broker.refusal_changes();
        let mut waits = waits();
        loop {
            tokio::select! {
                () = self.stop.cancelled() => return,
                Ok(_) = pace.wait_for(|pace| *pace != Pace::Stopped) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                Ok(_) = quiet.wait_for(|quiet| *quiet == 0) => {}
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = self.settling_granted(&mut refusals) => {}
            }
            // A suspect may wait for this pull to end.
            let Some(pulling) = stage.in_flight.try_hold() else { continue };
            let at = *pace.borrow_and_update();
            let most = match at {
                Pace::Stopped => continue,
                Pace::Probe => 1,
                Pace::Full => self.room_max,
            };
            match stage.broker.pull(&feed.stream, &feed.consumer, most).await {
                Ok(mut pull) => {
                    stage.conditions.ok(&condition);
                    stage.waiting.granted(pull.pending_max());
                    waits = self::waits();
                    let ended =
                        self.pull(&mut pull, most, &mut pace, &mut quiet, &mut refusals).await;
                    self.take_the_last(pull).await;
                    if ended == Ended::Told {
                        continue;
                    }
                    stage.conditions.failing(&condition, Trouble::new("it is gone"));
                    stage.metrics.rebound();
                }
                Err(error) => {
                    let why = chain(&error);
                    let trouble = match &error {
                        PullError::Gone { .. } => Trouble::with_remedy(why, CREATE),
                        PullError::Open { .. } | PullError::Passing { .. } => Trouble::new(why),
                    };
                    stage.conditions.failing(&condition, trouble);
                }
            }
            drop(pulling);
            let wait = waits.next().unwrap_or(limits::REBIND_WAIT_MAX);
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = self.stop.cancelled() => return,
            }
        }
    }

    /// Starts deliveries, at most `most` of them in flight, until the consumer is gone or the pull
    /// is to end.
    ///
    /// All that comes is taken in at once, and kept alive while it waits: an event that waits in a
    /// buffer for longer than the ack wait would be delivered a second time.
    async fn pull(
        &self,
        pull: &mut Pull,
        most: usize,
        pace: &mut watch::Receiver<Pace>,
        quiet: &mut watch::Receiver<usize>,
        refusals: &mut watch::Receiver<u64>,
    ) -> Ended {
        let mut missed = 0;
        let beyond = self.room_max - most;
        loop {
            pull.make_room(self.room.available_permits().saturating_sub(beyond));
            let worth = u32::try_from(pull.worth() + beyond).unwrap_or(u32::MAX);
            let next = tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ended::Told,
                _ = pace.changed() => return Ended::Told,
                Ok(()) = refusals.changed() => match self.is_settling_refused() {
                    true => return Ended::Told,
                    false => continue,
                },
                Ok(_) = quiet.wait_for(|quiet| *quiet > 0) => return Ended::Told,
                next = pull.next() => next,
                _ = self.room.acquire_many(worth) => continue,
            };
            match next {
                None => return Ended::Gone,
                Some(Ok(delivered)) => {
                    missed = 0;
                    self.take(delivered);
                }
                // One missed heartbeat follows every server restart. Several: the pull itself may
                // be lost.
                Some(Err(error)) => {
                    missed += 1;
                    let cause = causes_of(&error);
                    let (stage, stream) = (self.stage.line.name(), &self.feed.stream);
                    tracing::debug!(stage, stream, cause, "no sign of life from the broker");
                    if missed >= limits::HEARTBEATS_MISSED_MAX {
                        return Ended::Gone;
                    }
                }
            }
        }
    }

    /// True while what is done here could not be settled, and would come again and again.
    fn is_settling_refused(&self) -> bool {
        self.stage.broker.is_settling_refused(&self.feed.stream, &self.feed.consumer)
    }

    /// Resolves once what is pulled can be settled, as far as is known.
    async fn settling_granted(&self, refusals: &mut watch::Receiver<u64>) {
        refusals.mark_unchanged();
        while self.is_settling_refused() && refusals.changed().await.is_ok() {}
    }

    /// Takes in what is still on its way, so that it need not wait for the ack wait to be over.
    async fn take_the_last(&self, mut pull: Pull) {
        let until = Instant::now() + limits::DRAIN_PULL_MAX;
        while let Ok(Some(delivered)) = tokio::time::timeout_at(until, pull.last()).await {
            self.take(delivered);
        }
    }

    fn take(&self, delivered: Delivered) {
        // There is room for all that was asked for, but after a reconnect more may come than that.
        let mut place = Arc::clone(&self.room).try_acquire_owned().ok();
        let hold = self.stage.in_flight.hold();
        let (stage, feed) = (Arc::clone(&self.stage), Arc::clone(&self.feed));
        let name = Arc::clone(&self.name);
        let mut turn = self.turn.another();
        if feed.isolation == Isolation::Quarantined {
            turn.entry = Some(stage.company.entry(delivered.deliveries, place.take()));
        }
        self.deliveries.spawn(async move {
            // What panics outside of its handler is left to the server, which delivers it again.
            // Pinned where it is made: it is large, and each layer around it would move it.
            let live = std::pin::pin!(delivery::live(&stage, &feed, delivered, turn));
            stage.supervisor.caught(&name, live).await;
            drop((place, hold));
        });
    }
}

fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(limits::REBIND_WAIT_MAX)
        .without_max_times()
        .build()
}

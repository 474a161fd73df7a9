//! Alone: runs events that may kill their worker one at a time, with nothing else in hand.
//!
//! Such an event is one whose last delivery nobody knows the end of. It comes by a consumer of its
//! own with at most one in hand over the whole fleet, so that a killer takes nobody's attempts with
//! it but its own.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    delivery::{self, Isolation},
    in_flight::InFlight,
    stage::{MapStage, StageConsumer},
};
use crate::{
    broker::{ConsumerState, Delivered, Pull},
    limits,
};

/// The one task of a worker that runs events alone, whatever stage they are for.
pub struct Quarantine {
    in_flight: Arc<InFlight>,
    stages: Vec<Lane>,
}

/// What brings one stage its events that run alone.
struct Lane {
    stage: Arc<MapStage>,
    feed: StageConsumer,
    /// What the consumer last said, and since when it says so.
    seen: Option<(ConsumerState, Instant)>,
}

impl Quarantine {
    /// Runs what is set apart at these stages.
    pub fn new(in_flight: Arc<InFlight>, stages: Vec<(Arc<MapStage>, StageConsumer)>) -> Self {
        let stages = stages.into_iter().map(|(stage, feed)| Lane { stage, feed, seen: None });
        Self { in_flight, stages: stages.collect() }
    }

    /// Looks for events to run alone until `stop`.
    pub async fn run(mut self, stop: CancellationToken, abandon: CancellationToken) {
        let mut rest = limits::QUARANTINE_LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = limits::QUARANTINE_LOOK;
            for lane in &mut self.stages {
                if stop.is_cancelled() {
                    return;
                }
                if lane.is_waiting().await {
                    let began = Instant::now();
                    lane.shift(&self.in_flight, &stop, &abandon).await;
                    // The others get at least as much time as was taken from them.
                    rest = rest.max(began.elapsed());
                }
            }
        }
    }
}

impl Lane {
    /// Whether there is an event that nobody has in hand, as far as the server tells.
    async fn is_waiting(&mut self) -> bool {
        if self.stage.line.is_stopped() {
            return false;
        }
        // A consumer that is not there is the business of whoever looks at the stage's feeds.
        let state = self.stage.broker.consumer_state(&self.feed.stream, &self.feed.consumer).await;
        let Ok(mut state) = state else { return false };
        state.num_waiting = 0;
        if state.num_ack_pending == 0 {
            self.seen = None;
            return state.num_pending > 0;
        }
        // Another worker has one in hand, or had. One that lives settles it, or gives signs of life
        // that do not show here: so this looks again at long intervals only.
        let since = match &self.seen {
            Some((seen, since)) if *seen == state => *since,
            _ => Instant::now(),
        };
        let is_over = since.elapsed() > self.stage.ack_wait;
        self.seen = Some((state, if is_over { Instant::now() } else { since }));
        is_over
    }

    /// Runs what there is, for a while. Nothing else is in hand before the first is pulled: what
    /// only waited here would count as one that ran.
    async fn shift(
        &self,
        in_flight: &InFlight,
        stop: &CancellationToken,
        abandon: &CancellationToken,
    ) {
        let Self { stage, feed, .. } = self;
        let _alone = tokio::select! {
            alone = in_flight.alone() => alone,
            () = abandon.cancelled() => return,
        };
        let until = Instant::now() + limits::QUARANTINE_SHIFT;
        let Ok(mut pull) = stage.broker.pull(&feed.stream, &feed.consumer, 1).await else { return };
        while !stop.is_cancelled()
            && !stage.line.is_stopped()
            && let Some(delivered) = next(&mut pull, stop).await
        {
            let turn = stage.turn(abandon.clone());
            delivery::live(stage, feed.carries, delivered, turn, Isolation::Quarantined).await;
            if Instant::now() >= until {
                return;
            }
        }
    }
}

/// The next event, if there is one. What is on its way when nothing more is wanted would wait for
/// its ack wait, and count.
async fn next(pull: &mut Pull, stop: &CancellationToken) -> Option<Delivered> {
    let next = tokio::select! {
        next = pull.next() => next,
        () = tokio::time::sleep(limits::QUARANTINE_NEXT) => None,
        () = stop.cancelled() => None,
    };
    match next {
        Some(Ok(delivered)) => Some(delivered),
        Some(Err(_)) | None => pull.last().await,
    }
}

impl std::fmt::Debug for Quarantine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Quarantine").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}

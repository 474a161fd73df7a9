//! Alone: runs events that may kill their worker one at a time, with nothing else in hand.
//!
//! Such an event is one whose last delivery nobody knows the end of. It comes by a consumer of its own with at most one in
//! hand over the whole fleet, so that a killer takes nobody's attempts with it but its own.

use std::sync::Arc;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    Feed, Hands, Stage,
    delivery::{self, Company},
};
use crate::{
    broker::{Delivered, Pull},
    limits,
};

/// The one task of a worker that runs events alone, whatever stage they are for.
pub struct Loner {
    hands: Arc<Hands>,
    stages: Vec<(Arc<Stage>, Feed)>,
}

impl Loner {
    /// Runs what is set apart at these stages.
    pub fn new(hands: Arc<Hands>, stages: Vec<(Arc<Stage>, Feed)>) -> Self {
        Self { hands, stages }
    }

    /// Looks for events to run alone until `stop`.
    pub async fn run(self, stop: CancellationToken, abandon: CancellationToken) {
        let mut rest = limits::ALONE_LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(rest) => {}
                () = stop.cancelled() => return,
            }
            rest = limits::ALONE_LOOK;
            for (stage, feed) in &self.stages {
                if stop.is_cancelled() {
                    return;
                }
                let began = Instant::now();
                if self.shift(stage, feed, &stop, &abandon).await {
                    // The others get at least as much time as was taken from them.
                    rest = rest.max(began.elapsed());
                }
            }
        }
    }

    /// Runs what there is for one stage, for a while. Says whether there was something.
    async fn shift(&self, stage: &Stage, feed: &Feed, stop: &CancellationToken, abandon: &CancellationToken) -> bool {
        if stage.line.is_stopped() {
            return false;
        }
        // A consumer that is not there is the business of whoever looks at the stage's feeds.
        let Ok(state) = stage.broker.consumer_state(&feed.stream, &feed.consumer).await else { return false };
        if state.num_pending + state.num_ack_pending == 0 {
            return false;
        }
        let Ok(mut pull) = stage.broker.pull(&feed.stream, &feed.consumer, 1).await else { return false };
        let Some(first) = next(&mut pull, stop).await else { return false };
        // The event is kept alive while the others are finished.
        let until = Instant::now() + limits::ALONE_SHIFT;
        let alone = self.hands.alone();
        tokio::pin!(alone);
        let alone = loop {
            tokio::select! {
                alone = &mut alone => break alone,
                () = tokio::time::sleep(stage.ack_wait / 2) => first.progress().await,
                () = abandon.cancelled() => return true,
            }
        };
        let mut next_one = Some(first);
        while let Some(delivered) = next_one.take() {
            let turn = stage.turn(abandon.clone());
            delivery::live(stage, feed.carries, delivered, turn, Company::None).await;
            if Instant::now() < until && !stop.is_cancelled() && !stage.line.is_stopped() {
                next_one = next(&mut pull, stop).await;
            }
        }
        drop(alone);
        true
    }
}

/// The next event, if there is one. What is on its way when nothing more is wanted would wait for its ack wait, and count.
async fn next(pull: &mut Pull, stop: &CancellationToken) -> Option<Delivered> {
    let next = tokio::select! {
        next = pull.next() => next,
        () = tokio::time::sleep(limits::ALONE_NEXT) => None,
        () = stop.cancelled() => None,
    };
    match next {
        Some(Ok(delivered)) => Some(delivered),
        Some(Err(_)) | None => pull.last().await,
    }
}

impl std::fmt::Debug for Loner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Loner").field("stages", &self.stages.len()).finish_non_exhaustive()
    }
}

//! Feed: pulls from one consumer, and opens it again when it is gone.

use std::{sync::Arc, time::Duration};

use backon::{BackoffBuilder as _, ExponentialBuilder};
use tokio::{sync::Semaphore, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{Feed, Stage, delivery, delivery::Turn};
use crate::{
    broker::{Delivered, Pull, PullError},
    limits,
};

/// Pulls and hands out deliveries until `stop`.
pub(super) async fn run(
    stage: Arc<Stage>,
    feed: Feed,
    slots: Arc<Semaphore>,
    in_hand: TaskTracker,
    stop: CancellationToken,
    abandon: CancellationToken,
) {
    let condition = feed.condition();
    let mut waits = waits();
    // As much again as is in hand waits for its turn, so that no worker waits for the network.
    let room_max = (2 * stage.concurrency).min(limits::PREFETCH_MAX);
    let room = Arc::new(Semaphore::new(room_max));
    let turn = Turn { slots, closed: CancellationToken::new(), abandon };
    // At the end, when nothing comes straight back to us, what waits for its turn is given back.
    let _closing = turn.closed.clone().drop_guard();
    loop {
        match stage.broker.pull(&feed.stream, &feed.consumer, room_max).await {
            Ok(mut pull) => {
                stage.readiness.ok(&condition);
                waits = self::waits();
                pull_until_gone(&stage, &feed, &mut pull, &room, &in_hand, &stop, &turn).await;
                if stop.is_cancelled() {
                    return give_back(&stage, pull).await;
                }
                stage.readiness.failing(&condition, "gone");
                stage.metrics.rebound();
                tracing::warn!(
                    stage = stage.line.name(),
                    stream = feed.stream,
                    consumer = feed.consumer,
                    "consumer is gone; opening it again"
                );
            }
            Err(error) => {
                let hint = match &error {
                    PullError::Gone { .. } => "create it with `millstream apply`",
                    PullError::Open { .. } | PullError::Passing { .. } => "",
                };
                stage.readiness.failing(&condition, error.to_string());
                tracing::warn!(stage = stage.line.name(), error = %error, hint, "could not open a consumer; trying again");
            }
        }
        let wait = waits.next().unwrap_or(limits::REBIND_WAIT_MAX);
        tokio::select! {
            () = tokio::time::sleep(wait) => {}
            () = stop.cancelled() => return,
        }
    }
}

fn waits() -> impl Iterator<Item = Duration> {
    ExponentialBuilder::default()
        .with_min_delay(Duration::from_millis(200))
        .with_max_delay(limits::REBIND_WAIT_MAX)
        .without_max_times()
        .build()
}

/// Hands out deliveries until the consumer is gone or `stop`.
///
/// All that comes is taken in at once, and kept alive while it waits: an event that waits in a buffer for longer than the
/// ack wait would be handed out a second time.
async fn pull_until_gone(
    stage: &Arc<Stage>,
    feed: &Feed,
    pull: &mut Pull,
    room: &Arc<Semaphore>,
    in_hand: &TaskTracker,
    stop: &CancellationToken,
    turn: &Turn,
) {
    let mut missed = 0;
    loop {
        pull.make_room(room.available_permits());
        let worth = u32::try_from(pull.worth()).unwrap_or(u32::MAX);
        let next = tokio::select! {
            biased;
            () = stop.cancelled() => return,
            next = pull.next() => next,
            _ = room.acquire_many(worth) => continue,
        };
        let delivered = match next {
            None => return,
            Some(Ok(delivered)) => delivered,
            // One missed heartbeat follows every server restart. Several: the pull itself may be lost.
            Some(Err(error)) => {
                missed += 1;
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::debug!(
                    stage = stage.line.name(),
                    stream = feed.stream,
                    cause,
                    "no sign of life from the broker"
                );
                if missed >= limits::HEARTBEATS_MISSED_MAX {
                    return;
                }
                continue;
            }
        };
        missed = 0;
        // There is room for all that was asked for, but after a reconnect more may come than that.
        let place = Arc::clone(room).try_acquire_owned();
        let (stage, carries, turn) = (Arc::clone(stage), feed.carries, turn.clone());
        in_hand.spawn(async move {
            delivery::live(&stage, carries, delivered, &turn).await;
            drop(place);
        });
    }
}

/// Gives back what is still on its way, so that it need not wait for the ack wait to be over.
async fn give_back(stage: &Stage, mut pull: Pull) {
    let mut ahead: Vec<Delivered> = Vec::new();
    let until = Instant::now() + limits::DRAIN_PULL_MAX;
    while let Ok(Some(delivered)) = tokio::time::timeout_at(until, pull.last()).await {
        ahead.push(delivered);
    }
    // First stop asking, or the server would hand them straight back to us.
    drop(pull);
    let count = ahead.len();
    for delivered in ahead {
        delivered.nak(Duration::ZERO).await;
    }
    if count > 0 {
        tracing::info!(stage = stage.line.name(), count, "gave back events pulled ahead");
    }
}

//! Run: a map stage on its consumers, from the first pull to the end of the drain.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    feed::Feeding,
    stage::{MapStage, StageConsumer},
};

/// Runs a stage on its consumers until `stop`, then drains: stops pulling, gives back what was
/// pulled ahead, and finishes what is in hand.
///
/// `abandon` ends the drain early: what is still in hand comes again later.
pub async fn run(
    stage: Arc<MapStage>,
    consumers: Vec<StageConsumer>,
    stop: CancellationToken,
    abandon: CancellationToken,
) {
    let turn = stage.turn(abandon.clone());
    let in_hand = TaskTracker::new();
    let feeding = consumers.into_iter().map(|consumer| {
        Feeding::new(Arc::clone(&stage), consumer, turn.clone(), in_hand.clone(), stop.clone())
            .run()
    });
    futures_util::future::join_all(feeding).await;
    // Nothing is pulled any more, so what is given back does not come straight back to us.
    turn.closed.cancel();
    in_hand.close();
    tokio::select! {
        () = in_hand.wait() => {}
        () = abandon.cancelled() => {
            tracing::warn!(stage = stage.line.name(), in_hand = in_hand.len(), "drain ended with events in hand; they come again");
        }
    }
}

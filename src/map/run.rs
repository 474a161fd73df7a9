//! Run: a map stage on its consumers, from the first pull to the end of the drain.

use std::sync::Arc;

use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    feed::Feeding,
    stage::{MapStage, StageConsumer},
};

/// Runs a stage on its consumers until `stop`, then drains: stops pulling, gives back what was
/// pulled ahead, and finishes what is in flight.
///
/// `abandon` ends the drain early: what is still in flight comes again later.
pub async fn run(
    stage: Arc<MapStage>,
    consumers: Vec<StageConsumer>,
    stop: CancellationToken,
    abandon: CancellationToken,
) {
    let turn = stage.turn(abandon.clone());
    let deliveries = TaskTracker::new();
    let feeding = consumers.into_iter().map(|consumer| {
        Feeding::new(Arc::clone(&stage), consumer, turn.another(), deliveries.clone(), stop.clone())
            .run()
    });
    futures_util::future::join_all(feeding).await;
    // Nothing is pulled any more, so what is given back does not come straight back to us.
    turn.closed.cancel();
    deliveries.close();
    tokio::select! {
        () = deliveries.wait() => {}
        () = abandon.cancelled() => {
            tracing::warn!(
                stage = stage.line.name(),
                in_hand = deliveries.len(),
                "drain ended with events in hand; they come again"
            );
        }
    }
}

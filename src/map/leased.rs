//! Leased: map stages that one worker of the fleet runs at a time: the channels.
//!
//! The receivers of channels count what they are sent.

use std::sync::Arc;

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{
    run::run,
    stage::{MapStage, StageConsumer},
};
use crate::broker::{Broker, Lease};

/// Map stages under one lease.
pub struct Leased {
    /// The connection.
    pub broker: Broker,
    /// The bucket that holds the lease.
    pub bucket: String,
    /// The name of the lease.
    pub lease: &'static str,
    /// The worker.
    pub worker: String,
    /// The stages, and what each pulls from.
    pub stages: Vec<(Arc<MapStage>, Vec<StageConsumer>)>,
}

impl Leased {
    /// Runs the stages whenever this worker has the lease, until `stop`; then drains and gives it
    /// back, so that another goes on at once. A worker that has lost it finishes what it has in
    /// flight: each is delivered to one worker only.
    pub async fn run(self, stop: CancellationToken, abandon: CancellationToken) {
        if self.stages.is_empty() {
            return;
        }
        loop {
            let acquire = Lease::acquire(&self.broker, &self.bucket, self.lease, &self.worker);
            let Some(mut lease) = stop.run_until_cancelled(acquire).await else { return };
            tracing::info!(worker = self.worker, term = lease.term(), "delivers notifications");
            let turn = stop.child_token();
            let runs = self.stages.iter().map(|(stage, feeds)| {
                let (turn, abandon) = (turn.clone(), abandon.clone());
                run(Arc::clone(stage), feeds.clone(), turn, abandon)
            });
            let mut running = std::pin::pin!(join_all(runs));
            tokio::select! {
                _ = &mut running => {}
                () = lease.keep() => {
                    tracing::warn!(
                        worker = self.worker,
                        "another worker delivers notifications now"
                    );
                    turn.cancel();
                    running.await;
                }
            }
            for (stage, feeds) in &self.stages {
                feeds.iter().for_each(|feed| stage.conditions.forget(&feed.condition()));
            }
            if stop.is_cancelled() {
                lease.release().await;
                return;
            }
        }
    }
}

impl std::fmt::Debug for Leased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leased")
            .field("lease", &self.lease)
            .field("stages", &self.stages.len())
            .finish_non_exhaustive()
    }
}

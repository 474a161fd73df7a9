//! Run: election of the keeper, and its rounds one after the other.

use std::sync::Arc;

use tokio_util::sync::CancellationToken;

use super::{readers::Planned, report::Report, rounds::Rounds, watcher::Watcher};
use crate::{
    broker::{Broker, Lease},
    config::Pipeline,
    error_chain::chain,
    limits,
    observe::{Conditions, Metrics},
};

/// Lease that the keeper holds, in the state bucket.
const LEASE: &str = "keeper";

/// Keeper of a pipeline. Every worker runs one, whatever its stages; one of them is elected.
#[derive(Debug)]
pub struct Keeper {
    /// Broker.
    pub broker: Broker,
    /// Pipeline that it keeps.
    pub pipeline: Arc<Pipeline>,
    /// Metrics of the worker.
    pub metrics: Arc<Metrics>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
}

impl Keeper {
    /// Waits until it is elected and keeps the pipeline's streams, until `stop`. What fails is told
    /// and tried again.
    pub async fn run(self, worker: &str, stop: CancellationToken) {
        let bucket = self.pipeline.names().state_bucket();
        loop {
            let elected =
                Lease::acquire_every(limits::KEEPER_STANDBY, &self.broker, &bucket, LEASE, worker);
            let Some(mut lease) = stop.run_until_cancelled(elected).await else { return };
            tracing::debug!(worker, term = lease.term(), "this worker is the keeper");
            let watcher = Watcher::new(&self.broker, &self.pipeline, worker, &self.conditions);
            // Whatever is under way when the lease is lost, another may do again.
            tokio::select! {
                () = lease.keep() => tracing::debug!(worker, "another worker is the keeper"),
                ((), ()) = async { tokio::join!(self.keep(), watcher.run()) } => {}
                () = stop.cancelled() => {
                    lease.release().await;
                    return;
                }
            }
            for stream in Planned::of(&self.pipeline).streams() {
                self.metrics.set_source_fill(stream, 0.0);
            }
        }
    }

    async fn keep(&self) {
        let planned = Planned::of(&self.pipeline);
        let report = loop {
            match Report::load(&self.broker, &planned.names).await {
                Ok(report) => break report,
                Err(error) => {
                    tracing::debug!(error = chain(&error), "the keeper could not read its record");
                    tokio::time::sleep(limits::STEP_DOWN_WAIT).await;
                }
            }
        };
        let mut rounds =
            Rounds::new(self.broker.clone(), planned, Arc::clone(&self.metrics), report);
        loop {
            let is_busy = rounds.round().await;
            let wait = if is_busy { limits::KEEPER_LOOK } else { limits::KEEPER_IDLE_LOOK };
            tokio::time::sleep(wait).await;
        }
    }
}

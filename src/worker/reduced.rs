//! Reduced: a reduce stage at work, and what is told of one that cannot go on.

use std::sync::Arc;

use millstream_stages::{Problem, Reduce, World};
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use super::world::RunWorld;
use crate::{
    broker::Broker,
    config::{Pipeline, pipeline::Stage},
    error_chain::chain,
    limits,
    observe::{Conditions, ReduceMetrics, Trouble},
    reduce,
};

/// Maker of the stages of a kind, from their options.
pub(super) type BuildReduce = fn(&Value, &dyn World) -> Result<Box<dyn Reduce>, Vec<Problem>>;

/// Reduce stage of a worker.
pub(super) struct ReduceStage {
    pub(super) broker: Broker,
    pub(super) pipeline: Arc<Pipeline>,
    pub(super) stage: Stage,
    pub(super) metrics: Arc<ReduceMetrics>,
    pub(super) conditions: Arc<Conditions>,
    pub(super) worker: String,
    pub(super) world: RunWorld,
    pub(super) build: BuildReduce,
}

impl ReduceStage {
    /// Name of its condition.
    pub(super) fn condition(&self) -> String {
        format!("stage {}", self.stage.name)
    }

    /// Runs the stage until `stop`. One that cannot go on is told, and tried again in a while.
    pub(super) async fn run(&self, stop: CancellationToken) {
        let fresh = || {
            (self.build)(&self.stage.options, &self.world.lend())
                .expect("it was built at the start from the same options")
        };
        let mut is_told = false;
        while !stop.is_cancelled() {
            let Self { broker, pipeline, stage, worker, metrics, .. } = self;
            let (broker, pipeline) = (broker.clone(), Arc::clone(pipeline));
            let shows = reduce::Shows {
                metrics: Arc::clone(metrics),
                conditions: Arc::clone(&self.conditions),
            };
            let run = reduce::run(broker, pipeline, stage, worker, fresh, shows, stop.clone());
            let mut run = std::pin::pin!(run);
            let ended = tokio::select! {
                ended = &mut run => ended,
                () = tokio::time::sleep(limits::TASK_WELL), if is_told => {
                    // It leads and can read its state, or stands by while another does.
                    self.conditions.ok(&self.condition());
                    run.await
                }
            };
            is_told = ended.is_err();
            if let Err(error) = ended {
                let remedy = "let a worker of the version that wrote the state run it, or delete \
                              the stage's keys in the state bucket, which forgets what it knew";
                let trouble = Trouble::with_remedy(chain(&error), remedy);
                self.conditions.failing(&self.condition(), trouble);
                let rest = tokio::time::sleep(limits::TASK_AGAIN_MAX);
                stop.run_until_cancelled(rest).await;
            }
        }
    }
}

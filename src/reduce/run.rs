//! Run: a reduce stage in one worker: stands by, leads while it has the lease, steps down.

use std::sync::Arc;

use millstream_stages::Reduce;
use tokio_util::sync::CancellationToken;

use super::{lead::Leader, shows::Shows, step_down::StepDown};
use crate::{
    broker::{Broker, CommitError, Lease},
    config::{Pipeline, pipeline::Stage},
    error_chain::chain,
    limits,
    observe::Trouble,
};

/// Reason why a reduce stage cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum ReduceError {
    /// The state was written in a form that we cannot read.
    #[error("stage \"{stage}\" cannot read its state: {why}")]
    State {
        /// The stage.
        stage: String,
        /// Key, and what is wrong with it.
        why: String,
    },
}

/// Runs one reduce stage until `stop`: stands by, leads when it has the lease, stands by again when
/// it has lost it.
///
/// `worker` names this process among those that run the stage. `build` makes the stage anew,
/// without state, at each takeover. When `stop` is cancelled, what was applied is committed and the
/// lease is given back, so that a standby takes over at once.
///
/// # Errors
/// [`ReduceError::State`] if the state cannot be read: going on would lose it. All else passes, and
/// is tried again.
pub async fn run(
    broker: Broker,
    pipeline: Arc<Pipeline>,
    stage: &Stage,
    worker: &str,
    build: impl Fn() -> Box<dyn Reduce>,
    shows: Shows,
    stop: CancellationToken,
) -> Result<(), ReduceError> {
    let bucket = pipeline.names().state_bucket();
    loop {
        let acquire = Lease::acquire(&broker, &bucket, &stage.name, worker);
        let stand_by = async {
            let mut acquire = std::pin::pin!(acquire);
            match tokio::time::timeout(limits::LEADS_WELL_AFTER, &mut acquire).await {
                Ok(lease) => lease,
                Err(_) => {
                    // Another worker runs it; if nobody does, that is a condition of the lease.
                    shows.conditions.ok(&format!("stage {}", stage.name));
                    acquire.await
                }
            }
        };
        let Some(mut lease) = stop.run_until_cancelled(stand_by).await else { return Ok(()) };
        tracing::info!(stage = %stage.name, worker, term = lease.term(), "took over");
        let leader = Leader::new(&broker, &pipeline, stage, worker, &shows);
        let ended = tokio::select! {
            ended = leader.lead(&build, &stop) => ended,
            () = lease.keep() => Err(StepDown::Lease),
        };
        shows.metrics.leading(false);
        match ended {
            Ok(()) => {
                lease.release().await;
                return Ok(());
            }
            Err(StepDown::State(why)) => {
                lease.release().await;
                return Err(ReduceError::State { stage: stage.name.clone(), why });
            }
            // Someone else has the stage: nothing of ours may be written any more.
            Err(error @ (StepDown::Lease | StepDown::Commit(CommitError::Fenced { .. }))) => {
                tracing::warn!(stage = %stage.name, worker, error = chain(&error), "stepped down");
            }
            Err(error @ (StepDown::Commit(_) | StepDown::Read(_) | StepDown::Publish(_))) => {
                let (name, why) = (&stage.name, chain(&error));
                tracing::debug!(stage = %name, worker, error = why, "stepped down");
                let trouble = Trouble::new(format!("it cannot go on, and tries again: {why}"));
                shows.conditions.failing(&format!("stage {name}"), trouble);
                lease.release().await;
                if stop
                    .run_until_cancelled(tokio::time::sleep(limits::STEP_DOWN_WAIT))
                    .await
                    .is_none()
                {
                    return Ok(());
                }
            }
        }
    }
}

//! Recovery: letters of a stage redriven by themselves when the stage is up again.
//!
//! A stage is up again when its circuit breaker closes, or when its health check passes after it
//! failed. Its outage is kept in the key-value bucket, so that no restart forgets it; the job is
//! named by the revision of the key that shows the end, so that the fleet makes one. Every worker
//! that sees a breaker close makes that job; the health check is asked by one.

mod check;

use std::sync::Arc;

use futures_util::{StreamExt as _, future::join_all};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use super::{
    context::Context,
    job::{Job, Kind, Rules, recovery_id},
    store::{JobError, Jobs},
};
use crate::{
    broker::{AdminError, CommitError, KvChange, KvHeard, Lease, unix_ms},
    config::{
        Pipeline,
        pipeline::{Check, Recover},
    },
    dead_letter::LetterFilter,
    error_chain::chain,
    limits,
    wire::{Names, parse_rfc3339, rfc3339},
};

/// A worker's part in the recovery of stages.
#[derive(Debug, Clone)]
pub struct Recovery {
    context: Context,
    stages: Arc<[(String, Recover)]>,
    worker: String,
}

/// Outage of a stage, as it is kept.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Down {
    /// Beginning of the outage, RFC 3339; `None`: the stage is up.
    since: Option<String>,
    /// Revision of the breaker's key that showed it.
    revision: u64,
    /// Time at which that was written, in Unix milliseconds: a bucket that was made anew begins
    /// with lower revisions.
    #[serde(default)]
    written_ms: u64,
}

/// Reason why a change of a stage could not be dealt with.
#[derive(Debug, thiserror::Error)]
enum RecoveryError {
    #[error("could not read what is known of the stage")]
    Read(#[from] AdminError),
    #[error("could not write what is known of the stage")]
    Write(#[from] CommitError),
    #[error("could not make the job that recovers the stage")]
    Job(#[from] JobError),
}

impl Recovery {
    /// Recovery of the pipeline's stages that have one.
    pub fn of(pipeline: &Pipeline, context: Context, worker: &str) -> Self {
        let stages = pipeline
            .stages
            .iter()
            .filter_map(|stage| Some((stage.name.clone(), stage.recover.clone()?)));
        Self { context, stages: stages.collect(), worker: worker.to_owned() }
    }

    /// True if no stage recovers by itself.
    pub fn is_empty(&self) -> bool {
        self.stages.is_empty()
    }

    /// Watches the breakers and health checks of the stages until `stop`. All in one task: a panic
    /// in one of them is seen by whoever keeps it.
    pub async fn run(self, stop: CancellationToken) {
        let breakers = stop.run_until_cancelled(self.watch_breakers());
        let checks = self.stages.iter().filter_map(|(stage, recover)| {
            let check = recover.check.as_ref()?;
            Some(self.watch_health(stage, recover, check, &stop))
        });
        tokio::join!(breakers, join_all(checks));
    }

    /// Makes a job each time that a breaker goes from open to closed.
    async fn watch_breakers(&self) {
        let changes = self
            .context
            .broker
            .kv_follow(&self.context.names.state_bucket(), &Names::breaker_key(""));
        let mut changes = std::pin::pin!(changes);
        while let Some(change) = changes.next().await {
            // An error is a notice: what is next comes all the same. In a bucket that was made anew
            // there is nothing that an earlier one left.
            let Ok(KvHeard::Change(change)) = change else { continue };
            let stage = change.key.strip_prefix(&Names::breaker_key("")).unwrap_or_default();
            let Some((stage, recover)) = self.stages.iter().find(|(name, _)| name == stage) else {
                continue;
            };
            while let Err(error) = self.saw_breaker(stage, recover, &change).await {
                tracing::warn!(
                    stage,
                    error = chain(&error),
                    "recovery could not look at a breaker; trying again"
                );
                tokio::time::sleep(limits::REOPEN_WAIT_MAX).await;
            }
        }
    }

    async fn saw_breaker(
        &self,
        stage: &str,
        recover: &Recover,
        change: &KvChange,
    ) -> Result<(), RecoveryError> {
        let breaker: serde_json::Value = change
            .value
            .as_deref()
            .and_then(|value| serde_json::from_slice(value).ok())
            .unwrap_or_default();
        let key = format!("{}.breaker", Names::recovery_key(stage));
        let is_open = match breaker["state"].as_str() {
            Some("open") => true,
            Some("closed") => false,
            Some(_) | None => return Ok(()),
        };
        loop {
            let (down, revision) = self.down(&key).await?;
            // A later change was dealt with already.
            let (revision_seen, written_ms) = (change.revision, unix_ms(change.written_at));
            let is_later = down.written_ms > 0 && written_ms > down.written_ms;
            if revision_seen <= down.revision && !is_later {
                return Ok(());
            }
            let shown = Down { since: None, revision: revision_seen, written_ms };
            let now = if is_open {
                Down { since: Some(rfc3339(change.written_at)), ..shown }
            } else if down.since.is_some() {
                let id = recovery_id(stage, change.revision, change.written_at);
                self.make_job(stage, recover, id, "its breaker closed").await?;
                shown
            } else {
                return Ok(());
            };
            if self.keep(&key, &now, revision).await? {
                return Ok(());
            }
        }
    }

    /// Asks the health check of a stage while this worker has the lease.
    async fn watch_health(
        &self,
        stage: &str,
        recover: &Recover,
        check: &Check,
        stop: &CancellationToken,
    ) {
        let (broker, bucket) = (&self.context.broker, self.context.names.state_bucket());
        let lease = Names::recovery_key(stage);
        loop {
            let acquired = stop
                .run_until_cancelled(Lease::acquire(broker, &bucket, &lease, &self.worker))
                .await;
            let Some(mut lease) = acquired else { return };
            let stopped = tokio::select! {
                () = self.ask_health(stage, recover, check) => false,
                () = lease.keep() => false,
                () = stop.cancelled() => true,
            };
            if stopped {
                return lease.release().await;
            }
        }
    }

    async fn ask_health(&self, stage: &str, recover: &Recover, check: &Check) {
        let key = format!("{}.check", Names::recovery_key(stage));
        let mut ticks = tokio::time::interval(check.every);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let answer = check::ask(&self.context.broker, &check.of).await;
            if let Err(error) = self.saw_health(stage, recover, &key, answer).await {
                tracing::warn!(
                    stage,
                    error = chain(&error),
                    "recovery could not keep what a health check said; trying again"
                );
            }
        }
    }

    async fn saw_health(
        &self,
        stage: &str,
        recover: &Recover,
        key: &str,
        answer: Result<(), String>,
    ) -> Result<(), RecoveryError> {
        let (down, revision) = self.down(key).await?;
        let now = match (answer, &down.since) {
            (Ok(()), None) | (Err(_), Some(_)) => return Ok(()),
            (Err(error), None) => {
                tracing::warn!(
                    stage,
                    error,
                    "the health check of a stage fails; its letters wait until it passes"
                );
                Down { since: Some(rfc3339(self.context.broker.now())), ..Down::default() }
            }
            (Ok(()), Some(since)) => {
                tracing::info!(stage, since, "the health check of a stage passes again");
                let id = recovery_id(
                    stage,
                    revision,
                    parse_rfc3339(since).unwrap_or_else(|| self.context.broker.now()),
                );
                self.make_job(stage, recover, id, "its health check passes").await?;
                Down::default()
            }
        };
        // Somebody else was first: the next answer shows if there is anything left to do.
        self.keep(key, &now, revision).await?;
        Ok(())
    }

    /// Makes the job that redrives what recovers, unless there is one of this name, or there is
    /// nothing to redrive.
    async fn make_job(
        &self,
        stage: &str,
        recover: &Recover,
        id: String,
        why: &str,
    ) -> Result<(), RecoveryError> {
        let Context { broker, names, .. } = &self.context;
        if broker
            .next_on_subject(&names.dlq_stream(), &names.dlq_filter(Some(stage)), 1)
            .await?
            .is_none()
        {
            return Ok(());
        }
        let last = broker.stream_state(&names.dlq_stream()).await?.last_seq;
        let filter = LetterFilter { stage: Some(stage.to_owned()), ..LetterFilter::default() };
        let by = format!("recovery of stage \"{stage}\": {why}");
        let mut job = Job::new(id, Kind::Recover, filter, last, &by, broker.now());
        job.per_second = Some(recover.rate.a_second());
        job.max_redrives = recover.max_redrives;
        job.rules = Some(Rules {
            classes: recover.classes.clone(),
            max_age_ms: u64::try_from(recover.max_age.as_millis()).unwrap_or(u64::MAX),
            tenants: recover.tenants.clone(),
        });
        if Jobs::new(broker, names).create(&job).await?.is_some() {
            tracing::info!(
                stage,
                job = job.id,
                why,
                "a stage is up again: its letters are redriven"
            );
        }
        Ok(())
    }

    async fn down(&self, key: &str) -> Result<(Down, u64), AdminError> {
        let found = self.context.broker.kv_get(&self.context.names.state_bucket(), key).await?;
        Ok(found.map_or((Down::default(), 0), |(value, revision)| {
            (serde_json::from_slice(&value).unwrap_or_default(), revision)
        }))
    }

    /// Writes the outage; false if somebody else has, meanwhile.
    async fn keep(&self, key: &str, down: &Down, revision: u64) -> Result<bool, CommitError> {
        let (broker, bucket) = (&self.context.broker, self.context.names.state_bucket());
        let value = serde_json::to_vec(down).expect("what is known of a stage is plain data");
        let written = match revision {
            0 => broker.kv_create(&bucket, key, value).await,
            _ => broker.kv_update(&bucket, key, value, revision).await,
        };
        match written {
            Ok(_) => Ok(true),
            Err(CommitError::Fenced { .. }) => Ok(false),
            Err(error @ CommitError::Failed { .. }) => Err(error),
        }
    }
}

//! Context: a run of a job: its connection and counters, its progress, and the errors that end it.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};

use super::{
    job::{Counts, Job},
    resend::RedriveError,
    store::Claim,
    targets::Targets,
};
use crate::{
    broker::{AdminError, Broker, Refusal},
    dead_letter::filter::FilterError,
    observe::{Metrics, StageMetrics},
    wire::Names,
};

/// Connection, names and counters of a run of a job.
#[derive(Debug, Clone)]
pub struct Context {
    /// The connection.
    pub broker: Broker,
    /// The pipeline's names.
    pub names: Names,
    /// Stages that letters can be sent to.
    pub targets: Targets,
    /// Counters, in a worker.
    pub metrics: Option<Arc<Metrics>>,
}

/// Progress of a job that this process runs.
#[derive(Debug)]
pub struct Progress {
    job: Mutex<Job>,
    /// Last mark that is on record; `None`: nothing of this process will be any more.
    recorded: watch::Sender<Option<u64>>,
    /// Woken when a step waits for the record.
    waits: Notify,
}

/// Errors that end a run of a job.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A letter could not be sent or removed.
    #[error(transparent)]
    Redrive(#[from] RedriveError),
    /// The streams could not be read.
    #[error("could not read the dead letters, or what became of them")]
    Read(#[from] AdminError),
    /// The filter cannot be compiled.
    #[error("the filter of the job cannot be used")]
    Filter(#[from] FilterError),
    /// The bucket of tenants is missing.
    #[error(
        "there is no key-value bucket \"{bucket}\" to look tenants up in; create it, then resume \
         the job"
    )]
    NoTenants {
        /// The bucket.
        bucket: String,
    },
    /// The dead-letter stream is another one than the job was made for.
    #[error(
        "stream \"{stream}\" was deleted and made anew since the job was made; its letters are \
         others: look at them (`millstream dlq ls`) and make another job"
    )]
    OtherLetters {
        /// The stream.
        stream: String,
    },
    /// The record could not be renewed for as long as the claim lasts.
    #[error("the broker did not take the job's record for too long")]
    Silent,
}

impl RunError {
    /// Refusal that is the cause, if one is: trying again would send again what was sent.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Redrive(error) => error.refusal(),
            Self::Read(error) => error.refusal(),
            Self::Filter(_) | Self::NoTenants { .. } | Self::OtherLetters { .. } | Self::Silent => {
                None
            }
        }
    }
}

impl Context {
    /// Counts at a stage, where this process counts.
    pub(super) fn count(&self, stage: &str, count: impl FnOnce(&StageMetrics)) {
        if let Some(metrics) = &self.metrics {
            count(&metrics.stage(stage));
        }
    }
}

impl Progress {
    /// Progress of a job that was claimed.
    pub fn of(claim: &Claim) -> Self {
        Self {
            job: Mutex::new(claim.job().clone()),
            recorded: watch::Sender::new(Some(0)),
            waits: Notify::new(),
        }
    }

    /// The job as it is now.
    pub fn job(&self) -> Job {
        self.job.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Job) -> T) -> T {
        change(&mut self.job.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Counts a letter, once.
    pub(super) fn count(&self, seq: u64, count: impl FnOnce(&mut Counts)) {
        self.change(|job| {
            job.above.sent.remove(seq);
            job.above.marking.remove(seq);
            job.above.counted.insert(seq);
            count(&mut job.counts);
        });
    }

    /// Changes what must be on record before something is done; the mark to wait for.
    pub(super) fn mark(&self, change: impl FnOnce(&mut Job)) -> u64 {
        let mark = self.change(|job| {
            change(job);
            job.mark += 1;
            job.mark
        });
        self.waits.notify_one();
        mark
    }

    /// Waits until a mark is on record; false if it will never be.
    pub(super) async fn on_record(&self, mark: u64) -> bool {
        let mut recorded = self.recorded.subscribe();
        let found = recorded.wait_for(|last| last.is_none_or(|last| last >= mark)).await;
        found.is_ok_and(|last| last.is_some())
    }

    /// Notes the last mark that is on record; `None`: somebody else has the job.
    pub(super) fn recorded(&self, mark: Option<u64>) {
        self.recorded.send_replace(mark);
    }

    /// Waits until a step waits for the record.
    pub(super) async fn waits(&self) {
        self.waits.notified().await;
    }
}

//! Context: a run of a job: its connection and counters, its progress, and the errors that end it.

use std::sync::{Arc, Mutex, PoisonError};

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
pub struct Progress(Mutex<Job>);

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
        Self(Mutex::new(claim.job().clone()))
    }

    /// The job as it is now.
    pub fn job(&self) -> Job {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(super) fn change<T>(&self, change: impl FnOnce(&mut Job) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(super) fn count(&self, count: impl FnOnce(&mut Counts)) {
        self.change(|job| count(&mut job.counts));
    }
}

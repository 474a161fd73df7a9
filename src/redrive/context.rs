//! Context: what a job is run with, how far it is, and what it cannot go on with.

use std::sync::{Arc, Mutex, PoisonError};

use super::{
    job::{Counts, Job},
    resend::RedriveError,
    store::Claim,
};
use crate::{
    broker::{AdminError, Broker},
    dead_letter::filter::FilterError,
    observe::{Metrics, StageMetrics},
    wire::Names,
};

/// What a job is run with.
#[derive(Debug, Clone)]
pub struct Context {
    /// The connection.
    pub broker: Broker,
    /// The pipeline's names.
    pub names: Names,
    /// Where it counts, in a worker.
    pub metrics: Option<Arc<Metrics>>,
}

/// How far a job is that this process runs.
#[derive(Debug)]
pub struct Progress(Mutex<Job>);

/// What a job cannot go on with.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// A letter could not be sent or removed.
    #[error(transparent)]
    Redrive(#[from] RedriveError),
    /// The streams could not be read.
    #[error("could not read the dead letters, or what became of them")]
    Read(#[from] AdminError),
    /// Its filter cannot be asked.
    #[error("the filter of the job cannot be used")]
    Filter(#[from] FilterError),
    /// The bucket of tenants is missing.
    #[error(
        "there is no key-value bucket \"{bucket}\" to look tenants up in; create it, then resume the job"
    )]
    NoTenants {
        /// The bucket.
        bucket: String,
    },
    /// The record could not be renewed for as long as the claim lasts.
    #[error("the broker did not take the job's record for too long")]
    Silent,
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
    /// That of a job that was taken.
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

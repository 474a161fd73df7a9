//! Store: records of jobs, and the claim by which one process at a time runs one.
//!
//! The runner of a job rewrites its record every [`limits::JOB_CHECKPOINT`]. Others watch its
//! revision, each on its own clock: a record that has not moved for [`limits::JOB_CLAIM`] may be
//! taken by compare-and-set. No two clocks are compared.

use std::time::Duration;

use tokio::time::Instant;

use super::{
    canary::Canary,
    job::{Job, State},
};
use crate::{
    broker::{AdminError, Broker, CommitError},
    limits,
    wire::{Names, rfc3339},
};

/// Request about a job that could not be done.
#[derive(Debug, thiserror::Error)]
pub enum JobError {
    /// There is no such job.
    #[error("there is no job \"{id}\"; `millstream dlq jobs ls` lists them")]
    NoJob {
        /// Name that was asked for.
        id: String,
    },
    /// The job has ended.
    #[error("job \"{id}\" has ended already: it is {state}")]
    Ended {
        /// The job.
        id: String,
        /// State that it ended in.
        state: &'static str,
    },
    /// The job is run by somebody.
    #[error("job \"{id}\" is run by {runner}; `millstream dlq jobs cancel {id}` stops it")]
    Runs {
        /// The job.
        id: String,
        /// Runner.
        runner: String,
    },
    /// The record could not be read.
    #[error("could not read the records of jobs")]
    Read(#[from] AdminError),
    /// The record could not be written.
    #[error("could not write the record of a job")]
    Write(#[from] CommitError),
}

/// Records of a pipeline's jobs.
#[derive(Debug, Clone)]
pub struct Jobs {
    broker: Broker,
    bucket: String,
}

/// Claim on a job that this process runs.
#[derive(Debug)]
pub struct Claim {
    jobs: Jobs,
    /// The record as it was last written.
    pub(super) job: Job,
    revision: u64,
    runner: String,
    /// Time of the last write: the claim lasts from before the write, not from its answer.
    pub(super) renewed: Instant,
}

/// Outcome of a write of the record.
#[derive(Debug)]
pub(super) enum Written {
    /// Written.
    Yes,
    /// Not written now: the broker did not take it.
    NotNow(CommitError),
    /// Somebody has cancelled the job: this is the record now.
    Cancelled,
    /// Somebody else runs it, or it is gone.
    Lost,
}

impl Jobs {
    /// Records of the jobs of this pipeline.
    pub fn new(broker: &Broker, names: &Names) -> Self {
        Self { broker: broker.clone(), bucket: names.state_bucket() }
    }

    /// Stores a new job, and removes the oldest that ended, past [`limits::JOBS_KEPT`]; the job's
    /// revision, or `None` if there is one of this name.
    ///
    /// # Errors
    /// [`JobError::Write`].
    pub async fn create(&self, job: &Job) -> Result<Option<u64>, JobError> {
        let revision =
            match self.broker.kv_create(&self.bucket, &Names::job_key(&job.id), written(job)).await
            {
                Ok(revision) => revision,
                Err(CommitError::Fenced { .. }) => return Ok(None),
                Err(error @ CommitError::Failed { .. }) => return Err(error.into()),
            };
        if let Err(error) = self.prune().await {
            // The next job tries again.
            tracing::debug!(error = %error, "could not remove the records of old jobs");
        }
        Ok(Some(revision))
    }

    async fn prune(&self) -> Result<(), JobError> {
        let ended: Vec<Job> = self
            .list()
            .await?
            .into_iter()
            .map(|(job, _)| job)
            .filter(|job| !job.is_open())
            .collect();
        for job in ended.iter().take(ended.len().saturating_sub(limits::JOBS_KEPT)) {
            self.broker.kv_delete(&self.bucket, &Names::job_key(&job.id)).await?;
        }
        Ok(())
    }

    /// A job and its revision.
    ///
    /// # Errors
    /// [`JobError::NoJob`], [`JobError::Read`].
    pub async fn get(&self, id: &str) -> Result<(Job, u64), JobError> {
        let no_job = || JobError::NoJob { id: id.to_owned() };
        if !id.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_') || id.is_empty() {
            return Err(no_job());
        }
        let found = self.broker.kv_get(&self.bucket, &Names::job_key(id)).await?;
        found.and_then(|(value, revision)| Some((read(&value)?, revision))).ok_or_else(no_job)
    }

    /// Every job and its revision, oldest first.
    ///
    /// # Errors
    /// [`JobError::Read`].
    pub async fn list(&self) -> Result<Vec<(Job, u64)>, JobError> {
        let entries = self.broker.kv_entries(&self.bucket, &Names::job_key("")).await?;
        let jobs =
            entries.into_iter().filter_map(|(_, value, revision)| Some((read(&value)?, revision)));
        let mut jobs: Vec<(Job, u64)> = jobs.collect();
        // Their names sort by time only to the second where they end in a revision.
        jobs.sort_by(|(a, _), (b, _)| (&a.created_at, &a.id).cmp(&(&b.created_at, &b.id)));
        Ok(jobs)
    }

    /// Cancels a job. Whoever runs it sees it within a second.
    ///
    /// # Errors
    /// [`JobError`]; also where it has ended.
    pub async fn cancel(&self, id: &str, by: &str) -> Result<Job, JobError> {
        let now = self.broker.now();
        self.change(id, |job| {
            if !job.is_open() {
                return Err(JobError::Ended { id: id.to_owned(), state: job.state.as_str() });
            }
            job.end(State::Cancelled, Some(format!("cancelled by {by}")), now);
            Ok(())
        })
        .await
        .map(|(job, _)| job)
    }

    /// Opens a job again that was cancelled, stopped or failed, for `runner`, or for whoever takes
    /// it. A canary is tried anew.
    ///
    /// # Errors
    /// [`JobError`]; also where it is done, or somebody runs it.
    pub async fn resume(&self, id: &str, runner: Option<&str>) -> Result<Claim, JobError> {
        let (seen, revision) = self.get(id).await?;
        if seen.is_open() && seen.runner.is_some() {
            self.must_be_silent(id, &seen, revision).await?;
        }
        let renewed = Instant::now();
        let (job, revision) = self
            .change(id, |job| {
                if job.state == State::Done {
                    return Err(JobError::Ended { id: id.to_owned(), state: job.state.as_str() });
                }
                if job.is_open() && job.runner != seen.runner {
                    return Err(runs(job));
                }
                if !job.is_open() {
                    job.canary = job
                        .canary
                        .take()
                        .map(|canary| Canary::new(canary.count, canary.stop_above));
                }
                job.state = State::Running;
                job.runner = runner.map(ToOwned::to_owned);
                (job.why, job.ended_at) = (None, None);
                job.started_at = job.started_at.take().or_else(|| Some(rfc3339(self.broker.now())));
                Ok(())
            })
            .await?;
        Ok(Claim {
            jobs: self.clone(),
            job,
            revision,
            runner: runner.unwrap_or_default().to_owned(),
            renewed,
        })
    }

    /// Makes sure that the runner of a job has written nothing for the time that a claim lasts.
    async fn must_be_silent(&self, id: &str, seen: &Job, revision: u64) -> Result<(), JobError> {
        let until = Instant::now() + limits::JOB_CLAIM;
        while Instant::now() < until {
            tokio::time::sleep(limits::JOBS_LOOK).await;
            let (_, now) = self.get(id).await?;
            if now != revision {
                return Err(runs(seen));
            }
        }
        Ok(())
    }

    /// Changes a record, however often others change it meanwhile.
    async fn change(
        &self,
        id: &str,
        change: impl Fn(&mut Job) -> Result<(), JobError>,
    ) -> Result<(Job, u64), JobError> {
        loop {
            let (mut job, revision) = self.get(id).await?;
            change(&mut job)?;
            match self
                .broker
                .kv_update(&self.bucket, &Names::job_key(id), written(&job), revision)
                .await
            {
                Ok(revision) => return Ok((job, revision)),
                Err(CommitError::Fenced { .. }) => {}
                Err(error @ CommitError::Failed { .. }) => return Err(error.into()),
            }
        }
    }
}

impl Claim {
    /// Stores a new job that `runner` runs.
    ///
    /// # Errors
    /// [`JobError::Write`].
    pub async fn create(jobs: &Jobs, mut job: Job, runner: &str) -> Result<Self, JobError> {
        let renewed = Instant::now();
        job.runner = Some(runner.to_owned());
        job.started_at = Some(rfc3339(jobs.broker.now()));
        let created = jobs.create(&job).await?;
        let revision = created.ok_or_else(|| runs(&job))?;
        Ok(Self { jobs: jobs.clone(), job, revision, runner: runner.to_owned(), renewed })
    }

    /// Takes a job as it was seen, for `runner`; `None`: somebody was faster.
    ///
    /// # Errors
    /// The broker did not take it. If it was a time-out, it may have: then the claim runs out.
    pub(super) async fn take(
        jobs: &Jobs,
        mut job: Job,
        revision: u64,
        runner: &str,
    ) -> Result<Option<Self>, CommitError> {
        let renewed = Instant::now();
        job.runner = Some(runner.to_owned());
        job.beat += 1;
        job.started_at = job.started_at.or_else(|| Some(rfc3339(jobs.broker.now())));
        match jobs
            .broker
            .kv_update(&jobs.bucket, &Names::job_key(&job.id), written(&job), revision)
            .await
        {
            Ok(revision) => Ok(Some(Self {
                jobs: jobs.clone(),
                job,
                revision,
                runner: runner.to_owned(),
                renewed,
            })),
            Err(CommitError::Fenced { .. }) => Ok(None),
            Err(error @ CommitError::Failed { .. }) => Err(error),
        }
    }

    /// The record as it was last written.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// Writes the record, and with it a heartbeat.
    pub(super) async fn write(&mut self, mut job: Job) -> Written {
        let trying = Instant::now();
        job.beat = self.job.beat + 1;
        let key = Names::job_key(&job.id);
        match self
            .jobs
            .broker
            .kv_update(&self.jobs.bucket, &key, written(&job), self.revision)
            .await
        {
            Ok(revision) => {
                (self.revision, self.renewed, self.job) = (revision, trying, job);
                Written::Yes
            }
            Err(error @ CommitError::Failed { .. }) => Written::NotNow(error),
            Err(error @ CommitError::Fenced { .. }) => match self.jobs.get(&job.id).await {
                // A write of ours whose answer was lost moved it.
                Ok((found, revision))
                    if found.runner.as_ref() == Some(&self.runner) && found.is_open() =>
                {
                    (self.revision, self.job.beat) = (revision, found.beat);
                    Written::NotNow(error)
                }
                Ok((found, revision)) if found.state == State::Cancelled => {
                    (self.revision, self.job) = (revision, found);
                    Written::Cancelled
                }
                Ok(_) | Err(JobError::NoJob { .. }) => Written::Lost,
                Err(_) => Written::NotNow(error),
            },
        }
    }

    /// Writes the record for the last time, as often as it takes within reason; true if it is
    /// written.
    pub(super) async fn finish(mut self, job: Job) -> bool {
        for _ in 0..limits::JOB_TRIES {
            match self.write(job.clone()).await {
                Written::Yes => return true,
                Written::NotNow(error) => {
                    tracing::warn!(
                        job = job.id,
                        error = %error,
                        "could not write the end of a job; trying again"
                    );
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                // It ended by itself as somebody cancelled it: its counts are still to be written.
                Written::Cancelled => {}
                Written::Lost => return false,
            }
        }
        false
    }
}

fn runs(job: &Job) -> JobError {
    JobError::Runs {
        id: job.id.clone(),
        runner: job.runner.clone().unwrap_or_else(|| "nobody yet".to_owned()),
    }
}

/// A record; `None` where the key is something else's (a reduce stage may be called "job").
pub(super) fn read(value: &[u8]) -> Option<Job> {
    serde_json::from_slice(value).ok()
}

fn written(job: &Job) -> Vec<u8> {
    serde_json::to_vec(job).expect("a job is plain data")
}

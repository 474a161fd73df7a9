//! Fleet: a worker's part in jobs that nobody runs: watches for them, claims them, carries them on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    context::{Context, Progress},
    job::Job,
    run::{self, Ended},
    store::{self, Claim, Jobs},
};
use crate::{
    broker::{KvChange, KvHeard},
    limits,
    supervise::Supervisor,
    wire::Names,
};

/// Name of the task, and of what runs in it.
pub const TASK: &str = "task redrives";

/// A worker's part in the jobs of its pipeline.
#[derive(Debug)]
pub struct Fleet {
    /// Connection, names and counters of the jobs.
    pub context: Context,
    /// Name unlike that of any other process.
    pub worker: String,
    /// Supervisor, which hears of a job that panics.
    pub supervisor: Supervisor,
}

/// Job that is still to be carried on, as it was last seen.
struct WatchedJob {
    job: Job,
    revision: u64,
    /// Time, on our clock, since which its record has not moved.
    since: Instant,
}

#[derive(Default)]
struct Watch {
    open: BTreeMap<String, WatchedJob>,
    ours: BTreeSet<String>,
    /// Jobs whose run failed here, and the time until which they are left to others.
    shunned: BTreeMap<String, Instant>,
}

impl Fleet {
    /// Carries jobs on until `stop`; then leaves them to others.
    pub async fn run(self, stop: CancellationToken) {
        let Self { context, worker, supervisor } = self;
        let jobs = Jobs::new(&context.broker, &context.names);
        let context = Arc::new(context);
        let changes = context.broker.kv_follow(&context.names.state_bucket(), &Names::job_key(""));
        let mut changes = std::pin::pin!(changes);
        let mut watch = Watch::default();
        let mut running: JoinSet<(String, bool)> = JoinSet::new();
        let mut looks = tokio::time::interval(limits::JOBS_LOOK);
        looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                Some(change) = changes.next() => match change {
                    Ok(KvHeard::Change(change)) => watch.saw(change),
                    // What is in the bucket that was made anew comes next; what is not is gone.
                    Ok(KvHeard::Anew) => watch.open.clear(),
                    // Their runners may not have been able to renew them: they are given their time
                    // anew.
                    Err(_) => watch.open.values_mut().for_each(|seen| seen.since = Instant::now()),
                },
                Some(ended) = running.join_next() => if let Ok((id, well)) = ended {
                    if !well {
                        watch.shunned.insert(id.clone(), Instant::now() + limits::REOPEN_WAIT_MAX);
                    }
                    watch.ours.remove(&id);
                },
                _ = looks.tick() => {
                    for claim in take(&jobs, &mut watch, &worker).await {
                        let (context, stop) = (Arc::clone(&context), stop.clone());
                        let id = claim.job().id.clone();
                        watch.ours.insert(id.clone());
                        let supervisor = supervisor.clone();
                        running.spawn(async move {
                            let progress = Progress::of(&claim);
                            let run = run::run(&context, claim, &progress, &stop);
                            // One that panics is left to others, as one that cannot go on here.
                            let ended = supervisor.caught(TASK, run).await;
                            (id, ended.is_some_and(|ended| !matches!(ended, Ended::Broker(_))))
                        });
                    }
                }
                () = stop.cancelled() => break,
            }
        }
        while running.join_next().await.is_some() {}
    }
}

/// Claims the jobs that nobody runs.
async fn take(jobs: &Jobs, watch: &mut Watch, worker: &str) -> Vec<Claim> {
    let mut taken = Vec::new();
    watch.shunned.retain(|_, until| Instant::now() < *until);
    let free: Vec<String> = watch.free().map(ToOwned::to_owned).collect();
    for id in free.into_iter().take(limits::JOBS_AT_ONCE_MAX.saturating_sub(watch.ours.len())) {
        let Some(seen) = watch.open.remove(&id) else { continue };
        match Claim::take(jobs, seen.job, seen.revision, worker).await {
            Ok(Some(claim)) => taken.push(claim),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(job = id, error = %error, "could not take a job");
                // If it was taken all the same, its record has moved, and it is seen again.
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
    taken
}

impl Watch {
    fn saw(&mut self, change: KvChange) {
        let Some(job) = change.value.as_deref().and_then(store::read) else {
            let id = change.key.strip_prefix(&Names::job_key("")).unwrap_or_default();
            self.open.remove(id);
            return;
        };
        if job.is_open() {
            let id = job.id.clone();
            self.open
                .insert(id, WatchedJob { job, revision: change.revision, since: Instant::now() });
        } else {
            self.open.remove(&job.id);
        }
    }

    /// Jobs that nobody runs, oldest first.
    fn free(&self) -> impl Iterator<Item = &str> {
        let nobody = |seen: &WatchedJob| {
            seen.job.runner.is_none() || seen.since.elapsed() >= limits::JOB_CLAIM
        };
        let ours = |id: &String| self.ours.contains(id) || self.shunned.contains_key(id);
        self.open
            .iter()
            .filter(move |(id, seen)| !ours(id) && nobody(seen))
            .map(|(id, _)| id.as_str())
    }
}

//! Summary: status of a pipeline, joined from its feeds and the records of its workers; JSON as it
//! is.

use std::{fmt, time::Duration};

use jiff::Timestamp;
use millstream_stages::{headers, units::Period};
use serde::Serialize;

use super::{alerting::AlertingStatus, troubles::TroubleStatus};
use crate::{
    keeper::{fleet_record::LookedAt, report::Lost},
    observe::{WorkerRecord, durations::DurationCounts, worker_record::StageStats},
    topology::Held,
};

/// Share of a limit from which on a status warns.
pub(super) const NEARLY_FULL: f64 = 0.9;

/// Status of a pipeline; serialised as it is for `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    /// Name of the pipeline.
    pub pipeline: String,
    /// True if all was looked at and nothing found: exit status 0.
    pub all_well: bool,
    /// Conditions that do not hold: of the fleet as it is now, and as its workers tell.
    pub troubles: Vec<TroubleStatus>,
    /// Numbers of what was looked at for them.
    pub looked_at: LookedAt,
    /// Dead letters stored; `None` if the stream is not there.
    pub dead_letters: Option<u64>,
    /// Share of `dlq_max_bytes` that dead letters take up, 0 to 1; `None` without a limit.
    pub dead_letters_full: Option<f64>,
    /// Events parked or redriven, waiting in the retry stream; `None` if it is not there.
    pub retry_queue: Option<u64>,
    /// Share of the retry stream's limit that is taken up, 0 to 1; `None` without a limit.
    pub retry_full: Option<f64>,
    /// Failed attempts stored; `None` if the stream is not there.
    pub failed_attempts: Option<u64>,
    /// Conditions that the keeper found and told: streams that are nearly full of unread events or
    /// cannot be trimmed, consumers that are missing.
    pub conditions: Vec<String>,
    /// Events that were lost before a stage had read them, in the last day.
    pub lost_unread: Vec<Lost>,
    /// Stages, in the order of the configuration.
    pub stages: Vec<StageStatus>,
    /// Events and letters of stages that are gone, or no longer read what they did.
    pub leftovers: Vec<LeftoverStatus>,
    /// Incidents and notifications; `None` if it has none, or they cannot be read.
    pub alerting: Option<AlertingStatus>,
    /// Live workers.
    pub workers: Vec<WorkerStatus>,
}

/// Status of one stage over the whole fleet.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct StageStatus {
    /// Name of the stage.
    pub stage: String,
    /// Deliveries settled per second, lately.
    pub per_second: f64,
    /// Share of those that failed, 0 to 1; `None` if nothing was settled.
    pub error_rate: Option<f64>,
    /// Time that half of them took at the most, in milliseconds. Quantiles are those of all
    /// workers' deliveries together (their histograms are added up), at most 10 % too high.
    pub p50_ms: Option<f64>,
    /// Time that 95 % of them took at the most, in milliseconds.
    pub p95_ms: Option<f64>,
    /// Time that 99 % of them took at the most, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Events in flight.
    pub active: u64,
    /// Feeds that it reads.
    pub feeds: Vec<FeedStatus>,
    /// Circuit breaker of the stage, while that is open.
    pub breaker: Option<BreakerStatus>,
}

/// What is kept for a stage that is gone, or no longer reads it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct LeftoverStatus {
    /// Name of the stage.
    pub stage: String,
    /// Stage that took over, by its `renamed_from`.
    pub renamed: Option<String>,
    /// Events that wait.
    pub events: u64,
    /// Letters.
    pub letters: u64,
    /// What is kept, in words.
    pub what: String,
    /// What can be done.
    pub hint: String,
}

impl LeftoverStatus {
    /// Status of what is kept for one stage; `None`: nothing that anyone waits for.
    pub(super) fn of(held: &Held) -> Option<Self> {
        (held.events() + held.letters > 0).then(|| Self {
            stage: held.stage.clone(),
            renamed: held.heir.clone(),
            events: held.events(),
            letters: held.letters,
            what: held.what(),
            hint: held.hint(),
        })
    }
}

impl fmt::Display for LeftoverStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, what, hint, events, renamed, .. } = self;
        match renamed {
            Some(heir) => write!(f, "stage \"{stage}\", now \"{heir}\": {what}")?,
            None => write!(f, "stage \"{stage}\", which no longer reads them: {what}")?,
        }
        if *events > 0 { write!(f, "\n    {hint}") } else { Ok(()) }
    }
}

/// Circuit breaker that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BreakerStatus {
    /// Class and message of the failure that opened it.
    pub reason: String,
    /// Time at which it opened, RFC 3339.
    pub since: Option<String>,
    /// Seconds since then.
    pub open_s: Option<u64>,
    /// Time at which the next probe is let through, RFC 3339.
    pub probe_at: Option<String>,
    /// Seconds until then; 0: a probe is let through as soon as there is an event.
    pub probe_in_s: u64,
    /// Openings in a row: the first, and one more for each probe that failed.
    pub opens: u32,
}

/// Progress of a stage with one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FeedStatus {
    /// Name of the stream.
    pub stream: String,
    /// Reason that it is not read, such as a consumer that is gone; the numbers are then 0.
    pub problem: Option<String>,
    /// Messages not yet delivered (`num_pending`).
    pub pending: u64,
    /// Messages delivered and not settled, waits of retries included (`num_ack_pending`).
    pub ack_pending: u64,
    /// Messages among them that were delivered more than once (`num_redelivered`).
    pub redelivered: u64,
    /// Orphans: stored events that no worker will be given again; `None` if they are not known.
    pub orphans: Option<u64>,
    /// True if the sweep finds out which the orphans are; on a source it cannot.
    pub swept: bool,
}

/// Status of one worker.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WorkerStatus {
    /// Name of the worker.
    pub id: String,
    /// Host that it runs on.
    pub host: String,
    /// Process id there.
    pub pid: u32,
    /// Version of millstream.
    pub version: String,
    /// Hash of the configuration that it runs.
    pub config: String,
    /// Time at which it started, RFC 3339.
    pub started_at: String,
    /// Time at which it was last heard of, RFC 3339.
    pub seen_at: String,
    /// Deliveries settled per second, over all of its stages.
    pub per_second: f64,
    /// Reduce stages that it runs.
    pub leads: Vec<String>,
}

impl Status {
    /// Joins the records of the workers with the feeds of each stage; the sizes of the queues are
    /// set afterwards. A stage that the workers name and `stages` does not (a channel) is left out.
    pub(super) fn new(
        pipeline: &str,
        stages: Vec<(String, Vec<FeedStatus>)>,
        workers: &[WorkerRecord],
    ) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            all_well: false,
            troubles: Vec::new(),
            looked_at: LookedAt::default(),
            dead_letters: None,
            dead_letters_full: None,
            retry_queue: None,
            retry_full: None,
            failed_attempts: None,
            conditions: Vec::new(),
            lost_unread: Vec::new(),
            stages: stages
                .into_iter()
                .map(|(name, feeds)| StageStatus::new(name, feeds, workers))
                .collect(),
            leftovers: Vec::new(),
            alerting: None,
            workers: workers.iter().map(WorkerStatus::new).collect(),
        }
    }

    /// True if there is nothing that someone should look at.
    pub(super) fn is_well(&self) -> bool {
        let is_stopped = |stage: &StageStatus| {
            let is_bad = |feed: &FeedStatus| feed.problem.is_some() || feed.orphans > Some(0);
            stage.breaker.is_some() || stage.feeds.iter().any(is_bad)
        };
        let is_full = |share: Option<f64>| share.is_some_and(|share| share >= NEARLY_FULL);
        self.troubles.is_empty()
            && !self.stages.iter().any(is_stopped)
            && !self.leftovers.iter().any(|leftover| leftover.events > 0)
            && self.conditions.is_empty()
            && self.lost_unread.is_empty()
            && self.dead_letters == Some(0)
            && !is_full(self.dead_letters_full)
            && !is_full(self.retry_full)
    }
}

impl BreakerStatus {
    /// Breaker that opened at `since` and probes at `probe_at`, as it is at `now`.
    pub(super) fn new(
        reason: &str,
        since: Option<&str>,
        probe_at: Option<&str>,
        opens: u32,
        now: Timestamp,
    ) -> Self {
        let seconds = |text: Option<&str>| {
            Some(text?.parse::<Timestamp>().ok()?.as_second() - now.as_second())
        };
        Self {
            reason: reason.to_owned(),
            since: since.map(str::to_owned),
            open_s: seconds(since).map(|seconds| u64::try_from(-seconds).unwrap_or(0)),
            probe_at: probe_at.map(str::to_owned),
            probe_in_s: seconds(probe_at).map_or(0, |seconds| u64::try_from(seconds).unwrap_or(0)),
            opens,
        }
    }
}

impl fmt::Display for BreakerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("circuit breaker open")?;
        if let Some(seconds) = self.open_s {
            write!(f, " for {}", Period::seconds(seconds))?;
        }
        match self.probe_in_s {
            0 => f.write_str(", probing: ")?,
            seconds => write!(f, ", next probe in {}: ", Period::seconds(seconds))?,
        }
        f.write_str(&headers::clean(&self.reason))
    }
}

impl StageStatus {
    fn new(stage: String, feeds: Vec<FeedStatus>, workers: &[WorkerRecord]) -> Self {
        let stats: Vec<&StageStats> =
            workers.iter().filter_map(|worker| worker.stages.get(&stage)).collect();
        let mut all = DurationCounts::default();
        stats.iter().for_each(|stats| all.add(&stats.recent.took));
        let ms = |q| all.quantile(q).map(|took: Duration| took.as_secs_f64() * 1000.0);
        let handled: u64 = stats.iter().map(|stats| stats.recent.handled).sum();
        let failed: u64 = stats.iter().map(|stats| stats.recent.failed).sum();
        Self {
            per_second: stats.iter().fold(0.0, |sum, stats| sum + stats.recent.per_second()),
            // A failure is counted before its delivery is settled, so the one can be ahead of the
            // other.
            error_rate: (handled > 0).then(|| (failed as f64 / handled as f64).min(1.0)),
            p50_ms: ms(0.5),
            p95_ms: ms(0.95),
            p99_ms: ms(0.99),
            active: stats.iter().map(|stats| stats.active).sum(),
            stage,
            feeds,
            breaker: None,
        }
    }
}

impl WorkerStatus {
    fn new(record: &WorkerRecord) -> Self {
        Self {
            id: record.id.clone(),
            host: record.host.clone(),
            pid: record.pid,
            version: record.version.clone(),
            config: record.config.clone(),
            started_at: record.started_at.clone(),
            seen_at: record.seen_at.clone(),
            per_second: record
                .stages
                .values()
                .fold(0.0, |sum, stats| sum + stats.recent.per_second()),
            leads: record.leads.clone(),
        }
    }
}

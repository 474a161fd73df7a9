//! Worker record: state and counts of one worker, from which the status of the fleet is read.

use std::{
    collections::{BTreeMap, VecDeque},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::{
    conditions::ConditionRecord, counters::StageSnapshot, durations::DurationCounts,
    metrics::Metrics,
};
use crate::limits;

/// State and counts of one worker: its value in the key-value bucket `Names::workers_bucket`, as
/// JSON.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRecord {
    /// Name of the worker, unlike any other's; the key in the bucket.
    pub id: String,
    /// The host it runs on.
    pub host: String,
    /// Process id on that host.
    pub pid: u32,
    /// The version of millstream.
    pub version: String,
    /// The hash of the configuration that it runs.
    pub config: String,
    /// Start of the worker, RFC 3339.
    pub started_at: String,
    /// Time of this record, RFC 3339.
    pub seen_at: String,
    /// Number of this record, from 1; 0: written by a version that did not count.
    #[serde(default)]
    pub beats: u64,
    /// Time since which no worker of the fleet has died, as far as this one knows, on the broker's
    /// clock, RFC 3339; empty: it does not know.
    #[serde(default)]
    pub quiet_since: String,
    /// The reduce stages that it runs, and does not only stand by for.
    pub leads: Vec<String>,
    /// Counts of its map stages and channels, by name.
    pub stages: BTreeMap<String, StageStats>,
    /// Conditions that do not hold as it sees by itself, at most
    /// [`limits::WORKER_CONDITIONS_MAX`].
    #[serde(default)]
    pub conditions: Vec<ConditionRecord>,
}

/// Counts of one stage of one worker.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct StageStats {
    /// Deliveries settled since the worker started.
    pub handled: u64,
    /// Attempts that failed since then.
    pub failed: u64,
    /// Events given up on since then.
    pub dead_lettered: u64,
    /// Events in flight.
    pub active: u64,
    /// Counts of the last [`limits::RECENT`]: the base of rates and quantiles.
    pub recent: Recent,
}

/// Counts of one stage within a span of time. They add up over workers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Recent {
    /// Length of the span.
    pub span_ms: u64,
    /// Deliveries settled within it.
    pub handled: u64,
    /// Attempts that failed within it.
    pub failed: u64,
    /// Durations of the deliveries that ran.
    pub took: DurationCounts,
}

/// Maker of the records of one worker, with the history that rates need.
#[derive(Debug)]
pub struct Recorder {
    worker: WorkerRecord,
    /// Snapshots at earlier records, oldest first, over [`limits::RECENT`].
    history: VecDeque<(Instant, BTreeMap<String, StageSnapshot>)>,
}

impl WorkerRecord {
    /// The record of a worker that starts now and has done nothing.
    pub fn new(id: &str, host: &str, config: &str) -> Self {
        let now = Timestamp::now().to_string();
        Self {
            id: id.to_owned(),
            host: host.to_owned(),
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            config: config.to_owned(),
            started_at: now.clone(),
            seen_at: now,
            beats: 0,
            quiet_since: String::new(),
            leads: Vec::new(),
            stages: BTreeMap::new(),
            conditions: Vec::new(),
        }
    }
}

impl Recorder {
    /// A recorder for a worker that starts now.
    pub fn new(worker: WorkerRecord) -> Self {
        Self { worker, history: VecDeque::new() }
    }

    /// The worker's next record, at `now`. Rates and quantiles are those since the record a
    /// [`limits::RECENT`] ago, or since the first.
    pub fn record(&mut self, metrics: &Metrics, now: Instant) -> WorkerRecord {
        self.worker.beats += 1;
        let counted: BTreeMap<_, _> = metrics.snapshot().into_iter().collect();
        self.history.push_back((now, counted.clone()));
        while self.history.get(1).is_some_and(|(at, _)| now.duration_since(*at) >= limits::RECENT) {
            self.history.pop_front();
        }
        let (since, before) = self.history.front().expect("this record was just pushed");
        let span = now.duration_since(*since);
        let stages = counted.into_iter().map(|(name, stage)| {
            let before = before.get(&name).cloned().unwrap_or_default();
            (name, StageStats::new(&stage, &before, span))
        });
        WorkerRecord {
            seen_at: Timestamp::now().to_string(),
            leads: metrics.leading(),
            stages: stages.collect(),
            ..self.worker.clone()
        }
    }
}

impl StageStats {
    fn new(now: &StageSnapshot, before: &StageSnapshot, span: Duration) -> Self {
        Self {
            handled: now.handled,
            failed: now.failed,
            dead_lettered: now.dead_lettered,
            active: now.active,
            recent: Recent {
                span_ms: u64::try_from(span.as_millis()).unwrap_or(u64::MAX),
                handled: now.handled.saturating_sub(before.handled),
                failed: now.failed.saturating_sub(before.failed),
                took: now.took.since(&before.took),
            },
        }
    }
}

impl Recent {
    /// Deliveries settled per second.
    pub fn per_second(&self) -> f64 {
        if self.span_ms == 0 { 0.0 } else { self.handled as f64 * 1000.0 / self.span_ms as f64 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{Outcome, metrics::tests::metrics};

    #[test]
    fn a_record_tells_of_the_last_half_minute() {
        let (metrics, start) = (metrics(), Instant::now());
        let mut recorder = Recorder::new(WorkerRecord::new("w1", "host", "abc"));
        let stage = metrics.stage("orders");
        let mut last = None;
        for second in 0..=120 {
            if second < 60 {
                stage.handled("t", Outcome::Done, Some(Duration::from_millis(50)));
            } else {
                stage.handled("t", Outcome::Retried, Some(Duration::from_secs(2)));
                stage.failed("TimeoutError");
            }
            last = Some(recorder.record(&metrics, start + Duration::from_secs(second)));
        }
        let last = last.unwrap();
        let orders = &last.stages["orders"];
        assert_eq!((orders.handled, orders.failed), (121, 61));
        assert_eq!(
            (orders.recent.span_ms, orders.recent.handled, orders.recent.failed),
            (30_000, 30, 30)
        );
        assert_eq!(orders.recent.took.quantile(0.01), Some(Duration::from_secs(2)));
        assert!((orders.recent.per_second() - 1.0).abs() < 0.01);
        let json = serde_json::to_value(&last).unwrap();
        assert_eq!(serde_json::from_value::<WorkerRecord>(json.clone()).unwrap(), last);
        // One of a version before.
        let mut old = json;
        old.as_object_mut().unwrap().remove("conditions");
        assert_eq!(serde_json::from_value::<WorkerRecord>(old).unwrap(), last);
    }
}

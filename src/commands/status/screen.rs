//! Status: one screen that says how a pipeline is doing, from what the broker and the workers say.

use std::{
    fmt::{self, Write as _},
    time::Duration,
};

use jiff::Timestamp;
use millstream_stages::{headers, units::Period};
use serde::Serialize;

use super::alerting::AlertingStatus;
use crate::observe::{WorkerRecord, durations::DurationCounts, worker_record::StageStats};

/// The share of `dlq_max_bytes` from which on a status warns.
const NEARLY_FULL: f64 = 0.9;

/// How a pipeline is doing. Serialised as it is for `status --json`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Status {
    /// The pipeline.
    pub pipeline: String,
    /// Dead letters stored; `None` if the stream is not there.
    pub dead_letters: Option<u64>,
    /// How much of `dlq_max_bytes` they take up, 0 to 1; `None` without a limit.
    pub dead_letters_full: Option<f64>,
    /// Events parked or redriven, waiting in the retry stream.
    pub retry_queue: Option<u64>,
    /// Failed attempts stored.
    pub failed_attempts: Option<u64>,
    /// Its stages, in the order of the configuration.
    pub stages: Vec<StageStatus>,
    /// Its incidents and notifications; `None` if it has none, or that cannot be read.
    pub alerting: Option<AlertingStatus>,
    /// Its live workers.
    pub workers: Vec<WorkerStatus>,
}

/// How one stage is doing over the whole fleet.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub(super) struct StageStatus {
    /// Its name.
    pub stage: String,
    /// Deliveries settled per second, lately.
    pub per_second: f64,
    /// The share of those that failed, 0 to 1; `None` if nothing was settled.
    pub error_rate: Option<f64>,
    /// The time that half of them took at the most, in milliseconds. Quantiles are those of all
    /// workers' deliveries together (their histograms are added up), at most 10 % too high.
    pub p50_ms: Option<f64>,
    /// The time that 95 % of them took at the most, in milliseconds.
    pub p95_ms: Option<f64>,
    /// The time that 99 % of them took at the most, in milliseconds.
    pub p99_ms: Option<f64>,
    /// Events in hand.
    pub active: u64,
    /// What it reads.
    pub feeds: Vec<FeedStatus>,
    /// Its circuit breaker, while that is open.
    pub breaker: Option<BreakerStatus>,
}

/// A circuit breaker that is open.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct BreakerStatus {
    /// The class and message of the failure that opened it.
    pub reason: String,
    /// When it opened, RFC 3339.
    pub since: Option<String>,
    /// How many seconds ago that was.
    pub open_s: Option<u64>,
    /// When the next probe is let through, RFC 3339.
    pub probe_at: Option<String>,
    /// In how many seconds that is; 0: a probe is let through as soon as there is an event.
    pub probe_in_s: u64,
    /// Openings in a row: the first, and one more for each probe that failed.
    pub opens: u32,
}

/// How far a stage is with one stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct FeedStatus {
    /// The stream.
    pub stream: String,
    /// What keeps it from being read, such as a consumer that is gone; the numbers are then 0.
    pub problem: Option<String>,
    /// Messages not yet delivered (`num_pending`).
    pub pending: u64,
    /// Messages delivered and not settled, waits of retries included (`num_ack_pending`).
    pub ack_pending: u64,
    /// Those of them that were delivered more than once (`num_redelivered`).
    pub redelivered: u64,
    /// Events stored that nobody will be given again; `None` if it cannot be told.
    pub orphans: Option<u64>,
    /// Whether the sweep finds out which those are. On a source it cannot.
    pub swept: bool,
}

/// How one worker is doing.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct WorkerStatus {
    /// Its name.
    pub id: String,
    /// The host it runs on.
    pub host: String,
    /// Its process id there.
    pub pid: u32,
    /// The version of millstream.
    pub version: String,
    /// The hash of the configuration that it runs.
    pub config: String,
    /// When it started, RFC 3339.
    pub started_at: String,
    /// When it was last heard of, RFC 3339.
    pub seen_at: String,
    /// Deliveries settled per second, over all of its stages.
    pub per_second: f64,
    /// The reduce stages that it runs.
    pub leads: Vec<String>,
}

impl Status {
    /// Puts together what the workers say with what the broker says of each stage's feeds. The
    /// sizes of the queues are set afterwards. A stage that the workers name and `stages` does not
    /// (a channel) is left out.
    pub(super) fn new(
        pipeline: &str,
        stages: Vec<(String, Vec<FeedStatus>)>,
        workers: &[WorkerRecord],
    ) -> Self {
        Self {
            pipeline: pipeline.to_owned(),
            dead_letters: None,
            dead_letters_full: None,
            retry_queue: None,
            failed_attempts: None,
            stages: stages
                .into_iter()
                .map(|(name, feeds)| StageStatus::new(name, feeds, workers))
                .collect(),
            alerting: None,
            workers: workers.iter().map(WorkerStatus::new).collect(),
        }
    }

    /// The screen: no line is longer than `width` characters.
    pub(super) fn render(&self, width: usize) -> String {
        let mut out = String::new();
        let count = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let workers = self.workers.len();
        _ = writeln!(
            out,
            "{}: {workers} worker{}, {} dead letters, {} waiting for retry, {} failed attempts kept\n",
            self.pipeline,
            if workers == 1 { "" } else { "s" },
            count(self.dead_letters),
            count(self.retry_queue),
            count(self.failed_attempts),
        );
        self.render_stages(&mut out);
        if let Some(alerting) = &self.alerting {
            alerting.render(&mut out);
        }
        if !self.workers.is_empty() {
            out.push('\n');
            self.render_workers(&mut out);
        }
        cut(&out, width)
    }

    fn render_stages(&self, out: &mut String) {
        let mut rows = vec![
            [
                "STAGE", "RATE/S", "ERRORS", "P50", "P95", "P99", "ACTIVE", "PENDING", "UNACKED",
                "AGAIN",
            ]
            .map(str::to_owned),
        ];
        let mut problems = Vec::new();
        for stage in &self.stages {
            let sum = |field: fn(&FeedStatus) -> u64| {
                stage.feeds.iter().map(field).sum::<u64>().to_string()
            };
            rows.push([
                stage.stage.clone(),
                format!("{:.1}", stage.per_second),
                stage
                    .error_rate
                    .map_or_else(|| "-".to_owned(), |rate| format!("{:.1}%", rate * 100.0)),
                took(stage.p50_ms),
                took(stage.p95_ms),
                took(stage.p99_ms),
                stage.active.to_string(),
                sum(|feed| feed.pending),
                sum(|feed| feed.ack_pending),
                sum(|feed| feed.redelivered),
            ]);
            for feed in &stage.feeds {
                problems.extend(
                    feed.problem.as_ref().map(|problem| format!("! {}: {problem}\n", stage.stage)),
                );
                problems.extend(feed.orphans.filter(|orphans| *orphans > 0).map(|orphans| {
                    let events = if orphans == 1 { "event" } else { "events" };
                    let what = if feed.swept {
                        "the sweep turns them into dead letters"
                    } else {
                        "no dead letter tells which"
                    };
                    format!(
                        "! {}: {orphans} {events} of {} that nobody will be given again; {what}\n",
                        stage.stage, feed.stream
                    )
                }));
            }
        }
        table(out, &rows, 1);
        for (stage, breaker) in
            self.stages.iter().filter_map(|stage| Some((stage, stage.breaker.as_ref()?)))
        {
            _ = writeln!(out, "! {}: {breaker}", stage.stage);
        }
        if let Some(full) = self.dead_letters_full.filter(|full| *full >= NEARLY_FULL) {
            _ = writeln!(
                out,
                "! dead letters: {:.0}% of dlq_max_bytes; when it is full, stages hold what fails: redrive or drop letters, or raise it",
                full * 100.0
            );
        }
        problems.dedup();
        problems.iter().for_each(|problem| out.push_str(problem));
    }

    fn render_workers(&self, out: &mut String) {
        let mut rows =
            vec![["WORKER", "HOST", "PID", "UP", "RATE/S", "CONFIG", "LEADS"].map(str::to_owned)];
        for worker in &self.workers {
            rows.push([
                headers::clean(&worker.id),
                headers::clean(&worker.host),
                worker.pid.to_string(),
                up(&worker.started_at, &worker.seen_at).unwrap_or_else(|| "?".to_owned()),
                format!("{:.1}", worker.per_second),
                headers::clean(&worker.config),
                headers::clean(&worker.leads.join(",")),
            ]);
        }
        table(out, &rows, 2);
    }
}

impl BreakerStatus {
    /// One that opened at `since` and probes at `probe_at`, as it is at `now`.
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

/// Lays out rows in columns; the first `left` columns are aligned to the left, the rest to the
/// right.
fn table<const N: usize>(out: &mut String, rows: &[[String; N]], left: usize) {
    let widths: [usize; N] = std::array::from_fn(|column| {
        rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0)
    });
    for row in rows {
        let mut line = String::new();
        for (column, (cell, width)) in row.iter().zip(widths).enumerate() {
            let gap = if column == 0 { "" } else { "  " };
            _ = if column < left {
                write!(line, "{gap}{cell:width$}")
            } else {
                write!(line, "{gap}{cell:>width$}")
            };
        }
        _ = writeln!(out, "{}", line.trim_end());
    }
}

fn cut(text: &str, width: usize) -> String {
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        if line.chars().count() > width {
            out.extend(line.chars().take(width.saturating_sub(1)).chain(['…']));
        } else {
            out.push_str(line);
        }
        out.push('\n');
    }
    out
}

/// A time in milliseconds with the unit and the digits that fit it.
fn took(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0}µs", ms * 1000.0),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}

/// How long a worker has been up: the largest unit that fits.
fn up(started_at: &str, seen_at: &str) -> Option<String> {
    let (started, seen) =
        (started_at.parse::<Timestamp>().ok()?, seen_at.parse::<Timestamp>().ok()?);
    let seconds = (seen.as_second() - started.as_second()).max(0);
    Some(match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..86_400 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{durations::Durations, worker_record::Recent};
    use expect_test::expect;

    fn worker(id: &str, took: Duration, failed: u64) -> WorkerRecord {
        let durations = Durations::default();
        (0..60).for_each(|_| durations.observe(took));
        let recent = Recent { span_ms: 30_000, handled: 60, failed, took: durations.snapshot() };
        let stats = StageStats { handled: 900, failed, dead_lettered: 1, active: 3, recent };
        WorkerRecord {
            started_at: "2026-01-01T00:00:00Z".into(),
            seen_at: "2026-01-01T02:30:00Z".into(),
            pid: 41,
            leads: vec!["errors".into()],
            stages: [("validate".to_owned(), stats)].into(),
            ..WorkerRecord::new(id, "node-a\x1b[2J", "0123456789ab")
        }
    }

    fn status() -> Status {
        let feed = |stream: &str, problem: Option<&str>| FeedStatus {
            stream: stream.into(),
            problem: problem.map(str::to_owned),
            pending: 12,
            ack_pending: 8,
            redelivered: 2,
            orphans: Some(u64::from(problem.is_none() && stream == "shop-retry") * 3),
            swept: stream != "shop-in-events",
        };
        let gone = Some("consumer \"shop-orders\" on stream \"shop-out-validate\" is gone");
        let stages = vec![
            ("validate".to_owned(), vec![feed("shop-in-events", None), feed("shop-retry", None)]),
            ("orders".to_owned(), vec![feed("shop-out-validate", gone)]),
        ];
        let workers = [
            worker("w-1", Duration::from_micros(800), 0),
            worker("w-2", Duration::from_millis(40), 6),
        ];
        let mut status = Status::new("shop", stages, &workers);
        let (since, now) =
            (Some("2026-01-01T02:27:36.5Z"), "2026-01-01T02:30:00Z".parse().unwrap());
        let reason = "ConnectionError: refused\x1b[2J";
        status.stages[1].breaker =
            Some(BreakerStatus::new(reason, since, Some("2026-01-01T02:30:08Z"), 7, now));
        Status { dead_letters: Some(12), retry_queue: Some(4), ..status }
    }

    #[test]
    fn a_status_is_one_screen() {
        expect![[r#"
            shop: 2 workers, 12 dead letters, 4 waiting for retry, ? failed attempts kept

            STAGE     RATE/S  ERRORS    P50   P95   P99  ACTIVE  PENDING  UNACKED  AGAIN
            validate     4.0    5.0%  800µs  40ms  40ms       6       24       16      4
            orders       0.0       -      -     -     -       0       12        8      2
            ! orders: circuit breaker open for 2m24s, next probe in 8s: ConnectionError: refused [2J
            ! validate: 3 events of shop-retry that nobody will be given again; the sweep turns them into dead letters
            ! orders: consumer "shop-orders" on stream "shop-out-validate" is gone

            WORKER  HOST        PID  UP  RATE/S        CONFIG   LEADS
            w-1     node-a [2J   41  2h     2.0  0123456789ab  errors
            w-2     node-a [2J   41  2h     2.0  0123456789ab  errors
        "#]]
        .assert_eq(&status().render(120));
    }

    #[test]
    fn no_line_is_wider_than_the_screen() {
        assert!(status().render(40).lines().all(|line| line.chars().count() <= 40));
    }

    #[test]
    fn the_json_has_the_same_numbers() {
        let json = serde_json::to_value(status()).unwrap();
        assert_eq!(json["stages"][0]["p99_ms"], 40.0);
        assert_eq!(json["stages"][0]["error_rate"], 0.05);
        assert_eq!(json["stages"][1]["feeds"][0]["pending"], 12);
        assert_eq!(json["stages"][0]["breaker"], serde_json::Value::Null);
        assert_eq!(json["stages"][1]["breaker"]["open_s"], 144);
        assert_eq!(json["stages"][1]["breaker"]["probe_in_s"], 8);
        let late = BreakerStatus::new(
            "",
            None,
            Some("2026-01-01T02:30:00Z"),
            1,
            "2026-01-01T02:31:00Z".parse().unwrap(),
        );
        assert_eq!(late.probe_in_s, 0);
    }
}

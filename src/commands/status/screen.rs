//! Screen: status of a pipeline as text, no line wider than the terminal.

use std::fmt::Write as _;

use jiff::Timestamp;
use millstream_stages::headers;

use super::summary::{FeedStatus, NEARLY_FULL, StageStatus, Status, WorkerStatus};
use crate::commands::{count as count_of, printable, table::Table, width::shorten};

impl Status {
    /// Screen, of which no line is wider than `width` columns.
    pub(super) fn render(&self, width: usize) -> String {
        let mut out = String::new();
        let count = |n: Option<u64>| n.map_or_else(|| "?".to_owned(), |n| n.to_string());
        let workers = self.workers.len();
        _ = writeln!(
            out,
            "{}: {workers} worker{}, {} dead letters, {} waiting for retry, \
             {} failed attempts kept\n",
            self.pipeline,
            if workers == 1 { "" } else { "s" },
            count(self.dead_letters),
            count(self.retry_queue),
            count(self.failed_attempts),
        );
        push_lines(&mut out, &stages_table(&self.stages, Some(width)).lines(Some(width)));
        self.render_warnings(&mut out);
        if let Some(alerting) = &self.alerting {
            alerting.render(&mut out);
        }
        if !self.workers.is_empty() {
            out.push('\n');
            push_lines(&mut out, &workers_table(&self.workers).lines(Some(width)));
        }
        if self.all_well {
            let at = self.looked_at;
            _ = writeln!(
                out,
                "\nall well: {}, {} and {} looked at",
                count_of(at.streams, "stream"),
                count_of(at.consumers, "consumer"),
                count_of(at.leases, "lease"),
            );
        }
        printable(&out).lines().map(|line| shorten(line, width) + "\n").collect()
    }

    /// Adds a line for each thing that someone should look at.
    fn render_warnings(&self, out: &mut String) {
        for trouble in &self.troubles {
            _ = writeln!(out, "{}", trouble.text(Timestamp::now()));
        }
        for (stage, breaker) in
            self.stages.iter().filter_map(|stage| Some((stage, stage.breaker.as_ref()?)))
        {
            _ = writeln!(out, "! {}: {breaker}", stage.stage);
        }
        if let Some(full) = self.dead_letters_full.filter(|full| *full >= NEARLY_FULL) {
            _ = writeln!(
                out,
                "! dead letters: {:.0}% of dlq_max_bytes; when it is full, \
                 stages hold what fails: redrive or drop letters, or raise it",
                full * 100.0
            );
        }
        for lost in &self.lost_unread {
            _ = writeln!(
                out,
                "! {}: {} events of {} were lost before it had read them, the last at {}",
                headers::clean(&lost.stage),
                lost.events,
                headers::clean(&lost.stream),
                headers::clean(&lost.at),
            );
        }
        for condition in &self.conditions {
            _ = writeln!(out, "! {}", headers::clean(condition));
        }
        if let Some(full) = self.retry_full.filter(|full| *full >= NEARLY_FULL) {
            _ = writeln!(
                out,
                "! waiting for retry: {:.0}% of retry_max_bytes; when it is full, the oldest are \
                 lost: raise it",
                full * 100.0
            );
        }
        for leftover in &self.leftovers {
            _ = writeln!(out, "! {leftover}");
        }
        let mut problems = Vec::new();
        for stage in &self.stages {
            for feed in &stage.feeds {
                let is_told = self.troubles.iter().any(|trouble| {
                    let of_stream = |kind: &str| trouble.what == format!("{kind} {}", feed.stream);
                    of_stream("stream")
                        || trouble.what.ends_with(&format!(" on stream {}", feed.stream))
                });
                problems.extend(
                    feed.problem
                        .as_ref()
                        .filter(|_| !is_told)
                        .map(|problem| format!("! {}: {problem}\n", stage.stage)),
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
        problems.dedup();
        problems.iter().for_each(|problem| out.push_str(problem));
    }
}

fn push_lines(out: &mut String, lines: &[String]) {
    for line in lines {
        out.push_str(line);
        out.push('\n');
    }
}

/// Stages, a row each; on a terminal of few columns without the numbers that say the least.
pub(super) fn stages_table(stages: &[StageStatus], width: Option<usize>) -> Table {
    let heading =
        ["STAGE", "RATE/S", "ERRORS", "P50", "P95", "P99", "ACTIVE", "PENDING", "UNACKED", "AGAIN"];
    let mut table = Table::new(&heading).right(&heading[1..]);
    for stage in stages {
        let sum =
            |field: fn(&FeedStatus) -> u64| stage.feeds.iter().map(field).sum::<u64>().to_string();
        table.row([
            stage.stage.clone(),
            format!("{:.1}", stage.per_second),
            stage.error_rate.map_or_else(|| "-".to_owned(), |rate| format!("{:.1}%", rate * 100.0)),
            took(stage.p50_ms),
            took(stage.p95_ms),
            took(stage.p99_ms),
            stage.active.to_string(),
            sum(|feed| feed.pending),
            sum(|feed| feed.ack_pending),
            sum(|feed| feed.redelivered),
        ]);
    }
    table.spare(width, &["P50", "AGAIN", "P95"]);
    table
}

/// Workers, a row each.
pub(super) fn workers_table(workers: &[WorkerStatus]) -> Table {
    let mut table = Table::new(&["WORKER", "HOST", "PID", "UP", "RATE/S", "CONFIG", "LEADS"])
        .right(&["PID", "UP", "RATE/S"]);
    for worker in workers {
        table.row([
            headers::clean(&worker.id),
            headers::clean(&worker.host),
            worker.pid.to_string(),
            up(&worker.started_at, &worker.seen_at).unwrap_or_else(|| "?".to_owned()),
            format!("{:.1}", worker.per_second),
            headers::clean(&worker.config),
            headers::clean(&worker.leads.join(",")),
        ]);
    }
    table
}

/// Text of a time in milliseconds, with the unit and the digits that fit it.
fn took(ms: Option<f64>) -> String {
    match ms {
        None => "-".to_owned(),
        Some(ms) if ms < 1.0 => format!("{:.0}µs", ms * 1000.0),
        Some(ms) if ms < 10.0 => format!("{ms:.1}ms"),
        Some(ms) if ms < 1000.0 => format!("{ms:.0}ms"),
        Some(ms) => format!("{:.1}s", ms / 1000.0),
    }
}

/// Time that a worker has been up, in the largest unit that fits.
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

//! `dlq jobs ls`: redrives that run and ran.

use std::{io::IsTerminal as _, time::SystemTime};

use super::words::which;
use crate::{
    commands::{dlq::ls::NARROW, people::when, table::Table, terminal_width},
    redrive::{job::Job, store::Jobs},
};

/// Lists jobs.
///
/// # Errors
/// The broker cannot be read.
pub(super) async fn run(jobs: &Jobs, json: bool, now: SystemTime) -> anyhow::Result<()> {
    let all: Vec<Job> = jobs.list().await?.into_iter().map(|(job, _)| job).collect();
    if json {
        for job in &all {
            println!("{}", serde_json::to_string(job)?);
        }
        return Ok(());
    }
    if all.is_empty() {
        println!("no jobs yet; `millstream dlq redrive` makes one");
        return Ok(());
    }
    let now = std::io::stdout().is_terminal().then_some(now);
    let width = terminal_width();
    table(&all, now, width).print(width);
    Ok(())
}

/// Jobs, a row each, for a terminal of `width` columns; times are as of `now`, if given.
fn table(jobs: &[Job], now: Option<SystemTime>, width: Option<usize>) -> Table {
    let mut table =
        Table::new(&["JOB", "KIND", "MADE", "STATE", "REDRIVEN", "SKIPPED", "WHICH", "BY", "WHY"])
            .right(&["REDRIVEN", "SKIPPED"]);
    for job in jobs {
        let counts = job.counts;
        table.row([
            job.id.clone(),
            job.kind.as_str().to_owned(),
            when(&job.created_at, now),
            job.state.as_str().to_owned(),
            counts.redriven.to_string(),
            (counts.guarded + counts.completed + counts.permanent + counts.failed).to_string(),
            which(job),
            job.created_by.clone(),
            job.why.clone().unwrap_or_default(),
        ]);
    }
    if width.is_some_and(|width| width < NARROW) {
        // `show` has them.
        for heading in ["KIND", "BY", "WHY"] {
            table.without(heading);
        }
    }
    table.spare(width, &["KIND", "BY", "SKIPPED", "MADE"]);
    table
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        commands::table::on_terminals,
        dead_letter::LetterFilter,
        redrive::job::{Counts, Kind, State},
        wire::parse_rfc3339,
    };

    #[test]
    fn jobs_in_any_script_line_up_on_every_terminal() {
        let made = parse_rfc3339("2026-11-21T08:00:00Z").unwrap();
        let job = |id: &str, filter: LetterFilter| {
            Job::new(id.into(), Kind::Redrive, filter, 99, "ada@ops-1", made)
        };
        let class = |class: &str| LetterFilter { class: Some(class.into()), ..Default::default() };
        let jobs = [
            Job {
                state: State::Stopped,
                why: Some("2 of 10 failed, 8 undecided: ValidationError: http 422: no rate".into()),
                counts: Counts { redriven: 10, ..Counts::default() },
                ..job("r-20261121-080000-2sps", class("Http*"))
            },
            Job {
                kind: Kind::Recover,
                state: State::Done,
                created_by: "worker-shop-7c9f6d5b8-x2x9q".into(),
                counts: Counts { redriven: 12_500, permanent: 7, ..Counts::default() },
                ..job("r-20261121-080000-payments-of-the-second-kind-17", class("*"))
            },
            Job {
                state: State::Cancelled,
                why: Some("由 小明 取消".into()),
                created_by: "小明@运维".into(),
                ..job("r-20261121-080001-ab12", class("余额不足"))
            },
            job("r-20261121-080002-cd34", class("שגיאת אימות")),
        ];
        let now = parse_rfc3339("2026-11-21T11:00:00Z");
        let shown = on_terminals(|width| table(&jobs, now, width));
        expect_test::expect![[r#"
            80 columns
            JOB                                               STATE     REDRIVEN  WHICH
            r-20261121-080000-2sps                            stopped         10  --class '…
            r-20261121-080000-payments-of-the-second-kind-17  done         12500  --class '…
            r-20261121-080001-ab12                            cancell…         0  --class …
            r-20261121-080002-cd34                            running          0  --class '…
            120 columns
            JOB                                               MADE    STATE      REDRIVEN  SKIPPED  WHICH           WHY
            r-20261121-080000-2sps                            3h ago  stopped          10        0  --class 'Http…  2 of 10 failed,…
            r-20261121-080000-payments-of-the-second-kind-17  3h ago  done          12500        7  --class '*'
            r-20261121-080001-ab12                            3h ago  cancelled         0        0  --class 余额…   由 小明 取消
            r-20261121-080002-cd34                            3h ago  running           0        0  --class 'שגיא…
            200 columns
            JOB                                               KIND     MADE    STATE      REDRIVEN  SKIPPED  WHICH                  BY                           WHY
            r-20261121-080000-2sps                            redrive  3h ago  stopped          10        0  --class 'Http*'        ada@ops-1                    2 of 10 failed, 8 undecided: ValidationError: http…
            r-20261121-080000-payments-of-the-second-kind-17  recover  3h ago  done          12500        7  --class '*'            worker-shop-7c9f6d5b8-x2x9q
            r-20261121-080001-ab12                            redrive  3h ago  cancelled         0        0  --class 余额不足       小明@运维                    由 小明 取消
            r-20261121-080002-cd34                            redrive  3h ago  running           0        0  --class 'שגיאת אימות'  ada@ops-1
        "#]].assert_eq(&shown);
    }
}

//! Words: the letters, counts and next command of a job, as people read them.

use crate::{
    commands::{count, dlq::filters::quoted, printable},
    redrive::job::{Job, State},
};

/// Line about letters that the guard left, and how to send them all the same.
pub(in crate::commands::dlq) fn guard_line(guarded: u64, max_redrives: u32) -> String {
    format!(
        "left {} that had been redriven {} or more and came back; \
         to send them all the same: --max-redrives {}",
        letters(guarded),
        times(max_redrives),
        max_redrives.saturating_add(1)
    )
}

/// Next command for a job, where there is one.
pub(super) fn next_step(job: &Job) -> Option<String> {
    match job.state {
        State::Running if job.runner.is_none() => {
            Some("no worker has it yet; `millstream status` shows who is alive".to_owned())
        }
        State::Stopped if job.filter.letters.is_empty() => {
            // What failed again has a new number, and is not the job's business.
            let canary = job.canary.as_ref().map(|canary| match canary.stop_above > 0.0 {
                true => format!(
                    " --canary {} --stop-above {:.0}%",
                    canary.count,
                    canary.stop_above * 100.0
                ),
                false => format!(" --canary {}", canary.count),
            });
            let canary = canary.unwrap_or_default();
            let again = format!("millstream dlq redrive {}{canary}", which(job));
            Some(format!(
                "mended?  {}\nor only the untouched rest: millstream dlq jobs resume {}",
                printable(&again),
                job.id
            ))
        }
        State::Stopped | State::Failed => Some(format!("mend it, then {}", resume(&job.id))),
        State::Cancelled => Some(resume(&job.id)),
        State::Done if job.counts.redriven > 0 => {
            Some("what fails again is a letter again: millstream dlq groups".into())
        }
        State::Running | State::Canary | State::Done => None,
    }
}

/// Command that goes on with a job.
pub(super) fn resume(id: &str) -> String {
    format!("to go on: millstream dlq jobs resume {id}")
}

/// Counts of a job in words.
pub(super) fn did(job: &Job) -> String {
    let counts = job.counts;
    let mut parts = vec![format!("redrove {}", letters(counts.redriven))];
    for (number, what) in [
        (counts.guarded, "left by the guard"),
        (counts.completed, "completed before"),
        (counts.permanent, "marked permanent"),
        (counts.gone, "taken by someone else"),
        (counts.failed, "failed"),
        (counts.skipped, "skipped: nothing takes them"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.join(", ")
}

/// Reasons for which letters stay, each with how many.
pub(super) fn reasons(job: &Job) -> Vec<String> {
    let each = job.left.iter();
    each.map(|(reason, number)| printable(&format!("{number} {reason}"))).collect()
}

/// "1 letter", "2 letters".
pub(super) fn letters(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "letter")
}

/// "1 time", "2 times".
pub(super) fn times(number: u32) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "time")
}

/// The filter of a job as flags.
pub(super) fn which(job: &Job) -> String {
    let filter = &job.filter;
    let mut parts: Vec<String> = filter.letters.iter().take(10).map(ToString::to_string).collect();
    if filter.letters.len() > 10 {
        parts.push(format!("and {} more", filter.letters.len() - 10));
    }
    for (flag, value) in [
        ("stage", &filter.stage),
        ("class", &filter.class),
        ("type", &filter.event_type),
        ("tenant", &filter.tenant),
        ("reason", &filter.reason),
        ("fingerprint", &filter.fingerprint),
        ("since", &filter.since),
        ("until", &filter.until),
        ("where", &filter.condition),
    ] {
        if let Some(value) = value {
            parts.push(format!("--{flag} {}", quoted(value)));
        }
    }
    if parts.is_empty() { "--all".to_owned() } else { parts.join(" ") }
}

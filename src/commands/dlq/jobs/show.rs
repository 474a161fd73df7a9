//! `dlq jobs show`: one job, what it is about, what it did, who asked for it.

use std::time::Duration;

use millstream_stages::{rate::Rate, units::Period};

use super::words::{did, next_step, reasons, times, which};
use crate::{
    commands::printable,
    redrive::job::{Job, State},
};

/// Prints a job.
///
/// # Errors
/// It cannot be written as JSON.
pub(super) fn run(job: &Job, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(job)?);
        return Ok(());
    }
    println!("job {}: {} {}", job.id, job.kind.as_str(), job.state.as_str());
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let canary = job.canary.as_ref().map(|canary| {
        let stop = match canary.stop_above > 0.0 {
            true => format!("stop above {:.0} %", canary.stop_above * 100.0),
            false => "stop if any fails".to_owned(),
        };
        let so_far = match &canary.verdict {
            Some(verdict) => format!("; {verdict}"),
            None if job.is_open() => format!("; so far {}", canary.summary()),
            // Then this is why it stopped.
            None => String::new(),
        };
        format!("{} first, {stop}{so_far}", canary.count)
    });
    let rules = job.rules.as_ref().map(|rules| {
        let classes = if rules.classes.is_empty() {
            "any class".to_owned()
        } else {
            rules.classes.join(", ")
        };
        let tenants = rules
            .tenants
            .as_ref()
            .map(|bucket| format!(", tenants active in {bucket}"))
            .unwrap_or_default();
        format!(
            "{classes}, younger than {}{tenants}",
            Period(Duration::from_millis(rules.max_age_ms))
        )
    });
    for (name, value) in [
        ("why", job.why.clone()),
        ("letters", Some(which(job))),
        ("rules", rules),
        ("canary", canary),
        ("rate", job.per_second.map(Rate::shown)),
        ("guard", Some(format!("events redriven fewer than {}", times(job.max_redrives)))),
        ("did", Some(did(job))),
        (
            "is at",
            Some(format!("letter {} of up to {}", job.cursor, job.last))
                .filter(|_| job.state != State::Done),
        ),
        ("made", Some(format!("{} by {}", job.created_at, job.created_by))),
        ("started", Some(or_dash(&job.started_at))),
        ("ended", Some(or_dash(&job.ended_at))),
        ("run by", Some(or_dash(&job.runner)).filter(|_| job.is_open())),
    ] {
        if let Some(value) = value {
            println!("  {name:<9} {}", printable(&value));
        }
    }
    for reason in reasons(job) {
        println!("  {:<9} {reason}", "left");
    }
    if let Some(next) = next_step(job) {
        println!("\n{next}");
    }
    Ok(())
}

//! `millstream check`: every problem of a configuration, and what its retries come to.

use std::{fmt::Write as _, process::ExitCode};

use millstream_stages::{breaker::Settings, retry::Policy, units::Period};
use serde_json::{Value, json};

use super::{App, count};
use crate::config::{
    Loaded, Pipeline, Report, Severity, breakers, pipeline::CheckOf, policies, render,
};

/// Report every problem of the configuration at once, then the retry timetable of each stage
///
/// Nothing is contacted: neither NATS nor a handler.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  millstream check
  millstream check --config shop/pipeline.toml --json
  millstream check --set stage.orders.retry=slow

Exit status: 0 fine or warnings only, 2 problems.")]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Rows of a timetable that are printed; the middle of a longer one is left out.
const ROWS_MAX: usize = 12;

/// Runs the command.
///
/// # Errors
/// Where standard output cannot be written to.
pub fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = app.load();
    let file = app.common.config.display().to_string();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&as_json(&file, &loaded))?);
    } else {
        print!("{}", as_text(&file, &loaded, true));
    }
    Ok(if loaded.pipeline.is_some() { ExitCode::SUCCESS } else { ExitCode::from(2) })
}

/// Report for people: problems, retry timetables, circuit breakers, recoveries and a summary.
pub fn as_text(file: &str, loaded: &Loaded, colour: bool) -> String {
    let mut out = render(&loaded.reports, colour);
    if !out.is_empty() {
        out.push('\n');
    }
    if let Some(pipeline) = &loaded.pipeline {
        out.push_str(&timetables(pipeline));
        out.push_str(&circuit_breakers(pipeline));
        out.push_str(&recoveries(pipeline));
    }
    out + &summary(file, loaded) + "\n"
}

fn summary(file: &str, loaded: &Loaded) -> String {
    let number = |severity| {
        loaded.reports.iter().filter(|report: &&Report| report.severity == severity).count()
    };
    let (errors, warnings) = (number(Severity::Error), number(Severity::Warning));
    let Some(pipeline) = &loaded.pipeline else {
        let more =
            if warnings > 0 { format!(", {}", count(warnings, "warning")) } else { String::new() };
        return format!("{file}: {}{more}", count(errors, "error"));
    };
    let state = if warnings > 0 {
        format!("usable, {}", count(warnings, "warning"))
    } else {
        "fine".to_owned()
    };
    let parts = [
        count(pipeline.sources.len(), "source"),
        count(pipeline.stages.len(), "stage"),
        count(pipeline.channels.len(), "channel"),
    ];
    format!("{file}: {state}. {}", parts.join(", "))
}

/// The retry timetable of every map stage; stages with the same policy share one.
fn timetables(pipeline: &Pipeline) -> String {
    let mut groups: Vec<(&Policy, Vec<&str>)> = Vec::new();
    for stage in pipeline.stages.iter().filter(|stage| stage.is_map()) {
        match groups.iter_mut().find(|(policy, _)| **policy == stage.policy) {
            Some((_, names)) => names.push(&stage.name),
            None => groups.push((&stage.policy, vec![&stage.name])),
        }
    }
    let mut out = String::new();
    for (policy, names) in groups {
        let jitter = policy.backoff.jitter.filter(|jitter| *jitter > 0.0);
        let jitter = jitter.map_or_else(String::new, |jitter| {
            format!(", each wait give or take {:.0}%", jitter * 100.0)
        });
        _ = writeln!(out, "retries of {}{jitter}", names.join(", "));
        _ = writeln!(out, "  attempt     wait    after the first");
        let turns = policies::timetable(policy.terms("", ""));
        for (n, turn) in turns.iter().enumerate() {
            if turns.len() > ROWS_MAX && n == ROWS_MAX - 2 {
                _ = writeln!(out, "        …");
            }
            if turns.len() > ROWS_MAX && (ROWS_MAX - 2..turns.len() - 1).contains(&n) {
                continue;
            }
            let (wait, since) = (Period(turn.wait).to_string(), Period(turn.since).to_string());
            let mut note =
                if turn.wait > policy.park_after() { "   parked meanwhile" } else { "" }.to_owned();
            if n + 1 == turns.len() {
                note.push_str("   if it fails too, it is dead-lettered");
            }
            let row = format!(
                "  {:>7} {:>8}    {since:<15}{note}",
                turn.attempt,
                if n == 0 { "-" } else { &wait }
            );
            _ = writeln!(out, "{}", row.trim_end());
        }
        for rule in &policy.rule {
            _ = writeln!(out, "  {}", exception(policy, rule));
        }
        out.push('\n');
    }
    out
}

/// Circuit breakers that are off or not as the default is, a line each.
fn circuit_breakers(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    for stage in pipeline.stages.iter().filter(|stage| stage.kind.calls_out) {
        let words = match &stage.breaker {
            Some(settings) if *settings == Settings::default() => continue,
            Some(settings) => breakers::in_words(settings),
            None => "off: an outage of its handler spends the attempts of its events".to_owned(),
        };
        _ = writeln!(out, "circuit breaker of {}: {words}", stage.name);
    }
    if !out.is_empty() {
        out.push('\n');
    }
    out
}

/// Recovery of each stage that has it, a line each: dead letters that are redriven by themselves.
fn recoveries(pipeline: &Pipeline) -> String {
    let mut out = String::new();
    for stage in &pipeline.stages {
        let Some(recover) = &stage.recover else { continue };
        let classes = if recover.classes.is_empty() {
            "any class".to_owned()
        } else {
            recover.classes.join(" or ")
        };
        let check = recover.check.as_ref().map(|check| {
            let (how, of) = match &check.of {
                CheckOf::Http(_) => ("http", "its health check"),
                CheckOf::Tcp(address) => ("tcp", address.as_str()),
                CheckOf::Nats(subject) => ("nats", subject.as_str()),
            };
            format!(" or {of} answers again ({how}, every {})", Period(check.every))
        });
        let tenants = recover
            .tenants
            .as_ref()
            .map(|bucket| format!(", of tenants active in bucket \"{bucket}\""))
            .unwrap_or_default();
        _ = writeln!(
            out,
            "recovery of {}: when its breaker closes{}, letters of {classes}, \
             younger than {}{tenants}, redriven fewer than {} times, at {}; \
             the rest is marked permanent\n",
            stage.name,
            check.unwrap_or_default(),
            Period(recover.max_age),
            recover.max_redrives,
            recover.rate,
        );
    }
    out
}

/// One rule of a policy in a line.
fn exception(policy: &Policy, rule: &millstream_stages::retry::Rule) -> String {
    let who: Vec<String> = [rule.class.join(", "), rule.event_type.join(", ")]
        .into_iter()
        .filter(|who| !who.is_empty())
        .collect();
    let who = if who.is_empty() { "any failure".to_owned() } else { who.join(" on ") };
    let attempts = rule.attempts.unwrap_or(policy.attempts);
    let backoff = rule.backoff.as_ref().unwrap_or(&policy.backoff);
    let turns = policies::timetable(millstream_stages::retry::Terms { attempts, backoff });
    match turns.last() {
        Some(last) if attempts > 1 => {
            format!("{who}: {attempts} attempts, the last after {}", Period(last.since))
        }
        _ => format!("{who}: dead-lettered at the first"),
    }
}

fn as_json(file: &str, loaded: &Loaded) -> Value {
    let stages =
        loaded.pipeline.iter().flat_map(|pipeline| &pipeline.stages).filter(|stage| stage.is_map());
    let stages: Vec<Value> = stages
        .map(|stage| {
            let turns = policies::timetable(stage.policy.terms("", ""));
            let turns: Vec<Value> = turns
                .iter()
                .map(|turn| {
                    let (wait, since) =
                        (turn.wait.as_millis() as u64, turn.since.as_millis() as u64);
                    json!({ "attempt": turn.attempt, "wait_ms": wait, "since_first_ms": since })
                })
                .collect();
            json!({ "stage": stage.name, "attempts": turns })
        })
        .collect();
    json!({
        "file": file,
        "ok": loaded.pipeline.is_some(),
        "reports": loaded.reports,
        "retries": stages,
    })
}

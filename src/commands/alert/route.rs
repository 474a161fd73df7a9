//! `alert route`: routes that an incident with these labels takes, and its channels.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::{Context as _, bail};
use millstream_stages::{alert::Visited, incident::Severity};
use serde::Serialize;

use crate::{
    commands::{App, lines, printable},
    config::pipeline::Stage,
    incidents::snapshot,
};

/// Arguments of `alert route`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream alert route severity=critical code=DATABASE_CONNECTION_FAILED
  millstream alert route severity=high service=shop/orders stage=orders
  millstream alert route severity=critical --json | jq -r '.[].taken[].channels[]'

Labels of an incident: code, severity, service, fingerprint, stage (of failed attempts), \
and what else its fingerprint is made
of. Channels that a rule of aggregate-errors names for the code replace those of the route.

Exit status: 0 it goes somewhere, 1 it goes nowhere, 2 could not tell.")]
pub(super) struct Args {
    /// The labels that the incident has
    #[arg(required = true, value_name = "LABEL=VALUE")]
    labels: Vec<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// The way through one alert stage.
#[derive(Serialize)]
struct Way {
    stage: String,
    /// The channels that the rule for the code names.
    rule: Vec<String>,
    looked_at: Vec<Looked>,
    taken: Vec<Taken>,
}

#[derive(Serialize)]
struct Looked {
    route: String,
    matchers: String,
    matched: bool,
}

#[derive(Serialize)]
struct Taken {
    route: String,
    channels: Vec<String>,
    group_by: Vec<String>,
    group_wait: String,
    group_interval: String,
    repeat_interval: String,
    mute: Vec<String>,
    active: Vec<String>,
    escalate: Vec<(String, Vec<String>)>,
}

/// Prints the way through each alert stage.
///
/// # Errors
/// A label is not written LABEL=VALUE, a severity is unknown, or nothing sends notifications.
pub(super) fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let labels = labels(&args.labels)?;
    let mut ways = Vec::new();
    for stage in snapshot::alerts(&pipeline) {
        let visited = snapshot::build_alert(&pipeline, stage)?.routes_of(&labels);
        let mut rule = Vec::new();
        for errors in snapshot::aggregates(&pipeline) {
            rule.extend_from_slice(
                snapshot::build_aggregate(&pipeline, errors)?.channels_of(&labels),
            );
        }
        ways.push(way(stage, visited, rule));
    }
    if ways.is_empty() {
        bail!("the pipeline sends no notifications\n hint: add a stage of kind = \"alert\"");
    }
    if args.json {
        lines::print(&serde_json::to_string_pretty(&ways)?)?;
    } else {
        let shown: String = ways.iter().map(render).collect();
        lines::print(&printable(shown.trim_end()))?;
    }
    let nowhere =
        ways.iter().all(|way| way.taken.iter().all(|taken| channels(way, taken).is_empty()));
    Ok(crate::commands::found(nowhere))
}

fn labels(texts: &[String]) -> anyhow::Result<BTreeMap<String, String>> {
    let mut labels = BTreeMap::new();
    for text in texts {
        let (label, value) = text.split_once('=').with_context(|| {
            format!("\"{}\" is no label: write it like severity=critical", printable(text))
        })?;
        if label == "severity"
            && Severity::meant_by(value).is_none_or(|severity| severity.as_str() != value)
        {
            bail!(
                "there is no severity \"{}\"; they are low, medium, high and critical",
                printable(value)
            );
        }
        labels.insert(label.to_owned(), value.to_owned());
    }
    Ok(labels)
}

fn way(stage: &Stage, visited: Vec<Visited>, rule: Vec<String>) -> Way {
    let taken =
        visited.iter().filter(|route| route.takes).map(|Visited { path, terms, .. }| Taken {
            route: path.clone(),
            channels: terms.channels.clone(),
            group_by: terms.group_by.clone(),
            group_wait: terms.group_wait.to_string(),
            group_interval: terms.group_interval.to_string(),
            repeat_interval: terms.repeat_interval.to_string(),
            mute: terms.mute.clone(),
            active: terms.active.clone(),
            escalate: terms
                .escalate
                .iter()
                .map(|(after, channels)| (after.to_string(), channels.clone()))
                .collect(),
        });
    let taken = taken.collect();
    let looked =
        |Visited { path, matchers, matched, .. }| Looked { route: path, matchers, matched };
    Way {
        stage: stage.name.clone(),
        rule,
        looked_at: visited.into_iter().map(looked).collect(),
        taken,
    }
}

/// Channels of a route: a rule's own channels go before those of the route.
fn channels<'a>(way: &'a Way, taken: &'a Taken) -> &'a [String] {
    if way.rule.is_empty() { &taken.channels } else { &way.rule }
}

fn render(way: &Way) -> String {
    let mut out = format!("stage \"{}\"\n", way.stage);
    for Looked { route, matchers, matched } in &way.looked_at {
        let mark = if *matched { '✓' } else { '✗' };
        let taken = way.taken.iter().any(|taken| taken.route == *route);
        let depth = if route == "root" { 0 } else { 1 + route.matches(" > ").count() };
        let name = route.rsplit(" > ").next().unwrap_or(route);
        let (indent, arrow) = ("  ".repeat(depth + 1), if taken { "  <- takes it" } else { "" });
        let gap = if matchers.is_empty() { "" } else { "  " };
        out += &format!("{indent}{mark} {name}{gap}{matchers}{arrow}\n");
    }
    for taken in &way.taken {
        out += &format!("{} sends it to\n", taken.route);
        let to = channels(way, taken);
        let of = if way.rule.is_empty() { "" } else { "  (its rule in aggregate-errors says so)" };
        let names = if to.is_empty() { "nowhere".to_owned() } else { to.join(", ") };
        out += &format!("  channels   {names}{of}\n");
        let by = if taken.group_by.is_empty() {
            "all together".to_owned()
        } else {
            taken.group_by.join(", ")
        };
        out += &format!("  grouped    by {by}\n");
        out += &format!(
            "  told       first after {}, news every {}, again every {}\n",
            taken.group_wait, taken.group_interval, taken.repeat_interval
        );
        for (after, channels) in &taken.escalate {
            out += &format!(
                "  unless     acknowledged within {after}: then also {}\n",
                channels.join(", ")
            );
        }
        for (word, times) in [("muted", &taken.mute), ("only in", &taken.active)] {
            if !times.is_empty() {
                out += &format!("  {word:<10} {}\n", times.join(", "));
            }
        }
    }
    out
}

//! `alert simulate`: stored errors run through the rules in memory, to see what would be sent.

use std::{
    collections::BTreeMap,
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, bail, ensure};
use indicatif::{ProgressBar, ProgressStyle};
use millstream_stages::{
    alert::Explained,
    incident::timestamp,
    notification::{Notification, Why},
    simulate::Outcome,
};

use crate::{
    commands::{App, count, lines::Lines, people, printable, table::Table, terminal_width},
    config::Pipeline,
    incidents::{
        simulate::{Span, simulate},
        snapshot,
    },
    limits,
    wire::parse_rfc3339,
};

/// Arguments of `alert simulate`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream alert simulate                                  \
the last 24 hours, by the rules as they are
  millstream alert simulate --since 7d --config new.toml     \
a week, by rules that are not applied yet
  millstream alert simulate --held                           \
and each change that was held back, with the reason
  millstream alert simulate --channel oncall --json | jq -r .title

It reads failed attempts, errors that services reported, and findings of the monitor, \
as far as they are stored; nothing is
written and nothing is sent. Silences that are on record count, with their times; \
acknowledgements do not.")]
pub(super) struct Args {
    /// Errors stored at this time or later: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: String,
    /// Errors stored before this time: RFC 3339, or how long ago; by default, now
    #[arg(long, value_name = "TIME")]
    until: Option<String>,
    /// Only what goes to this channel
    #[arg(long, value_name = "NAME")]
    channel: Option<String>,
    /// Each change that was held back, too, with the reason
    #[arg(long)]
    held: bool,
    /// Most notifications shown; the last ones
    #[arg(long, value_name = "N", default_value_t = 100)]
    limit: usize,
    /// JSON: one notification, or (with --held) one held change, per line
    #[arg(long)]
    json: bool,
}

/// Prints the notifications that a span of time would have sent, and the changes held back.
///
/// # Errors
/// The stored errors could not be read.
pub(super) async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    if snapshot::aggregates(&pipeline).next().is_none()
        || snapshot::alerts(&pipeline).next().is_none()
    {
        bail!(
            "there are no rules to simulate\n \
             hint: add stages of kind \"aggregate-errors\" and \"alert\""
        );
    }
    if let Some(channel) = &args.channel {
        super::channel(&pipeline, channel)?;
    }
    ensure!(
        args.json || args.limit <= limits::TABLE_ROWS_MAX,
        "a table has at most {} rows",
        limits::TABLE_ROWS_MAX
    );
    let now = SystemTime::now();
    let moment = |text: &str, flag: &str| -> anyhow::Result<SystemTime> {
        parse_rfc3339(&people::moment(text, flag, now)?).context("a time is a time")
    };
    let until = args.until.as_deref().map_or(Ok(now), |until| moment(until, "--until"))?;
    let span = Span { since: moment(&args.since, "--since")?, until };
    ensure!(span.since < span.until, "--since is not before --until");
    let broker = app.connect(&pipeline).await?;
    let bar = progress(span);
    let mut read = 0_u64;
    let (mut outcome, mut alerts) = simulate(&broker, &pipeline, span, |at| {
        read += 1;
        if read.is_multiple_of(256) {
            bar.set_position(at.duration_since(span.since).unwrap_or_default().as_secs());
        }
    })
    .await?;
    bar.finish_and_clear();
    let mut held: Vec<Explained> =
        alerts.iter_mut().flat_map(|alert| alert.take_explained()).collect();
    if let Some(channel) = &args.channel {
        outcome.sent.retain(|notification| notification.channel == *channel);
        held.retain(|held| held.channel == *channel);
    }
    held.sort_by_key(|held| held.at_ms);
    match args.json {
        true => json(&args, &outcome, &held)?,
        false => text(&args, &pipeline, span, &outcome, &held),
    }
    Ok(ExitCode::SUCCESS)
}

/// Progress bar on stderr, through the span, where it takes long.
fn progress(span: Span) -> ProgressBar {
    let bar = ProgressBar::new(span.until.duration_since(span.since).unwrap_or_default().as_secs());
    let style =
        ProgressStyle::with_template("reading stored errors {bar:30} {percent}%  {elapsed}");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(500));
    bar
}

fn json(args: &Args, outcome: &Outcome, held: &[Explained]) -> anyhow::Result<()> {
    let mut all: Vec<(jiff::Timestamp, String)> = Vec::new();
    for told in &outcome.sent {
        all.push((told.at, serde_json::to_string(told)?));
    }
    for back in held.iter().filter(|_| args.held) {
        all.push((timestamp(back.at_ms), serde_json::to_string(back)?));
    }
    all.sort_by_key(|(at, _)| *at);
    let mut lines = Lines::stdout();
    for (_, line) in &all {
        if !lines.line(line)? {
            break;
        }
    }
    lines.flush()?;
    Ok(())
}

fn text(args: &Args, pipeline: &Pipeline, span: Span, outcome: &Outcome, held: &[Explained]) {
    let (sent, width, for_people) =
        (&outcome.sent, terminal_width(), std::io::stdout().is_terminal());
    if !sent.is_empty() {
        let shown = &sent[sent.len().saturating_sub(args.limit)..];
        if shown.len() < sent.len() {
            println!(
                "{} before these; --limit {} shows all",
                count(sent.len() - shown.len(), "notification"),
                sent.len()
            );
        }
        sent_table(shown, for_people).print(width);
        println!();
    }
    if args.held && !held.is_empty() {
        let shown = &held[..held.len().min(limits::TABLE_ROWS_MAX)];
        held_table(shown, for_people).print(width);
        println!();
    }
    summary(args, pipeline, span, outcome, held);
}

/// Notifications, a row each.
fn sent_table(sent: &[Notification], for_people: bool) -> Table {
    let mut table = Table::new(&["AT", "CHANNEL", "WHY", "TITLE"]);
    for told in sent {
        table.row([
            clock(told.at, for_people),
            told.channel.clone(),
            told.why.as_str().to_owned(),
            told.title.clone(),
        ]);
    }
    table
}

/// Changes that were held back, a row each.
fn held_table(held: &[Explained], for_people: bool) -> Table {
    let mut table =
        Table::new(&["AT", "CHANNEL", "HELD BACK", "INCIDENT", "EVENT", "CODE", "BECAUSE"]);
    for back in held {
        table.row([
            clock(timestamp(back.at_ms), for_people),
            back.channel.clone(),
            back.hold.as_str().to_owned(),
            back.incident_id.chars().take(8).collect(),
            back.event.as_str().to_owned(),
            back.code.clone(),
            back.why.clone(),
        ]);
    }
    table
}

fn summary(args: &Args, pipeline: &Pipeline, span: Span, outcome: &Outcome, held: &[Explained]) {
    let began = outcome.incidents.iter().filter(|incident| incident.event.begins()).count();
    let rejected = match outcome.rejected {
        0 => String::new(),
        n => format!(", and {n} messages that are no error events"),
    };
    let for_people = std::io::stdout().is_terminal();
    println!(
        "{} to {} in pipeline \"{}\": {}{rejected}",
        clock(jiff::Timestamp::try_from(span.since).unwrap_or(jiff::Timestamp::MIN), for_people),
        clock(jiff::Timestamp::try_from(span.until).unwrap_or(jiff::Timestamp::MAX), for_people),
        pipeline.name,
        count(usize::try_from(outcome.errors).unwrap_or(usize::MAX), "error"),
    );
    println!(
        "  {} began, {} in all",
        count(began, "incident"),
        count(outcome.incidents.len(), "change")
    );
    let mut by_channel: BTreeMap<&str, (usize, usize, usize)> = BTreeMap::new();
    for told in &outcome.sent {
        let of = by_channel.entry(&told.channel).or_default();
        of.0 += 1;
        of.1 += usize::from(told.why == Why::Digest);
    }
    let mut by_reason: BTreeMap<(&str, &str), usize> = BTreeMap::new();
    for back in held {
        by_channel.entry(&back.channel).or_default().2 += 1;
        *by_reason.entry((&back.channel, back.hold.as_str())).or_default() += 1;
    }
    if by_channel.is_empty() {
        println!("  nothing would have been sent");
    }
    for (channel, (sent, digests, back)) in &by_channel {
        let digests = if *digests > 0 {
            format!(", {} of them", count(*digests, "digest"))
        } else {
            String::new()
        };
        let reasons: Vec<String> = by_reason
            .iter()
            .filter(|((of, _), _)| of == channel)
            .map(|((_, reason), n)| format!("{n} {reason}"))
            .collect();
        let held =
            if *back > 0 { format!("; held back: {}", reasons.join(", ")) } else { String::new() };
        println!("  {}: {}{digests}{held}", printable(channel), count(*sent, "notification"));
    }
    if !held.is_empty() && !args.held {
        println!("why?  add --held");
    }
}

/// A time to the second: for people (a terminal) without the year, else RFC 3339. Always UTC.
fn clock(at: jiff::Timestamp, for_people: bool) -> String {
    let format = if for_people { "%m-%d %H:%M:%S" } else { "%Y-%m-%dT%H:%M:%SZ" };
    at.strftime(format).to_string()
}

#[cfg(test)]
mod tests;

//! `dlq stats`: how many letters there are, of what, and since when.

use std::{collections::BTreeMap, io::IsTerminal as _, process::ExitCode, time::SystemTime};

use millstream_stages::units::Size;

use super::{Dlq, filters::Filters, lines};
use crate::{
    commands::{found, people::when, table::Table},
    dead_letter::groups::Stats,
};

/// What `dlq stats` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq stats
  millstream dlq stats --since 24h --tenant acme
  millstream dlq stats --json | jq .stages.orders

Exit status: 0 there are no letters, 1 there are some, 2 could not tell.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Counts the letters.
///
/// # Errors
/// The letters could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let mut stats = Stats::new(SystemTime::now());
    dlq.each(&args.filters, |letter| stats.add(letter)).await?;
    let stream_bytes = dlq.letters.broker.stream_state(&dlq.letters.stream()).await?.bytes;
    if args.json {
        let mut value = serde_json::to_value(&stats)?;
        value["streamBytes"] = stream_bytes.into();
        lines::print(&serde_json::to_string_pretty(&value)?)?;
        return Ok(found(stats.letters > 0));
    }
    if stats.letters == 0 {
        println!(
            "no dead letters{}",
            if args.filters.is_empty() { "" } else { " that these flags mean" }
        );
        return Ok(ExitCode::SUCCESS);
    }
    print(&stats, stream_bytes);
    Ok(found(true))
}

fn print(stats: &Stats, stream_bytes: u64) {
    let now = std::io::stdout().is_terminal().then(SystemTime::now);
    println!(
        "{} dead letters, {} in the last hour, {} in the last 24 h",
        stats.letters, stats.last_hour, stats.last_day
    );
    let time = |at: &Option<String>| at.as_deref().map_or_else(|| "-".into(), |at| when(at, now));
    println!(
        "oldest {}, newest {}; payloads {}, the stream {}",
        crate::commands::printable(&time(&stats.oldest)),
        crate::commands::printable(&time(&stats.newest)),
        rounded(stats.payload_bytes),
        rounded(stream_bytes),
    );
    for (number, what) in [
        (stats.redriven, "were redriven before"),
        (stats.permanent, "are permanent: recovery will not redrive them"),
        (stats.edited, "were edited"),
        (stats.completed_late, "were completed late: their event is done all the same"),
    ] {
        if number > 0 {
            println!("{number} {what}");
        }
    }
    let mut reasons: Vec<&String> = stats.stages.values().flat_map(BTreeMap::keys).collect();
    reasons.sort();
    reasons.dedup();
    let heading: Vec<&str> =
        ["STAGE", "ALL"].into_iter().chain(reasons.iter().map(|reason| reason.as_str())).collect();
    let heading: Vec<String> = heading.iter().map(|name| name.to_uppercase()).collect();
    println!();
    let mut table = Table::new(&heading.iter().map(String::as_str).collect::<Vec<_>>());
    for (stage, by_reason) in &stats.stages {
        let all: u64 = by_reason.values().sum();
        let each = reasons
            .iter()
            .map(|reason| by_reason.get(*reason).map_or_else(|| "-".into(), u64::to_string));
        table.row([stage.clone(), all.to_string()].into_iter().chain(each));
    }
    table.print();
    println!();
    let mut classes: Vec<(&String, &u64)> = stats.classes.iter().collect();
    classes.sort_by(|a, b| b.1.cmp(a.1).then_with(|| a.0.cmp(b.0)));
    let mut table = Table::new(&["CLASS", "LETTERS"]);
    for (class, number) in classes {
        table.row([class.clone(), number.to_string()]);
    }
    table.print();
    println!("\nwhat went wrong: millstream dlq groups");
}

/// A size in the largest unit that leaves a number of three digits or so.
fn rounded(bytes: u64) -> String {
    let unit =
        [1 << 30, 1 << 20, 1 << 10].into_iter().find(|unit| bytes >= unit * 10).unwrap_or(1_u64);
    Size(bytes / unit * unit).to_string()
}

//! `dlq groups`: letters that are the same failure, together.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use super::{Dlq, filters::Filters, lines, ls::NARROW};
use crate::{
    commands::{count, found, people::when, table::Table},
    dead_letter::groups::Groups,
    limits,
};

/// How much of a fingerprint is shown: enough to tell ten thousand groups apart.
const SHORT: usize = 8;

/// What `dlq groups` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq groups                       what went wrong, the most frequent first
  millstream dlq groups --since 24h --stage orders
  millstream dlq groups --json | jq '.groups[0].message'

Exit status: 0 there are none, 1 there are some, 2 could not tell.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// How many groups are shown at the most
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: usize,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Groups the letters by fingerprint.
///
/// # Errors
/// The letters could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let mut groups = Groups::new(limits::GROUPS_MAX);
    let mut letters = 0_u64;
    dlq.each(&args.filters, |letter| {
        letters += 1;
        groups.add(letter);
    })
    .await?;
    let (mut groups, other) = groups.finish();
    let all = groups.len();
    groups.truncate(args.limit);
    if args.json {
        let value = serde_json::json!({ "letters": letters, "groups": groups, "groupsAll": all, "inNoGroup": other });
        lines::print(&serde_json::to_string_pretty(&value)?)?;
        return Ok(found(letters > 0));
    }
    let Some(top) = groups.first() else {
        println!(
            "no dead letters{}",
            if args.filters.is_empty() { "" } else { " that these flags mean" }
        );
        return Ok(ExitCode::SUCCESS);
    };
    let now = std::io::stdout().is_terminal().then(SystemTime::now);
    let mut table = Table::new(&[
        "COUNT", "GROUP", "STAGE", "CLASS", "FIRST", "LAST", "TYPES", "SAMPLE", "MESSAGE",
    ]);
    for group in &groups {
        table.row([
            group.count.to_string(),
            short(&group.fingerprint).to_owned(),
            group.stages.to_string(),
            group.classes.to_string(),
            when(&group.first, now),
            when(&group.last, now),
            group.types.to_string(),
            group.sample.to_string(),
            group.message.clone(),
        ]);
    }
    if crate::commands::terminal_width().is_some_and(|width| width < NARROW) {
        table.without("FIRST");
        table.without("TYPES");
    }
    table.print();
    println!();
    println!("{} in {}", count(usize::try_from(letters)?, "letter"), count(all, "group"));
    if all > groups.len() {
        println!("{} more; --limit {all} shows all", count(all - groups.len(), "group"));
    }
    if other > 0 {
        println!(
            "{other} of the letters are in none of these groups: only {} are told apart; narrow it down with --stage or --since",
            limits::GROUPS_MAX
        );
    }
    let fingerprint = crate::commands::printable(short(&top.fingerprint));
    println!("look:    millstream dlq ls --fingerprint {fingerprint}");
    println!("one:     millstream dlq show {}", top.sample);
    println!("mended?  millstream dlq redrive --fingerprint {fingerprint} --canary 10");
    Ok(found(true))
}

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..SHORT).unwrap_or(fingerprint)
}

//! `dlq drop`: deletes letters for good, once their number is confirmed.

use std::{
    io::{BufRead as _, IsTerminal as _, Write as _},
    process::ExitCode,
};

use anyhow::bail;
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::ProgressBar;

use super::{
    Dlq,
    filters::{self, Filters},
};
use crate::{
    broker::{AdminError, StoredMessage},
    commands::{count, printable},
    dead_letter::{
        LetterRecord,
        filter::Selecting,
        read::{Examined, Letters, Span},
        stored,
    },
    limits,
};

/// Arguments of `dlq drop`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq drop 17 18
  millstream dlq drop --class ValidationError --until 7d
  millstream dlq drop --stage orders --reason undecodable --yes
  millstream dlq drop --all

It says how many there are and asks; --yes does not ask, and is needed where there is \
no terminal to ask on. What is
dropped cannot be brought back: `millstream dlq export` first keeps a copy.

Exit status: 0 done or nothing to do, 2 could not, or it was not confirmed.")]
pub(super) struct Args {
    /// The numbers of letters, as `ls` prints them
    letters: Vec<u64>,
    #[command(flatten)]
    filters: Filters,
    /// Every letter there is
    #[arg(long, conflicts_with = "letters")]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    yes: bool,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Deletes letters.
///
/// # Errors
/// It was not confirmed, or a letter could not be deleted.
pub(super) async fn run(dlq: &Dlq, mut args: Args) -> anyhow::Result<ExitCode> {
    args.letters.sort_unstable();
    args.letters.dedup();
    match (args.letters.is_empty(), args.filters.is_empty(), args.all) {
        (true, true, false) => bail!(
            "say which letters to drop, as `millstream dlq ls` numbers them, \
             or by flags such as --stage and --class; --all drops every letter"
        ),
        (false, false, _) => bail!("name letters by their numbers, or by flags: not both"),
        (true, false, true) => {
            bail!(
                "--all drops every letter, whatever the flags say; leave out the one or the other"
            )
        }
        (false, true, _) | (true, _, _) => {}
    }
    let mut filter = args.filters.filter(dlq.letters.broker.now())?;
    filter.letters.clone_from(&args.letters);
    filters::known_stage(&dlq.letters.broker, &dlq.pipeline, &dlq.letters.names, &filter).await?;
    let mut named = Vec::new();
    let (number, what, last) = if args.letters.is_empty() {
        let selecting = filters::compile(&filter)?;
        let (number, last) = meant(dlq, &selecting, dlq.letters.count(&filter).await?).await?;
        (number, String::new(), last)
    } else {
        let mut what = Vec::new();
        for seq in &args.letters {
            let letter = super::letter(&dlq.letters.broker, &dlq.letters.names, *seq).await?;
            let LetterRecord { stage, event_id, .. } = LetterRecord::of(&letter);
            named.push(letter);
            what.push(format!(
                "  {seq}: event {} at stage \"{stage}\"\n",
                event_id.as_deref().unwrap_or("-")
            ));
        }
        (args.letters.len() as u64, what.concat(), 0)
    };
    if number == 0 {
        if args.json {
            println!("{}", serde_json::json!({ "dropped": 0 }));
        } else {
            println!(
                "no dead letters{}: nothing to drop",
                if args.all { "" } else { " that these flags mean" }
            );
        }
        return Ok(ExitCode::SUCCESS);
    }
    let letters = count(usize::try_from(number)?, "letter");
    if !args.yes {
        confirm(&letters, number, &what)?;
    }
    let bar = ProgressBar::new(number);
    bar.enable_steady_tick(std::time::Duration::from_millis(200));
    let dropped = if args.letters.is_empty() {
        let selecting = filters::compile(&filter)?;
        // Only what was counted: letters that have come since were not confirmed.
        let span = Span { after: 0, before: Some(last + 1) };
        let seen = dlq.letters.oldest_first(&selecting, span, false);
        delete(dlq, seen.map(|seen| seen.map(|seen| seen.letter)), &bar).await
    } else {
        delete(
            dlq,
            futures_util::stream::iter(named.into_iter().map(|letter| Ok(Some(letter)))),
            &bar,
        )
        .await
    };
    bar.finish_and_clear();
    let (dropped, failed) = dropped;
    if args.json {
        println!("{}", serde_json::json!({ "dropped": dropped }));
    } else {
        println!("dropped {}", count(usize::try_from(dropped)?, "letter"));
    }
    match failed {
        Some(error) => Err(error.into()),
        None => Ok(ExitCode::SUCCESS),
    }
}

/// Number of letters that match, and the last sequence that was looked at.
async fn meant(dlq: &Dlq, selecting: &Selecting, known: Option<u64>) -> anyhow::Result<(u64, u64)> {
    let last = dlq.letters.broker.stream_state(&dlq.letters.stream()).await?.last_seq;
    if let Some(number) = known {
        return Ok((number, last));
    }
    let bar = dlq.looking().await?;
    let span = Span { after: 0, before: Some(last + 1) };
    let mut seen = std::pin::pin!(dlq.letters.oldest_first(selecting, span, false));
    let mut number = 0;
    while let Some(Examined { letter, seq }) = seen.next().await.transpose()? {
        bar.at(seq, false);
        number += u64::from(letter.is_some());
    }
    bar.finish();
    Ok((number, last))
}

fn confirm(letters: &str, number: u64, what: &str) -> anyhow::Result<()> {
    if !std::io::stdin().is_terminal() || !std::io::stderr().is_terminal() {
        bail!(
            "{letters} would be dropped for good; there is no terminal to ask on, \
             so say --yes if that is meant"
        )
    }
    let mut stderr = std::io::stderr();
    write!(
        stderr,
        "{}{letters} will be dropped for good. Type {number} to go on: ",
        printable(what)
    )?;
    stderr.flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    if answer.trim() != number.to_string() {
        bail!("not confirmed: nothing was dropped")
    }
    Ok(())
}

/// Deletes letters, several at once; returns how many were there, and the first error, after which
/// no more is begun.
async fn delete(
    dlq: &Dlq,
    letters: impl futures_util::Stream<Item = Result<Option<StoredMessage>, AdminError>>,
    bar: &ProgressBar,
) -> (u64, Option<AdminError>) {
    let Letters { broker, names } = &dlq.letters;
    let mut letters = std::pin::pin!(letters);
    let (mut under_way, mut dropped, mut failed) = (FuturesUnordered::new(), 0, None);
    loop {
        let next = if failed.is_none() { letters.next().await } else { None };
        let wait_for = if next.is_some() { limits::DROPS_IN_FLIGHT_MAX - 1 } else { 0 };
        while under_way.len() > wait_for
            && let Some(deleted) = under_way.next().await
        {
            match deleted {
                Ok(was_there) => dropped += u64::from(was_there),
                Err(error) => failed = failed.or(Some(error)),
            }
            bar.set_position(dropped);
        }
        match next {
            None => return (dropped, failed),
            Some(Ok(None)) => {}
            Some(Ok(Some(letter))) => {
                under_way.push(async move { stored::erase(broker, names, &letter).await });
            }
            Some(Err(error)) => failed = failed.or(Some(error)),
        }
    }
}

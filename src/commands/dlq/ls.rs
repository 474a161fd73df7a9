//! `dlq ls`: letters, newest first, a page at a time.

use std::{io::IsTerminal as _, process::ExitCode, time::SystemTime};

use anyhow::bail;
use futures_util::{Stream, StreamExt as _};

use super::{
    Dlq,
    filters::{self, Filters},
    lines::Lines,
};
use crate::{
    broker::AdminError,
    commands::{people::when, table::Table},
    dead_letter::{
        LetterRecord,
        read::{Seen, Span},
    },
    limits,
};

/// What `dlq ls` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq ls                                     the last 50 dead letters
  millstream dlq ls --stage orders --since 24h
  millstream dlq ls --class 'Http*' --where '.eventData.amount > 100'
  millstream dlq ls --before 4711                       the page before letter 4711
  millstream dlq ls --json --limit 1000 | jq .eventId

Exit status: 0 there are none, 1 there are some, 2 could not tell.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// How many at the most
    #[arg(long, default_value_t = 50, value_name = "N")]
    limit: usize,
    /// Oldest first
    #[arg(long)]
    oldest: bool,
    /// Only letters of a lower number
    #[arg(long, value_name = "LETTER")]
    before: Option<u64>,
    /// Only letters of a higher number
    #[arg(long, value_name = "LETTER")]
    after: Option<u64>,
    /// JSON, one letter per line
    #[arg(long)]
    json: bool,
}

/// A terminal of fewer columns has no room for who failed beside what failed.
pub(super) const NARROW: usize = 100;

/// Lists a page.
///
/// # Errors
/// The letters could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    if !args.json && args.limit > limits::TABLE_ROWS_MAX {
        bail!("a table has at most {} rows; --json takes any --limit", limits::TABLE_ROWS_MAX)
    }
    if args.limit == 0 {
        bail!("--limit 0 would show nothing, whether there are letters or not")
    }
    let filter = args.filters.filter()?;
    filters::known_stage(&dlq.letters.broker, &dlq.pipeline, &dlq.letters.names, &filter).await?;
    let selecting = filters::compile(&filter)?;
    let span = Span { after: args.after.unwrap_or(0), before: args.before };
    if args.oldest {
        let seen = dlq.letters.oldest_first(&selecting, span, false);
        let seen = seen.map(|seen| {
            seen.map(|Seen { letter, seq }| Seen {
                letter: letter.as_ref().map(LetterRecord::of),
                seq,
            })
        });
        list(dlq, &args, seen).await
    } else {
        // One more than is shown says whether there is another page.
        let seen = dlq.letters.newest_first(&selecting, span, args.limit.saturating_add(1)).await?;
        list(dlq, &args, seen).await
    }
}

async fn list(
    dlq: &Dlq,
    args: &Args,
    seen: impl Stream<Item = Result<Seen<LetterRecord>, AdminError>>,
) -> anyhow::Result<ExitCode> {
    let now = std::io::stdout().is_terminal().then(SystemTime::now);
    let mut seen = std::pin::pin!(seen);
    let (mut lines, mut table, mut shown, mut last, mut more) =
        (Lines::stdout(), table(), 0, 0, false);
    let bar = dlq.looking().await?;
    while let Some(Seen { letter, seq }) = seen.next().await.transpose()? {
        bar.at(seq, !args.oldest);
        let Some(letter) = letter else { continue };
        if shown == args.limit {
            more = true;
            break;
        }
        (shown, last) = (shown + 1, letter.seq);
        if !args.json {
            table.row(cells(letter, now));
        } else if !lines.line(&serde_json::to_string(&letter)?)? {
            break;
        }
    }
    bar.finish();
    lines.flush()?;
    if !args.json {
        if shown == 0 {
            println!(
                "no dead letters{}",
                if args.filters.is_empty() { "" } else { " that these flags mean" }
            );
        } else {
            table.without_empty("REDRIVES");
            table.without_empty("MARKS");
            if crate::commands::terminal_width().is_some_and(|width| width < NARROW) {
                // `show` has them; what went wrong must be seen here.
                table.without("EVENT");
                table.without("TYPE");
            }
            table.print();
        }
    }
    if shown > 0 && more && !args.json {
        let total = dlq.letters.count(&args.filters.filter()?).await?;
        let of = total.map(|total| format!(" of {total}")).unwrap_or_default();
        let (order, turn) = if args.oldest { (" --oldest", "--after") } else { ("", "--before") };
        let limit =
            if args.limit == 50 { String::new() } else { format!(" --limit {}", args.limit) };
        let bound = match (args.oldest, args.after, args.before) {
            (false, Some(after), _) => format!(" --after {after}"),
            (true, _, Some(before)) => format!(" --before {before}"),
            (false, None, _) | (true, _, None) => String::new(),
        };
        println!(
            "{shown}{of} shown; next: millstream dlq ls{}{order}{limit}{bound} {turn} {last}",
            args.filters.flags()
        );
    }
    Ok(crate::commands::found(shown > 0))
}

fn table() -> Table {
    Table::new(&[
        "LETTER", "DEAD AT", "STAGE", "REASON", "CLASS", "EVENT", "TYPE", "TRIES", "REDRIVES",
        "MARKS", "ERROR",
    ])
}

fn cells(letter: LetterRecord, now: Option<SystemTime>) -> [String; 11] {
    let marks = marks(&letter);
    [
        letter.seq.to_string(),
        when(&letter.dead_at, now),
        letter.stage,
        letter.reason,
        letter.error_class,
        letter.event_id.unwrap_or_else(|| "-".into()),
        letter.event_type.unwrap_or_else(|| "-".into()),
        letter.attempts.to_string(),
        if letter.redrives == 0 { String::new() } else { letter.redrives.to_string() },
        marks,
        letter.error_message,
    ]
}

/// What has happened to a letter since it was written.
fn marks(letter: &LetterRecord) -> String {
    let marks = [
        ("edited", letter.edited_at.is_some()),
        ("permanent", letter.permanent.is_some()),
        ("completed late", letter.completed_at.is_some()),
    ];
    marks.into_iter().filter(|(_, is)| *is).map(|(mark, _)| mark).collect::<Vec<_>>().join(", ")
}

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
    commands::{people::when, table::Table, terminal_width},
    dead_letter::{
        LetterRecord,
        read::{Examined, Span},
    },
    limits,
};

/// Arguments of `dlq ls`.
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
    /// Most letters shown
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

/// Columns that a terminal needs to show who failed beside what failed.
pub(super) const NARROW: usize = 100;

/// Prints a page of letters.
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
    let filter = args.filters.filter(dlq.letters.broker.now())?;
    filters::known_stage(&dlq.letters.broker, &dlq.pipeline, &dlq.letters.names, &filter).await?;
    let selecting = filters::compile(&filter)?;
    let span = Span { after: args.after.unwrap_or(0), before: args.before };
    if args.oldest {
        let seen = dlq.letters.oldest_first(&selecting, span, false);
        let seen = seen.map(|seen| {
            seen.map(|Examined { letter, seq }| Examined {
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
    seen: impl Stream<Item = Result<Examined<LetterRecord>, AdminError>>,
) -> anyhow::Result<ExitCode> {
    let now = std::io::stdout().is_terminal().then(|| dlq.letters.broker.now());
    let mut seen = std::pin::pin!(seen);
    let (mut lines, mut letters, mut shown, mut last, mut more) =
        (Lines::stdout(), Vec::new(), 0, 0, false);
    let bar = dlq.looking().await?;
    while let Some(Examined { letter, seq }) = seen.next().await.transpose()? {
        bar.at(seq, !args.oldest);
        let Some(letter) = letter else { continue };
        if shown == args.limit {
            more = true;
            break;
        }
        (shown, last) = (shown + 1, letter.seq);
        if !args.json {
            letters.push(letter);
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
            let width = terminal_width();
            table(letters, now, width).print(width);
        }
    }
    if shown > 0 && more && !args.json {
        let total = dlq.letters.count(&args.filters.filter(dlq.letters.broker.now())?).await?;
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

/// Letters, a row each, for a terminal of `width` columns; times are as of `now`, if given.
fn table(letters: Vec<LetterRecord>, now: Option<SystemTime>, width: Option<usize>) -> Table {
    let mut table = Table::new(&[
        "LETTER", "DEAD AT", "STAGE", "REASON", "CLASS", "EVENT", "TYPE", "TRIES", "REDRIVES",
        "MARKS", "ERROR",
    ])
    .right(&["LETTER", "TRIES", "REDRIVES"]);
    for letter in letters {
        table.row(cells(letter, now));
    }
    table.without_empty("REDRIVES");
    table.without_empty("MARKS");
    if width.is_some_and(|width| width < NARROW) {
        // `show` has them; what went wrong must be seen here.
        table.without("EVENT");
        table.without("TYPE");
        table.spare(width, &["MARKS", "REDRIVES"]);
    }
    table
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

/// Marks of a letter: edited, permanent or completed late since it was written.
fn marks(letter: &LetterRecord) -> String {
    let marks = [
        ("edited", letter.edited_at.is_some()),
        ("permanent", letter.permanent.is_some()),
        ("completed late", letter.completed_at.is_some()),
    ];
    marks.into_iter().filter(|(_, is)| *is).map(|(mark, _)| mark).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{commands::table::on_terminals, wire::parse_rfc3339};

    fn letter(seq: u64, class: &str, message: &str) -> LetterRecord {
        LetterRecord {
            seq,
            stage: "orders".into(),
            reason: "exhausted".into(),
            error_class: class.into(),
            error_message: message.into(),
            fingerprint: "1fd18fd1a0b1c2d3".into(),
            event_id: Some("0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff".into()),
            event_type: Some("order.created".into()),
            tenant: None,
            attempts: 4,
            first_failed_at: "2026-11-21T07:59:00.000Z".into(),
            dead_at: "2026-11-21T08:00:00.000Z".into(),
            source: "shop-in-events:3".into(),
            source_subject: "events.order.created".into(),
            redrives: 0,
            trace_id: None,
            config: None,
            permanent: None,
            completed_at: None,
            edited_at: None,
            bytes: 70,
            apart: false,
        }
    }

    #[test]
    fn letters_in_any_script_line_up_on_every_terminal() {
        let now = parse_rfc3339("2026-11-21T11:00:00Z");
        let shown = on_terminals(|width| {
            let long_id = LetterRecord {
                event_id: Some(format!("urn:shop:orders:{}", "0123456789abcdef".repeat(8))),
                attempts: 12,
                redrives: 3,
                permanent: Some("no tenant".into()),
                ..letter(1_234_567, "HttpServerError", "http 503: no upstream is healthy")
            };
            let chinese = letter(98, "余额不足", "账户余额不足，无法完成订单的支付，请稍后再试");
            let hebrew = LetterRecord {
                event_id: None,
                event_type: None,
                ..letter(7, "ValidationError", "אין יתרה מספקת בחשבון\u{202e}\u{1b}[2J")
            };
            table(vec![long_id, chinese, hebrew], now, width)
        });
        expect_test::expect![[r#"
            80 columns
             LETTER  DEAD AT  STAGE   REASON     CLASS     TRIES  REDRIVES  ERROR
            1234567  3h ago   orders  exhausted  HttpSer…     12         3  http 503: no up…
                 98  3h ago   orders  exhausted  余额不足      4            账户余额不足，…
                  7  3h ago   orders  exhausted  Validat…      4            אין יתרה מספקת …
            120 columns
             LETTER  DEAD AT  STAGE   REASON     CLASS        EVENT        TYPE         TRIES  REDRIVES  MARKS      ERROR
            1234567  3h ago   orders  exhausted  HttpServer…  urn:shop:o…  order.crea…     12         3  permanent  http 503: no up…
                 98  3h ago   orders  exhausted  余额不足     0199a3f2-7…  order.crea…      4                       账户余额不足，…
                  7  3h ago   orders  exhausted  Validation…  -            -                4                       אין יתרה מספקת …
            200 columns
             LETTER  DEAD AT  STAGE   REASON     CLASS            EVENT                                     TYPE           TRIES  REDRIVES  MARKS      ERROR
            1234567  3h ago   orders  exhausted  HttpServerError  urn:shop:orders:0123456789abcdef0123456…  order.created     12         3  permanent  http 503: no upstream is healthy
                 98  3h ago   orders  exhausted  余额不足         0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff      order.created      4                       账户余额不足，无法完成订单的支付，请稍后再试
                  7  3h ago   orders  exhausted  ValidationError  -                                         -                  4                       אין יתרה מספקת בחשבון\u{202e}\u{1b}[2J
        "#]].assert_eq(&shown);
    }
}

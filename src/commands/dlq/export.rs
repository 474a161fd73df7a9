//! `dlq export`: letters as JSON lines, one after another, however many.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;
use serde_json::json;

use super::{
    Dlq,
    filters::{self, Filters},
    lines::Lines,
    show::{all_headers, members, part},
};
use crate::{
    broker::StoredMessage,
    commands::count,
    dead_letter::{
        LetterRecord,
        read::{Examined, Letters, Span},
        stored,
    },
};

/// Arguments of `dlq export`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq export > letters.jsonl
  millstream dlq export --stage orders --since 24h --out orders.jsonl
  millstream dlq export --class ValidationError | jq -c .payload

Each line has `letter` (as `ls --json`), `headers`, and the payload: `payload` if it is JSON, \
with its values as they
are, else `payloadText`, or `payloadBase16` if it is not text; \
none if it was kept apart and is gone. The letters stay
where they are.

Exit status: 0 done, 2 could not.")]
pub(super) struct Args {
    #[command(flatten)]
    filters: Filters,
    /// A file to write, which must not be there yet; stdout without it
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Most letters written
    #[arg(long, value_name = "N")]
    limit: Option<u64>,
}

/// Exports letters.
///
/// # Errors
/// The letters could not be read, or the lines not written.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let filter = args.filters.filter(dlq.letters.broker.now())?;
    filters::known_stage(&dlq.letters.broker, &dlq.pipeline, &dlq.letters.names, &filter).await?;
    let selecting = filters::compile(&filter)?;
    let mut lines = match &args.out {
        None => Lines::stdout(),
        Some(path) if path.exists() => {
            bail!("\"{}\" is there already; name another file, or remove it", path.display())
        }
        Some(path) => Lines::to(
            std::fs::File::create_new(path)
                .with_context(|| format!("could not create \"{}\"", path.display()))?,
        ),
    };
    let bar = dlq.looking().await?;
    let mut seen = std::pin::pin!(dlq.letters.oldest_first(&selecting, Span::default(), true));
    let mut exported = 0_u64;
    while args.limit.is_none_or(|limit| exported < limit)
        && let Some(Examined { letter, seq }) = seen.next().await.transpose()?
    {
        bar.at(seq, false);
        let Some(letter) = letter else { continue };
        exported += 1;
        if !lines.line(&line(dlq, &letter).await?)? {
            break;
        }
    }
    bar.finish();
    lines.flush()?;
    if let Some(path) = &args.out {
        eprintln!(
            "exported {} to \"{}\"",
            count(usize::try_from(exported)?, "letter"),
            path.display()
        );
    }
    Ok(ExitCode::SUCCESS)
}

async fn line(dlq: &Dlq, letter: &StoredMessage) -> anyhow::Result<String> {
    let mut members =
        members(&json!({ "letter": LetterRecord::of(letter), "headers": all_headers(letter) }))?;
    let Letters { broker, names } = &dlq.letters;
    let payload = stored::payload(broker, names, letter).await?;
    members.extend(payload.map(|payload| part("payload", &payload)));
    Ok(format!("{{{}}}", members.join(",")))
}

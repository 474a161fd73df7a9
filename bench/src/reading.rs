//! Reading: time that an operator waits for a page, the groups and the totals of a dead-letter
//! stream of any size.

use std::{
    path::Path,
    sync::{Arc, atomic::AtomicU64},
    time::{Instant, SystemTime},
};

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _};
use millstream::{
    dead_letter::{
        LetterFilter,
        groups::{Groups, Stats},
        read::{Letters, Span},
    },
    limits,
    wire::rfc3339,
};

use crate::{
    letters::{FAILING, registry},
    shop::Shop,
    stored::store,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Letters that are stored
    #[arg(long, default_value_t = 1_000_000)]
    letters: u64,
}

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let shop = Shop::open(program, FAILING, registry(&Arc::new(AtomicU64::new(0)))).await?;
    let began = Instant::now();
    store(&shop, args.letters, "letter").await?;
    println!("stored {} letters in {:.1?}", args.letters, began.elapsed());
    measure(&Letters { broker: shop.broker.clone(), names: shop.pipeline.names() }).await?;
    shop.close().await
}

/// Prints the time that an operator waits for the `dlq` commands, without the start of a process
/// and the printing.
async fn measure(letters: &Letters) -> Result<()> {
    let state = letters.broker.stream_state(&letters.stream()).await?;
    println!("{} letters, {} MiB", state.messages, state.bytes >> 20);
    let rare = format!(".eventId == \"order-{:08}\"", state.messages / 2);
    let text = |text: &str| Some(text.to_owned());
    for (name, filter) in [
        ("ls", LetterFilter::default()),
        ("ls --stage work", LetterFilter { stage: text("work"), ..LetterFilter::default() }),
        (
            "ls --class Validation*",
            LetterFilter { class: text("Validation*"), ..LetterFilter::default() },
        ),
        (
            "ls --tenant tenant-7",
            LetterFilter { tenant: text("tenant-7"), ..LetterFilter::default() },
        ),
        (
            "ls --since 1m",
            LetterFilter { since: Some(rfc3339(SystemTime::now())), ..LetterFilter::default() },
        ),
        (
            "ls --where (one of all)",
            LetterFilter { condition: Some(rare), ..LetterFilter::default() },
        ),
    ] {
        let began = Instant::now();
        let selecting = filter.compile()?;
        let total = letters.count(&filter).await?;
        let counted = began.elapsed();
        let page = letters.newest_first(&selecting, Span::default(), 51).await?;
        let page: Vec<_> = page.try_collect().await?;
        let found = page.iter().filter(|seen| seen.letter.is_some()).count();
        println!(
            "{name:<26} {found:>3} letters in {:>8.1?}, count {total:?} in {counted:.1?}",
            began.elapsed() - counted
        );
    }
    let began = Instant::now();
    let selecting = LetterFilter::default().compile()?;
    let (mut groups, mut stats) = (Groups::new(limits::GROUPS_MAX), Stats::new(SystemTime::now()));
    let mut seen = std::pin::pin!(letters.oldest_first(&selecting, Span::default(), false));
    while let Some(seen) = seen.next().await.transpose()? {
        if let Some(letter) = seen.letter {
            groups.add(&letter);
            stats.add(&letter);
        }
    }
    println!(
        "groups and stats           {} letters in {} groups in {:.1?}",
        stats.letters,
        groups.finish().0.len(),
        began.elapsed()
    );
    Ok(())
}

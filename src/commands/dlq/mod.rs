//! `dlq`: subcommands that read, edit, redrive, drop and export dead letters.

mod drop;
mod edit;
mod export;
mod filters;
mod groups;
mod jobs;
mod ls;
mod redrive;
mod show;
mod stats;

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use futures_util::StreamExt as _;
use indicatif::{ProgressBar, ProgressStyle};

use super::{App, lines};
use crate::{
    broker::{AdminError, Broker, StoredMessage},
    config::Pipeline,
    dead_letter::read::{Examined, Letters, Span},
    wire::Names,
};

const EXAMPLES: &str = "\
Examples:
  millstream dlq groups                   what went wrong, the most frequent first
  millstream dlq ls --stage orders        the last letters of a stage
  millstream dlq show 17                  one letter: what happened, and its payload
  millstream dlq edit 17 --set eventData.currency=EUR
  millstream dlq redrive 17               send its event back to the stage that failed
  millstream dlq jobs ls                  redrives that run and ran
  millstream dlq drop --class ValidationError --since 24h
  millstream dlq export --out letters.jsonl";

/// Arguments of `dlq`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Count dead letters: by stage, reason and class, and how many lately
    Stats(stats::Args),
    /// Show which failures are the same failure, the most frequent first
    Groups(groups::Args),
    /// List dead letters, newest first
    Ls(ls::Args),
    /// Show one letter: what happened to its event, and its payload
    Show(show::Args),
    /// Change a letter's payload, checked against its schema; what it was is kept
    Edit(edit::Args),
    /// Send events back to the stage that failed, and only there
    Redrive(Box<redrive::Args>),
    /// The redrives that run and ran: list, show, cancel, resume
    Jobs(jobs::Args),
    /// Delete letters for good
    Drop(drop::Args),
    /// Write letters as JSON lines, oldest first
    Export(export::Args),
}

/// Pipeline and letters that every subcommand works on.
struct Dlq {
    pipeline: Arc<Pipeline>,
    letters: Letters,
}

/// Runs one of the subcommands; the exit status is in the help of each.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = Arc::new(app.pipeline()?);
    let broker = app.connect(&pipeline).await?;
    let names = pipeline.names();
    super::must_exist(&broker, &names.dlq_stream()).await?;
    let dlq = Dlq { pipeline, letters: Letters { broker, names } };
    let broker = &dlq.letters.broker;
    match args.command {
        Command::Stats(args) => stats::run(&dlq, args).await,
        Command::Groups(args) => groups::run(&dlq, args).await,
        Command::Ls(args) => ls::run(&dlq, args).await,
        Command::Show(args) => show::run(&dlq, args).await,
        Command::Edit(args) => edit::run(&dlq, args).await,
        Command::Redrive(args) => redrive::run(&dlq, *args).await,
        Command::Jobs(args) => jobs::run(broker, &dlq.pipeline, args).await,
        Command::Drop(args) => drop::run(&dlq, args).await,
        Command::Export(args) => export::run(&dlq, args).await,
    }
}

impl Dlq {
    /// Reads every letter that these flags mean, oldest first, with a progress bar.
    async fn each(
        &self,
        flags: &filters::Filters,
        mut take: impl FnMut(&StoredMessage),
    ) -> anyhow::Result<()> {
        let filter = flags.filter(self.letters.broker.now())?;
        filters::known_stage(&self.letters.broker, &self.pipeline, &self.letters.names, &filter)
            .await?;
        let selecting = filters::compile(&filter)?;
        let bar = self.looking().await?;
        let mut seen =
            std::pin::pin!(self.letters.oldest_first(&selecting, Span::default(), false));
        while let Some(Examined { letter, seq }) = seen.next().await.transpose()? {
            bar.at(seq, false);
            letter.iter().for_each(&mut take);
        }
        bar.finish();
        Ok(())
    }

    /// Progress bar of a look through the letters, on stderr where that is a terminal, and only if
    /// it takes long.
    async fn looking(&self) -> Result<Looking, AdminError> {
        let state = self.letters.broker.stream_state(&self.letters.stream()).await?;
        let bar = ProgressBar::new((state.last_seq + 1).saturating_sub(state.first_seq));
        let style =
            ProgressStyle::with_template("looking through letters {bar:30} {percent}%  {elapsed}");
        bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
        bar.enable_steady_tick(Duration::from_millis(500));
        Ok(Looking { bar, first: state.first_seq, last: state.last_seq })
    }
}

/// Progress of a look through the letters.
struct Looking {
    bar: ProgressBar,
    first: u64,
    last: u64,
}

impl Looking {
    /// Moves the bar to this letter, from the beginning or from the end.
    fn at(&self, seq: u64, from_end: bool) {
        // Drawing is rare, but saying where one is costs as much as reading a letter does.
        if seq.is_multiple_of(256) || from_end {
            self.bar.set_position(if from_end {
                self.last.saturating_sub(seq)
            } else {
                seq.saturating_sub(self.first)
            });
        }
    }

    fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

async fn letter(broker: &Broker, names: &Names, seq: u64) -> anyhow::Result<StoredMessage> {
    let found = broker.message(&names.dlq_stream(), seq).await?;
    let letter = found.filter(|message| names.is_dlq(&message.subject));
    letter.with_context(|| format!("there is no dead letter {seq}; `millstream dlq ls` lists them"))
}

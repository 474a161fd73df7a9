//! `dlq redrive`: sends letters back to the stage that failed.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use indicatif::ProgressBar;

use crate::{
    broker::Broker,
    dead_letter::{LetterRecord, redrive},
    topology::Names,
};

/// What `dlq redrive` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq redrive 17 18
  millstream dlq redrive --stage orders

A letter goes once its event is on its way; if it fails again, it is a letter again, with one redrive more.")]
pub(super) struct Args {
    /// The numbers of letters, as `ls` prints them
    pub(super) letters: Vec<u64>,
    /// All letters of this stage
    #[arg(long, conflicts_with = "letters")]
    pub(super) stage: Option<String>,
}

/// Sends letters back.
///
/// # Errors
/// Which letter could not be redriven, and why.
pub(super) async fn run(broker: &Broker, names: &Names, args: Args) -> anyhow::Result<ExitCode> {
    let Args { letters, stage } = args;
    if letters.is_empty() && stage.is_none() {
        bail!("say which letters to redrive, as `millstream dlq ls` numbers them, or all of a stage with --stage")
    }
    if let Some(stage) = &stage {
        let total = broker.subjects_count(&names.dlq_stream(), &names.dlq_filter(Some(stage))).await?;
        let bar = ProgressBar::new(total);
        bar.enable_steady_tick(Duration::from_millis(200));
        let count = redrive::redrive_all(broker, names, Some(stage), |done| bar.set_position(done)).await;
        bar.finish_and_clear();
        println!("redrove {} to stage \"{stage}\"", super::super::count(usize::try_from(count?)?, "letter"));
        return Ok(ExitCode::SUCCESS);
    }
    for seq in letters {
        let message = super::letter(broker, names, seq).await?;
        redrive::redrive(broker, names, &message).await?;
        println!("redrove letter {seq} to stage \"{}\"", LetterRecord::of(&message).stage);
    }
    Ok(ExitCode::SUCCESS)
}

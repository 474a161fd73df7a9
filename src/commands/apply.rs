//! `apply`: brings the broker's streams and consumers to what the pipeline needs.

use std::process::ExitCode;

use super::{App, plan};
use crate::topology;

const EXAMPLES: &str = "\
Examples:
  millstream plan && millstream apply
  millstream apply --delete-extra     # delete what is no longer named, if it is empty
  millstream apply --allow-lossy      # shrink a limit below what is stored

It refuses what would lose messages, and changes nothing then.";

/// Arguments of `apply`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Do what loses messages, too
    #[arg(long)]
    pub allow_lossy: bool,
    /// Delete what the configuration no longer names, if it is empty (with --allow-lossy in any
    /// case)
    #[arg(long)]
    pub delete_extra: bool,
}

/// Compares the broker with what the pipeline needs, carries out the difference, and prints it.
///
/// # Errors
/// The broker cannot be reached or refuses, or something must be decided first; then nothing was
/// done.
pub async fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let broker = app.connect(&pipeline).await?;
    let plan = plan::compare(&pipeline, &broker).await?;
    if args.json {
        println!("{:#}", plan::as_json(&plan));
    } else {
        print!("{plan}");
    }
    let allowed = topology::Allowed { lossy: args.allow_lossy, delete_extra: args.delete_extra };
    topology::apply(&plan, &broker, allowed).await?;
    eprintln!("applied: {}", plan::summary(&plan));
    Ok(ExitCode::SUCCESS)
}

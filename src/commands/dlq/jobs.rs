//! `dlq jobs`: lists, shows, cancels and resumes redrives.

mod carry_on;
mod ls;
mod show;
mod words;

use std::process::ExitCode;

use super::super::people::who;
use crate::{
    broker::Broker,
    config::Pipeline,
    redrive::{context::Context, job::Job, store::Jobs, targets::Targets},
};

pub(super) use carry_on::carry_on;
pub(super) use words::guard_line;

/// Arguments of `dlq jobs`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq jobs ls
  millstream dlq jobs show r-20261121-101502-ab12
  millstream dlq jobs cancel r-20261121-101502-ab12
  millstream dlq jobs resume r-20261121-101502-ab12 --detach

A job whose command or worker died is taken over by another worker within seconds; \
`resume` is for one that
was cancelled, stopped by its canary, or failed.")]
pub(super) struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List jobs, oldest first: those that run, and the last 200 that ended
    #[command(after_help = "Examples:
  millstream dlq jobs ls
  millstream dlq jobs ls --json | jq -r 'select(.state == \"stopped\") | .id'")]
    Ls {
        /// JSON, one job per line
        #[arg(long)]
        json: bool,
    },
    /// Show one job: what it is about, what it did, who asked for it
    #[command(after_help = "Examples:
  millstream dlq jobs show r-20261121-101502-ab12
  millstream dlq jobs show r-20261121-101502-ab12 --json | jq .counts")]
    Show {
        /// Job name, as `ls` prints it
        job: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop a job, wherever it runs, within a second; what it sent stays sent
    #[command(after_help = "Examples:
  millstream dlq jobs cancel r-20261121-101502-ab12")]
    Cancel {
        /// Job name, as `ls` prints it
        job: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Go on with a job that was cancelled, stopped or failed; a canary is tried anew
    #[command(after_help = "Examples:
  millstream dlq jobs resume r-20261121-101502-ab12
  millstream dlq jobs resume r-20261121-101502-ab12 --detach

Exit status: as that of `dlq redrive`.")]
    Resume {
        /// Job name, as `ls` prints it
        job: String,
        /// Leave it to the workers
        #[arg(long)]
        detach: bool,
        /// JSON
        #[arg(long)]
        json: bool,
    },
}

/// Runs one of the subcommands.
///
/// # Errors
/// There is no such job, or it is in no state for that.
pub(super) async fn run(
    broker: &Broker,
    pipeline: &Pipeline,
    args: Args,
) -> anyhow::Result<ExitCode> {
    let names = &pipeline.names();
    let jobs = Jobs::new(broker, names);
    match args.command {
        Command::Ls { json } => ls::run(&jobs, json, broker.now()).await?,
        Command::Show { job, json } => show::run(&jobs.get(&job).await?.0, json)?,
        Command::Cancel { job, json } => {
            let job = jobs.cancel(&job, &who()).await?;
            match json {
                true => println!("{}", serde_json::to_string(&job)?),
                false => println!(
                    "cancelled job {}; it redrove {}. To go on: millstream dlq jobs resume {}",
                    job.id,
                    words::letters(job.counts.redriven),
                    job.id
                ),
            }
        }
        Command::Resume { job, detach: true, json } => {
            let claim = jobs.resume(&job, None).await?;
            return print_detached(claim.job(), json);
        }
        Command::Resume { job, detach: false, json } => {
            let claim = jobs.resume(&job, Some(&runner())).await?;
            let context = context(broker, pipeline);
            return carry_on(&context, claim, json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Context of a job that this process runs.
pub(super) fn context(broker: &Broker, pipeline: &Pipeline) -> Context {
    Context {
        broker: broker.clone(),
        names: pipeline.names(),
        targets: Targets::of(pipeline),
        metrics: None,
    }
}

/// Prints that a job is left to the workers.
pub(super) fn print_detached(job: &Job, json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => println!("{}", serde_json::to_string(job)?),
        false => println!(
            "job {} is left to the workers; to watch it: millstream dlq jobs show {}",
            job.id, job.id
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// A name for this process, as the runner of a job.
pub(super) fn runner() -> String {
    let now = jiff::Timestamp::now().as_millisecond() % 1_000_000;
    format!("{} (command line, process {}-{now})", who(), std::process::id())
}

//! Carrying on: a redrive run by the command line, with a progress bar, until it ends or is
//! cancelled.

use std::{process::ExitCode, time::Duration};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use tokio_util::sync::CancellationToken;

use super::words::{did, guard_line, letters, next_step, reasons, resume};
use crate::{
    commands::{found, people::who, printable},
    redrive::{
        context::{Context, Progress},
        job::{Job, State},
        run::{self, Ended},
        store::{Claim, Jobs},
    },
};

/// Runs a job that this process has taken, with a progress bar; Ctrl-C cancels it.
///
/// # Errors
/// The broker does not answer: the workers carry on.
pub(in crate::commands::dlq) async fn carry_on(
    context: &Context,
    claim: Claim,
    json: bool,
) -> anyhow::Result<ExitCode> {
    let (progress, stop, id) =
        (Progress::of(&claim), CancellationToken::new(), claim.job().id.clone());
    let before = claim.job().counts.settled();
    let bar = bar(claim.job().expected);
    let ended = {
        let mut run = std::pin::pin!(run::run(context, claim, &progress, &stop));
        let mut interrupted = false;
        let mut ticks = tokio::time::interval(Duration::from_millis(100));
        loop {
            tokio::select! {
                ended = &mut run => break ended,
                _ = ticks.tick() => draw(&bar, &progress.job(), before),
                pressed = tokio::signal::ctrl_c(), if !interrupted => {
                    interrupted = true;
                    if pressed.is_ok() {
                        // The runner sees that its job is cancelled, finishes what is under way,
                        // and says so.
                        let jobs = Jobs::new(&context.broker, &context.names);
                        if jobs.cancel(&id, &who()).await.is_err() {
                            stop.cancel();
                        }
                    }
                }
            }
        }
    };
    bar.finish_and_clear();
    match ended {
        Ended::Job(job) => print_ended(&job, json),
        Ended::Released(job) => {
            bail!("job \"{}\" was left unfinished; {}", job.id, resume(&job.id))
        }
        Ended::Taken => {
            bail!("job \"{id}\" was taken over; `millstream dlq jobs show {id}` says how far it is")
        }
        Ended::Broker(error) => Err(anyhow::Error::from(error).context(format!(
            "job \"{id}\" cannot go on here; a worker carries on as soon as it can, \
             and `millstream dlq jobs show {id}` says how far it is"
        ))),
    }
}

fn bar(expected: Option<u64>) -> ProgressBar {
    let bar = expected.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match expected {
        Some(_) => "{bar:30} {pos}/{len}  {per_sec}  {msg}  {elapsed}, {eta} to go",
        None => "{spinner} {pos}  {per_sec}  {msg}  {elapsed}",
    };
    bar.set_style(
        ProgressStyle::with_template(template).expect("the template is a constant that parses"),
    );
    bar
}

fn draw(bar: &ProgressBar, job: &Job, before: u64) {
    bar.set_position(job.counts.settled());
    if before > 0 && bar.position() == before {
        bar.reset_eta();
    }
    let message = match &job.canary {
        Some(canary) if job.state == State::Canary => {
            let (failed, _) = canary.failures();
            format!(
                "canary: {} of {} undecided, {failed} failed",
                canary.undecided(),
                canary.sent.len()
            )
        }
        Some(canary) if canary.verdict.is_some() => "canary passed".to_owned(),
        Some(_) | None => String::new(),
    };
    bar.set_message(printable(&message));
}

fn print_ended(job: &Job, json: bool) -> anyhow::Result<ExitCode> {
    let well = job.state == State::Done && job.counts.failed + job.counts.skipped == 0;
    if json {
        println!("{}", serde_json::to_string(job)?);
        return Ok(found(!well));
    }
    println!("{}", did(job));
    if job.counts.guarded > 0 {
        println!("{}", guard_line(job.counts.guarded, job.max_redrives));
    }
    let why = printable(job.why.as_deref().unwrap_or_default());
    match job.state {
        State::Done if job.counts.failed > 0 => {
            println!("{} could not be sent: {why}", letters(job.counts.failed))
        }
        State::Done if job.counts.skipped > 0 => {}
        State::Done => {
            if let Some(verdict) = job.canary.as_ref().and_then(|canary| canary.verdict.as_deref())
            {
                println!("its canary: {}", printable(verdict));
            }
        }
        State::Stopped => println!("stopped by its canary, the rest is untouched\n  {why}"),
        State::Cancelled => println!("{why}"),
        State::Failed => bail!("{why}"),
        State::Running | State::Canary => println!("it still runs"),
    }
    reasons(job).iter().for_each(|reason| println!("  {reason}"));
    if let Some(next) = next_step(job) {
        println!("{next}");
    }
    Ok(found(!well))
}

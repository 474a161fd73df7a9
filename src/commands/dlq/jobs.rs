//! `dlq jobs`: the redrives that run and ran: list, show, cancel, resume; and how one is run on the
//! command line.

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, SystemTime},
};

use anyhow::bail;
use indicatif::{ProgressBar, ProgressStyle};
use millstream_stages::units::Period;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        count,
        people::{when, who},
        printable,
        table::Table,
        terminal_width,
    },
    filters::quoted,
    ls::NARROW,
};
use crate::{
    broker::Broker,
    redrive::{
        context::{Context, Progress},
        job::{Job, State},
        run::{self, Ended},
        store::{Claim, Jobs},
    },
    wire::Names,
};

/// What `dlq jobs` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq jobs ls
  millstream dlq jobs show r-20261121-101502-ab12
  millstream dlq jobs cancel r-20261121-101502-ab12
  millstream dlq jobs resume r-20261121-101502-ab12 --detach

A job whose command or worker died is taken over by another worker within seconds; `resume` is for one that
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
        /// Its name, as `ls` prints it
        job: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Stop a job, wherever it runs, within a second; what it sent stays sent
    #[command(after_help = "Examples:
  millstream dlq jobs cancel r-20261121-101502-ab12")]
    Cancel {
        /// Its name, as `ls` prints it
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
        /// Its name, as `ls` prints it
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
pub(super) async fn run(broker: &Broker, names: &Names, args: Args) -> anyhow::Result<ExitCode> {
    let jobs = Jobs::new(broker, names);
    match args.command {
        Command::Ls { json } => ls(&jobs, json).await?,
        Command::Show { job, json } => show(&jobs.get(&job).await?.0, json)?,
        Command::Cancel { job, json } => {
            let job = jobs.cancel(&job, &who()).await?;
            match json {
                true => println!("{}", serde_json::to_string(&job)?),
                false => println!(
                    "cancelled job {}; it redrove {}. To go on: millstream dlq jobs resume {}",
                    job.id,
                    letters(job.counts.redriven),
                    job.id
                ),
            }
        }
        Command::Resume { job, detach: true, json } => {
            let claim = jobs.resume(&job, None).await?;
            return tell_detached(claim.job(), json);
        }
        Command::Resume { job, detach: false, json } => {
            let claim = jobs.resume(&job, Some(&runner())).await?;
            let context = Context { broker: broker.clone(), names: names.clone(), metrics: None };
            return carry_on(&context, claim, json).await;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn ls(jobs: &Jobs, json: bool) -> anyhow::Result<()> {
    let all = jobs.list().await?;
    if json {
        for (job, _) in &all {
            println!("{}", serde_json::to_string(job)?);
        }
        return Ok(());
    }
    if all.is_empty() {
        println!("no jobs yet; `millstream dlq redrive` makes one");
        return Ok(());
    }
    let now = std::io::stdout().is_terminal().then(SystemTime::now);
    let mut table =
        Table::new(&["JOB", "KIND", "MADE", "STATE", "REDRIVEN", "SKIPPED", "WHICH", "BY", "WHY"]);
    for (job, _) in all {
        let counts = job.counts;
        table.row([
            job.id.clone(),
            job.kind.as_str().to_owned(),
            when(&job.created_at, now),
            job.state.as_str().to_owned(),
            counts.redriven.to_string(),
            (counts.guarded + counts.completed + counts.permanent + counts.failed).to_string(),
            which(&job),
            job.created_by.clone(),
            job.why.clone().unwrap_or_default(),
        ]);
    }
    if terminal_width().is_some_and(|width| width < NARROW) {
        // `show` has them.
        for heading in ["KIND", "BY", "WHY"] {
            table.without(heading);
        }
    }
    table.print();
    Ok(())
}

fn show(job: &Job, json: bool) -> anyhow::Result<()> {
    if json {
        println!("{}", serde_json::to_string_pretty(job)?);
        return Ok(());
    }
    println!("job {}: {} {}", job.id, job.kind.as_str(), job.state.as_str());
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    let canary = job.canary.as_ref().map(|canary| {
        let stop = match canary.stop_above > 0.0 {
            true => format!("stop above {:.0} %", canary.stop_above * 100.0),
            false => "stop if any fails".to_owned(),
        };
        let so_far = match &canary.verdict {
            Some(verdict) => format!("; {verdict}"),
            None if job.is_open() => format!("; so far {}", canary.told()),
            // Then this is why it stopped.
            None => String::new(),
        };
        format!("{} first, {stop}{so_far}", canary.count)
    });
    let rules = job.rules.as_ref().map(|rules| {
        let classes = if rules.classes.is_empty() {
            "any class".to_owned()
        } else {
            rules.classes.join(", ")
        };
        let tenants = rules
            .tenants
            .as_ref()
            .map(|bucket| format!(", tenants active in {bucket}"))
            .unwrap_or_default();
        format!(
            "{classes}, younger than {}{tenants}",
            Period(Duration::from_millis(rules.max_age_ms))
        )
    });
    for (name, value) in [
        ("why", job.why.clone()),
        ("letters", Some(which(job))),
        ("rules", rules),
        ("canary", canary),
        ("rate", job.per_second.map(|rate| format!("{rate}/s"))),
        ("guard", Some(format!("events redriven fewer than {}", times(job.max_redrives)))),
        ("did", Some(did(job))),
        (
            "is at",
            Some(format!("letter {} of up to {}", job.cursor, job.last))
                .filter(|_| job.state != State::Done),
        ),
        ("made", Some(format!("{} by {}", job.created_at, job.created_by))),
        ("started", Some(or_dash(&job.started_at))),
        ("ended", Some(or_dash(&job.ended_at))),
        ("run by", Some(or_dash(&job.runner)).filter(|_| job.is_open())),
    ] {
        if let Some(value) = value {
            println!("  {name:<9} {}", printable(&value));
        }
    }
    if let Some(next) = next_step(job) {
        println!("\n{next}");
    }
    Ok(())
}

/// Runs a job that this process has taken, with a progress bar; Ctrl-C cancels it.
///
/// # Errors
/// The broker does not answer: the workers carry on.
pub(super) async fn carry_on(
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
                        if Jobs::new(&context.broker, &context.names).cancel(&id, &who()).await.is_err() {
                            stop.cancel();
                        }
                    }
                }
            }
        }
    };
    bar.finish_and_clear();
    match ended {
        Ended::Job(job) => tell_ended(&job, json),
        Ended::Released(job) => bail!("job \"{}\" was left unfinished; {}", job.id, resume(&job.id)),
        Ended::Taken => bail!("job \"{id}\" was taken over; `millstream dlq jobs show {id}` says how far it is"),
        Ended::Broker(error) => Err(anyhow::Error::from(error).context(format!(
            "job \"{id}\" cannot go on here; a worker carries on as soon as it can, and `millstream dlq jobs show {id}` \
             says how far it is"
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

fn tell_ended(job: &Job, json: bool) -> anyhow::Result<ExitCode> {
    let well = job.state == State::Done && job.counts.failed == 0;
    if json {
        println!("{}", serde_json::to_string(job)?);
        return Ok(super::super::found(!well));
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
    if let Some(next) = next_step(job) {
        println!("{next}");
    }
    Ok(super::super::found(!well))
}

/// Says that the workers have a job now.
pub(super) fn tell_detached(job: &Job, json: bool) -> anyhow::Result<ExitCode> {
    match json {
        true => println!("{}", serde_json::to_string(job)?),
        false => println!(
            "job {} is left to the workers; to watch it: millstream dlq jobs show {}",
            job.id, job.id
        ),
    }
    Ok(ExitCode::SUCCESS)
}

/// That the guard left letters, and how to send them all the same.
pub(super) fn guard_line(guarded: u64, max_redrives: u32) -> String {
    format!(
        "left {} that had been redriven {} or more and came back; to send them all the same: --max-redrives {}",
        letters(guarded),
        times(max_redrives),
        max_redrives.saturating_add(1)
    )
}

fn next_step(job: &Job) -> Option<String> {
    match job.state {
        State::Running if job.runner.is_none() => {
            Some("no worker has it yet; `millstream status` shows who is alive".to_owned())
        }
        State::Stopped if job.filter.letters.is_empty() => {
            // What failed again has a new number, and is not the job's business.
            let canary = job.canary.as_ref().map(|canary| match canary.stop_above > 0.0 {
                true => format!(
                    " --canary {} --stop-above {:.0}%",
                    canary.count,
                    canary.stop_above * 100.0
                ),
                false => format!(" --canary {}", canary.count),
            });
            let canary = canary.unwrap_or_default();
            let again = format!("millstream dlq redrive {}{canary}", which(job));
            Some(format!(
                "mended?  {}\nor only the untouched rest: millstream dlq jobs resume {}",
                printable(&again),
                job.id
            ))
        }
        State::Stopped | State::Failed => Some(format!("mend it, then {}", resume(&job.id))),
        State::Cancelled => Some(resume(&job.id)),
        State::Done if job.counts.redriven > 0 => {
            Some("what fails again is a letter again: millstream dlq groups".into())
        }
        State::Running | State::Canary | State::Done => None,
    }
}

fn resume(id: &str) -> String {
    format!("to go on: millstream dlq jobs resume {id}")
}

fn did(job: &Job) -> String {
    let counts = job.counts;
    let mut parts = vec![format!("redrove {}", letters(counts.redriven))];
    for (number, what) in [
        (counts.guarded, "left by the guard"),
        (counts.completed, "completed before"),
        (counts.permanent, "marked permanent"),
        (counts.gone, "taken by someone else"),
        (counts.failed, "failed"),
    ] {
        if number > 0 {
            parts.push(format!("{number} {what}"));
        }
    }
    parts.join(", ")
}

fn letters(number: u64) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "letter")
}

fn times(number: u32) -> String {
    count(usize::try_from(number).unwrap_or(usize::MAX), "time")
}

/// The filter of a job as flags.
fn which(job: &Job) -> String {
    let filter = &job.filter;
    let mut parts: Vec<String> = filter.letters.iter().take(10).map(ToString::to_string).collect();
    if filter.letters.len() > 10 {
        parts.push(format!("and {} more", filter.letters.len() - 10));
    }
    for (flag, value) in [
        ("stage", &filter.stage),
        ("class", &filter.class),
        ("type", &filter.event_type),
        ("tenant", &filter.tenant),
        ("reason", &filter.reason),
        ("fingerprint", &filter.fingerprint),
        ("since", &filter.since),
        ("until", &filter.until),
        ("where", &filter.condition),
    ] {
        if let Some(value) = value {
            parts.push(format!("--{flag} {}", quoted(value)));
        }
    }
    if parts.is_empty() { "--all".to_owned() } else { parts.join(" ") }
}

/// A name for this process, as the runner of a job.
pub(super) fn runner() -> String {
    let now = jiff::Timestamp::now().as_millisecond() % 1_000_000;
    format!("{} (command line, process {}-{now})", who(), std::process::id())
}

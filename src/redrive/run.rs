//! Run: one job carried on, in a worker or on the command line, from its cursor to its end.

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    canary::{Canary, Fate, Probe},
    job::{Counts, Job, State},
    pump::{Flow, Pump},
    resend::{self, RedriveError},
    store::{Claim, Written},
};
use crate::{
    broker::{AdminError, unix_ms},
    error_chain::chain,
    limits,
    redrive::{
        context::{Context, Progress, RunError},
        step, verdict,
    },
};

/// End of a run.
#[derive(Debug)]
pub enum Ended {
    /// The job has ended.
    Job(Job),
    /// The run was to stop; somebody else may go on.
    Released(Job),
    /// Somebody else runs the job now.
    Taken,
    /// The broker did not do what was asked, again and again; somebody may go on where it was left.
    Broker(RunError),
}

/// Outcome of the work on a job.
enum Work {
    Done,
    Halted,
    Stopped(String),
}

/// Reason why the claim ended before the work did.
#[derive(Debug, Clone, Copy)]
enum Lost {
    Cancelled,
    Taken,
    Silent,
}

/// Carries a job on until it has ended, somebody else has it, or `stop`.
///
/// A letter is removed once it is on record that it was sent. If this process dies, whoever is next
/// finishes what is on record and goes on at the cursor: what was sent and is not on record is sent
/// again with the same id, which the server drops for [`limits::DEDUP`], and counted then.
pub async fn run(
    context: &Context,
    mut claim: Claim,
    progress: &Progress,
    stop: &CancellationToken,
) -> Ended {
    let id = claim.job().id.clone();
    tracing::info!(
        job = id,
        kind = claim.job().kind.as_str(),
        cursor = claim.job().cursor,
        "a job is carried on"
    );
    let halt = stop.child_token();
    let (worked, lost) = {
        let mut work = std::pin::pin!(work(context, progress, &halt));
        tokio::select! {
            worked = &mut work => (worked, None),
            lost = keep(&mut claim, progress) => {
                // Of a job that was cancelled nobody else will count; of another, somebody does.
                progress.recorded(matches!(lost, Lost::Cancelled).then_some(u64::MAX));
                // What is in flight is finished: its letters would be sent again.
                halt.cancel();
                (work.await, Some(lost))
            }
        }
    };
    let mut job = progress.job();
    let ended = match (worked, lost) {
        (_, Some(Lost::Taken)) => {
            tracing::warn!(job = id, "somebody else carries the job on");
            return Ended::Taken;
        }
        (Ok(Work::Done), _) => {
            job.end(State::Done, None, context.broker.now());
            Ended::Job(job)
        }
        (Ok(Work::Stopped(why)), _) => {
            job.end(State::Stopped, Some(why), context.broker.now());
            Ended::Job(job)
        }
        (Err(error @ RunError::Redrive(RedriveError::NobodyReads { .. })), _)
        | (
            Err(
                error @ (RunError::Filter(_)
                | RunError::NoTenants { .. }
                | RunError::OtherLetters { .. }),
            ),
            _,
        ) => {
            job.end(State::Failed, Some(chain(&error)), context.broker.now());
            Ended::Job(job)
        }
        // After the first: what was sent and cannot be removed would be sent again.
        (Err(error), _) if error.refusal().is_some() => {
            job.end(State::Failed, Some(chain(&error)), context.broker.now());
            Ended::Job(job)
        }
        (_, Some(Lost::Cancelled)) => {
            job.end(State::Cancelled, claim.job.why.clone(), context.broker.now());
            job.ended_at = claim.job.ended_at.clone();
            Ended::Job(job)
        }
        (Ok(Work::Halted), Some(Lost::Silent)) => Ended::Broker(RunError::Silent),
        (Ok(Work::Halted), None) => Ended::Released(job),
        (Err(error), _) => Ended::Broker(error),
    };
    let mut last = match &ended {
        Ended::Job(job) | Ended::Released(job) => job.clone(),
        Ended::Broker(_) | Ended::Taken => progress.job(),
    };
    last.runner = None;
    let Counts { redriven, guarded, permanent, failed, .. } = last.counts;
    let (state, why) = (last.state.as_str(), last.why.clone());
    match &ended {
        Ended::Job(_) => tracing::info!(
            job = id,
            state,
            why,
            redriven,
            guarded,
            permanent,
            failed,
            "a job has ended"
        ),
        Ended::Released(_) => {
            tracing::info!(job = id, redriven, "a job is left to whoever goes on")
        }
        Ended::Broker(error) => {
            tracing::warn!(job = id, error = chain(error), "a job cannot go on now")
        }
        Ended::Taken => {}
    }
    if !claim.finish(last).await {
        tracing::warn!(job = id, "the record of the job does not say how it ended here");
    }
    ended
}

/// Writes the record for as long as it can, at each checkpoint and whenever a step waits for it;
/// the reason why it cannot any more.
async fn keep(claim: &mut Claim, progress: &Progress) -> Lost {
    loop {
        let written = Instant::now();
        // A checkpoint that nobody waits for is due all the same.
        tokio::time::timeout(limits::JOB_CHECKPOINT, progress.waits()).await.ok();
        tokio::time::sleep_until(written + limits::JOB_WRITE_GAP).await;
        let job = progress.job();
        let mark = job.mark;
        match claim.write(job).await {
            Written::Yes => progress.recorded(Some(mark)),
            Written::NotNow(_) if claim.renewed.elapsed() < limits::JOB_CLAIM => {}
            Written::NotNow(_) => return Lost::Silent,
            Written::Cancelled => return Lost::Cancelled,
            Written::Lost => return Lost::Taken,
        }
    }
}

async fn work(
    context: &Context,
    progress: &Progress,
    halt: &CancellationToken,
) -> Result<Work, RunError> {
    let job = progress.job();
    if let Some(bucket) = job.rules.as_ref().and_then(|rules| rules.tenants.clone())
        && !context.broker.kv_exists(&bucket).await?
    {
        return Err(RunError::NoTenants { bucket });
    }
    let stream = context.names.dlq_stream();
    let created_ms = unix_ms(context.broker.stream_state(&stream).await?.created);
    if ![0, created_ms].contains(&job.letters_created_ms) {
        return Err(RunError::OtherLetters { stream });
    }
    progress.change(|job| job.letters_created_ms = created_ms);
    let filter = job.filter.stage.as_deref();
    step::Work { context, progress }.take_over(filter).await?;
    let mut pump = Pump::new(context, progress, halt, &progress.job())?;
    resend::may_remove(&context.broker, &context.names, pump.removes_by_runs()).await?;
    if let Some(canary) = job.canary.filter(|canary| canary.verdict.is_none()) {
        if canary.failed_from.is_none() {
            let from = context.broker.stream_state(&context.names.failed_stream()).await?.last_seq;
            progress.change(|job| {
                job.canary.iter_mut().for_each(|canary| canary.failed_from = Some(from))
            });
        }
        let to_send = u64::from(canary.count).saturating_sub(canary.sent.len() as u64);
        if pump.run(to_send, true).await? == Flow::Halted {
            return Ok(Work::Halted);
        }
        progress.change(|job| job.state = State::Canary);
        match verdict(context, progress, halt).await? {
            Work::Done => {}
            ended @ (Work::Halted | Work::Stopped(_)) => return Ok(ended),
        }
    }
    match pump.run(u64::MAX, false).await? {
        Flow::Halted => Ok(Work::Halted),
        Flow::Exhausted | Flow::Enough => Ok(Work::Done),
    }
}

/// Waits for the outcomes of a canary. [`Work::Done`]: the rest may follow.
async fn verdict(
    context: &Context,
    progress: &Progress,
    halt: &CancellationToken,
) -> Result<Work, RunError> {
    let (until, mut failures) = (Instant::now() + limits::CANARY_WAIT, 0);
    loop {
        let mut canary = progress.job().canary.unwrap_or_else(|| Canary::new(0, 1.0));
        match decide(context, &mut canary).await {
            Ok(()) => failures = 0,
            Err(_) if failures < limits::JOB_TRIES => failures += 1,
            Err(error) => return Err(error.into()),
        }
        let undecided: Vec<&Probe> =
            canary.sent.iter().filter(|probe| probe.fate.is_none()).collect();
        let overdue_at = if Instant::now() < until {
            None
        } else {
            undecided.first().map(|probe| probe.stage.clone())
        };
        let (bad, summary, open, sent) =
            (canary.is_bad(), canary.summary(), undecided.len(), canary.sent.len());
        if open == 0 && !bad {
            (canary.verdict, canary.sent) = (Some(summary.clone()), Vec::new());
        }
        progress.change(|job| job.canary = Some(canary));
        if bad {
            return Ok(Work::Stopped(summary));
        }
        if open == 0 {
            progress.change(|job| job.state = State::Running);
            return Ok(Work::Done);
        }
        if let Some(stage) = overdue_at {
            let minutes = limits::CANARY_WAIT.as_secs() / 60;
            let cause = verdict::likely_cause(context, &stage).await;
            return Ok(Work::Stopped(format!(
                "no verdict of {open} of {sent} in {minutes} minutes: {cause}"
            )));
        }
        tokio::select! {
            () = tokio::time::sleep(limits::CANARY_LOOK) => {}
            () = halt.cancelled() => return Ok(Work::Halted),
        }
    }
}

async fn decide(context: &Context, canary: &mut Canary) -> Result<(), AdminError> {
    let from = canary.failed_from.unwrap_or_default();
    for probe in canary.sent.iter_mut().filter(|probe| probe.fate.is_none()) {
        let fate: Option<Fate> = verdict::fate(context, probe, from).await?;
        probe.fate = fate;
    }
    Ok(())
}

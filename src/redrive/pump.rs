//! Pump: letters of a job sent, many at once, each removed once it is sent; moves the job's cursor.
//!
//! A job that takes every letter of a stage removes whole runs by one request: up to a sequence
//! below which every letter of the stage was sent. As soon as one is left where it is, the rest are
//! removed one by one.

use std::{collections::BTreeSet, time::Duration};

use futures_util::{
    StreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesUnordered},
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    canary::Probe,
    context::{Context, Progress, RunError},
    job::Job,
    judge::{Judge, Verdict},
    resend::{self, RedriveError, stage_of},
    step::{Manner, Removal, Step, Work},
};
use crate::{
    broker::{AdminError, StoredMessage, get, unix_ms},
    dead_letter::LetterFilter,
    limits,
    redrive::above::Run,
    wire::Place,
};
use millstream_stages::headers;

/// Reason why the pump stopped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// No letter is left.
    Exhausted,
    /// As many were sent as were asked for.
    Enough,
    /// The run is to stop.
    Halted,
}

/// Sender of the letters of one job.
pub(super) struct Pump<'a> {
    context: &'a Context,
    progress: &'a Progress,
    halt: &'a CancellationToken,
    judge: Judge,
    filter: LetterFilter,
    /// Sequence of the last letter that is the job's business.
    last: u64,
    /// Sequence up to which letters were read.
    read_up_to: u64,
    /// Letters in flight.
    sending: BTreeSet<u64>,
    /// Letters that were sent and are removed with the next run.
    unremoved: BTreeSet<u64>,
    /// Sequence up to which letters may be removed by runs.
    runs_end: u64,
    removing: bool,
    removal_failed: bool,
    removed_at: Instant,
    /// Stages known to have a consumer of redriven events.
    read_stages: BTreeSet<String>,
    interval: Option<Duration>,
    reread: bool,
    ready_at: Instant,
    failures: u32,
}

type Letters = BoxStream<'static, Result<(u64, Option<StoredMessage>), AdminError>>;

impl<'a> Pump<'a> {
    pub(super) fn new(
        context: &'a Context,
        progress: &'a Progress,
        halt: &'a CancellationToken,
        job: &Job,
    ) -> Result<Self, RunError> {
        let interval = job.per_second.map(interval_of);
        // No further ahead than one interval, whatever clocks did.
        let left = job.next_ms.saturating_sub(unix_ms(context.broker.now()));
        let left = Duration::from_millis(left).min(interval.unwrap_or_default());
        let fast = job.per_second.is_none_or(|rate| rate >= limits::REREAD_BELOW);
        let by_runs =
            job.filter.stage.is_some() && job.filter.is_by_stage() && job.rules.is_none() && fast;
        Ok(Self {
            context,
            progress,
            halt,
            judge: Judge::of(job)?,
            filter: job.filter.clone(),
            last: job.last,
            read_up_to: job.cursor,
            sending: BTreeSet::new(),
            unremoved: BTreeSet::new(),
            runs_end: if by_runs && !job.left_behind { u64::MAX } else { 0 },
            removing: false,
            removal_failed: false,
            removed_at: Instant::now(),
            read_stages: BTreeSet::new(),
            interval,
            reread: !fast,
            ready_at: Instant::now() + left,
            failures: 0,
        })
    }

    /// True if letters may be removed by runs, as far as is known beforehand.
    pub(super) fn removes_by_runs(&self) -> bool {
        self.runs_end > 0
    }

    /// Sends letters until none is left, `limit` were sent, or the run is to stop. A canary's are
    /// kept in the record.
    ///
    /// # Errors
    /// [`RunError`], once all that was in flight has ended. What was not sent is still there, and
    /// after the cursor.
    pub(super) async fn run(&mut self, limit: u64, canary: bool) -> Result<Flow, RunError> {
        let mut under_way: FuturesUnordered<BoxFuture<'a, Step>> = FuturesUnordered::new();
        let (mut letters, mut sent) = (self.letters(), 0);
        let mut end: Option<Result<Flow, RunError>> = None;
        loop {
            if end.is_none() && self.halt.is_cancelled() {
                end = Some(Ok(Flow::Halted));
            }
            if end.is_none() && sent >= limit {
                end = Some(Ok(Flow::Enough));
            }
            under_way.extend(self.removal(end.is_some()));
            let room = end.is_none()
                && under_way.len() < limits::REDRIVES_IN_FLIGHT_MAX
                && self.unremoved.len() < 4 * limits::REMOVE_RUN_MAX
                && self.progress.change(|job| job.above.len()) < limits::JOB_ABOVE_MAX;
            if under_way.is_empty()
                && !room
                && let Some(end) = end
            {
                return end;
            }
            let ready_at = self.ready_at;
            tokio::select! {
                biased;
                Some(step) = under_way.next(), if !under_way.is_empty() => {
                    match self.ended(step) {
                        Ok(more) => under_way.extend(more),
                        Err(error) => end = Some(end.filter(Result::is_err).unwrap_or(Err(error))),
                    }
                }
                next = async {
                    tokio::time::sleep_until(ready_at).await;
                    letters.next().await
                }, if room => match next {
                    Some(Ok((seq, _))) if seq > self.last => end = Some(Ok(Flow::Exhausted)),
                    Some(Ok((seq, letter))) => {
                        self.failures = 0;
                        match self.take(seq, letter, canary).await {
                            Ok(Some((step, is_sent))) => {
                                sent += u64::from(is_sent);
                                under_way.push(step);
                            }
                            Ok(None) => self.settle(),
                            Err(error) => end = Some(Err(error)),
                        }
                    }
                    Some(Err(error)) => {
                        self.failures += 1;
                        if self.failures > limits::JOB_TRIES {
                            end = Some(Err(error.into()));
                        }
                        tokio::time::sleep(Duration::from_millis(100) * self.failures).await;
                        letters = self.letters();
                    }
                    None => end = Some(Ok(Flow::Exhausted)),
                },
                () = self.halt.cancelled(), if end.is_none() => {}
            }
        }
    }

    /// Letters that come next.
    fn letters(&self) -> Letters {
        let (broker, stream, from) =
            (self.context.broker.clone(), self.context.names.dlq_stream(), self.read_up_to + 1);
        if self.filter.letters.is_empty() {
            let filter = self.context.names.dlq_filter(self.filter.stage.as_deref());
            return broker
                .scan(&stream, &filter, from)
                .map(|letter| letter.map(|it| (it.seq, Some(it))))
                .boxed();
        }
        let numbers: BTreeSet<u64> =
            self.filter.letters.iter().copied().filter(|seq| *seq >= from).collect();
        let found = move |seq| {
            let (broker, stream) = (broker.clone(), stream.clone());
            async move { Ok((seq, broker.message(&stream, seq).await?)) }
        };
        stream::iter(numbers).then(found).boxed()
    }

    /// Begins the step of one letter, if it needs one; true if the step sends it.
    async fn take(
        &mut self,
        seq: u64,
        letter: Option<StoredMessage>,
        canary: bool,
    ) -> Result<Option<(BoxFuture<'a, Step>, bool)>, RunError> {
        let (context, progress) = (self.context, self.progress);
        let work = Work { context, progress };
        if progress.change(|job| job.above.counted.contains(seq)) {
            self.read_up_to = seq;
            return Ok(None);
        }
        let Some(letter) = letter else {
            self.read_up_to = seq;
            progress.count(seq, |counts| counts.gone += 1);
            return Ok(None);
        };
        let verdict = self.judge.verdict(&context.broker, &context.names, &letter).await?;
        let stage = stage_of(&letter).to_owned();
        match verdict {
            Verdict::NotMeant => {}
            Verdict::Guarded => {
                progress.count(seq, |counts| counts.guarded += 1);
            }
            Verdict::Completed => {
                progress.count(seq, |counts| counts.completed += 1);
            }
            Verdict::Permanent(why) => {
                (self.read_up_to, _) = (seq, self.sending.insert(seq));
                return Ok(Some((Box::pin(work.mark(letter, stage, why)), false)));
            }
            Verdict::Send if context.targets.of_letters(&stage).is_err() => {
                let nowhere = context.targets.of_letters(&stage).err();
                self.skip(seq, nowhere.map(|why| why.reason(&stage)).unwrap_or_default());
            }
            Verdict::Send => {
                let stage = context.targets.of_letters(&stage).map_or(stage.clone(), str::to_owned);
                match self.is_read(&stage, seq).await {
                    Ok(()) => {}
                    // Where it is the only one, somebody can make it so, and go on.
                    Err(error) if self.filter.stage.is_none() && self.filter.letters.is_empty() => {
                        self.skip(seq, error.of_the_letter().ok_or(error)?);
                        return Ok(self.pass_by(seq));
                    }
                    Err(error) => return Err(error.into()),
                }
                if get(&letter.headers, headers::BODY).is_some() && seq <= self.runs_end {
                    // Its payload is kept apart, and is removed with this letter only.
                    self.leave(seq);
                }
                (self.read_up_to, _) = (seq, self.sending.insert(seq));
                let manner = Manner {
                    canary,
                    by_run: !canary && seq <= self.runs_end,
                    reread: self.reread,
                    after: self.pace(),
                };
                let source = get(&letter.headers, headers::SOURCE).unwrap_or_default().to_owned();
                let life = Place::new(context.names.dlq_stream(), seq, letter.stored_at);
                let life = Some(life.to_string());
                let probe = Probe { letter: seq, stage, source, life, retry_seq: 0, fate: None };
                return Ok(Some((Box::pin(work.send(letter, probe, manner)), true)));
            }
        }
        Ok(self.pass_by(seq))
    }

    /// Makes sure that a stage has a consumer of what is sent back to it.
    async fn is_read(&mut self, stage: &str, seq: u64) -> Result<(), RedriveError> {
        if !self.read_stages.contains(stage) {
            resend::is_read(&self.context.broker, &self.context.names, stage, seq).await?;
            self.read_stages.insert(stage.to_owned());
        }
        Ok(())
    }

    /// Counts a letter that nothing takes.
    fn skip(&self, seq: u64, why: String) {
        self.progress.count(seq, |counts| counts.skipped += 1);
        self.progress.change(|job| {
            job.why.get_or_insert_with(|| why.clone());
            job.leave(why);
        });
    }

    /// Goes on behind a letter that needs no step.
    fn pass_by<T>(&mut self, seq: u64) -> Option<T> {
        self.read_up_to = seq;
        // Also what does not match must not go with a run: its subject may say what its headers do
        // not.
        if seq <= self.runs_end {
            self.leave(seq);
        }
        None
    }

    /// Takes a letter's place in the rate, and notes when the next is due; the mark of that, where
    /// it must be on record before the letter goes.
    fn pace(&mut self) -> Option<u64> {
        let interval = self.interval?;
        let now = Instant::now();
        let burst = now.checked_sub(limits::JOBS_LOOK).unwrap_or(now);
        self.ready_at = self.ready_at.max(burst) + interval;
        let wait = self.ready_at.saturating_duration_since(now);
        let next_ms = unix_ms(self.context.broker.now() + wait);
        if interval <= limits::RATE_RECORDED_ABOVE {
            self.progress.change(|job| job.next_ms = next_ms);
            return None;
        }
        Some(self.progress.mark(|job| job.next_ms = next_ms))
    }

    /// Leaves a letter where it is: what comes after it is not removed by runs. Returns the letters
    /// from it on that were sent, and are still to be removed.
    fn leave(&mut self, seq: u64) -> BTreeSet<u64> {
        self.progress.change(|job| job.left_behind = true);
        self.runs_end = self.runs_end.min(seq.saturating_sub(1));
        self.unremoved.split_off(&seq)
    }

    /// Accounts for a step that ended; the steps that follow from it.
    fn ended(&mut self, step: Step) -> Result<Vec<BoxFuture<'a, Step>>, RunError> {
        let work = Work { context: self.context, progress: self.progress };
        let mut more: Vec<BoxFuture<'a, Step>> = Vec::new();
        match step {
            // It stays among those in flight, so that the cursor does not pass it.
            Step::Left => self.removal_failed = true,
            Step::Sent { probe, result } => {
                let seq = probe.letter;
                match result {
                    Ok(Removal::Removed(was_there)) => {
                        self.progress.count(seq, |counts| match was_there {
                            true => counts.redriven += 1,
                            false => counts.gone += 1,
                        });
                        self.context
                            .count(&probe.stage, |stage| stage.reprocessed(u64::from(was_there)));
                        if self.judge.recovers() {
                            self.context
                                .count(&probe.stage, |stage| stage.recovered(u64::from(was_there)));
                        }
                    }
                    Ok(Removal::Stays) if seq <= self.runs_end => {
                        self.unremoved.insert(seq);
                    }
                    Ok(Removal::Stays) => {
                        more.push(Box::pin(work.remove(probe)));
                        return Ok(more);
                    }
                    Err(error) if is_the_letters_own(&error) => {
                        let (why, reason) = (error.to_string(), error.of_the_letter());
                        self.progress.count(seq, |counts| counts.failed += 1);
                        self.progress.change(|job| {
                            job.why.get_or_insert(why);
                            reason.into_iter().for_each(|reason| job.leave(reason));
                        });
                        for seq in self.leave(seq) {
                            self.sending.insert(seq);
                            let probe = Probe { letter: seq, ..probe.clone() };
                            more.push(Box::pin(work.remove(probe)));
                        }
                    }
                    Err(error) => return Err(error.into()),
                }
                self.sending.remove(&seq);
            }
            Step::Marked { seq, stage, result } => {
                match result {
                    Ok(marked) => {
                        self.progress.count(seq, |counts| match marked {
                            Some(_) => counts.permanent += 1,
                            None => counts.gone += 1,
                        });
                        self.context
                            .count(&stage, |stage| stage.permanent(u64::from(marked.is_some())));
                    }
                    Err(source) => return Err(RedriveError::Publish { seq, stage, source }.into()),
                }
                self.sending.remove(&seq);
            }
            Step::Removed { run: Run { up_to, count }, result } => {
                self.removing = false;
                let purged = result.inspect_err(|_| self.removal_failed = true)?;
                let redriven = purged.min(count);
                self.unremoved = self.unremoved.split_off(&(up_to + 1));
                self.progress.change(|job| {
                    job.above.run = None;
                    job.counts.redriven += redriven;
                    job.counts.gone += count - redriven;
                    // The cursor passes what is counted, in the same record.
                    job.cursor = job.cursor.max(up_to);
                });
                let stage = self.filter.stage.as_deref().unwrap_or_default();
                self.context.count(stage, |stage| stage.reprocessed(redriven));
            }
        }
        self.settle();
        Ok(more)
    }

    /// Removal of a run of letters that were sent, where it is time for one.
    fn removal(&mut self, ending: bool) -> Option<BoxFuture<'a, Step>> {
        let due = self.unremoved.len() >= limits::REMOVE_RUN_MAX
            || self.removed_at.elapsed() >= limits::JOB_CHECKPOINT
            || (ending && self.sending.is_empty());
        if !due || self.removing || self.removal_failed {
            return None;
        }
        // Every letter of the stage up to here was sent.
        let all_sent =
            self.sending.first().map_or(self.read_up_to, |seq| seq - 1).min(self.runs_end);
        let up_to = *self.unremoved.range(..=all_sent).next_back()?;
        let count = self.unremoved.range(..=up_to).count() as u64;
        (self.removing, self.removed_at) = (true, Instant::now());
        let work = Work { context: self.context, progress: self.progress };
        Some(Box::pin(work.remove_run(Run { up_to, count }, self.filter.stage.clone())))
    }

    /// Moves the cursor to before the first letter that is not done with.
    fn settle(&self) {
        let first = [self.sending.first(), self.unremoved.first()].into_iter().flatten().min();
        let cursor = first.map_or(self.read_up_to, |seq| seq - 1);
        self.progress.change(|job| {
            job.cursor = job.cursor.max(cursor);
            let cursor = job.cursor;
            job.above.passed(cursor);
        });
    }
}

/// True if the letter itself is why it could not be sent, so that others can.
fn is_the_letters_own(error: &RedriveError) -> bool {
    !matches!(error, RedriveError::NobodyReads { .. }) && error.of_the_letter().is_some()
}

/// Interval between two letters at so many a second.
fn interval_of(per_second: f64) -> Duration {
    Duration::from_secs_f64(1.0 / per_second.max(1.0 / 86_400.0))
}

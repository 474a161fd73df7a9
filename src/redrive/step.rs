//! Step: one letter, or one run of them, sent, removed or marked, each when its record says so.

use super::{
    canary::Probe,
    context::{Context, Progress},
    resend::{self, RedriveError},
};
use crate::{
    broker::{AdminError, PublishError, StoredMessage},
    dead_letter::{amend, stored},
    redrive::above::Run,
};
use millstream_stages::headers;

/// Step that ended.
pub(super) enum Step {
    /// A letter was sent, or not.
    Sent { probe: Probe, result: Result<Removal, RedriveError> },
    /// A letter was marked permanent, or had gone.
    Marked { seq: u64, stage: String, result: Result<Option<u64>, PublishError> },
    /// A run of letters was removed.
    Removed { run: Run, result: Result<u64, AdminError> },
    /// Nothing more was done: somebody else has the job.
    Left,
}

/// State of a letter that was sent.
#[derive(Clone, Copy)]
pub(super) enum Removal {
    /// Removed; true if it was still there.
    Removed(bool),
    /// To be removed with its run.
    Stays,
}

/// Work of one run of a job: where its letters are, and its record.
#[derive(Clone, Copy)]
pub(super) struct Work<'a> {
    pub(super) context: &'a Context,
    pub(super) progress: &'a Progress,
}

/// Manner in which a letter is sent.
#[derive(Clone, Copy)]
pub(super) struct Manner {
    /// True if it is of a canary, whose letters are kept in the record.
    pub(super) canary: bool,
    /// True if it is removed with its run.
    pub(super) by_run: bool,
    /// True if it is read anew: what was read ahead is old.
    pub(super) reread: bool,
    /// Mark of the record that must be written before, where the time of the next is in it.
    pub(super) after: Option<u64>,
}

impl Work<'_> {
    /// Sends a letter and removes it.
    pub(super) async fn send(
        self,
        mut letter: StoredMessage,
        mut probe: Probe,
        manner: Manner,
    ) -> Step {
        let (broker, names) = (&self.context.broker, &self.context.names);
        if let Some(mark) = manner.after
            && !self.progress.on_record(mark).await
        {
            return Step::Left;
        }
        if manner.reread {
            // It was read ahead, and somebody may have redriven, edited or dropped it since.
            match broker.message(&names.dlq_stream(), letter.seq).await {
                Ok(Some(now)) => letter = now,
                Ok(None) => return Step::Sent { probe, result: Ok(Removal::Removed(false)) },
                Err(error) => return Step::Sent { probe, result: Err(error.into()) },
            }
        }
        match resend::send(broker, names, &letter, &probe.stage).await {
            Ok(stored) => probe.retry_seq = stored.seq,
            Err(error) => return Step::Sent { probe, result: Err(error) },
        }
        if manner.by_run {
            return Step::Sent { probe, result: Ok(Removal::Stays) };
        }
        if !self.sent(&probe, manner.canary).await {
            return Step::Left;
        }
        let removed = stored::remove(broker, names, &letter).await;
        Step::Sent { probe, result: removed.map(Removal::Removed).map_err(Into::into) }
    }

    /// Removes one letter that was sent and has no payload kept apart.
    pub(super) async fn remove(self, probe: Probe) -> Step {
        if !self.sent(&probe, false).await {
            return Step::Left;
        }
        let Context { broker, names, .. } = self.context;
        let removed = broker.delete_message(&names.dlq_stream(), probe.letter).await;
        Step::Sent { probe, result: removed.map(Removal::Removed).map_err(Into::into) }
    }

    /// Puts on record that a letter was sent; false if somebody else has the job.
    async fn sent(self, probe: &Probe, canary: bool) -> bool {
        let mark = self.progress.mark(|job| {
            job.above.sent.insert(probe.letter);
            if let Some(canary) = job.canary.as_mut().filter(|_| canary) {
                canary.sent.push(probe.clone());
            }
        });
        self.progress.on_record(mark).await
    }

    /// Marks a letter permanent.
    pub(super) async fn mark(self, letter: StoredMessage, stage: String, why: String) -> Step {
        let seq = letter.seq;
        let mark = self.progress.mark(|job| job.above.marking.insert(seq));
        if !self.progress.on_record(mark).await {
            return Step::Left;
        }
        let broker = &self.context.broker;
        let result = amend::mark(broker, &letter, headers::PERMANENT, &why).await;
        Step::Marked { seq, stage, result }
    }

    /// Removes a run of letters that were sent, of this stage.
    pub(super) async fn remove_run(self, run: Run, stage: Option<String>) -> Step {
        let mark = self.progress.mark(|job| job.above.run = Some(run));
        if !self.progress.on_record(mark).await {
            return Step::Left;
        }
        Step::Removed { run, result: purge(self.context, run, stage.as_deref()).await }
    }

    /// Finishes and counts what a runner before had on record as begun.
    ///
    /// What is gone was removed by that runner: by others only if they came between its record and
    /// its death.
    ///
    /// # Errors
    /// The broker could not be asked; what is left is still on record.
    pub(super) async fn take_over(self, stage: Option<&str>) -> Result<(), AdminError> {
        let Self { context, progress } = self;
        let Context { broker, names, .. } = context;
        let above = progress.job().above;
        if let Some(run) = above.run {
            purge(context, run, stage).await?;
            progress.change(|job| {
                job.above.run = None;
                job.counts.redriven += run.count;
                job.cursor = job.cursor.max(run.up_to);
            });
            context.count(stage.unwrap_or_default(), |stage| stage.reprocessed(run.count));
        }
        for seq in above.sent.all() {
            if let Some(letter) = broker.message(&names.dlq_stream(), seq).await? {
                stored::remove(broker, names, &letter).await?;
                context.count(resend::stage_of(&letter), |stage| stage.reprocessed(1));
            }
            progress.change(|job| {
                job.above.sent.remove(seq);
                job.above.counted.insert(seq);
                job.counts.redriven += 1;
            });
        }
        for seq in above.marking.all() {
            let is_there = broker.message(&names.dlq_stream(), seq).await?.is_some();
            progress.change(|job| {
                job.above.marking.remove(seq);
                // One that is there is looked at again.
                if !is_there {
                    job.above.counted.insert(seq);
                    job.counts.permanent += 1;
                }
            });
        }
        Ok(())
    }
}

async fn purge(context: &Context, run: Run, stage: Option<&str>) -> Result<u64, AdminError> {
    let Context { broker, names, .. } = context;
    broker.purge_up_to(&names.dlq_stream(), &names.dlq_filter(stage), run.up_to).await
}

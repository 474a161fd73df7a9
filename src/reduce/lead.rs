//! Lead: loop of the one worker that runs a stage: read, apply, publish, commit.

use std::{collections::BTreeSet, sync::Arc};

use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream, FuturesOrdered},
};
use millstream_stages::{
    Envelope, Failure, HeaderLookup, Input, Reduce, Tally, failure::class, headers,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    batch,
    batch::{Batch, header_of},
    checkpoint::Checkpoint,
    restarted::{self, Restart},
    shows::Shows,
    step_down::StepDown,
};
use crate::{
    broker::{AdminError, Broker, Heard, Mark, PublishError, StoredMessage, unix_ms},
    config::{Pipeline, pipeline::Stage},
    dead_letter::store::store,
    error_chain::chain,
    limits,
    observe::{Conditions, ReduceMetrics, Trouble},
    topology::Topology,
    wire::{Names, Offsets},
};

/// Leader of a stage, and what it works with.
pub(super) struct Leader<'a> {
    broker: &'a Broker,
    pipeline: &'a Pipeline,
    stage: &'a Stage,
    worker: &'a str,
    metrics: &'a ReduceMetrics,
    conditions: &'a Conditions,
    /// Name of the stage's condition.
    condition: String,
    names: Names,
    state_stream: String,
    /// Streams of the sources, each with the envelope that it is declared to have.
    sources: Vec<(String, Envelope)>,
}

/// State of a leader, from its takeover to its end.
struct Term<'a> {
    reduce: Box<dyn Reduce>,
    offsets: Offsets,
    /// Held by `committing` while a commit is being written.
    checkpoint: Option<Checkpoint>,
    batch: Batch,
    /// Emissions in flight since the last commit began, in order.
    publishing: FuturesOrdered<BoxFuture<'a, Result<(), PublishError>>>,
    committing: Option<BoxFuture<'a, Result<Committed, StepDown>>>,
    /// Time before which a due timer is not looked at again.
    ask_after: Instant,
    /// Streams that were found to be others than before, and are not told of yet.
    restarts: Vec<Restart>,
    /// Streams that cannot be read just now.
    interrupted: BTreeSet<Arc<str>>,
    /// Time at which it counts as well again, where nothing has been committed by then.
    well_at: Option<Instant>,
}

/// Commit that was written.
struct Committed {
    checkpoint: Checkpoint,
    tallies: Vec<Tally>,
}

type Read = (Arc<str>, Result<Heard, AdminError>);

impl<'a> Leader<'a> {
    pub(super) fn new(
        broker: &'a Broker,
        pipeline: &'a Pipeline,
        stage: &'a Stage,
        worker: &'a str,
        shows: &'a Shows,
    ) -> Self {
        let names = pipeline.names();
        let sources = pipeline.sources.iter();
        Self {
            broker,
            pipeline,
            stage,
            worker,
            metrics: &shows.metrics,
            conditions: &shows.conditions,
            condition: format!("stage {}", stage.name),
            state_stream: names.state_stream(),
            sources: sources.map(|source| (source.stream(&names), source.envelope)).collect(),
            names,
        }
    }

    /// Takes the stage over and runs it until `stop`, with a commit at the end.
    ///
    /// Reading goes on while emissions are in flight and while a commit is written: a flood waits
    /// for neither.
    pub(super) async fn lead(
        &self,
        build: &impl Fn() -> Box<dyn Reduce>,
        stop: &CancellationToken,
    ) -> Result<(), StepDown> {
        self.broker.passed(&self.state_stream).await?;
        let bucket = self.names.state_bucket();
        let (checkpoint, offsets) =
            Checkpoint::take_over(self.broker, &bucket, &self.stage.name, self.worker).await?;
        let mut reduce = build();
        for (key, value) in checkpoint.state().await? {
            reduce.restore(&key, &value).map_err(StepDown::State)?;
        }
        let mut term = Term {
            reduce,
            offsets,
            checkpoint: Some(checkpoint),
            batch: Batch::default(),
            publishing: FuturesOrdered::new(),
            committing: None,
            ask_after: Instant::now(),
            restarts: Vec::new(),
            interrupted: BTreeSet::new(),
            well_at: Some(Instant::now() + limits::LEADS_WELL_AFTER),
        };
        let reads = Topology::of(self.pipeline).reads(&self.stage.name);
        let streams: Vec<(String, Vec<String>)> =
            reads.into_iter().map(|read| (read.stream, read.filters)).collect();
        self.look(&mut term, &streams).await?;
        self.hear(&mut term, &streams).await?;
        let mut inputs = self.follow(&streams, &term.offsets);
        self.metrics.leading(true);
        self.metrics.tallied(term.reduce.tallies());
        loop {
            let commit_at = term.batch.due.filter(|_| term.committing.is_none());
            let timer_at = term.timer_at(unix_ms(self.broker.now()));
            let takes_more = term.takes_more();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.commit(&mut term).await,
                committed = written(&mut term.committing) => self.committed(&mut term, committed?),
                // Under Tokio's budget a publish that is made to wait comes after those behind it,
                // and an incident would be published as updated before it is published as opened.
                Some(told) = tokio::task::unconstrained(term.publishing.next()) => told?,
                () = sleep_until(commit_at) => self.begin_commit(&mut term),
                () = sleep_until(term.well_at) => self.is_well(&mut term),
                () = sleep_until(timer_at) => self.tick(&mut term, &streams).await?,
                Some(first) = inputs.next(), if takes_more => {
                    let (mut next, mut taken) = (Some(first), 0);
                    while let Some(read) = next {
                        self.take(&mut term, read);
                        taken += 1;
                        let news = !term.batch.emissions.is_empty()
                            && taken >= limits::EMIT_AFTER_INPUTS;
                        if news || term.is_full() {
                            break;
                        }
                        next = inputs.next().now_or_never().flatten();
                    }
                    self.pass_on(&mut term);
                    self.tell(&mut term).await;
                }
            }
        }
    }

    /// Looks, before anything is read and any timer fires, whether each stream is still the one
    /// that the offsets are of. One that is not there is looked at when it is opened.
    async fn look(
        &self,
        term: &mut Term<'a>,
        streams: &[(String, Vec<String>)],
    ) -> Result<(), StepDown> {
        for (stream, _) in streams {
            let was = term.offsets.mark(stream);
            match self.broker.same_stream(stream, was).await {
                Ok((Mark { created_ms, .. }, None)) => term.opened(stream, created_ms),
                Ok((Mark { created_ms, .. }, Some(why))) => {
                    self.restart(term, Restart { stream: stream.clone(), was, created_ms, why });
                }
                Err(AdminError::NoStream { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.tell(term).await;
        Ok(())
    }

    /// Reads a stream that is another one than before from its start.
    fn restart(&self, term: &mut Term<'_>, restart: Restart) {
        term.offsets.anew(&restart.stream, restart.created_ms);
        term.batch.begin();
        self.metrics.restarted();
        term.restarts.push(restart);
    }

    /// Tells of streams that are read from their start.
    async fn tell(&self, term: &mut Term<'_>) {
        for restart in term.restarts.drain(..) {
            restarted::tell(self.broker, &self.names, &self.stage.name, &restart).await;
        }
    }

    /// Applies the operators' keys that are stored by now, before anything else: a silence that was
    /// made while no worker ran holds for what came meanwhile.
    async fn hear(
        &self,
        term: &mut Term<'a>,
        streams: &[(String, Vec<String>)],
    ) -> Result<(), StepDown> {
        for (stream, filters) in streams.iter().filter(|(stream, _)| *stream == self.state_stream) {
            let name: Arc<str> = stream.as_str().into();
            let said = self.broker.stored(stream, filters, term.offsets.next(stream));
            let mut said = std::pin::pin!(said);
            while let Some(message) = said.try_next().await? {
                self.apply(term, &name, message);
                if term.is_full() {
                    self.commit(term).await?;
                }
            }
        }
        self.pass_on(term);
        Ok(())
    }

    /// All inputs as one stream, each in its own order.
    fn follow(
        &self,
        streams: &[(String, Vec<String>)],
        offsets: &Offsets,
    ) -> BoxStream<'static, Read> {
        let follow = |(stream, filters): &(String, Vec<String>)| {
            let name: Arc<str> = stream.as_str().into();
            let heard = self.broker.follow_lives(stream, filters, offsets.mark(stream));
            heard.map(move |heard| (name.clone(), heard)).boxed()
        };
        stream::select_all(streams.iter().map(follow)).boxed()
    }

    /// Takes in what was read of a stream.
    fn take(&self, term: &mut Term<'_>, (stream, read): Read) {
        if read.is_ok() && term.interrupted.remove(&stream) {
            self.is_well(term);
        }
        match read {
            Ok(Heard::Message(message)) => self.apply(term, &stream, message),
            Ok(Heard::Same { created_ms }) => term.opened(&stream, created_ms),
            Ok(Heard::Anew { was, created_ms, why }) => {
                self.restart(term, Restart { stream: stream.to_string(), was, created_ms, why });
            }
            Err(error) => {
                let why = format!("reading is interrupted: {}", chain(&error));
                let trouble = match error {
                    AdminError::NoStream { .. } => {
                        Trouble::with_remedy(why, "create it with `millstream apply`")
                    }
                    AdminError::NoConsumer { .. }
                    | AdminError::Read { .. }
                    | AdminError::Change { .. } => Trouble::new(why),
                };
                self.conditions.failing(&self.condition, trouble);
                term.interrupted.insert(stream);
            }
        }
    }

    /// Notes that the stage is well, as far as all of its streams can be read.
    fn is_well(&self, term: &mut Term<'_>) {
        term.well_at = None;
        if term.interrupted.is_empty() {
            self.conditions.ok(&self.condition);
        }
    }

    /// Applies one message. A rejected one becomes a dead letter before the next commit.
    fn apply(&self, term: &mut Term<'_>, stream: &str, message: StoredMessage) {
        let header = |name| header_of(&message.headers, name);
        let input = Input {
            stream,
            seq: message.seq,
            subject: &message.subject,
            key: if *stream == self.state_stream {
                self.names.state_key(&message.subject)
            } else {
                None
            },
            at_ms: unix_ms(message.stored_at),
            now_ms: unix_ms(self.broker.now()),
            envelope: self
                .sources
                .iter()
                .find(|(source, _)| source == stream)
                .map(|(_, envelope)| *envelope),
            headers: HeaderLookup::new(&header),
            body: &message.body,
        };
        let applied = match &message.malformed {
            None => term.reduce.apply(&input, &mut term.batch.emissions),
            Some(malformed) => Err(Failure::reject(class::DECODE, malformed.why.clone())),
        };
        if let Err(failure) = applied {
            let (stage, stream_seq) = (&self.stage.name, message.seq);
            tracing::warn!(
                %stage,
                stream,
                stream_seq,
                error = %headers::clean(&failure.to_string()),
                "rejected"
            );
            let now = self.broker.now();
            term.batch.dead_letters.push(batch::reject(
                self.pipeline,
                self.stage,
                stream,
                &message,
                &failure,
                now,
            ));
            let is_report =
                input.envelope == Some(Envelope::Error) || *stream == *self.names.failed_stream();
            if message.malformed.is_some() && is_report {
                let (pipeline, stage) = (self.pipeline, self.stage);
                let finding = batch::malformed(pipeline, stage, stream, &message, &failure);
                term.batch.findings.push(finding);
            }
            self.metrics.rejected();
        }
        self.metrics.applied(1);
        term.offsets.applied(stream, message.seq, unix_ms(message.stored_at));
        term.batch.inputs += 1;
        term.batch.begin();
    }

    /// Lets time pass, as far as everything before it has been applied: in a backlog no timer fires
    /// early.
    async fn tick(
        &self,
        term: &mut Term<'a>,
        streams: &[(String, Vec<String>)],
    ) -> Result<(), StepDown> {
        // Asked before the streams are, so that whatever is stored later is later.
        let mut until_ms = match self.broker.passed(&self.state_stream).await {
            Ok(passed) => unix_ms(passed),
            Err(error) => {
                self.wait(term, &error);
                return Ok(());
            }
        };
        let everything = [">".to_owned()];
        for (stream, filters) in streams {
            for filter in if filters.is_empty() { &everything } else { filters.as_slice() } {
                match self.broker.next_on_subject(stream, filter, term.offsets.next(stream)).await {
                    Ok(Some(unread)) => until_ms = until_ms.min(unix_ms(unread.stored_at)),
                    Ok(None) => {}
                    Err(error) => {
                        self.wait(term, &error);
                        return Ok(());
                    }
                }
            }
        }
        term.ask_after = Instant::now() + limits::TIMER_RETRY;
        while term.reduce.next_timer_ms().is_some_and(|due_ms| due_ms <= until_ms) {
            term.reduce.tick(until_ms, &mut term.batch.emissions);
            term.batch.begin();
            if term.is_full() {
                self.commit(term).await?;
            }
        }
        self.pass_on(term);
        Ok(())
    }

    /// Lets the timers wait for a broker that does not answer.
    fn wait(&self, term: &mut Term<'a>, error: &AdminError) {
        tracing::warn!(stage = %self.stage.name, error = chain(error), "a timer has to wait");
        term.ask_after = Instant::now() + limits::STEP_DOWN_WAIT;
    }

    /// Publishes what someone waits for, and begins to commit what is too much to be left for
    /// later.
    fn pass_on(&self, term: &mut Term<'a>) {
        self.publish(term);
        if term.is_full() && term.committing.is_none() {
            self.begin_commit(term);
        }
    }

    /// Begins to publish the emissions of the batch. The checkpoint follows later: a crash before
    /// it repeats this, with the same ids.
    fn publish(&self, term: &mut Term<'a>) {
        let broker = self.broker;
        for emission in term.batch.emissions.drain(..) {
            self.metrics.emitted(&emission.route);
            let outgoing = batch::emission(self.pipeline, self.stage, emission);
            term.publishing
                .push_back(async move { broker.publish(outgoing).await.map(|_| ()) }.boxed());
        }
    }

    /// Begins to write the checkpoint, as everything is now. First the emissions and dead letters
    /// before it are stored: a crash in between repeats them, and loses none.
    fn begin_commit(&self, term: &mut Term<'a>) {
        self.publish(term);
        let Some(mut checkpoint) = term.checkpoint.take() else { return };
        let batch = std::mem::take(&mut term.batch);
        let (mut publishing, offsets) =
            (std::mem::take(&mut term.publishing), term.offsets.clone());
        let (changes, tallies) = (term.reduce.take_dirty(), term.reduce.tallies());
        let (broker, names) = (self.broker, self.names.clone());
        let commit = async move {
            tokio::task::unconstrained(async {
                while publishing.try_next().await?.is_some() {}
                Ok::<_, PublishError>(())
            })
            .await?;
            let names = &names;
            let letters = batch
                .dead_letters
                .into_iter()
                .map(async move |letter| store(broker, names, letter).await.map(|_| ()));
            stream::iter(letters)
                .buffered(limits::EMISSIONS_IN_FLIGHT_MAX)
                .try_collect::<()>()
                .await?;
            for finding in batch.findings {
                broker.publish(finding).await?;
            }
            checkpoint.write(&offsets, changes).await?;
            Ok(Committed { checkpoint, tallies })
        };
        term.committing = Some(commit.boxed());
    }

    fn committed(&self, term: &mut Term<'_>, committed: Committed) {
        term.checkpoint = Some(committed.checkpoint);
        term.committing = None;
        if term.well_at.is_some() {
            self.is_well(term);
        }
        self.metrics.commits(committed.tallies);
    }

    /// Writes the checkpoint, and waits until it is written.
    async fn commit(&self, term: &mut Term<'a>) -> Result<(), StepDown> {
        self.finish(term).await?;
        if term.batch.due.is_some() {
            self.begin_commit(term);
        }
        self.finish(term).await
    }

    /// Waits for the commit that is being written, if one is.
    async fn finish(&self, term: &mut Term<'a>) -> Result<(), StepDown> {
        if let Some(committing) = term.committing.take() {
            let committed = committing.await?;
            self.committed(term, committed);
        }
        Ok(())
    }
}

impl Term<'_> {
    /// Notes which life of a stream is read.
    fn opened(&mut self, stream: &str, created_ms: u64) {
        if self.offsets.opened(stream, created_ms) {
            self.batch.begin();
        }
    }

    /// True if one more step might not fit the next commit.
    fn is_full(&self) -> bool {
        self.batch.is_full(self.reduce.dirty_len())
    }

    /// True if there is room for more input.
    fn takes_more(&self) -> bool {
        self.publishing.len() < limits::EMISSIONS_IN_FLIGHT_MAX
            && !(self.is_full() && self.committing.is_some())
    }

    /// Time at which the stage's next timer is to be looked at.
    fn timer_at(&self, now_ms: u64) -> Option<Instant> {
        let due_ms = self.reduce.next_timer_ms()?;
        let wait = std::time::Duration::from_millis(due_ms.saturating_sub(now_ms));
        // A year is as good as never, and far from what the runtime's clock can hold.
        let wait = wait.min(std::time::Duration::from_secs(365 * 86_400));
        Some((Instant::now() + wait).max(self.ask_after))
    }
}

/// Waits for the commit that is being written; for ever if none is.
async fn written(
    committing: &mut Option<BoxFuture<'_, Result<Committed, StepDown>>>,
) -> Result<Committed, StepDown> {
    match committing {
        Some(committing) => committing.await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

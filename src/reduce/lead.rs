//! Lead: the loop of the one worker that runs a stage: read, apply, publish, commit.

use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};

use futures_util::{
    FutureExt as _, StreamExt as _, TryStreamExt as _,
    stream::{self, BoxStream},
};
use millstream_stages::{Input, Reduce, headers};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    StepDown, batch,
    batch::{Batch, header_of},
    checkpoint::Checkpoint,
};
use crate::{
    broker::{AdminError, Broker, StoredMessage},
    config::{Pipeline, pipeline::Stage},
    dead_letter::letter::store,
    limits,
    observe::ReduceMetrics,
    topology::Topology,
};

/// What a leader works with.
pub(super) struct Leader<'a> {
    pub(super) broker: &'a Broker,
    pub(super) pipeline: &'a Pipeline,
    pub(super) stage: &'a Stage,
    pub(super) worker: &'a str,
    pub(super) metrics: &'a ReduceMetrics,
}

/// What a leader has in hand, from its takeover to its end.
struct Term {
    reduce: Box<dyn Reduce>,
    checkpoint: Checkpoint,
    batch: Batch,
    /// A due timer is not asked about again before.
    ask_after: Instant,
}

type Read = (Arc<str>, Result<StoredMessage, AdminError>);

impl Leader<'_> {
    /// Takes the stage over and runs it until `stop`, with a commit at the end.
    pub(super) async fn lead(
        &self,
        build: &impl Fn() -> Box<dyn Reduce>,
        stop: &CancellationToken,
    ) -> Result<(), StepDown> {
        let bucket = self.pipeline.names().state_bucket();
        let checkpoint = Checkpoint::take_over(self.broker, &bucket, &self.stage.name, self.worker).await?;
        let mut reduce = build();
        for (key, value) in checkpoint.state().await? {
            reduce.restore(&key, &value).map_err(StepDown::State)?;
        }
        let mut term = Term { reduce, checkpoint, batch: Batch::default(), ask_after: Instant::now() };
        let reads = Topology::of(self.pipeline).reads(&self.stage.name);
        let streams: Vec<(String, Vec<String>)> = reads.into_iter().map(|read| (read.stream, read.filters)).collect();
        let mut inputs = self.follow(&streams, &term.checkpoint);
        self.metrics.leading(true);
        loop {
            let commit_at = term.batch.due;
            let timer_at = term.timer_at();
            tokio::select! {
                biased;
                () = stop.cancelled() => return self.commit(&mut term).await,
                () = sleep_until(commit_at) => self.commit(&mut term).await?,
                () = sleep_until(timer_at) => self.tick(&mut term, &streams).await?,
                Some(first) = inputs.next() => {
                    let mut next = Some(first);
                    while let Some(read) = next {
                        self.apply(&mut term, read);
                        if term.batch.is_full(term.reduce.dirty_len()) {
                            break;
                        }
                        next = inputs.next().now_or_never().flatten();
                    }
                    if term.batch.is_full(term.reduce.dirty_len()) || term.batch.is_news() {
                        self.commit(&mut term).await?;
                    }
                }
            }
        }
    }

    /// All inputs as one, each in its own order.
    fn follow(&self, streams: &[(String, Vec<String>)], checkpoint: &Checkpoint) -> BoxStream<'static, Read> {
        let follow = |(stream, filters): &(String, Vec<String>)| {
            let name: Arc<str> = stream.as_str().into();
            let messages = self.broker.follow(stream, filters, checkpoint.next(stream));
            messages.map(move |message| (name.clone(), message)).boxed()
        };
        stream::select_all(streams.iter().map(follow)).boxed()
    }

    /// Takes in one message. A rejected one becomes a dead letter before the next commit.
    fn apply(&self, term: &mut Term, (stream, read): Read) {
        let message = match read {
            Ok(message) => message,
            Err(error) => {
                tracing::warn!(stage = %self.stage.name, error = super::chain(&error), "reading is interrupted");
                return;
            }
        };
        let input = Input {
            stream: &stream,
            seq: message.seq,
            subject: &message.subject,
            at_ms: unix_ms(message.stored_at),
            now_ms: unix_ms(SystemTime::now()),
            traceparent: header_of(&message.headers, headers::TRACEPARENT),
            body: &message.body,
        };
        if let Err(failure) = term.reduce.apply(&input, &mut term.batch.emissions) {
            let (stage, stream_seq) = (&self.stage.name, message.seq);
            tracing::warn!(%stage, %stream, stream_seq, error = %headers::clean(&failure.to_string()), "rejected");
            let now = SystemTime::now();
            term.batch.dead_letters.push(batch::reject(self.pipeline, self.stage, &stream, &message, &failure, now));
            self.metrics.rejected();
        }
        self.metrics.applied(1);
        term.checkpoint.applied(&stream, message.seq);
        term.batch.inputs += 1;
        term.batch.begin();
    }

    /// Lets time pass, as far as everything before it has been applied: in a backlog no timer fires early.
    async fn tick(&self, term: &mut Term, streams: &[(String, Vec<String>)]) -> Result<(), StepDown> {
        // Asked before the streams are, so that whatever is stored later is later.
        let mut until_ms = unix_ms(SystemTime::now());
        let everything = [">".to_owned()];
        for (stream, filters) in streams {
            for filter in if filters.is_empty() { &everything } else { filters.as_slice() } {
                match self.broker.next_on_subject(stream, filter, term.checkpoint.next(stream)).await {
                    Ok(Some(unread)) => until_ms = until_ms.min(unix_ms(unread.stored_at)),
                    Ok(None) => {}
                    Err(error) => {
                        tracing::warn!(stage = %self.stage.name, error = super::chain(&error), "a timer has to wait");
                        term.ask_after = Instant::now() + limits::STEP_DOWN_WAIT;
                        return Ok(());
                    }
                }
            }
        }
        term.ask_after = Instant::now() + limits::TIMER_RETRY;
        while term.reduce.next_timer_ms().is_some_and(|due_ms| due_ms <= until_ms) {
            term.reduce.tick(until_ms, &mut term.batch.emissions);
            term.batch.begin();
            if term.batch.is_full(term.reduce.dirty_len()) {
                self.commit(term).await?;
            }
        }
        if term.batch.is_news() { self.commit(term).await } else { Ok(()) }
    }

    /// Publishes what the batch gave rise to, then writes the checkpoint.
    ///
    /// In this order a crash in between repeats the emissions, with the same ids, and loses none.
    async fn commit(&self, term: &mut Term) -> Result<(), StepDown> {
        if term.batch.due.is_none() {
            return Ok(());
        }
        let batch = std::mem::take(&mut term.batch);
        let emits = term.reduce.emits();
        let routes: Vec<String> = batch.emissions.iter().map(|emission| emission.route.clone()).collect();
        let emissions = batch.emissions.into_iter().map(|e| batch::emission(self.pipeline, self.stage, emits, e));
        let publishes = emissions.map(async |outgoing| self.broker.publish(outgoing).await.map(|_| ()));
        let published = stream::iter(publishes).buffered(limits::EMISSIONS_IN_FLIGHT_MAX).try_collect::<()>();
        // Under Tokio's budget a publish that is made to wait comes after those behind it, and an incident would be
        // told as updated before it is told as opened.
        tokio::task::unconstrained(published).await?;
        let letters = batch.dead_letters.into_iter().map(async |letter| store(self.broker, letter).await.map(|_| ()));
        stream::iter(letters).buffered(limits::EMISSIONS_IN_FLIGHT_MAX).try_collect::<()>().await?;
        term.checkpoint.write(term.reduce.take_dirty()).await?;
        for route in routes {
            self.metrics.emitted(&route);
        }
        self.metrics.commits();
        Ok(())
    }
}

impl Term {
    /// When the stage's next timer is to be looked at.
    fn timer_at(&self) -> Option<Instant> {
        let due_ms = self.reduce.next_timer_ms()?;
        let wait = std::time::Duration::from_millis(due_ms.saturating_sub(unix_ms(SystemTime::now())));
        // A year is as good as never, and far from what the runtime's clock can hold.
        let wait = wait.min(std::time::Duration::from_secs(365 * 86_400));
        Some((Instant::now() + wait).max(self.ask_after))
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// Milliseconds since 1970.
fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH).map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

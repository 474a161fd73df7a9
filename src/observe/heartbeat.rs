//! Heartbeat: the worker's record every two seconds, what those of others tell, and the gauges that
//! only the broker knows.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    conditions::Conditions,
    metrics::Metrics,
    roll_call::RollCall,
    skew::SkewWatch,
    worker_record::{Recorder, WorkerRecord},
};
use crate::{
    broker::{Broker, KvChange, KvHeard, StreamState},
    config::Pipeline,
    limits,
    steady::Moment,
    topology::{Feed, Topology},
    wire::{Names, rfc3339},
};

/// Number of messages of the dead-letter stream that are no letters: originals of edited ones, and
/// payloads kept apart.
#[derive(Default)]
struct NotLetters {
    count: u64,
    /// Messages and last sequence of the stream when they were counted.
    of: Option<(u64, u64)>,
    /// Time before which they are not counted again.
    next: Option<Instant>,
}

impl NotLetters {
    /// Counts anew what has changed, and is worth the server's time.
    async fn count(&mut self, broker: &Broker, names: &Names, state: &StreamState) -> u64 {
        let (now, of) = (Instant::now(), Some((state.messages, state.last_seq)));
        if self.of != of
            && self.next.is_none_or(|next| now >= next)
            && let Ok(count) =
                broker.subjects_count(&names.dlq_stream(), &names.dlq_not_letters()).await
        {
            let wait = now.elapsed() * limits::NOT_LETTERS_REST;
            (self.count, self.of, self.next) = (count, of, Some(Instant::now() + wait));
        }
        self.count
    }
}

/// Heartbeat of a worker.
pub struct Heartbeat {
    broker: Broker,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    conditions: Arc<Conditions>,
    roll_call: Arc<RollCall>,
    /// Records that were sent and not read back: number, and moment of sending.
    sent: Mutex<VecDeque<(u64, Moment)>>,
    topology: Topology,
    bucket: String,
    key: String,
}

impl Heartbeat {
    /// Heartbeat of the worker named `id`.
    pub fn new(
        broker: Broker,
        pipeline: Arc<Pipeline>,
        metrics: Arc<Metrics>,
        conditions: Arc<Conditions>,
        roll_call: Arc<RollCall>,
        id: &str,
    ) -> Self {
        Self {
            bucket: pipeline.names().workers_bucket(),
            key: id.to_owned(),
            topology: Topology::of(&pipeline),
            broker,
            pipeline,
            metrics,
            conditions,
            roll_call,
            sent: Mutex::default(),
        }
    }

    /// Writes the worker's record to the bucket of live workers, follows those of others, and sets
    /// lag and queue sizes, until `stop`; then takes the record out.
    pub async fn run(self, worker: WorkerRecord, stop: CancellationToken) {
        let beat = self.beat(worker);
        let work = async { tokio::join!(beat, self.follow(), self.mark(), self.gauge()) };
        // With the broker away each question takes its time-out; stopping must not wait for it.
        stop.run_until_cancelled(work).await;
        // If this fails the record runs out by itself, and others take it for a death.
        let leave = self.broker.kv_delete(&self.bucket, &self.key);
        tokio::time::timeout(limits::HEARTBEAT, leave).await.ok();
    }

    async fn beat(&self, worker: WorkerRecord) {
        let (mut recorder, mut skew) = (Recorder::new(worker), SkewWatch::default());
        let mut ticks = ticks(limits::HEARTBEAT);
        loop {
            ticks.tick().await;
            self.metrics.set_broker_connected(self.broker.is_connected());
            skew.look(self.broker.clock(), &self.metrics, &self.conditions);
            if !self.broker.is_connected() {
                // It would be sent late, with all that were written in the meantime.
                continue;
            }
            let quiet_since = self.roll_call.quiet_since().map(rfc3339).unwrap_or_default();
            let record =
                WorkerRecord { quiet_since, ..recorder.record(&self.metrics, Instant::now()) };
            let value = serde_json::to_vec(&record).expect("a record is plain data");
            self.roll_call.sent(record.beats);
            self.sends(record.beats);
            let put = self.broker.kv_put(&self.bucket, &self.key, value);
            match tokio::time::timeout(limits::HEARTBEAT, put).await {
                Ok(Ok(revision)) => self.roll_call.stored(revision),
                Ok(Err(error)) => tracing::debug!(error = %error, "could not record this worker"),
                Err(_) => tracing::debug!("the broker did not say if it recorded this worker"),
            }
        }
    }

    /// Follows the records of all workers.
    async fn follow(&self) {
        loop {
            let mut changes = pin!(self.broker.kv_follow(&self.bucket, ""));
            loop {
                let change = tokio::select! {
                    change = changes.next() => change,
                    () = self.roll_call.anew.notified() => None,
                };
                match change {
                    Some(Ok(KvHeard::Anew)) => self.roll_call.forget(),
                    Some(Ok(KvHeard::Change(change))) => {
                        let KvChange { key, value, revision, written_at } = change;
                        // One that cannot be read is of a worker all the same; it will be silent.
                        let read = value.map(|value| {
                            serde_json::from_slice(&value)
                                .unwrap_or_else(|_| WorkerRecord::new(&key, "", ""))
                        });
                        if let Some(read) = read.as_ref().filter(|_| key == self.key) {
                            self.read_back(read.beats, written_at);
                        }
                        self.roll_call.heard(&key, revision, written_at, read.as_ref());
                    }
                    Some(Err(error)) => {
                        tracing::debug!(error = %error, "cannot hear of other workers");
                    }
                    None => break,
                }
            }
            tokio::time::sleep(limits::PULL_LOOK).await;
        }
    }

    fn sends(&self, beat: u64) {
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        sent.push_back((beat, Moment::now()));
        if sent.len() > limits::HEARTBEATS_SENT_MAX {
            sent.pop_front();
        }
    }

    /// Takes the broker's time from a record of ours that was read back: it was stored between the
    /// two.
    fn read_back(&self, beat: u64, stored_at: SystemTime) {
        let heard = Moment::now();
        let mut sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(asked) =
            sent.iter().find(|(number, _)| *number == beat).map(|(_, asked)| *asked)
        {
            self.broker.clock().read(asked, heard, stored_at);
        }
        sent.retain(|(number, _)| *number > beat);
    }

    /// Asks the consumers how far they are, at the start and whenever a worker may have died: what
    /// is delivered for the first time after that was never in its hands.
    async fn mark(&self) {
        let mut marked = None;
        // Of one that is not there nothing is known; it is asked for again.
        let mut unknown: Vec<&Feed> = Vec::new();
        loop {
            let doubt = self.roll_call.doubt(marked);
            let again = tokio::time::sleep(limits::HEARTBEAT);
            tokio::select! {
                doubt = doubt => {
                    marked = Some(doubt);
                    unknown = self.topology.all_feeds().iter().collect();
                }
                () = again, if !unknown.is_empty() => {}
            }
            let doubt = marked.unwrap_or_default();
            for some in std::mem::take(&mut unknown).chunks(limits::CONSUMERS_ASKED_AT_ONCE) {
                let asked = some.iter().map(|feed| self.ask(feed, doubt));
                let answered = futures_util::future::join_all(asked).await;
                let silent = some.iter().zip(answered).filter(|(_, answered)| !answered);
                unknown.extend(silent.map(|(feed, _)| *feed));
            }
            self.roll_call.called();
        }
    }

    /// Asks a consumer how far it is; true if it answered.
    async fn ask(&self, feed: &Feed, doubt: u64) -> bool {
        let (stream, consumer) = (&feed.stream, &feed.consumer);
        let state = self.broker.consumer_state(stream, consumer).await;
        if let Ok(state) = &state {
            self.roll_call.delivered(stream, consumer, state.delivered, doubt);
        }
        state.is_ok()
    }

    async fn gauge(&self) {
        let mut not_letters = NotLetters::default();
        let mut ticks = ticks(limits::HEARTBEAT);
        loop {
            ticks.tick().await;
            gauge(&self.broker, &self.pipeline, &self.metrics, &self.topology, &mut not_letters)
                .await;
        }
    }
}

fn ticks(every: Duration) -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(every);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

impl std::fmt::Debug for Heartbeat {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Heartbeat").field("worker", &self.key).finish_non_exhaustive()
    }
}

async fn gauge(
    broker: &Broker,
    pipeline: &Pipeline,
    metrics: &Metrics,
    topology: &Topology,
    not_letters: &mut NotLetters,
) {
    let names = pipeline.names();
    if let Ok(state) = broker.stream_state(&names.dlq_stream()).await {
        let others = not_letters.count(broker, &names, &state).await;
        metrics.set_dead_letter_queue_size(state.messages.saturating_sub(others));
    }
    if let Ok(state) = broker.stream_state(&names.retry_stream()).await {
        metrics.set_retry_queue_size(state.messages);
    }
    for stage in pipeline.stages.iter().filter(|stage| stage.is_map()) {
        for feed in topology.feeds(&stage.name) {
            if let Ok(state) = broker.consumer_state(&feed.stream, &feed.consumer).await {
                metrics.stage(&stage.name).set_lag(
                    &feed.stream,
                    state.num_pending,
                    state.num_ack_pending,
                );
            }
        }
    }
}

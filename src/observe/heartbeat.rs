//! Heartbeat: the worker's record every two seconds, and what those of others tell.

use std::{
    collections::VecDeque,
    pin::pin,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant, SystemTime},
};

use futures_util::StreamExt as _;
use tokio_util::sync::CancellationToken;

use super::{
    conditions::{ConditionRecord, Conditions, Trouble},
    metrics::Metrics,
    roll_call::RollCall,
    skew::SkewWatch,
    worker_record::{Recorder, WorkerRecord},
};
use crate::{
    broker::{Broker, KvChange, KvHeard},
    config::Pipeline,
    error_chain::root_cause,
    limits,
    steady::Moment,
    topology::{Feed, Topology},
    wire::rfc3339,
};

/// Remedy of a bucket that takes nothing.
const WRITABLE: &str = "`millstream apply` makes it where it is not there; else make room at the \
                        server: its disk, the limits of the account";

/// Heartbeat of a worker.
pub struct Heartbeat {
    broker: Broker,
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
        pipeline: &Pipeline,
        metrics: Arc<Metrics>,
        conditions: Arc<Conditions>,
        roll_call: Arc<RollCall>,
        id: &str,
    ) -> Self {
        Self {
            bucket: pipeline.names().workers_bucket(),
            key: id.to_owned(),
            topology: Topology::of(pipeline),
            broker,
            metrics,
            conditions,
            roll_call,
            sent: Mutex::default(),
        }
    }

    /// Writes the worker's record to the bucket of live workers and follows those of others, until
    /// `stop`; then takes the record out.
    pub async fn run(self, worker: WorkerRecord, stop: CancellationToken) {
        let beat = self.beat(worker);
        let work = async { tokio::join!(beat, self.follow(), self.mark()) };
        // With the broker away each question takes its time-out; stopping must not wait for it.
        stop.run_until_cancelled(work).await;
        // If this fails the record runs out by itself, and others take it for a death.
        let leave = self.broker.kv_delete(&self.bucket, &self.key);
        tokio::time::timeout(limits::HEARTBEAT, leave).await.ok();
    }

    async fn beat(&self, worker: WorkerRecord) {
        let (mut recorder, mut skew) = (Recorder::new(worker), SkewWatch::default());
        let mut failures = 0_u32;
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
            let failed = self.conditions.own_failed();
            let failed = failed.iter().filter_map(|(name, state)| ConditionRecord::of(name, state));
            let record = WorkerRecord {
                quiet_since,
                conditions: failed.take(limits::WORKER_CONDITIONS_MAX).collect(),
                ..recorder.record(&self.metrics, Instant::now())
            };
            let value = serde_json::to_vec(&record).expect("a record is plain data");
            self.roll_call.sent(record.beats);
            self.sends(record.beats);
            let put = self.broker.kv_put(&self.bucket, &self.key, value);
            let failed = match tokio::time::timeout(limits::HEARTBEAT, put).await {
                Ok(Ok(revision)) => {
                    self.roll_call.stored(revision);
                    None
                }
                Ok(Err(error)) => Some(root_cause(&error)),
                Err(_) => Some(format!("no answer in {:?}", limits::HEARTBEAT)),
            };
            let condition = format!("bucket {}", self.bucket);
            failures = if failed.is_some() { failures + 1 } else { 0 };
            match failed {
                None => self.conditions.ok(&condition),
                // A restart of the server costs one.
                Some(why) if failures > 1 => {
                    let why = format!("this worker cannot be recorded in it: {why}");
                    self.conditions.failing(&condition, Trouble::with_remedy(why, WRITABLE));
                }
                Some(error) => tracing::debug!(error, "could not record this worker"),
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

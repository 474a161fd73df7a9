//! Watch: a look at all that the fleet needs: streams, buckets, consumers, leases, storage, and
//! what nobody reads.
//!
//! One question tells the states of all streams. Consumers are asked for where something changed or
//! is not done, and else now and then: an idle pipeline costs a handful of questions.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Instant,
};

use futures_util::future::join_all;

use super::{
    fleet_record::{Gauges, Lag, LookedAt},
    judge,
};
use crate::{
    broker::{AdminError, Broker, ReaderOverview, StreamOverview, StreamState},
    config::{Pipeline, pipeline::Stage},
    error_chain::chain,
    limits,
    observe::Trouble,
    topology::{FeedInput, Topology},
    wire::{
        AppliedRecord, Names,
        breaker_record::{BreakerRecord, BreakerState},
    },
};

/// Looks for which a list that failed is not asked for: ten minutes, since each refusal is an error
/// in the server's log.
const LOOKS_UNLISTED: u32 = 300;

/// What a look found.
#[derive(Debug, Default)]
pub struct Looked {
    /// Conditions that do not hold, by name.
    pub troubles: BTreeMap<String, Trouble>,
    /// Numbers of what was looked at.
    pub looked_at: LookedAt,
    /// Stages whose events nobody reads just now, with how many wait. A look alone cannot tell for
    /// how long.
    pub unread: BTreeMap<String, u64>,
    /// Numbers that every worker shows.
    pub gauges: Gauges,
}

/// Watch over a pipeline, with what it knows from one look to the next.
pub(super) struct Watch {
    broker: Broker,
    pipeline: Arc<Pipeline>,
    topology: Topology,
    names: Names,
    known: HashMap<String, Known>,
    /// Revision of each lease, and the time since which it has not moved.
    leases: HashMap<String, (u64, Instant)>,
    /// Stages whose events nobody reads, and the time since which that is so.
    unread: HashMap<String, Instant>,
    not_letters: NotLetters,
    storage: (Option<Trouble>, Option<Instant>),
    /// Looks for which streams are asked for one by one, since the server does not answer the
    /// question for all at once, as where that is not permitted.
    one_by_one: u32,
    /// The same of the consumers of a stream.
    unlisted: AtomicU32,
}

/// What is known of the consumers of one stream.
struct Known {
    stream: StreamOverview,
    readers: Vec<ReaderOverview>,
    asked: Instant,
}

impl Known {
    /// True if nothing can have changed that matters: the stream is the same, and there was nothing
    /// left to be read or settled.
    fn is_idle(&self, now: &StreamOverview) -> bool {
        let is_done = |reader: &ReaderOverview| {
            let state = &reader.state;
            state.num_pending == 0
                && state.num_ack_pending == 0
                && judge::consumer(reader).is_none()
        };
        self.stream == *now
            && self.asked.elapsed() < limits::WATCH_ALL
            && self.readers.iter().all(is_done)
    }
}

/// Number of messages of the dead-letter stream that are no letters: originals of edited ones, and
/// payloads kept apart.
#[derive(Debug, Default)]
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

impl Watch {
    pub(super) fn new(broker: &Broker, pipeline: &Arc<Pipeline>) -> Self {
        Self {
            broker: broker.clone(),
            topology: Topology::of(pipeline),
            names: pipeline.names(),
            pipeline: Arc::clone(pipeline),
            known: HashMap::new(),
            leases: HashMap::new(),
            unread: HashMap::new(),
            not_letters: NotLetters::default(),
            storage: (None, None),
            one_by_one: 0,
            unlisted: AtomicU32::new(0),
        }
    }

    /// Looks once at everything.
    ///
    /// # Errors
    /// [`AdminError`]: the streams cannot be asked for.
    pub(super) async fn look(&mut self) -> Result<Looked, AdminError> {
        let mut looked = Looked::default();
        self.one_by_one = self.one_by_one.saturating_sub(1);
        let unlisted = self.unlisted.get_mut();
        *unlisted = unlisted.saturating_sub(1);
        let streams = self.look_at_streams(&mut looked).await?;
        self.look_at_consumers(&streams, &mut looked).await;
        self.look_at_backlogs(&mut looked).await;
        self.look_at_leases(&mut looked).await;
        self.look_at_storage(&mut looked).await;
        self.gauge(&streams, &mut looked.gauges).await;
        Ok(looked)
    }

    fn wanted(&self) -> Vec<String> {
        let ours = self.topology.streams.iter().map(|spec| spec.name.clone());
        ours.chain(self.topology.external.iter().cloned()).collect()
    }

    async fn look_at_streams(
        &mut self,
        looked: &mut Looked,
    ) -> Result<HashMap<String, StreamOverview>, AdminError> {
        let wanted = self.wanted();
        looked.looked_at.streams = wanted.len();
        let mut all: HashMap<String, StreamOverview> = HashMap::new();
        let listed =
            if self.one_by_one > 0 { None } else { Some(self.broker.streams_overview().await) };
        let refused = match listed {
            Some(Ok(found)) => {
                let of_ours = found.into_iter().filter(|found| wanted.contains(&found.spec.name));
                all.extend(of_ours.map(|found| (found.spec.name.clone(), found)));
                None
            }
            Some(Err(error)) => Some(error),
            None => None,
        };
        let mut silent = 0;
        for name in wanted.iter() {
            if !all.contains_key(name) {
                // A list of a cluster may be incomplete.
                match self.broker.stream_overview(name).await {
                    Ok(Some(found)) => _ = all.insert(name.clone(), found),
                    Ok(None) => {
                        let trouble = judge::no_stream(&self.topology, name);
                        looked.troubles.insert(judge::stream_name(&self.names, name), trouble);
                        continue;
                    }
                    Err(error) => {
                        silent += 1;
                        // Each takes its time-out, and the rest will be no better.
                        if silent > 2 {
                            return Err(error);
                        }
                        let trouble =
                            Trouble::new(format!("it does not answer: {}", chain(&error)));
                        looked.troubles.insert(judge::stream_name(&self.names, name), trouble);
                        continue;
                    }
                }
            }
            if let Some(trouble) = judge::stream(&self.pipeline, &all[name]) {
                looked.troubles.insert(judge::stream_name(&self.names, name), trouble);
            }
        }
        if let Some(refused) = refused {
            if all.is_empty() {
                return Err(refused);
            }
            self.one_by_one = LOOKS_UNLISTED;
        }
        Ok(all)
    }

    async fn look_at_consumers(
        &mut self,
        streams: &HashMap<String, StreamOverview>,
        looked: &mut Looked,
    ) {
        let mut wanted: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for spec in &self.topology.consumers {
            wanted.entry(&spec.stream).or_default().push(&spec.name);
        }
        looked.looked_at.consumers = self.topology.consumers.len();
        self.known.retain(|stream, _| streams.contains_key(stream));
        let due: Vec<(&StreamOverview, &[&str])> = wanted
            .iter()
            .filter_map(|(stream, consumers)| Some((streams.get(*stream)?, consumers.as_slice())))
            .filter(|(stream, _)| {
                !self.known.get(&stream.spec.name).is_some_and(|known| known.is_idle(stream))
            })
            .collect();
        let mut answers = Vec::new();
        for some in due.chunks(limits::CONSUMERS_ASKED_AT_ONCE) {
            let asked = some.iter().map(|(stream, consumers)| self.readers(stream, consumers));
            answers.extend(join_all(asked).await);
        }
        for ((stream, _), (readers, troubles)) in due.into_iter().zip(answers) {
            let known = Known { stream: stream.clone(), readers, asked: Instant::now() };
            if troubles.is_empty() {
                self.known.insert(stream.spec.name.clone(), known);
            } else {
                // It is asked for again by the next look.
                self.known.remove(&stream.spec.name);
            }
            looked.troubles.extend(troubles);
        }
        for reader in self.known.values().flat_map(|known| &known.readers) {
            if let Some(trouble) = judge::consumer(reader) {
                let name = judge::consumer_name(&reader.spec.stream, &reader.spec.name);
                looked.troubles.insert(name, trouble);
            }
        }
    }

    /// Consumers of a stream among these, and what is wrong with those that are not there.
    async fn readers(
        &self,
        stream: &StreamOverview,
        wanted: &[&str],
    ) -> (Vec<ReaderOverview>, Vec<(String, Trouble)>) {
        let stream = &stream.spec.name;
        let listed = if self.unlisted.load(Ordering::Relaxed) > 0 {
            None
        } else {
            Some(self.broker.readers_of(stream).await)
        };
        let is_refused = listed.as_ref().is_some_and(Result::is_err);
        let mut found = listed.and_then(Result::ok).unwrap_or_default();
        found.retain(|reader| wanted.contains(&reader.spec.name.as_str()));
        let mut troubles = Vec::new();
        for name in wanted {
            if found.iter().any(|reader| reader.spec.name == *name) {
                continue;
            }
            let condition = judge::consumer_name(stream, name);
            match self.broker.reader(stream, name).await {
                Ok(Some(reader)) => found.push(reader),
                Ok(None) if self.is_of_before(stream, name).await => {}
                Ok(None) => {
                    let trouble = Trouble::with_remedy("it does not exist", judge::CREATE);
                    troubles.push((condition, trouble));
                }
                Err(error) => {
                    let why = format!("it does not answer: {}", chain(&error));
                    troubles.push((condition, Trouble::new(why)));
                    // Nor will the others, each after its time-out.
                    return (found, troubles);
                }
            }
        }
        if is_refused && troubles.is_empty() {
            self.unlisted.store(LOOKS_UNLISTED, Ordering::Relaxed);
        }
        (found, troubles)
    }

    /// True if another configuration was applied since this worker began, which has no such
    /// consumer: then it is gone for good.
    async fn is_of_before(&self, stream: &str, consumer: &str) -> bool {
        let applied = self.broker.kv_get(&self.names.state_bucket(), AppliedRecord::KEY).await;
        let applied = applied.ok().flatten().and_then(|(value, _)| AppliedRecord::read(&value));
        applied.is_some_and(|applied| !applied.names(stream, consumer))
    }

    async fn look_at_backlogs(&mut self, looked: &mut Looked) {
        let readers = || self.known.values().flat_map(|known| &known.readers);
        let stage_of = |reader: &ReaderOverview| {
            let spec = &reader.spec;
            self.topology
                .all_feeds()
                .iter()
                .find(|feed| feed.stream == spec.stream && feed.consumer == spec.name)
        };
        let mut unread: BTreeMap<String, u64> = BTreeMap::new();
        for reader in readers().filter(|reader| judge::is_unread(reader)) {
            if let Some(feed) = stage_of(reader) {
                *unread.entry(feed.stage.clone()).or_default() += reader.state.num_pending;
            }
        }
        self.unread.retain(|stage, _| unread.contains_key(stage));
        for (stage, pending) in unread {
            if self.is_open(&stage).await {
                self.unread.remove(&stage);
                continue;
            }
            let since = *self.unread.entry(stage.clone()).or_insert_with(Instant::now);
            if since.elapsed() >= limits::UNHELD_MAX {
                let trouble = judge::unread(&self.pipeline, &stage, pending);
                looked.troubles.insert(format!("backlog of {stage}"), trouble);
            }
            looked.unread.insert(stage, pending);
        }
    }

    /// True if the circuit breaker of a stage is open: its workers pull nothing.
    async fn is_open(&self, stage: &str) -> bool {
        let key = Names::breaker_key(stage);
        let found = self.broker.kv_get(&self.names.state_bucket(), &key).await.ok().flatten();
        let record = found.and_then(|(value, _)| BreakerRecord::read(&value));
        record.is_some_and(|record| record.state == BreakerState::Open)
    }

    /// Names of the leases that someone must hold.
    fn wanted_leases(&self) -> Vec<String> {
        let stages = self.pipeline.stages.iter().filter(|stage| !stage.is_map());
        let mut all: Vec<String> = stages.map(|stage| stage.name.clone()).collect();
        if !self.pipeline.channels.is_empty() {
            all.push(Names::CHANNELS_LEASE.to_owned());
        }
        let is_checked = |stage: &&Stage| stage.recover.as_ref().is_some_and(|r| r.check.is_some());
        let checked = self.pipeline.stages.iter().filter(is_checked);
        all.extend(checked.map(|stage| Names::recovery_key(&stage.name)));
        all.push(Names::SWEEP_LEASE.to_owned());
        all
    }

    async fn look_at_leases(&mut self, looked: &mut Looked) {
        for lease in self.wanted_leases() {
            looked.looked_at.leases += 1;
            let key = format!("{lease}.lease");
            // A bucket that cannot be read is a condition of its own.
            let Ok(found) = self.broker.kv_get(&self.names.state_bucket(), &key).await else {
                self.leases.clear();
                return;
            };
            let revision = found.map_or(0, |(_, revision)| revision);
            let now = (revision, Instant::now());
            let seen = self.leases.entry(lease.clone()).or_insert(now);
            if seen.0 != revision {
                *seen = now;
            }
            if seen.1.elapsed() >= limits::UNHELD_MAX {
                let trouble = judge::unheld(&self.pipeline, &lease);
                looked.troubles.insert(format!("lease {lease}"), trouble);
            }
        }
    }

    async fn look_at_storage(&mut self, looked: &mut Looked) {
        let is_due = |at: Instant| at.elapsed() >= limits::WATCH_LOOK * 5;
        if self.storage.1.is_none_or(is_due) {
            let storage = &self.pipeline.storage;
            // A server that does not answer shows elsewhere.
            if let Ok(found) = self.broker.account_limits(storage.replicas, storage.memory).await {
                self.storage = (judge::storage(&found), Some(Instant::now()));
            }
        }
        if let Some(trouble) = &self.storage.0 {
            looked.troubles.insert("storage".to_owned(), trouble.clone());
        }
    }

    async fn gauge(&mut self, streams: &HashMap<String, StreamOverview>, gauges: &mut Gauges) {
        let messages = |name: &str| streams.get(name).map(|found| found.state.messages);
        if let Some(found) = streams.get(&self.names.dlq_stream()) {
            let others = self.not_letters.count(&self.broker, &self.names, &found.state).await;
            gauges.letters = Some(found.state.messages.saturating_sub(others));
        }
        gauges.retries = messages(&self.names.retry_stream());
        let of_maps = |stage: &str| {
            self.pipeline.stages.iter().any(|known| known.name == stage && known.is_map())
        };
        for feed in self.topology.all_feeds() {
            if feed.input == FeedInput::Quarantine || !of_maps(&feed.stage) {
                continue;
            }
            let readers = self.known.get(&feed.stream).map_or(&[][..], |known| &known.readers);
            let reader = readers.iter().find(|reader| reader.spec.name == feed.consumer);
            let Some(state) = reader.map(|reader| &reader.state) else { continue };
            if state.num_pending > 0 || state.num_ack_pending > 0 {
                gauges.lags.push(Lag {
                    stage: feed.stage.clone(),
                    stream: feed.stream.clone(),
                    pending: state.num_pending,
                    unsettled: state.num_ack_pending,
                });
            }
        }
    }
}

/// Looks once at all that a pipeline needs, without any knowledge from before.
///
/// # Errors
/// [`AdminError`]: the streams cannot be asked for.
pub async fn look(broker: &Broker, pipeline: &Arc<Pipeline>) -> Result<Looked, AdminError> {
    Watch::new(broker, pipeline).look().await
}

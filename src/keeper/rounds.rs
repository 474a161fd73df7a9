//! Rounds: a look at every stream of the pipeline, and what follows from it.
//!
//! One question tells the states of all streams. Consumers are asked for where something changed or
//! is not done: an idle pipeline costs a question every few seconds.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use millstream_stages::{incident::Severity, units::Period};

use super::{
    loss::{Deliveries, Position, Unread, lost},
    readers::{Planned, Seen},
    report::Report,
    telling::Condition,
    trim::{Decision, Reader, Samples, decide},
};
use crate::{
    broker::{AdminError, Broker, ConsumerSpec, Retention, StreamOverview, unix_ms},
    error_chain::chain,
    limits,
    observe::Metrics,
    topology::Beginning,
    wire::{AppliedRecord, FloorRecord},
};

/// Rounds of one term of a keeper.
pub(super) struct Rounds {
    broker: Broker,
    planned: Planned,
    metrics: Arc<Metrics>,
    report: Report,
    known: HashMap<String, Known>,
    /// Rounds in a row that could not ask for the streams.
    failures: u32,
    /// True if the server does not answer the question for all streams at once, as where that is
    /// not permitted; then they are asked for one by one.
    is_one_by_one: bool,
}

/// What is known of one stream.
#[derive(Default)]
struct Known {
    overview: Option<StreamOverview>,
    /// True if every reader has settled everything and there is nothing to do.
    is_idle: bool,
    samples: HashMap<String, Samples>,
    floors: HashMap<String, u64>,
    positions: HashMap<String, Position>,
    later_since: Option<Instant>,
    failed_at: Option<Instant>,
    given_up_since: Option<Instant>,
    /// Consumers that could not be made, and when that was last tried.
    unmade: HashMap<String, Instant>,
    is_filling: bool,
}

impl Rounds {
    pub(super) fn new(
        broker: Broker,
        planned: Planned,
        metrics: Arc<Metrics>,
        report: Report,
    ) -> Self {
        let known = HashMap::new();
        Self { broker, planned, metrics, report, known, failures: 0, is_one_by_one: false }
    }

    /// Looks once at everything; true if something is going on, and the next look is soon due.
    pub(super) async fn round(&mut self) -> bool {
        let overview = match self.overview().await {
            Ok(overview) => overview,
            Err(error) => {
                self.failures += 1;
                self.report.still_holds("");
                // A restart of the server is not news.
                if self.failures > 2 {
                    let text = format!(
                        "the keeper cannot look at the streams, so edges are not trimmed: {}",
                        chain(&error)
                    );
                    self.holds("look", "KeeperBlind", Severity::High, "keeper", text);
                }
                self.report.end().await;
                return false;
            }
        };
        self.failures = 0;
        let names: Vec<String> =
            self.planned.streams().into_iter().map(ToOwned::to_owned).collect();
        let mut is_busy = false;
        for stream in overview.iter().filter(|stream| names.contains(&stream.spec.name)) {
            let name = &stream.spec.name;
            let known = self.known.entry(name.clone()).or_default();
            match &known.overview {
                Some(before) if before.created == stream.created => {
                    // A cluster lists a stream that is offline as if it held nothing.
                    if stream.state.last_seq < before.state.last_seq {
                        self.report.still_holds(&format!("{name} "));
                        continue;
                    }
                }
                _ => *known = Known::default(),
            }
            let is_changed = known.overview.as_ref() != Some(stream);
            is_busy |= is_changed;
            if known.is_idle && !is_changed {
                self.report.still_holds(&format!("{name} "));
                continue;
            }
            match self.look(stream).await {
                Ok(is_moving) => is_busy |= is_moving,
                Err(error) => {
                    self.report.still_holds(&format!("{name} "));
                    let error = chain(&error);
                    tracing::debug!(stream = name, error, "the keeper could not look at a stream");
                }
            }
        }
        self.report.end().await;
        is_busy
    }

    async fn overview(&mut self) -> Result<Vec<StreamOverview>, AdminError> {
        let refused = if self.is_one_by_one {
            None
        } else {
            match self.broker.streams_overview().await {
                Ok(all) => return Ok(all),
                Err(error) => Some(error),
            }
        };
        let mut all = Vec::new();
        for stream in self.planned.streams() {
            all.extend(self.broker.stream_overview(stream).await?);
        }
        self.is_one_by_one |= refused.is_some();
        Ok(all)
    }

    /// Looks at one stream; true if its readers have moved since the last look, or something is to
    /// be done soon.
    async fn look(&mut self, stream: &StreamOverview) -> Result<bool, AdminError> {
        let name = stream.spec.name.clone();
        let asked = Instant::now();
        let mut found = self.broker.readers_of(&name).await?;
        if stream.state.consumers == 0 && !found.is_empty() {
            // Offline, or a consumer was made just now: the next look sees it.
            return Ok(true);
        }
        let is_there = |spec: &&ConsumerSpec| found.iter().any(|r| r.spec.name == spec.name);
        let missing: Vec<ConsumerSpec> =
            self.planned.consumers(&name).filter(|spec| !is_there(spec)).cloned().collect();
        for spec in &missing {
            self.make_anew(spec).await;
        }
        if !missing.is_empty() {
            found = self.broker.readers_of(&name).await?;
        }
        if stream.spec.retention == Retention::WorkQueue {
            // What is settled is gone; there is nothing to keep.
            let known = self.known.entry(name).or_default();
            (known.overview, known.is_idle) = (Some(stream.clone()), missing.is_empty());
            return Ok(!missing.is_empty());
        }
        let readers = self.planned.readers(&self.broker, stream, found).await?;
        let is_trimmed = self.planned.topology.trimmed.contains(&name);
        if !is_trimmed {
            self.look_for_losses(stream, &readers).await?;
        }
        let is_moving = self.write_floors(stream, &readers).await;
        self.sample(&name, asked, &readers);
        let is_done = self.trim(stream, &readers).await?;
        let last = stream.state.last_seq;
        let is_settled = readers.iter().all(|reader| reader.floor.is_some_and(|at| at >= last));
        let is_empty = !is_trimmed || stream.state.messages == 0;
        let known = self.known.entry(name).or_default();
        known.overview = Some(stream.clone());
        known.is_idle = missing.is_empty() && is_settled && is_empty && is_done;
        Ok(is_moving || !is_done || !missing.is_empty())
    }

    /// Makes a consumer anew that the configuration has and the server has not, behind its floor.
    async fn make_anew(&mut self, spec: &ConsumerSpec) {
        let ConsumerSpec { stream, name, pipeline, .. } = spec;
        let key = format!("{stream} missing {name}");
        let known = self.known.entry(stream.clone()).or_default();
        // A refusal shows as a time-out, which holds up everything else.
        if known.unmade.get(name).is_some_and(|at| at.elapsed() < limits::KEEPER_AGAIN_AFTER) {
            self.report.still_holds(&key);
            return;
        }
        let made = async {
            // A list of a cluster may be incomplete.
            if self.broker.find_consumer(stream, name).await?.is_some() {
                return Ok(None);
            }
            // Another configuration was applied since this worker began: then it is gone for good.
            let bucket = self.planned.names.state_bucket();
            let applied = self.broker.kv_get(&bucket, AppliedRecord::KEY).await?;
            let applied = applied.and_then(|(value, _)| AppliedRecord::read(&value));
            if applied.is_some_and(|applied| !applied.names(stream, name)) {
                return Ok(None);
            }
            let beginning = Beginning::roughly_of(pipeline, spec, &self.broker).await?;
            self.broker.create_consumer_after(spec, beginning.after).await?;
            Ok::<_, AdminError>(Some(beginning))
        };
        let made = made.await;
        let known = self.known.entry(stream.clone()).or_default();
        known.unmade.remove(name);
        match made {
            Ok(None) => {}
            Ok(Some(from)) => {
                let text = format!(
                    "consumer \"{name}\" on stream \"{stream}\" was missing and is made anew: it \
                     {from}"
                );
                let (code, severity, about) = ("ConsumerMadeAnew", Severity::Medium, name.clone());
                self.report.happened(&Condition { code, severity, about, text }).await;
            }
            Err(error) => {
                known.unmade.insert(name.clone(), Instant::now());
                let text = format!(
                    "consumer \"{name}\" on stream \"{stream}\" is missing and could not be made: \
                     {}; `millstream apply` makes it",
                    chain(&error)
                );
                self.holds(&key, "ConsumerMissing", Severity::High, name, text);
            }
        }
    }

    /// Writes floors that have moved; true if some have.
    async fn write_floors(&mut self, stream: &StreamOverview, readers: &[Seen]) -> bool {
        let name = &stream.spec.name;
        let gone = stream.state.first_seq.saturating_sub(1);
        let bucket = self.planned.names.state_bucket();
        let known = self.known.entry(name.clone()).or_default();
        let mut is_moving = false;
        for reader in readers {
            let Some(floor) = reader.floor else { continue };
            // What is gone cannot be read; it is counted, once.
            let floor =
                if self.planned.topology.trimmed.contains(name) { floor } else { floor.max(gone) };
            if known.floors.get(&reader.name) == Some(&floor) {
                continue;
            }
            is_moving = true;
            let at = unix_ms(self.broker.now());
            let consumer = reader.consumer.as_ref();
            let deliveries = consumer.map(|it| (it.floor_deliveries, it.deliveries));
            let value = FloorRecord { created: stream.created, floor, at, deliveries }.written();
            let key = FloorRecord::key(name, &reader.name);
            match self.broker.kv_put(&bucket, &key, value).await {
                Ok(_) => _ = known.floors.insert(reader.name.clone(), floor),
                Err(error) => {
                    tracing::debug!(stream = name, error = %error, "could not write a floor");
                    return true;
                }
            }
        }
        is_moving
    }

    fn sample(&mut self, stream: &str, asked: Instant, readers: &[Seen]) {
        let known = self.known.entry(stream.to_owned()).or_default();
        known.samples.retain(|name, _| readers.iter().any(|reader| reader.name == *name));
        for reader in readers {
            if let Some(consumer) = &reader.consumer {
                let samples = known.samples.entry(reader.name.clone()).or_default();
                samples.note(asked, consumer.state.delivered, reader.within);
            }
        }
    }

    /// Trims a stream of what every reader has settled; false if more is to be done.
    async fn trim(
        &mut self,
        stream: &StreamOverview,
        readers: &[Seen],
    ) -> Result<bool, AdminError> {
        let name = &stream.spec.name;
        // An interest stream, of before the first `apply` by this version, does it by itself.
        let is_ours = stream.spec.pipeline == self.planned.names.pipeline()
            && stream.spec.retention == Retention::Limits;
        let is_edge = self.planned.topology.trimmed.contains(name);
        if !is_ours || !(is_edge || self.needs_room(stream)) {
            return Ok(true);
        }
        let given_up: u64 = readers.iter().map(Seen::given_up).sum();
        let known = self.known.entry(name.clone()).or_default();
        if given_up > 0 {
            let since = *known.given_up_since.get_or_insert_with(Instant::now);
            if is_edge && since.elapsed() > limits::KEEPER_AGAIN_AFTER {
                let text = format!(
                    "stream \"{name}\" is not trimmed: the server gave up on {given_up} events of \
                     it and nobody knows which; delete the consumer, and it is made anew and \
                     gives them out again"
                );
                let key = format!("{name} given up");
                self.holds(&key, "EdgeNotTrimmed", Severity::High, name, text);
            }
            return Ok(true);
        }
        known.given_up_since = None;
        let waited = known.later_since.map_or(Duration::ZERO, |since| since.elapsed());
        let state = &stream.state;
        let keep_from = match decide(
            state.first_seq,
            state.last_seq,
            &readers.iter().map(|reader| reader_of(reader, known)).collect::<Vec<_>>(),
            waited,
        ) {
            Decision::Nothing => {
                known.later_since = None;
                return Ok(true);
            }
            Decision::Later => {
                known.later_since.get_or_insert_with(Instant::now);
                return Ok(false);
            }
            Decision::KeepFrom(keep_from) => keep_from,
        };
        if known.failed_at.is_some_and(|at| at.elapsed() < limits::KEEPER_AGAIN_AFTER) {
            self.report.still_holds(&format!("{name} trim"));
            return Ok(false);
        }
        // A stream made anew since has other messages at these sequences.
        let now = self.broker.stream_overview(name).await?;
        if now.is_none_or(|now| {
            now.created != stream.created || now.spec.retention != Retention::Limits
        }) {
            return Ok(false);
        }
        let known = self.known.entry(name.clone()).or_default();
        match self.broker.trim(name, keep_from).await {
            Ok(messages) => {
                (known.failed_at, known.later_since) = (None, None);
                tracing::debug!(stream = name, messages, keep_from, "trimmed a stream");
            }
            Err(error) => {
                known.failed_at = Some(Instant::now());
                let text = format!(
                    "stream \"{name}\" cannot be trimmed and grows: {}; the user of [nats] needs \
                     the right to publish on \"$JS.API.STREAM.PURGE.{name}\"",
                    chain(&error)
                );
                let key = format!("{name} trim");
                self.holds(&key, "EdgeNotTrimmed", Severity::High, name, text);
            }
        }
        Ok(false)
    }

    /// True for a source that refuses what is new and is nearly full, of events that were read.
    fn needs_room(&self, stream: &StreamOverview) -> bool {
        let wanted = self.planned.topology.streams.iter();
        let refuses = wanted.clone().any(|spec| {
            spec.name == stream.spec.name && spec.keeps_oldest && self.is_source(&spec.name)
        });
        refuses
            && stream.spec.max_bytes.is_some_and(|most| {
                stream.state.bytes as f64 >= most as f64 * limits::SOURCE_TRIM_FILL
            })
    }

    fn is_source(&self, stream: &str) -> bool {
        stream.starts_with(&self.planned.names.source_stream(""))
    }

    /// Counts events that are gone unread, and tells how near others are to it.
    async fn look_for_losses(
        &mut self,
        stream: &StreamOverview,
        readers: &[Seen],
    ) -> Result<(), AdminError> {
        let (name, state) = (&stream.spec.name, &stream.state);
        let gone = state.first_seq.saturating_sub(1);
        for reader in readers {
            let (Some(stage), Some(floor)) = (&reader.stage, reader.floor) else { continue };
            let deliveries = reader.consumer.as_ref().map(|consumer| Deliveries {
                to_floor: consumer.floor_deliveries,
                all: consumer.deliveries,
                is_asked: consumer.state.num_waiting > 0,
                pending: consumer.state.num_ack_pending,
                abandoned: 0,
            });
            let now = Position { floor, deliveries };
            let known = self.known.get(name).and_then(|known| known.positions.get(&reader.name));
            let before =
                match known {
                    Some(before) => Some(*before),
                    // The keeper before this one has written how far it was.
                    None => self.planned.stored(&self.broker, stream, &reader.name).await?.map(
                        |record| Position {
                            floor: record.floor,
                            deliveries: record.deliveries.map(|(to_floor, all)| Deliveries {
                                to_floor,
                                all,
                                is_asked: true,
                                // Whoever had them may have died with that keeper.
                                pending: all.saturating_sub(to_floor),
                                abandoned: all.saturating_sub(to_floor),
                            }),
                        },
                    ),
                };
            let events = before.map_or(0, |before| lost(before, now, state.first_seq));
            if events > 0 {
                self.metrics.lost_unread(name, stage, events);
                self.report.lost(name, stage, events);
            }
            let delivered = reader.consumer.as_ref().map_or(0, |consumer| consumer.state.delivered);
            let position = now.counted(before, gone, delivered);
            let known = self.known.entry(name.clone()).or_default();
            known.positions.insert(reader.name.clone(), position);
        }
        self.look_at_fill(stream, readers).await
    }

    async fn look_at_fill(
        &mut self,
        stream: &StreamOverview,
        readers: &[Seen],
    ) -> Result<(), AdminError> {
        let (name, state, spec) = (&stream.spec.name, &stream.state, &stream.spec);
        if spec.max_age.is_none() && spec.max_bytes.is_none() {
            return Ok(());
        }
        let planned = readers.iter().filter_map(|reader| Some((reader.floor?, &reader.stage)));
        let slowest = planned.min_by_key(|(floor, _)| *floor);
        let Some((floor, stage)) = slowest else { return Ok(()) };
        let floor = floor.max(state.first_seq.saturating_sub(1));
        let unread = state.last_seq.saturating_sub(floor).min(state.messages);
        let mut oldest = state.first_at;
        if unread > 0 && floor >= state.first_seq {
            let next = self.broker.next_seq(name, ">", floor + 1).await?;
            oldest = next.map_or(state.last_at, |(_, at)| at);
        }
        let unread = Unread {
            messages: state.messages,
            unread,
            bytes: state.bytes,
            bytes_max: spec.max_bytes,
            age: self.broker.now().duration_since(oldest).unwrap_or_default(),
            age_max: spec.max_age,
        };
        let fill = unread.fill();
        self.metrics.set_source_fill(name, fill);
        let known = self.known.entry(name.clone()).or_default();
        // With a margin, so that it is not told and over at each event.
        let from = limits::SOURCE_WARN_FILL - if known.is_filling { 0.1 } else { 0.0 };
        known.is_filling = fill >= from;
        if known.is_filling {
            let stage = stage.as_deref().unwrap_or("?");
            let (age, percent) = (Period::seconds(unread.age.as_secs()), fill * 100.0);
            let then = if spec.keeps_oldest && unread.bytes_max.is_some() {
                "refused or expire"
            } else {
                "lost"
            };
            let text = format!(
                "{} events of stream \"{name}\" wait for stage \"{stage}\", the oldest for {age}: \
                 {percent:.0}% of its limits; past them events are {then}",
                unread.unread
            );
            let key = format!("{name} fill");
            self.holds(&key, "SourceNearlyFull", Severity::High, stage, text);
        }
        Ok(())
    }

    fn holds(
        &mut self,
        key: &str,
        code: &'static str,
        severity: Severity,
        about: &str,
        text: String,
    ) {
        self.report.holds(key, Condition { code, severity, about: about.to_owned(), text });
    }
}

/// Reader as a trim sees it.
fn reader_of(reader: &Seen, known: &Known) -> Reader {
    let is_spared = reader.consumer.as_ref().is_none_or(|consumer| {
        let state = &consumer.state;
        let samples = known.samples.get(&reader.name);
        let is_settled = samples.is_some_and(|samples| {
            samples.are_settled(state.ack_floor.max(reader.floor.unwrap_or(0)))
        });
        // Pull requests wait while there is nothing to give out: what is due goes out at once.
        let is_waiting = state.num_waiting > 0 && state.num_pending == 0 && !consumer.is_paused;
        is_settled || is_waiting
    });
    Reader { floor: reader.floor, is_spared }
}

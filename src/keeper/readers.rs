//! Readers: consumers and reduce stages that read a stream, and their floors, asked of the broker.

use std::time::Duration;

use crate::{
    broker::{AdminError, Broker, ConsumerSpec, ReaderOverview, StreamOverview},
    config::Pipeline,
    limits,
    topology::{Feed, FeedInput, Read, Topology},
    wire::{FloorRecord, Names, Offsets},
};

/// Reader of a stream as it is now.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    /// Name of the consumer, or of the reduce stage.
    pub(super) name: String,
    /// Stage that it reads for; `None`: it is left over.
    pub(super) stage: Option<String>,
    /// Floor of it; `None`: not known.
    pub(super) floor: Option<u64>,
    /// Consumer of it; `None`: a reduce stage, or one that is missing.
    pub(super) consumer: Option<ReaderOverview>,
    /// Time after a delivery in which it cannot be due again.
    pub(super) within: Duration,
}

impl Seen {
    /// Events that the server gave up on and nobody has settled.
    pub(super) fn given_up(&self) -> u64 {
        self.consumer.as_ref().map_or(0, |consumer| {
            let state = &consumer.state;
            state.num_redelivered.saturating_sub(state.num_ack_pending)
        })
    }
}

/// Streams of a pipeline, and who reads each by its configuration.
#[derive(Debug)]
pub(super) struct Planned {
    pub(super) topology: Topology,
    pub(super) names: Names,
    /// Time in which a delivery of a consumer cannot be due again, by its name.
    within: Vec<(String, Duration)>,
}

impl Planned {
    pub(super) fn of(pipeline: &Pipeline) -> Self {
        let names = pipeline.names();
        let of_stage = pipeline.stages.iter().map(|stage| {
            let consumer = names.stage_consumer(&stage.name);
            (consumer, stage.policy.shortest_wait())
        });
        let within = of_stage.collect();
        Self { topology: Topology::of(pipeline), names, within }
    }

    /// Every stream that a stage or channel reads, once.
    pub(super) fn streams(&self) -> Vec<&str> {
        let Topology { consumers, trimmed, .. } = &self.topology;
        let of_consumers = consumers.iter().map(|spec| spec.stream.as_str());
        let of_reads = self.reads(None).map(|read| read.stream.as_str());
        let trimmed = trimmed.iter().map(String::as_str);
        let mut all: Vec<&str> = of_consumers.chain(of_reads).chain(trimmed).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Consumers that a stream must have.
    pub(super) fn consumers<'a>(
        &'a self,
        stream: &'a str,
    ) -> impl Iterator<Item = &'a ConsumerSpec> {
        self.topology.consumers.iter().filter(move |spec| spec.stream == stream)
    }

    /// Readings of events by offset, of one stream or all.
    fn reads<'a>(&'a self, stream: Option<&'a str>) -> impl Iterator<Item = &'a Read> {
        let reads = self.topology.all_reads().iter();
        reads.filter(move |read| {
            read.input != FeedInput::Operator && stream.is_none_or(|stream| read.stream == stream)
        })
    }

    fn stage_of(&self, stream: &str, consumer: &str) -> Option<String> {
        let feeds: &[Feed] = self.topology.all_feeds();
        let found = feeds.iter().find(|feed| feed.stream == stream && feed.consumer == consumer);
        found.map(|feed| feed.stage.clone())
    }

    /// Readers of a stream: our consumers that are there, planned or left over, those that are
    /// missing, by the floor they left, and reduce stages by offset.
    pub(super) async fn readers(
        &self,
        broker: &Broker,
        stream: &StreamOverview,
        found: Vec<ReaderOverview>,
    ) -> Result<Vec<Seen>, AdminError> {
        let name = &stream.spec.name;
        let mut all = Vec::new();
        let is_planned = |reader: &ReaderOverview| {
            self.consumers(name).any(|spec| spec.name == reader.spec.name)
        };
        let ours = found
            .into_iter()
            .filter(|reader| reader.spec.pipeline == self.names.pipeline() || is_planned(reader));
        for reader in ours {
            let stage = self.stage_of(name, &reader.spec.name);
            let floor = exact(broker, stream, &reader.spec.filters, floor_of(&reader)).await?;
            let known = self.within.iter().find(|(consumer, _)| *consumer == reader.spec.name);
            all.push(Seen {
                name: reader.spec.name.clone(),
                // Half of an ack wait is far from its end, whatever the network takes.
                within: known
                    .map_or(Duration::ZERO, |(_, within)| *within)
                    .min(reader.spec.ack_wait / 2)
                    .saturating_sub(limits::TRIM_MARGIN),
                stage,
                floor: Some(floor),
                consumer: Some(reader),
            });
        }
        for spec in self.consumers(name) {
            if !all.iter().any(|seen| seen.name == spec.name) {
                all.push(Seen {
                    name: spec.name.clone(),
                    stage: self.stage_of(name, &spec.name),
                    floor: self.stored(broker, stream, &spec.name).await?.map(|it| it.floor),
                    consumer: None,
                    within: Duration::ZERO,
                });
            }
        }
        for read in self.reads(Some(name)) {
            let offset = self.offset(broker, &read.stage, stream).await?;
            let floor = match offset {
                Some(offset) if offset <= stream.state.last_seq => {
                    Some(exact(broker, stream, &read.filters, offset).await?)
                }
                // Of another life of the stream.
                Some(_) | None => None,
            };
            all.push(Seen {
                name: read.stage.clone(),
                stage: Some(read.stage.clone()),
                floor,
                consumer: None,
                within: Duration::ZERO,
            });
        }
        Ok(all)
    }

    /// Record of the floor that a reader left; `None`: none is known of this life of the stream.
    pub(super) async fn stored(
        &self,
        broker: &Broker,
        stream: &StreamOverview,
        reader: &str,
    ) -> Result<Option<FloorRecord>, AdminError> {
        let key = FloorRecord::key(&stream.spec.name, reader);
        let found = broker.kv_get(&self.names.state_bucket(), &key).await?;
        let record = found.and_then(|(value, _)| FloorRecord::read(&value));
        // One beyond the end is of a stream that lost its end: what comes next was not settled.
        Ok(record.filter(|record| {
            record.on(stream.created).is_some_and(|floor| floor <= stream.state.last_seq)
        }))
    }

    /// Offset of a reduce stage in this life of a stream; `None`: it has read none of it.
    async fn offset(
        &self,
        broker: &Broker,
        stage: &str,
        stream: &StreamOverview,
    ) -> Result<Option<u64>, AdminError> {
        let found = broker.kv_get(&self.names.state_bucket(), &Offsets::key(stage)).await?;
        let offsets = found.and_then(|(value, _)| Offsets::read(&value).ok());
        Ok(offsets.and_then(|offsets| offsets.of_life(&stream.spec.name, stream.created)))
    }
}

/// Floor of a consumer as the server tells it. Its own stays at what it gave up on, even if that is
/// settled late; with nothing in flight and nothing given up on, all that was delivered is settled.
fn floor_of(reader: &ReaderOverview) -> u64 {
    let state = &reader.state;
    if state.num_ack_pending == 0 && state.num_redelivered == 0 {
        state.ack_floor.max(state.delivered)
    } else {
        state.ack_floor
    }
}

/// Floor of a reader of only these subjects: none but what it reads moves its own.
///
/// The last sequence was read before: what came since has a higher one. Not by `num_pending`, which
/// a cluster tells too small, and not by a direct get, which a replica may answer.
async fn exact(
    broker: &Broker,
    stream: &StreamOverview,
    filters: &[String],
    floor: u64,
) -> Result<u64, AdminError> {
    let last = stream.state.last_seq;
    if filters.is_empty() || floor >= last {
        return Ok(floor);
    }
    let mut exact = last;
    for filter in filters {
        if let Some((seq, _)) = broker.next_seq(&stream.spec.name, filter, floor + 1).await? {
            exact = exact.min(seq - 1);
        }
    }
    Ok(exact.max(floor))
}

//! Topology: a pipeline as the streams and consumers it needs. Pure.

use std::{collections::BTreeMap, time::Duration};

use millstream_stages::Envelope;

use super::streams::{is_trimmed, streams};
use crate::{
    broker::{ConsumerSpec, StreamSpec},
    config::{
        Pipeline,
        pipeline::{Channel, Input, Stage},
    },
    limits,
    wire::{Names, subject_pattern::uncovered},
};

/// The streams and consumers that a pipeline needs, in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    /// Name of the pipeline.
    pub pipeline: String,
    /// Streams; buckets are streams too. Those of sources are last, so that what is published is
    /// read at once.
    pub streams: Vec<StreamSpec>,
    /// Durable consumers, those that read sources last.
    pub consumers: Vec<ConsumerSpec>,
    /// Streams that are not ours and must be there.
    pub external: Vec<String>,
    /// Edges among the streams that keep what nobody has settled and nothing else: the keeper trims
    /// them.
    pub trimmed: Vec<String>,
    /// Id of the pipeline; `None`: it has none.
    pub id: Option<String>,
    /// Stages and channels, by the names that events are settled under.
    pub stages: Vec<String>,
    /// Stages that were renamed: the name before, and the name now.
    pub renamed: Vec<(String, String)>,
    feeds: Vec<Feed>,
    reads: Vec<Read>,
}

/// Durable consumer that brings a map stage, or a channel, its events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The stage; for a channel [`Names::channel_stage`].
    pub stage: String,
    /// The stream.
    pub stream: String,
    /// The consumer.
    pub consumer: String,
    /// Kind of its messages.
    pub input: FeedInput,
    /// The subjects; empty: all of the stream.
    pub filters: Vec<String>,
}

/// Kind of the messages of a feed, which decides how they are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FeedInput {
    /// Messages that anyone published, in this envelope.
    Source(Envelope),
    /// Results of another stage, or notifications, described by our own headers.
    Edge,
    /// Failed attempts of another stage.
    Failed,
    /// Events of the stage that were parked or redriven.
    Retry,
    /// Quarantined events of the stage: nothing else is in flight, one at a time over the whole
    /// fleet.
    Quarantine,
    /// Operators' actions on incidents and silences: keys of the state bucket.
    Operator,
}

/// Stream that a reduce stage reads by offset.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Read {
    /// The stage.
    pub stage: String,
    /// The stream.
    pub stream: String,
    /// The subjects; empty: all of the stream.
    pub filters: Vec<String>,
    /// Kind of its messages.
    pub input: FeedInput,
}

impl Topology {
    /// Streams and consumers that `pipeline` needs.
    pub fn of(pipeline: &Pipeline) -> Self {
        let names = pipeline.names();
        let mut topology = Self {
            pipeline: pipeline.name.clone(),
            streams: Vec::new(),
            consumers: Vec::new(),
            external: pipeline
                .sources
                .iter()
                .filter_map(|source| source.external.clone())
                .collect(),
            trimmed: Vec::new(),
            id: pipeline.id.clone(),
            stages: stages(pipeline),
            renamed: renamed(pipeline),
            feeds: Vec::new(),
            reads: Vec::new(),
        };
        topology.external.sort();
        topology.external.dedup();
        for stage in &pipeline.stages {
            let inputs = inputs(pipeline, &names, stage);
            if stage.is_map() && !stage.chain {
                topology.feed(&names, stage, inputs);
            } else if !stage.is_map() {
                let read = |(stream, (input, filters))| Read {
                    stage: stage.name.clone(),
                    stream,
                    filters,
                    input,
                };
                topology.reads.extend(inputs.into_iter().map(read));
                topology.reads.extend(operator_read(&names, stage));
            }
        }
        for channel in &pipeline.channels {
            topology.feed_channel(&names, channel);
        }
        topology.streams = streams(pipeline, &names, &topology.consumers);
        let is_trimmed = |stage: &&Stage| is_trimmed(pipeline, stage);
        topology.trimmed = pipeline
            .stages
            .iter()
            .filter(is_trimmed)
            .map(|stage| names.out_stream(&stage.name))
            .collect();
        topology.consumers.push(ConsumerSpec {
            stream: names.advisories_stream(),
            name: names.router_consumer(),
            pipeline: pipeline.name.clone(),
            filters: Vec::new(),
            ack_wait: limits::ROUTER_ACK_WAIT,
            // An advisory that cannot be routed now must be routed later.
            max_deliver: None,
            max_ack_pending: limits::ROUTER_ACK_PENDING_MAX,
        });
        let sources: Vec<_> = pipeline.sources.iter().map(|source| source.stream(&names)).collect();
        topology.consumers.sort_by_key(|consumer| sources.contains(&consumer.stream));
        topology
    }

    /// The feeds of a map stage, or of a channel by its [`Names::channel_stage`]. A chained stage
    /// has none: it runs inside the worker of the stage before.
    pub fn feeds(&self, stage: &str) -> Vec<Feed> {
        self.feeds
            .iter()
            .filter(|feed| feed.stage == stage && feed.input != FeedInput::Quarantine)
            .cloned()
            .collect()
    }

    /// The feed of quarantined events of a map stage or a channel; `None`: the stage has no feeds.
    pub fn quarantine(&self, stage: &str) -> Option<Feed> {
        self.feeds
            .iter()
            .find(|feed| feed.stage == stage && feed.input == FeedInput::Quarantine)
            .cloned()
    }

    /// The stream of redriven and parked events.
    pub fn retry_stream(&self) -> String {
        Names::new(&self.pipeline).retry_stream()
    }

    /// Every feed.
    pub fn all_feeds(&self) -> &[Feed] {
        &self.feeds
    }

    /// Consumer by which a stage reads a stream; `None`: it reads it not, or by offset.
    pub fn reader(&self, stage: &str, stream: &str) -> Option<&ConsumerSpec> {
        let feed = self.feeds.iter().find(|feed| {
            feed.stage == stage && feed.stream == stream && feed.input != FeedInput::Quarantine
        })?;
        self.consumers.iter().find(|spec| spec.stream == stream && spec.name == feed.consumer)
    }

    /// True if events can be sent to the stage alone, through the retry stream.
    pub fn takes_retries(&self, stage: &str) -> bool {
        self.feeds.iter().any(|feed| feed.stage == stage && feed.input == FeedInput::Retry)
    }

    /// Every stream that a reduce stage reads by offset.
    pub fn all_reads(&self) -> &[Read] {
        &self.reads
    }

    /// The streams that a reduce stage reads by offset.
    pub fn reads(&self, stage: &str) -> Vec<Read> {
        self.reads.iter().filter(|read| read.stage == stage).cloned().collect()
    }

    fn feed(&mut self, names: &Names, stage: &Stage, inputs: Inputs) {
        for (stream, (input, filters)) in
            inputs.into_iter().chain([retry_input(names, &stage.name)])
        {
            let consumer = ConsumerSpec {
                stream,
                name: names.stage_consumer(&stage.name),
                pipeline: self.pipeline.clone(),
                filters,
                ack_wait: stage.ack_wait,
                // On an edge what the server gave up on would be trimmed like what is settled, so
                // there the server gives up on nothing: workers count. Elsewhere, one more shows
                // that the last was never settled; the rest, for a worker to live long enough to
                // see it.
                max_deliver: (input != FeedInput::Edge)
                    .then(|| stage.policy.attempts_max() + 1 + limits::SPARE_DELIVERIES),
                max_ack_pending: stage.max_ack_pending,
            };
            self.add(&stage.name, input, consumer);
        }
        self.feed_quarantine(names, &stage.name, stage.ack_wait);
    }

    fn feed_quarantine(&mut self, names: &Names, stage: &str, ack_wait: Duration) {
        let consumer = ConsumerSpec {
            stream: names.retry_stream(),
            name: names.quarantine_consumer(stage),
            pipeline: self.pipeline.clone(),
            filters: vec![names.quarantine_subject(stage)],
            ack_wait,
            max_deliver: Some(limits::QUARANTINED_RUNS_MAX + 1 + limits::SPARE_DELIVERIES),
            max_ack_pending: limits::QUARANTINE_AT_ONCE_MAX,
        };
        self.add(stage, FeedInput::Quarantine, consumer);
    }

    fn feed_channel(&mut self, names: &Names, channel: &Channel) {
        let stage = Names::channel_stage(&channel.name);
        let notifications =
            (names.notify_stream(), (FeedInput::Edge, vec![names.notify_subject(&channel.name)]));
        for (stream, (input, filters)) in [notifications, retry_input(names, &stage)] {
            let consumer = ConsumerSpec {
                stream,
                name: names.stage_consumer(&stage),
                pipeline: self.pipeline.clone(),
                filters,
                ack_wait: limits::CHANNEL_ACK_WAIT,
                max_deliver: Some(channel.policy.attempts_max() + 1 + limits::SPARE_DELIVERIES),
                max_ack_pending: limits::CHANNEL_ACK_PENDING_MAX,
            };
            self.add(&stage, input, consumer);
        }
        self.feed_quarantine(names, &stage, limits::CHANNEL_ACK_WAIT);
    }

    fn add(&mut self, stage: &str, input: FeedInput, consumer: ConsumerSpec) {
        self.feeds.push(Feed {
            stage: stage.to_owned(),
            stream: consumer.stream.clone(),
            consumer: consumer.name.clone(),
            input,
            filters: consumer.filters.clone(),
        });
        self.consumers.push(consumer);
    }
}

fn stages(pipeline: &Pipeline) -> Vec<String> {
    let channels = pipeline.channels.iter().map(|channel| Names::channel_stage(&channel.name));
    pipeline.stages.iter().map(|stage| stage.name.clone()).chain(channels).collect()
}

fn renamed(pipeline: &Pipeline) -> Vec<(String, String)> {
    let stages = pipeline.stages.iter();
    let of = |stage: &Stage| {
        let name = stage.name.clone();
        stage.renamed_from.clone().into_iter().map(move |old| (old, name.clone()))
    };
    stages.flat_map(of).collect()
}

/// Inputs of a stage, by stream: a stage has one consumer per stream.
type Inputs = BTreeMap<String, (FeedInput, Vec<String>)>;

fn inputs(pipeline: &Pipeline, names: &Names, stage: &Stage) -> Inputs {
    let mut inputs = Inputs::new();
    for input in &stage.inputs {
        let (stream, read, filters) = match input {
            Input::Source(name) => {
                let source = pipeline.sources.iter().find(|source| source.name == *name);
                let source = source.expect("a checked pipeline declares every source it names");
                let filters =
                    if source.external.is_some() { source.subjects.clone() } else { Vec::new() };
                (source.stream(names), FeedInput::Source(source.envelope), filters)
            }
            Input::Results(from) => {
                let filters =
                    stage.types.iter().map(|pattern| names.out_filter(from, pattern)).collect();
                (names.out_stream(from), FeedInput::Edge, filters)
            }
            Input::Failed(from) => {
                (names.failed_stream(), FeedInput::Failed, vec![names.failed_filter(from)])
            }
            Input::Findings => {
                (names.failed_stream(), FeedInput::Failed, vec![names.finding_filter()])
            }
        };
        inputs.entry(stream).or_insert_with(|| (read, Vec::new())).1.extend(filters);
    }
    for (_, filters) in inputs.values_mut() {
        *filters = uncovered(std::mem::take(filters));
    }
    inputs
}

/// The keys of the state bucket that a stage of its kind follows.
fn operator_read(names: &Names, stage: &Stage) -> Option<Read> {
    let follows = stage.kind.follows;
    let filters =
        follows.iter().map(|prefix| names.state_subject(&format!("{prefix}.>"))).collect();
    let read = Read {
        stage: stage.name.clone(),
        stream: names.state_stream(),
        filters,
        input: FeedInput::Operator,
    };
    (!follows.is_empty()).then_some(read)
}

fn retry_input(names: &Names, stage: &str) -> (String, (FeedInput, Vec<String>)) {
    (names.retry_stream(), (FeedInput::Retry, vec![names.retry_subject(stage)]))
}

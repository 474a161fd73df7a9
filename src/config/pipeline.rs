//! Pipeline: a configuration that needs no further checks.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use millstream_stages::{
    ChannelTerms, Envelope, Kind, Problem, aggregate_errors, alert, breaker, retry::Policy,
};
use serde_json::Value;

use crate::{
    broker::{Broker, Nats},
    channels::{ChannelContext, Deliver, Words},
    wire::Names,
};

/// A configuration that needs no further checks. What is named here exists, and no stage reads
/// itself.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The prefix of everything the pipeline owns in NATS.
    pub name: String,
    /// The folder that relative paths in the file start from.
    pub base: PathBuf,
    /// The first 12 hexadecimal digits of the SHA-256 of the file as it was read.
    pub config_hash: String,
    /// How to reach the broker.
    pub nats: Nats,
    /// What is published into it.
    pub sources: Vec<Source>,
    /// Its stages, each after what it reads.
    pub stages: Vec<Stage>,
    /// Where notifications go.
    pub channels: Vec<Channel>,
    /// How its streams are kept.
    pub storage: Storage,
    /// What it shows of itself.
    pub observe: Observe,
}

/// Subjects that events are published on, and the stream that keeps them.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name.
    pub name: String,
    /// What is captured; for an external stream, what is read of it (empty: all).
    pub subjects: Vec<String>,
    /// How its events are encoded.
    pub envelope: Envelope,
    /// How long they are kept.
    pub max_age: Duration,
    /// How much of them is kept, in bytes.
    pub max_bytes: Option<u64>,
    /// A stream that is not ours, read in place of one of our own.
    pub external: Option<String>,
}

/// One stage of the graph. Its `Debug` shows no options: they may hold secrets.
#[derive(Clone)]
pub struct Stage {
    /// Its name.
    pub name: String,
    /// Its kind.
    pub kind: &'static Kind,
    /// The kind's own keys.
    pub options: Value,
    /// What it reads, globs resolved.
    pub inputs: Vec<Input>,
    /// Patterns of the event types it reads, with NATS wildcards; empty: all.
    pub types: Vec<String>,
    /// Events in hand at once, per worker.
    pub concurrency: usize,
    /// How long the server waits for a sign of life before it hands an event to another worker.
    pub ack_wait: Duration,
    /// Deliveries in hand over the whole fleet, waits of retries included.
    pub max_ack_pending: u64,
    /// When and how often a failed event comes back.
    pub policy: Policy,
    /// When its handler counts as down; `None`: never.
    pub breaker: Option<breaker::Settings>,
    /// Which of its letters are redriven when it is up again; `None`: none.
    pub recover: Option<Recover>,
    /// The window in which the server drops results with a known id; `None`: it does not.
    pub dedup: Option<Duration>,
    /// Whether it runs inside the worker of the one stage that it reads.
    pub chain: bool,
}

/// Which letters of a stage are redriven by themselves when it is up again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recover {
    /// Error classes whose letters are; `*` stands for any text. Empty: all.
    pub classes: Vec<String>,
    /// No letter that was given up on longer ago.
    pub max_age: Duration,
    /// No letter that was redriven as often.
    pub max_redrives: u32,
    /// Letters a second.
    pub per_second: f64,
    /// The key-value bucket whose key for a letter's tenant says whether it is active; `None`: all
    /// are.
    pub tenants: Option<String>,
    /// What is asked whether the stage is up, besides its breaker.
    pub check: Option<Check>,
}

/// What is asked whether a stage is up.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Who is asked.
    pub of: CheckOf,
    /// How often.
    pub every: Duration,
}

/// Who is asked whether a stage is up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOf {
    /// A URL that must answer 2xx to a GET.
    Http(String),
    /// A `host:port` that must take a connection.
    Tcp(String),
    /// A NATS subject that must answer a request.
    Nats(String),
}

/// What a stage reads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// What was published to a source.
    Source(String),
    /// The results of a stage.
    Results(String),
    /// The failed attempts of a map stage.
    Failed(String),
    /// What the monitor found.
    Findings,
}

/// Where notifications go. Its `Debug` shows no options: they may hold secrets.
#[derive(Clone)]
pub struct Channel {
    /// Its name.
    pub name: String,
    /// Its kind: the name of a line in `channels::CHANNELS`.
    pub kind: String,
    /// The kind's own keys, secrets filled in: not for printing.
    pub options: Value,
    /// The templates of its titles and texts.
    pub words: Words,
    /// Notifications a minute at the most; what exceeds it is folded into a digest.
    pub rate_per_minute: u32,
    /// Whether it is told when an incident is over.
    pub send_resolved: bool,
    /// When and how often a failed delivery is tried again.
    pub policy: Policy,
}

/// How streams are kept.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Copies of each stream in the cluster.
    pub replicas: usize,
    /// In memory instead of on disk.
    pub memory: bool,
    /// How long results are kept where a reduce stage reads them.
    pub results_max_age: Duration,
    /// How long failed attempts are kept.
    pub failed_max_age: Duration,
    /// How long dead letters are kept.
    pub dlq_max_age: Duration,
    /// How much of dead letters is kept, in bytes.
    pub dlq_max_bytes: Option<u64>,
    /// How long an event may wait in the retry stream; zero: without end.
    pub retry_max_age: Duration,
}

/// What a worker shows of itself.
#[derive(Debug, Clone)]
pub struct Observe {
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None`: nowhere.
    pub listen: Option<SocketAddr>,
    /// The OTLP/HTTP endpoint spans go to, such as `http://127.0.0.1:4318`; `None`: nowhere.
    pub otlp: Option<String>,
    /// The share of traces that are exported, 0 to 1.
    pub sample: f64,
}

impl Pipeline {
    /// The names of its objects in NATS.
    pub fn names(&self) -> Names {
        Names::new(&self.name)
    }

    /// The map stage that delivers the notifications of a channel of this pipeline. Without a
    /// broker it sends nothing over it.
    ///
    /// # Errors
    /// What is wrong with the channel's keys.
    pub fn deliver(
        &self,
        channel: &Channel,
        broker: Option<Broker>,
    ) -> Result<Deliver, Vec<Problem>> {
        let names = self.names();
        let incidents = self.stages.iter().filter(|stage| stage.aggregates());
        let context = ChannelContext {
            name: channel.name.clone(),
            pipeline: self.name.clone(),
            base: self.base.clone(),
            live: names.live_subject(&channel.name),
            incidents: incidents.map(|stage| names.out_filter(&stage.name, ">")).collect(),
            broker,
        };
        Deliver::build(&channel.kind, &channel.options, &channel.words, &context)
    }

    /// The source whose events are in `stream`. Anyone may have written them; all else in our
    /// streams is our own.
    pub fn source_of(&self, stream: &str) -> Option<&Source> {
        let names = self.names();
        self.sources.iter().find(|source| match &source.external {
            Some(external) => external == stream,
            None => names.source_stream(&source.name) == stream,
        })
    }

    /// The folders that stages read files from, besides the configuration itself.
    pub fn folders(&self) -> impl Iterator<Item = PathBuf> {
        self.stages
            .iter()
            .filter_map(|stage| Some(self.base.join(stage.options.get("schemas")?.as_str()?)))
    }

    /// The stage of this name.
    pub fn stage(&self, name: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.name == name)
    }

    /// The stages that read `input`.
    pub fn readers<'a>(&'a self, input: &'a Input) -> impl Iterator<Item = &'a Stage> {
        self.stages.iter().filter(move |stage| stage.inputs.contains(input))
    }

    /// The stages chained directly to `stage`.
    pub fn chained_to<'a>(&'a self, stage: &'a str) -> impl Iterator<Item = &'a Stage> {
        self.stages
            .iter()
            .filter(move |s| s.chain && s.inputs == [Input::Results(stage.to_owned())])
    }

    /// Whether the results of `stage` cross a stream: someone reads them who is not chained.
    pub fn has_edge(&self, stage: &str) -> bool {
        let results = Input::Results(stage.to_owned());
        self.readers(&results).any(|reader| !reader.chain)
    }
}

impl Channel {
    /// What a stage that sends to it knows of it.
    pub fn terms(&self) -> ChannelTerms {
        let Self { name, rate_per_minute, send_resolved, .. } = self;
        ChannelTerms {
            name: name.clone(),
            per_minute: *rate_per_minute,
            send_resolved: *send_resolved,
        }
    }
}

impl Stage {
    /// Whether it makes incidents of errors.
    pub fn aggregates(&self) -> bool {
        self.kind.name == aggregate_errors::KIND.name
    }

    /// Whether what it emits are notifications.
    pub fn notifies(&self) -> bool {
        self.kind.name == alert::KIND.name
    }

    /// Whether it maps events (and does not reduce them).
    pub fn is_map(&self) -> bool {
        matches!(self.kind.build, millstream_stages::Build::Map(_))
    }
}

impl std::fmt::Debug for Stage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { name, kind, inputs, types, chain, .. } = self;
        let mut shown = f.debug_struct("Stage");
        shown
            .field("name", name)
            .field("kind", &kind.name)
            .field("inputs", inputs)
            .field("types", types);
        shown.field("chain", chain).finish_non_exhaustive()
    }
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

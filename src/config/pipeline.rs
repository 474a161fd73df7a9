//! Pipeline: checked configuration, which needs no further checks.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use millstream_stages::{
    ChannelTerms, Emits, Envelope, Kind, Problem, aggregate_errors, breaker, matcher::LABELS,
    rate::Rate, retry::Policy,
};
use serde_json::Value;

use crate::{
    broker::{Broker, Nats},
    channels::{ChannelContext, Deliver, Words},
    wire::Names,
};

/// Labels that incidents may have, by the options of the stages that make them.
pub fn incident_labels<'a>(options: impl Iterator<Item = &'a Value>) -> BTreeSet<String> {
    let always = LABELS.map(str::to_owned);
    always.into_iter().chain(options.flat_map(aggregate_errors::labels_of)).collect()
}

/// Checked configuration. Every name in it exists, and no stage reads itself.
#[derive(Debug, Clone)]
pub struct Pipeline {
    /// The prefix of everything the pipeline owns in NATS.
    pub name: String,
    /// Id that tells it from another pipeline of the same name; `None`: it has none.
    pub id: Option<String>,
    /// The folder that relative paths in the file start from.
    pub base: PathBuf,
    /// The first 12 hexadecimal digits of the SHA-256 of the file as it was read.
    pub config_hash: String,
    /// Address and credentials of the broker.
    pub nats: Nats,
    /// Sources that events are published to.
    pub sources: Vec<Source>,
    /// Stages, each after its inputs.
    pub stages: Vec<Stage>,
    /// Channels that notifications go to.
    pub channels: Vec<Channel>,
    /// Storage of its streams.
    pub storage: Storage,
    /// Endpoints of metrics and spans.
    pub observe: Observe,
}

/// Subjects that events are published on, and the stream that keeps them.
#[derive(Debug, Clone)]
pub struct Source {
    /// Name of the source.
    pub name: String,
    /// Subjects captured; of an external stream, subjects read (empty: all).
    pub subjects: Vec<String>,
    /// Encoding of its events.
    pub envelope: Envelope,
    /// Age up to which its events are kept.
    pub max_age: Duration,
    /// Size up to which its events are kept, in bytes.
    pub max_bytes: Option<u64>,
    /// Choice of what gives way where it is full.
    pub on_full: OnFull,
    /// A stream that is not ours, read in place of one of our own.
    pub external: Option<String>,
}

pub use super::written::OnFull;

/// One stage of the graph. Its `Debug` shows no options: they may hold secrets.
#[derive(Clone)]
pub struct Stage {
    /// Name of the stage.
    pub name: String,
    /// Kind of the stage.
    pub kind: &'static Kind,
    /// The kind's own keys.
    pub options: Value,
    /// Inputs, globs resolved.
    pub inputs: Vec<Input>,
    /// Patterns of the event types it reads, with NATS wildcards; empty: all.
    pub types: Vec<String>,
    /// Events in flight at once, per worker.
    pub concurrency: usize,
    /// Ack wait: time the server gives a delivery before it hands it out again.
    pub ack_wait: Duration,
    /// Deliveries in flight over the whole fleet, waits of retries included.
    pub max_ack_pending: u64,
    /// Retry policy of failed events.
    pub policy: Policy,
    /// Circuit breaker of its handler; `None`: it has none.
    pub breaker: Option<breaker::Settings>,
    /// Recovery: letters redriven when the stage is up again; `None`: none.
    pub recover: Option<Recover>,
    /// Window in which the server drops results with a known id; `None`: results of a map stage
    /// carry no id.
    pub dedup: Option<Duration>,
    /// True for a chained stage: it runs inside the worker of the one stage that it reads.
    pub chain: bool,
    /// Names that the stage had before.
    pub renamed_from: Vec<String>,
}

/// Recovery: letters of a stage that are redriven by themselves when it is up again.
#[derive(Debug, Clone, PartialEq)]
pub struct Recover {
    /// Error classes whose letters are redriven; `*` stands for any text. Empty: all.
    pub classes: Vec<String>,
    /// Age past which a letter is not redriven, from when it was given up on.
    pub max_age: Duration,
    /// Redrives after which a letter is not redriven again.
    pub max_redrives: u32,
    /// Rate of the redrive.
    pub rate: Rate,
    /// The key-value bucket whose key for a letter's tenant says whether it is active; `None`: all
    /// are.
    pub tenants: Option<String>,
    /// Health check of the stage, besides its breaker.
    pub check: Option<Check>,
}

/// Health check of a stage.
#[derive(Debug, Clone, PartialEq)]
pub struct Check {
    /// Target of the check.
    pub of: CheckOf,
    /// Interval of the check.
    pub every: Duration,
}

/// Target of a health check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CheckOf {
    /// A URL that must answer 2xx to a GET.
    Http(String),
    /// A `host:port` that must take a connection.
    Tcp(String),
    /// A NATS subject that must answer a request.
    Nats(String),
}

/// Input of a stage.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Input {
    /// Events published to a source.
    Source(String),
    /// The results of a stage.
    Results(String),
    /// The failed attempts of a map stage.
    Failed(String),
    /// Findings of the monitor.
    Findings,
}

/// Channel that notifications go to. Its `Debug` shows no options: they may hold secrets.
#[derive(Clone)]
pub struct Channel {
    /// Name of the channel.
    pub name: String,
    /// Kind of the channel: the name of a line in `channels::CHANNELS`.
    pub kind: String,
    /// The kind's own keys, secrets filled in: not for printing.
    pub options: Value,
    /// The templates of its titles and texts.
    pub words: Words,
    /// Highest rate of notifications; what exceeds it is folded into a digest.
    pub rate: Rate,
    /// True if the channel is notified when an incident is over.
    pub send_resolved: bool,
    /// Retry policy of failed deliveries.
    pub policy: Policy,
}

/// Storage of the pipeline's streams.
#[derive(Debug, Clone)]
pub struct Storage {
    /// Copies of each stream in the cluster.
    pub replicas: usize,
    /// In memory instead of on disk.
    pub memory: bool,
    /// Age up to which results are kept where a reduce stage reads them.
    pub results_max_age: Duration,
    /// Age up to which failed attempts are kept.
    pub failed_max_age: Duration,
    /// Age up to which dead letters are kept.
    pub dlq_max_age: Duration,
    /// Size up to which dead letters are kept, in bytes.
    pub dlq_max_bytes: Option<u64>,
    /// Size up to which a stream without a limit of its own is kept, in bytes.
    pub max_bytes: Option<u64>,
    /// Size up to which failed attempts are kept, in bytes.
    pub failed_max_bytes: Option<u64>,
    /// Size up to which the results of each stage are kept, in bytes.
    pub results_max_bytes: Option<u64>,
    /// Size up to which parked and redriven events are kept, in bytes.
    pub retry_max_bytes: Option<u64>,
    /// Size of the state bucket at the most, in bytes.
    pub state_max_bytes: Option<u64>,
    /// Time that an event may wait in the retry stream; zero: without end.
    pub retry_max_age: Duration,
}

/// Endpoints of a worker's metrics and spans.
#[derive(Debug, Clone)]
pub struct Observe {
    /// Address of `/metrics`, `/healthz` and `/readyz`; `None`: they are not served.
    pub listen: Option<SocketAddr>,
    /// The OTLP/HTTP endpoint spans go to, such as `http://127.0.0.1:4318`; `None`: nowhere.
    pub otlp: Option<String>,
    /// The share of traces that are exported, 0 to 1.
    pub sample: f64,
}

impl Pipeline {
    /// Names of the pipeline's objects in NATS.
    pub fn names(&self) -> Names {
        let renamed = self.stages.iter().filter(|stage| !stage.renamed_from.is_empty());
        let before = renamed.map(|stage| (stage.name.clone(), stage.renamed_from.clone()));
        Names::new(&self.name).renamed(before.collect())
    }

    /// Labels that incidents of this pipeline may have.
    pub fn incident_labels(&self) -> BTreeSet<String> {
        incident_labels(
            self.stages.iter().filter(|stage| stage.aggregates()).map(|stage| &stage.options),
        )
    }

    /// The map stage that delivers the notifications of a channel of this pipeline. Without a
    /// broker it sends nothing over it.
    ///
    /// # Errors
    /// Problems of the channel's keys.
    pub fn deliver(
        &self,
        channel: &Channel,
        broker: Option<Broker>,
    ) -> Result<Deliver, Vec<Problem>> {
        let names = self.names();
        let incidents = self.stages.iter().filter(|stage| stage.aggregates());
        let context = ChannelContext {
            name: channel.name.clone(),
            base: self.base.clone(),
            incidents: incidents.map(|stage| names.out_filter(&stage.name, ">")).collect(),
            names,
            broker,
        };
        Deliver::build(&channel.kind, &channel.options, &channel.words, &context)
    }

    /// The source whose events are in `stream`. Anyone may have written them; all else in our
    /// streams is our own.
    pub fn source_of(&self, stream: &str) -> Option<&Source> {
        let names = self.names();
        self.sources.iter().find(|source| source.stream(&names) == stream)
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

    /// Stage that took over from the stage of this name, which is gone; `None`: none says so.
    pub fn heir(&self, gone: &str) -> Option<&Stage> {
        self.stages.iter().find(|stage| stage.renamed_from.iter().any(|name| name == gone))
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

    /// True if the results of `stage` cross a stream: a reader is not chained to it.
    pub fn has_edge(&self, stage: &str) -> bool {
        let results = Input::Results(stage.to_owned());
        self.readers(&results).any(|reader| !reader.chain)
    }
}

impl Source {
    /// Stream that holds the events of the source.
    pub fn stream(&self, names: &Names) -> String {
        self.external.clone().unwrap_or_else(|| names.source_stream(&self.name))
    }
}

impl Channel {
    /// Terms of the channel, as a stage that sends to it knows them.
    pub fn terms(&self) -> ChannelTerms {
        let Self { name, rate, send_resolved, .. } = self;
        ChannelTerms { name: name.clone(), rate: *rate, send_resolved: *send_resolved }
    }
}

impl Stage {
    /// True if the stage makes incidents of errors.
    pub fn aggregates(&self) -> bool {
        self.kind.emits == Emits::Incidents
    }

    /// True if the stage emits notifications.
    pub fn notifies(&self) -> bool {
        self.kind.emits == Emits::Notifications
    }

    /// True for a map stage, false for a reduce stage.
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

//! Written: the tables of `pipeline.toml` as they are written, with their defaults.
//!
//! Doc comments of the tables are printed by `millstream schema`, for editors.

use millstream_stages::{
    Envelope, breaker,
    rate::Rate,
    units::{Period, Size},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// Days to seconds.
const DAY: u64 = 86_400;

/// The pipeline itself.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct PipelineTable {
    /// The prefix of everything the pipeline owns in NATS.
    pub name: Option<String>,
    /// Tells this pipeline from another of the same name: `apply` refuses to rewrite what a
    /// pipeline with another id made. `init` writes one.
    pub id: Option<String>,
}

/// Connection to NATS. Without `url`, `demo` and `dev` start a server of their own.
#[derive(Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct NatsTable {
    /// Servers to try, such as `nats://127.0.0.1:4222`.
    pub url: Option<OneOrMore>,
    /// A credentials file.
    pub creds: Option<String>,
    /// An nkey seed.
    pub nkey: Option<String>,
    /// A user name; goes with `password`.
    pub user: Option<String>,
    /// The user's password, better written as `${VAR}` or `${file:PATH}`.
    pub password: Option<String>,
    /// A token.
    pub token: Option<String>,
    /// Certificates.
    pub tls: Option<TlsTable>,
}

/// Certificates, as paths of PEM files.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct TlsTable {
    /// The certificate authority to trust, besides the system's.
    pub ca: Option<String>,
    /// Our certificate; goes with `key`.
    pub cert: Option<String>,
    /// The key of our certificate.
    pub key: Option<String>,
}

/// One text or a list of them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMore {
    /// One.
    One(String),
    /// A list.
    More(Vec<String>),
}

/// What a source does with an event for which there is no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum OnFull {
    /// Refuses what is new.
    #[default]
    Refuse,
    /// Drops what is oldest.
    Drop,
}

/// Subjects that events are published on, and the stream that keeps them.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourceTable {
    /// Subjects to capture, with NATS wildcards.
    pub subjects: Vec<String>,
    /// Encoding of its events.
    pub envelope: Envelope,
    /// Retention time of events.
    pub max_age: Period,
    /// Largest total size of the events kept.
    pub max_bytes: Option<Size>,
    /// What becomes of an event for which there is no room: `refuse` it, so that its publisher
    /// knows (what every stage has read makes room before), or `drop` the oldest, read or not.
    pub on_full: OnFull,
    /// A stream that is not ours, read in place of one of our own.
    pub external: Option<String>,
}

/// The keys that every stage has, whatever its kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StageTable {
    /// The work of the stage, such as `validate`.
    pub kind: Option<String>,
    /// The list of inputs: `source.<name>`, a stage, `<stage>.failed`; `*` stands for any name.
    #[schemars(length(min = 1))]
    pub inputs: Vec<String>,
    /// The event types it reads, with NATS wildcards; none: all.
    pub types: Vec<String>,
    /// Events in flight at once, per worker. 256 for validate, 64 for handle, 1 for stages that
    /// keep state.
    #[schemars(range(min = 1, max = 10_000))]
    pub concurrency: Option<usize>,
    /// The retry policy: a `[retry.<name>]` table; absent: `default`.
    pub retry: Option<String>,
    /// Time the server waits for a sign of life before it hands an event to another worker.
    pub ack_wait: Period,
    /// Deliveries in flight over the whole fleet, waits of retries included.
    #[schemars(range(min = 1, max = 1_000_000))]
    pub max_ack_pending: u64,
    /// The window in which the server drops results with a known id.
    pub dedup: Option<Period>,
    /// The circuit breaker: while its handler counts as down, the stage waits instead of failing
    /// its events. `false`, `true`, or what opens it; on for handle by default.
    pub breaker: Option<BreakerTable>,
    /// Runs it inside the worker of the one stage it reads, with no stream between.
    pub chain: bool,
    /// Dead letters of this stage that are redriven automatically when it is up again; `true`: by
    /// the defaults.
    pub recover: Option<RecoverSetting>,
    /// The name, or names, that the stage had before: what they hold goes on as its own.
    pub renamed_from: Option<OneOrMore>,
}

/// `recover` as it is written: on, off, or a table of settings.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum RecoverSetting {
    /// On, as by default, or off.
    Switch(bool),
    /// On, with these settings.
    Table(RecoverTable),
}

/// Dead letters of a stage that are redriven when its breaker closes or its health check passes;
/// the rest are marked permanent.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct RecoverTable {
    /// Error classes whose letters are redriven, such as `ConnectionError`; `*` stands for any
    /// text. None: all.
    pub classes: Vec<String>,
    /// No letter that was given up on longer ago.
    pub max_age: Period,
    /// Rate of the redrive.
    pub rate: Rate,
    /// No letter whose event was redriven as often.
    #[schemars(range(min = 1, max = 1000))]
    pub max_redrives: u32,
    /// The key-value bucket whose key for a tenant says whether it is active; absent: all are.
    pub tenants: Option<String>,
    /// Health check of the stage, besides its breaker.
    pub check: Option<CheckTable>,
}

/// Health check that says whether a stage is up: one of `http`, `tcp` and `nats`.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckTable {
    /// A URL that must answer 2xx to a GET.
    pub http: Option<String>,
    /// A `host:port` that must take a connection.
    pub tcp: Option<String>,
    /// A NATS subject that must answer a request.
    pub nats: Option<String>,
    /// Time between two checks.
    pub every: Period,
}

/// Circuit breaker of a stage: on, off, or what opens it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
#[schemars(inline)]
pub enum BreakerTable {
    /// On or off.
    Switch(bool),
    /// On, with thresholds and waits of its own.
    Settings(breaker::Settings),
}

/// The keys that every channel has, whatever its kind.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ChannelTable {
    /// The destination of its notifications, such as `slack`.
    pub kind: Option<String>,
    /// Highest rate of notifications; what exceeds it is folded into a digest. By default, under
    /// what the provider of the kind takes.
    pub rate: Option<Rate>,
    /// A template of the title, such as `{{ severity|upper }}: {{ title }}`. It sees the
    /// notification as JSON, `incident` (the first one; null in a digest), and `incidents`.
    pub title: Option<String>,
    /// A template of the text, like `title`.
    pub text: Option<String>,
    /// Sends a notification when an incident is over.
    pub send_resolved: bool,
    /// The retry policy of a delivery: a `[retry.<name>]` table; absent: `default`.
    pub retry: Option<String>,
}

/// Storage and retention of streams.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct StorageTable {
    /// Copies of each stream in the cluster.
    #[schemars(range(min = 1, max = 5))]
    pub replicas: usize,
    /// On disk or in memory.
    pub storage: Medium,
    /// Retention time of results, where a stage that keeps state reads them.
    pub results_max_age: Period,
    /// Retention time of failed attempts.
    pub failed_max_age: Period,
    /// Retention time of dead letters.
    pub dlq_max_age: Period,
    /// Largest total size of dead letters. When it is reached, workers hold what fails until there
    /// is room.
    pub dlq_max_bytes: Option<Size>,
    /// Size of each stream that has no limit of its own, the retry stream apart. Edges and
    /// notifications then refuse what is new; the rest drop what is oldest.
    pub max_bytes: Option<Size>,
    /// Largest total size of failed attempts.
    pub failed_max_bytes: Option<Size>,
    /// Largest total size of the results of each stage.
    pub results_max_bytes: Option<Size>,
    /// Largest total size of parked and redriven events. When it is reached, the oldest are lost:
    /// the server lets a stream with schedules do nothing else.
    pub retry_max_bytes: Option<Size>,
    /// Largest total size of checkpoints, leases and what operators said.
    pub state_max_bytes: Option<Size>,
    /// Longest wait of an event in the retry stream before it becomes a dead letter; `"0s"`:
    /// without end.
    pub retry_max_age: Period,
}

/// Storage medium of streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Medium {
    /// On disk.
    #[default]
    File,
    /// In memory: gone with the server.
    Memory,
}

/// Metrics, health checks and traces of a worker.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ObserveTable {
    /// Address that serves `/metrics`, `/healthz` and `/readyz`, such as `127.0.0.1:9464`; absent:
    /// none.
    pub listen: Option<String>,
    /// The OTLP/HTTP endpoint spans go to, such as `http://127.0.0.1:4318`; absent: nowhere.
    pub otlp: Option<String>,
    /// The share of traces that are exported, 0 to 1.
    #[schemars(range(min = 0.0, max = 1.0))]
    pub sample: f64,
}

impl Default for SourceTable {
    fn default() -> Self {
        let max_age = Period::seconds(7 * DAY);
        Self {
            subjects: Vec::new(),
            envelope: Envelope::Domain,
            max_age,
            max_bytes: None,
            on_full: OnFull::Refuse,
            external: None,
        }
    }
}

impl Default for StageTable {
    fn default() -> Self {
        Self {
            kind: None,
            inputs: Vec::new(),
            types: Vec::new(),
            concurrency: None,
            retry: None,
            ack_wait: Period::seconds(30),
            max_ack_pending: 10_000,
            dedup: None,
            breaker: None,
            chain: false,
            recover: None,
            renamed_from: None,
        }
    }
}

impl Default for RecoverTable {
    fn default() -> Self {
        Self {
            classes: Vec::new(),
            max_age: Period::seconds(DAY),
            rate: Rate::per_second(50),
            max_redrives: 3,
            tenants: None,
            check: None,
        }
    }
}

impl Default for CheckTable {
    fn default() -> Self {
        Self { http: None, tcp: None, nats: None, every: Period::seconds(10) }
    }
}

impl Default for ChannelTable {
    fn default() -> Self {
        Self { kind: None, rate: None, title: None, text: None, send_resolved: true, retry: None }
    }
}

impl Default for StorageTable {
    fn default() -> Self {
        Self {
            replicas: 1,
            storage: Medium::File,
            results_max_age: Period::seconds(7 * DAY),
            failed_max_age: Period::seconds(7 * DAY),
            dlq_max_age: Period::seconds(30 * DAY),
            dlq_max_bytes: None,
            max_bytes: None,
            failed_max_bytes: None,
            results_max_bytes: None,
            retry_max_bytes: None,
            state_max_bytes: None,
            retry_max_age: Period::seconds(7 * DAY),
        }
    }
}

impl Default for ObserveTable {
    fn default() -> Self {
        Self { listen: None, otlp: None, sample: 1.0 }
    }
}

impl OneOrMore {
    /// All of them.
    pub fn all(&self) -> &[String] {
        match self {
            Self::One(text) => std::slice::from_ref(text),
            Self::More(texts) => texts,
        }
    }
}

//! Broker: connections, publishes, pulls and administration of NATS, and the embedded server.
//!
//! The only room that names `async_nats`.

mod admin;
mod announce;
mod budget;
mod clock;
mod connect;
mod connection;
mod delivered;
mod demand;
mod install;
mod kv;
mod lease;
mod listen;
mod lives;
mod lowered;
mod message;
mod objects;
mod overview;
mod publish;
mod pull;
mod read;
mod redo;
mod refusal;
mod request;
pub mod server;
mod settings;
mod survey;
mod unpack;

pub use admin::{AdminError, ConsumerState, StreamState};
pub use announce::AnnounceError;
pub use async_nats::{HeaderMap as Headers, HeaderValue};
pub use clock::{Clock, Skew};
pub use connect::{BROKER_REMEDY, ConnectError, SERVER_VERSION_MIN};
pub use delivered::Delivered;
pub use kv::{CommitError, KvChange};
pub use lease::Lease;
pub use listen::{ListenError, Listening};
pub use lives::{Heard, KvHeard, Mark};
pub use message::{Malformed, StoredMessage, get, header, set, unix_ms};
pub use objects::{ConsumerSpec, FoundConsumer, Retention, StreamSpec};
pub use overview::{ReaderOverview, StreamOverview};
pub use publish::{Expects, Outgoing, PublishError, Stored};
pub use pull::{Pull, PullError};
pub use read::Scan;
pub use refusal::Refusal;
pub use request::{Answer, RequestError};
pub use settings::{Auth, Nats};
pub use survey::{AccountLimits, FoundStream, Subjects};

/// Connection to the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    /// Addresses of the settings, without secrets.
    address: std::sync::Arc<str>,
    /// Connection that carries messages.
    connection: connection::Connection,
    /// Client for the API, for writes of keys, and for all that is rare.
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: async_nats::jetstream::Context,
    /// Subjects that the server refuses us.
    refusals: std::sync::Arc<refusal::Refusals>,
    /// Clock of the broker.
    clock: std::sync::Arc<Clock>,
    /// Bytes that feeds may have on their way.
    budget: budget::Budget,
    /// Publishes that may wait for their ack at once, large ones as many, and raw reads for their
    /// answer.
    publishes: std::sync::Arc<tokio::sync::Semaphore>,
    raw_reads: std::sync::Arc<tokio::sync::Semaphore>,
}

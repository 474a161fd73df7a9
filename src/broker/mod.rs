//! Broker: connections, publishes, pulls and administration of NATS, and the embedded server.
//!
//! The only room that names `async_nats`.

mod admin;
mod announce;
mod connect;
mod install;
mod kv;
mod lease;
mod listen;
mod lives;
mod message;
mod objects;
mod overview;
mod publish;
mod pull;
mod read;
mod request;
pub mod server;
mod settings;

pub use admin::{AdminError, ConsumerState, StreamState};
pub use announce::AnnounceError;
pub use async_nats::{HeaderMap as Headers, HeaderValue};
pub use connect::{ConnectError, FatalError, SERVER_VERSION_MIN};
pub use kv::{CommitError, KvChange};
pub use lease::Lease;
pub use listen::{ListenError, Listening};
pub use lives::{Heard, KvHeard, Mark};
pub use message::{StoredMessage, get, header, set, unix_ms};
pub use objects::{ConsumerSpec, FoundConsumer, Retention, StreamSpec};
pub use overview::{ReaderOverview, StreamOverview};
pub use publish::{Expects, Outgoing, PublishError, Stored};
pub use pull::{Delivered, Pull, PullError};
pub use read::Scan;
pub use request::{Answer, RequestError};
pub use settings::{Auth, Nats};

/// Connection to the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: async_nats::jetstream::Context,
    /// First subject that the server refused us, once there is one.
    pub(crate) fatal: tokio::sync::watch::Receiver<Option<FatalError>>,
}

//! Broker: the only room that names `async_nats`: connecting, publishing, pulling, administering,
//! and the embedded server.

mod admin;
mod announce;
mod connect;
mod install;
mod kv;
mod lease;
mod listen;
mod objects;
mod publish;
mod pull;
mod read;
mod request;
pub mod server;

pub use admin::{AdminError, ConsumerState, StreamState};
pub use announce::AnnounceError;
use async_nats::HeaderName;
pub use async_nats::{HeaderMap as Headers, HeaderValue};
pub use connect::{ConnectError, FatalError, SERVER_VERSION_MIN, install_tls_provider};
pub use kv::{CommitError, KvChange};
pub use lease::Lease;
pub use listen::{ListenError, Listening};
pub use objects::{ConsumerSpec, FoundConsumer, Retention, StreamSpec};
pub use publish::{Expects, Outgoing, PublishError, Stored};
pub use pull::{Delivered, Pull, PullError};
pub use read::{Scan, StoredMessage, unix_ms};
pub use request::{Answer, RequestError};

/// A connection to the broker. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Broker {
    pub(crate) client: async_nats::Client,
    pub(crate) jetstream: async_nats::jetstream::Context,
    /// What the server has refused us, once it has.
    pub(crate) fatal: tokio::sync::watch::Receiver<Option<FatalError>>,
}

/// Sets a header. The name is taken as it is: the client would copy it each time.
pub fn set(headers: &mut Headers, name: &'static str, value: impl Into<HeaderValue>) {
    headers.insert(HeaderName::from_static(name), value.into());
}

/// The value of a header.
pub fn get<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name)).map(HeaderValue::as_str)
}

/// A value for a header of ours: outside text goes through [`millstream_stages::headers::clean`]
/// first.
pub fn header(text: &str) -> HeaderValue {
    use std::str::FromStr as _;
    let clean = || HeaderValue::from(millstream_stages::headers::clean(text).as_str());
    if text.chars().any(char::is_control) {
        clean()
    } else {
        HeaderValue::from_str(text).unwrap_or_else(|_| clean())
    }
}

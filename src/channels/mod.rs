//! Channels: delivery of notifications to people and systems.
//!
//! One file and one line in [`CHANNELS`] per channel. Touches HTTP services, mail servers,
//! browsers, the log and the broker.

mod address;
mod alertmanager;
mod alerts;
mod deliver;
mod dingtalk;
mod email;
mod group_robot;
mod http;
mod log;
mod nats;
mod pagerduty;
mod redact;
pub mod sample;
mod sanitize;
mod slack;
mod template;
mod webhook;
mod websocket;
mod wecom;

use std::{path::PathBuf, pin::Pin, sync::Arc, time::Duration};

use millstream_stages::{Delivery, Pending, Problem, notification::Notification, rate::Rate};
use schemars::Schema;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::{broker::Broker, wire::Names};
pub use deliver::{Deliver, TEXT_BYTES_MAX, TITLE_BYTES_MAX, Words};
pub use redact::MASK;
pub use template::TEMPLATE;

/// Every channel, one line each. A new channel is one file and one line here.
pub const CHANNELS: &[ChannelKind] = &[
    log::KIND,
    webhook::KIND,
    email::KIND,
    slack::KIND,
    pagerduty::KIND,
    dingtalk::KIND,
    wecom::KIND,
    nats::KIND,
    alertmanager::KIND,
    websocket::KIND,
];

/// Kind of channel: its name, its options, and its constructor.
#[derive(Debug)]
pub struct ChannelKind {
    /// Value of `kind` in `pipeline.toml`.
    pub name: &'static str,
    /// One sentence on what it does, for `schema` and hints.
    pub about: &'static str,
    /// Most notifications a minute where the table names no `rate`: under what the provider takes.
    pub per_minute: u32,
    /// JSON Schema of the kind's own keys (not the keys every channel has).
    pub options: fn() -> Schema,
    /// Constructor from its own keys. Touches no network: `check` builds channels, too.
    pub build: fn(&Value, &ChannelContext) -> Built,
}

/// Channel, or everything that is wrong with its keys.
pub type Built = Result<Arc<dyn Channel>, Vec<Problem>>;

/// Service of a channel while a worker runs; it ends when it is asked to stop.
pub type Endpoint = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Surroundings that channels are built with.
#[derive(Debug, Clone, Default)]
pub struct ChannelContext {
    /// Name of the channel. Errors show it in place of addresses, which may be secrets.
    pub name: String,
    /// Folder that relative paths start from.
    pub base: PathBuf,
    /// Names of the pipeline's objects.
    pub names: Names,
    /// Subjects that the pipeline's incidents come on, with wildcards.
    pub incidents: Vec<String>,
    /// Broker; `None` where nothing will be sent (`check`).
    pub broker: Option<Broker>,
}

/// Channel that notifications are sent to.
pub trait Channel: Send + Sync {
    /// Sends one notification. At least once: the same may come again, with the same id.
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()>;

    /// Text of what [`Channel::send`] would send, as a person can read it, secrets redacted.
    fn preview(&self, notification: &Notification) -> String;

    /// Most time that [`Channel::send`] may take; `None` where it does no I/O.
    fn timeout(&self) -> Option<Duration> {
        None
    }

    /// Service besides sending, for as long as a worker runs; `None` where the channel only sends.
    fn endpoint(self: Arc<Self>, _stop: CancellationToken) -> Option<Endpoint> {
        None
    }
}

/// Builds a channel of a kind from the kind's own keys.
///
/// # Errors
/// Problems of the keys, each with its key path; or that there is no such kind, at `kind`.
pub fn build(kind: &str, options: &Value, context: &ChannelContext) -> Built {
    match CHANNELS.iter().find(|known| known.name == kind) {
        Some(known) => (known.build)(options, context),
        None => {
            let names: Vec<&str> = CHANNELS.iter().map(|kind| kind.name).collect();
            let problem = Problem::new(&["kind"], format!("unknown kind of channel \"{kind}\""));
            Err(vec![problem.hint(format!("one of: {}", names.join(", ")))])
        }
    }
}

/// Highest rate of a kind, where its table names none.
pub fn rate(kind: &str) -> Rate {
    let known = CHANNELS.iter().find(|known| known.name == kind);
    Rate::per_minute(known.unwrap_or(&log::KIND).per_minute)
}

/// Reads a channel's keys as its own type.
fn read<T: DeserializeOwned>(options: &Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(options.clone())
        .map_err(|error| vec![Problem::new(&[], error.to_string())])
}

/// JSON of a value as a person can read it.
fn pretty(value: &impl serde::Serialize) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

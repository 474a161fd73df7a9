//! Channels: where notifications go; one file per channel, one line per channel in [`CHANNELS`].

mod log;
mod nats;
mod webhook;

use std::{sync::Arc, time::Duration};

use millstream_stages::{Delivery, Event, Failure, Map, Pending, Problem, failure::class, notification::Notification};
use schemars::Schema;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::broker::Broker;

/// Every channel, one line each. A new channel is one file and one line here.
pub const CHANNELS: &[ChannelKind] = &[log::KIND, webhook::KIND, nats::KIND];

/// One kind of channel: its name, its options, and how to build it.
#[derive(Debug)]
pub struct ChannelKind {
    /// The value of `kind` in `pipeline.toml`.
    pub name: &'static str,
    /// One sentence on what it does, for `schema` and hints.
    pub about: &'static str,
    /// The JSON Schema of the kind's own keys (not the keys every channel has).
    pub options: fn() -> Schema,
    /// Builds it from its own keys. Touches no network: `check` builds channels, too.
    pub build: fn(&Value, &ChannelContext) -> Built,
}

/// A channel, or everything that is wrong with its keys.
pub type Built = Result<Arc<dyn Channel>, Vec<Problem>>;

/// What channels are built with.
#[derive(Debug, Clone, Default)]
pub struct ChannelContext {
    /// The channel's own name. Errors say it in place of addresses, which may be secrets.
    pub name: String,
    /// The broker; `None` where nothing will be sent (`check`).
    pub broker: Option<Broker>,
}

/// Somewhere notifications go.
pub trait Channel: Send + Sync {
    /// Sends one notification. At least once: the same may come again, with the same id.
    fn send<'a>(&'a self, notification: &'a Notification, delivery: &'a Delivery) -> Pending<'a, ()>;

    /// How long [`Channel::send`] may take; `None` where it does no I/O.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}

/// Builds a channel of a kind from the kind's own keys.
///
/// # Errors
/// What is wrong with them, each problem with its key path; or that there is no such kind, at `kind`.
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

/// A channel's keys as its own type.
fn read<T: DeserializeOwned>(options: &Value) -> Result<T, Vec<Problem>> {
    serde_json::from_value(options.clone()).map_err(|error| vec![Problem::new(&[], error.to_string())])
}

/// The map stage that delivers the notifications of one channel, so that they are retried and dead-lettered like any event.
pub struct Deliver {
    channel: Arc<dyn Channel>,
}

impl Deliver {
    /// The stage that sends to this channel.
    pub fn new(channel: Arc<dyn Channel>) -> Self {
        Self { channel }
    }
}

impl Map for Deliver {
    fn apply<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Vec<Event>> {
        Box::pin(async move {
            let notification: Notification = serde_json::from_slice(&event.body)
                .map_err(|error| Failure::reject(class::DECODE, format!("not a notification: {error}")))?;
            self.channel.send(&notification, delivery).await?;
            Ok(Vec::new())
        })
    }

    fn timeout(&self) -> Option<Duration> {
        self.channel.timeout()
    }
}

impl std::fmt::Debug for Deliver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Deliver").finish_non_exhaustive()
    }
}

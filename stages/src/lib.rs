//! Millstream's decisions: what each kind of stage does with an event.
//!
//! Nothing here touches a broker, a clock, a socket, a file or a thread: time
//! is an argument, and the world is reached through [`World`] and [`Handler`].
//! The engine in the `millstream` crate gives these decisions their events
//! and carries them out.
//!
//! # Layout
//!
//! - this file: the two contracts, [`Map`] and [`Reduce`], and [`KINDS`], the list of kinds
//! - [`event`], [`delivery`], [`failure`]: what a stage is given, and what it answers
//! - [`retry`], [`settle`]: how long to wait, and how a delivery ends
//! - [`headers`], [`units`], [`text`]: the names on every message; durations, sizes and outside
//!   text as people read them
//! - [`envelope`], [`jq`], [`replies`]: reading an event, filters over one, what a handler's answer
//!   means
//! - [`fingerprint`], [`incident`], [`notification`]: what errors become
//! - [`operator`], [`matcher`]: what people say of them, and which are meant
//! - [`simulate`]: stored errors run through the rules, in memory
//! - [`validate`], [`handle`], [`aggregate_errors`], [`alert`]: the four kinds, one file each
#![warn(missing_docs)]

pub mod aggregate_errors;
pub mod alert;
pub mod breaker;
pub mod delivery;
pub mod envelope;
pub mod event;
pub mod failure;
pub mod fingerprint;
pub mod handle;
pub mod headers;
pub mod incident;
pub mod jq;
pub mod matcher;
pub mod notification;
pub mod operator;
pub mod replies;
pub mod retry;
mod schemas;
pub mod settle;
pub mod simulate;
mod slots;
#[cfg(test)]
mod testing;
pub mod text;
pub mod units;
pub mod validate;

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::Value;

pub use delivery::Delivery;
pub use event::{Envelope, Event};
pub use failure::{Disposition, Failure};

/// Every kind of stage, one line per kind. A new kind is one file and one line here.
pub const KINDS: &[Kind] = &[validate::KIND, handle::KIND, aggregate_errors::KIND, alert::KIND];

/// One kind of stage: its name in `pipeline.toml`, its options, and how to build it.
#[derive(Debug)]
pub struct Kind {
    /// The value of `kind` in `pipeline.toml`.
    pub name: &'static str,
    /// One sentence on what it does, for `schema`, `graph` and hints.
    pub about: &'static str,
    /// The JSON Schema of the kind's own keys (not the keys every stage has).
    pub options: fn() -> schemars::Schema,
    /// Builds the stage from its own keys.
    pub build: Build,
    /// Prefixes of keys in the state bucket, such as `incident` for `incident.<id>`, that the stage
    /// reads besides its inputs: what operators say. Each comes as an [`Input`] with a
    /// [`Input::key`].
    pub follows: &'static [&'static str],
}

/// A stage built from its options, or everything that is wrong with them.
pub type Built<T> = Result<Box<T>, Vec<Problem>>;

/// How a kind is built from its options, by what it needs from the engine.
#[derive(Debug)]
pub enum Build {
    /// One event in, zero or more out; no memory.
    Map(fn(&Value, &dyn World) -> Built<dyn Map>),
    /// Keyed state and timers over a stream.
    Reduce(fn(&Value, &dyn World) -> Built<dyn Reduce>),
}

/// What a kind may ask for while it is built.
pub trait World {
    /// The `.json` files below a folder named in the configuration, as (relative path, text),
    /// sorted by path.
    ///
    /// # Errors
    /// One sentence that says why the folder cannot be read.
    fn folder(&self, path: &str) -> Result<Vec<(String, String)>, String>;

    /// The handler that a `handler = { … }` table describes.
    ///
    /// # Errors
    /// What is wrong with the table, each problem with its key path inside it.
    fn handler(&self, options: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>>;

    /// Every channel that `pipeline.toml` declares.
    fn channels(&self) -> Vec<ChannelTerms>;
}

/// What a stage that sends notifications knows of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelTerms {
    /// Its name.
    pub name: String,
    /// Notifications a minute, at the most.
    pub per_minute: u32,
    /// Whether it is told of ends.
    pub send_resolved: bool,
}

/// One thing wrong with a stage's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Keys from the table that was checked down to the offending value; array indices as numbers.
    pub at: Vec<String>,
    /// What is wrong: lower case, no full stop.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with the value at `at`.
    pub fn new(at: &[&str], message: impl Into<String>) -> Self {
        Self {
            at: at.iter().map(|key| (*key).to_owned()).collect(),
            message: message.into(),
            hint: None,
        }
    }

    /// The same problem with what to do about it.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// A future that the engine drives, borrowed from what made it.
pub type Pending<'a, T> = Pin<Box<dyn Future<Output = Result<T, Failure>> + Send + 'a>>;

/// A stage that maps one event to zero or more. It keeps no memory, so every worker runs every map
/// stage.
pub trait Map: Send + Sync {
    /// Whether the event is for this stage at all. One that is not ends here, done, and
    /// [`Map::apply`] is not called.
    ///
    /// # Errors
    /// That cannot be decided.
    fn takes(&self, _event: &Event) -> Result<bool, Failure> {
        Ok(true)
    }

    /// What becomes of one event. The engine publishes the events of an `Ok`, in order, before it
    /// acks.
    fn apply<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Vec<Event>>;

    /// How long [`Map::apply`] may take before the engine gives up on it with a `TimeoutError`.
    ///
    /// `None` where it does no I/O.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}

/// What a `handle` stage calls: HTTP, a NATS service, a child process, jq, Rust.
pub trait Handler: Send + Sync {
    /// Handles one event. At least once: the same event may come again, with the same id.
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply>;
}

/// What a handler did with an event it accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// It is done; the event itself passes on.
    Pass,
    /// It is done; these bodies pass on in its place (none: nothing passes on).
    Replace(Vec<Bytes>),
}

/// One message of a stream that a reduce stage reads, in stream order.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// The stream it came from.
    pub stream: &'a str,
    /// Its sequence in that stream.
    pub seq: u64,
    /// Its subject.
    pub subject: &'a str,
    /// The key of the state bucket that was written (body) or deleted (no body), where that is what
    /// it is.
    pub key: Option<&'a str>,
    /// When the server stored it, in milliseconds since 1970. State moves on this time, so a replay
    /// repeats itself.
    pub at_ms: u64,
    /// The worker's clock, in milliseconds since 1970: for limits on what leaves, never for what
    /// must repeat itself.
    pub now_ms: u64,
    /// A `traceparent` header, where it has one.
    pub traceparent: Option<&'a str>,
    /// Its payload.
    pub body: &'a Bytes,
}

/// One message that a reduce stage wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// The message id, derived from what the message says, so that a repeat is dropped as a
    /// duplicate.
    pub id: String,
    /// The token that ends its subject: the kind of incident event, or the name of a channel.
    pub route: String,
    /// Its payload, JSON.
    pub body: Vec<u8>,
}

/// A stage that keeps keyed state over a stream. One worker of the fleet runs it at a time.
///
/// The engine restores the state, applies messages in stream order, calls [`Reduce::tick`] when
/// [`Reduce::next_timer_ms`] is due, publishes the emissions, and then writes
/// [`Reduce::take_dirty`] together with the offsets in one compare-and-set. That write takes at
/// most 999 keys, so one call of `apply` or `tick` changes at most [`KEYS_PER_STEP_MAX`] of them.
pub trait Reduce: Send {
    /// What its emissions are, which decides the stream they go to.
    fn emits(&self) -> Emits {
        Emits::Results
    }

    /// Puts back one key of the state, as [`Reduce::take_dirty`] gave it.
    ///
    /// # Errors
    /// One sentence on what cannot be read; the engine then refuses to run the stage.
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String>;

    /// Takes in one message and adds what it gives rise to.
    ///
    /// # Errors
    /// A message that cannot be understood is rejected and becomes a dead letter; the state is
    /// unchanged.
    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure>;

    /// Lets time pass up to `now_ms` and adds what that gives rise to.
    ///
    /// What is too much for one step stays due: [`Reduce::next_timer_ms`] is then still in the
    /// past.
    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>);

    /// When [`Reduce::tick`] has something to do next, in milliseconds since 1970.
    fn next_timer_ms(&self) -> Option<u64>;

    /// What it has counted, ever, and what it holds now, for metrics and `status`: exact, since it
    /// is part of the state.
    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }

    /// How many keys changed since the last [`Reduce::take_dirty`].
    fn dirty_len(&self) -> usize;

    /// The keys that changed since the last call, each with its new value, or `None` where it is
    /// gone.
    ///
    /// Keys use `[A-Za-z0-9_-]` and dots only.
    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)>;
}

/// One number that a reduce stage keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tally {
    /// What it counts, as in the name of a metric; those that end in `_total` only grow.
    pub name: &'static str,
    /// What is told apart, by label: a channel, a reason. Values come from the configuration or a
    /// fixed set.
    pub labels: Vec<(&'static str, String)>,
    /// How many.
    pub value: u64,
}

/// How many keys of its state a reduce stage changes in one step, at the most.
pub const KEYS_PER_STEP_MAX: usize = 100;

/// What the emissions of a reduce stage are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emits {
    /// Results, which other stages may read.
    Results,
    /// Notifications, each for the channel that its route names.
    Notifications,
}

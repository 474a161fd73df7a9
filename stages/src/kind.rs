//! Kind: the contracts between the engine and a kind of stage, and what the engine knows of a kind.

use std::{fmt, future::Future, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use serde_json::Value;

use crate::{
    delivery::Delivery,
    envelope::{self, Carrier},
    event::{Envelope, Event, FIRST_VERSION, Identity},
    failure::Failure,
    headers,
    jq::Filter,
    rate::Rate,
};

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
    /// Emissions of its stages: decides the stream they go to and who may read them.
    pub emits: Emits,
    /// Events in flight per worker, where a stage's table does not say.
    pub concurrency: usize,
    /// True where a stage acts on what can be down: it may have a breaker and a recovery, and its
    /// results need no reader.
    pub calls_out: bool,
    /// True where a stage only accepts or rejects, without any effect: `dlq edit` asks it before a
    /// letter is stored.
    pub checks_only: bool,
    /// Numbers that its stages keep ([`Tally::name`]), each with its help text in `/metrics`.
    pub tallies: &'static [(&'static str, &'static str)],
    /// Prefixes of keys in the state bucket, such as `incident` for `incident.<id>`, that the stage
    /// reads besides its inputs: what operators say. Each comes as an [`Input`] with a
    /// [`Input::key`].
    pub follows: &'static [&'static str],
}

/// A stage built from its options, or everything that is wrong with them.
pub type Built<T> = Result<Box<T>, Vec<Problem>>;

/// Builder of a kind from its options, by what it needs from the engine.
#[derive(Debug)]
pub enum Build {
    /// One event in, zero or more out; no memory.
    Map(fn(&Value, &dyn World) -> Built<dyn Map>),
    /// Keyed state and timers over a stream.
    Reduce(fn(&Value, &dyn World) -> Built<dyn Reduce>),
}

/// Services of the engine to a kind while it is built.
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

/// Terms of a channel, for a stage that sends notifications.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelTerms {
    /// Name.
    pub name: String,
    /// Highest rate of notifications.
    pub rate: Rate,
    /// True where it is sent ends.
    pub send_resolved: bool,
}

/// One thing wrong with a stage's options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// Keys from the table that was checked down to the offending value; array indices as numbers.
    pub at: Vec<String>,
    /// Message: lower case, no full stop.
    pub message: String,
    /// Hint: what to do about it.
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
    /// Filter that an event must meet to be for this stage at all. One that does not ends here,
    /// done, and [`Map::apply`] is not called. The engine runs it, within bounds.
    fn when(&self) -> Option<&Arc<Filter>> {
        None
    }

    /// Turns one event into others. The engine publishes the events of an `Ok`, in order, before it
    /// acks.
    fn apply<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Vec<Event>>;

    /// Time that [`Map::apply`] may take before the engine gives up on it with a `TimeoutError`.
    ///
    /// `None` where it does no I/O.
    fn timeout(&self) -> Option<Duration> {
        None
    }
}

/// Target of a `handle` stage: HTTP, a NATS service, a child process, jq, Rust.
pub trait Handler: Send + Sync {
    /// Handles one event. At least once: the same event may come again, with the same id.
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply>;
}

/// Reply of a handler that accepted an event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// Done; the event itself passes on.
    Pass,
    /// Done; these bodies pass on in its place (none: nothing passes on).
    Replace(Vec<Bytes>),
}

/// One message of a stream that a reduce stage reads, in stream order.
#[derive(Debug, Clone, Copy)]
pub struct Input<'a> {
    /// Stream it came from.
    pub stream: &'a str,
    /// Sequence in that stream.
    pub seq: u64,
    /// Subject.
    pub subject: &'a str,
    /// Key of the state bucket that was written (body) or deleted (no body); `None` for a message
    /// of any other stream.
    pub key: Option<&'a str>,
    /// Envelope that the source is declared to have; `None` where Millstream published the message
    /// and its headers say it.
    pub envelope: Option<Envelope>,
    /// Headers.
    pub headers: HeaderLookup<'a>,
    /// Time at which the server stored it, in milliseconds since 1970. State moves on this time, so
    /// a replay repeats itself.
    pub at_ms: u64,
    /// The worker's clock, in milliseconds since 1970: for limits on what leaves, never for what
    /// must repeat itself.
    pub now_ms: u64,
    /// Payload.
    pub body: &'a Bytes,
}

impl<'a> Input<'a> {
    /// Id of the event, where Millstream published the message.
    pub fn id(&self) -> Option<&'a str> {
        self.headers.get(headers::EVENT_ID).filter(|_| self.envelope.is_none())
    }

    /// Name of the message beyond the life of its stream: `<stream>:<seq>@<ms>`.
    pub fn place(&self) -> String {
        format!("{}:{}@{}", self.stream, self.seq, self.at_ms)
    }

    /// The event: from the headers that Millstream wrote, else from the payload in its envelope.
    ///
    /// # Errors
    /// The payload is no event in that envelope.
    pub fn event(&self) -> Result<Event, Failure> {
        let header = |name| self.headers.get(name);
        let written = || header(headers::ENVELOPE).and_then(Envelope::named);
        let envelope = self.envelope.or_else(written).unwrap_or(Envelope::Raw);
        if let (Some(id), Some(event_type)) = (self.id(), header(headers::EVENT_TYPE)) {
            let identity = Identity {
                id: id.to_owned(),
                event_type: event_type.to_owned(),
                version: header(headers::EVENT_VERSION).unwrap_or(FIRST_VERSION).to_owned(),
                tenant: header(headers::TENANT).map(ToOwned::to_owned),
            };
            return Ok(Event::new(identity, envelope, self.body.clone()));
        }
        let carrier = Carrier {
            subject: self.subject,
            message_id: header(headers::MSG_ID),
            fallback_id: &self.place(),
        };
        envelope::decode(envelope, self.body.clone(), &carrier)
    }
}

/// Headers of a message, by name.
#[derive(Clone, Copy)]
pub struct HeaderLookup<'a>(&'a (dyn Fn(&'static str) -> Option<&'a str> + Sync));

impl<'a> HeaderLookup<'a> {
    /// No headers.
    pub fn none() -> Self {
        Self(&|_| None)
    }

    /// Headers that `lookup` finds.
    pub fn new(lookup: &'a (dyn Fn(&'static str) -> Option<&'a str> + Sync)) -> Self {
        Self(lookup)
    }

    /// Value of a header; the first where it has several.
    pub fn get(&self, name: &'static str) -> Option<&'a str> {
        (self.0)(name)
    }
}

impl fmt::Debug for HeaderLookup<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("HeaderLookup").finish_non_exhaustive()
    }
}

/// One message that a reduce stage wants published.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Emission {
    /// Message id, derived from what the message says, so that a repeat is dropped as a duplicate.
    pub id: String,
    /// End of its subject: the type of an event, the kind of an incident event, or the name of a
    /// channel.
    pub route: String,
    /// Envelope of the payload.
    pub envelope: Envelope,
    /// Headers besides id, type and envelope, or in their place. Values are cleaned by the engine.
    pub headers: Vec<(&'static str, String)>,
    /// Payload.
    pub body: Bytes,
}

impl Emission {
    /// A message of the stage's own: raw JSON, with its message id as the event's id.
    pub fn new(id: String, route: String, body: impl Into<Bytes>) -> Self {
        Self { id, route, envelope: Envelope::Raw, headers: Vec::new(), body: body.into() }
    }

    /// An input's event, passed on unchanged with its identity, origin and trace.
    pub fn pass(input: &Input<'_>, event: Event) -> Self {
        let place = input.place();
        let ours = |name| input.headers.get(name).filter(|_| input.envelope.is_none());
        let mut all = vec![
            (headers::EVENT_ID, event.id),
            (headers::SOURCE, ours(headers::SOURCE).unwrap_or(&place).to_owned()),
            (
                headers::SOURCE_SUBJECT,
                ours(headers::SOURCE_SUBJECT).unwrap_or(input.subject).to_owned(),
            ),
        ];
        if event.version != FIRST_VERSION {
            all.push((headers::EVENT_VERSION, event.version));
        }
        all.extend(event.tenant.map(|tenant| (headers::TENANT, tenant)));
        for name in [headers::REDRIVES, headers::TRACEPARENT] {
            let value = match name {
                headers::TRACEPARENT => input.headers.get(name),
                _ => ours(name),
            };
            all.extend(value.map(|value| (name, value.to_owned())));
        }
        Self {
            id: place,
            route: event.event_type,
            envelope: event.envelope,
            headers: all,
            body: event.body,
        }
    }
}

/// A stage that keeps keyed state over a stream. One worker of the fleet runs it at a time.
///
/// The engine restores the state, applies messages in stream order, calls [`Reduce::tick`] when
/// [`Reduce::next_timer_ms`] is due, publishes the emissions, and then writes
/// [`Reduce::take_dirty`] together with the offsets in one compare-and-set. That write takes at
/// most 999 keys, so one call of `apply` or `tick` changes at most [`KEYS_PER_STEP_MAX`] of them.
pub trait Reduce: Send {
    /// Restores one key of the state, as [`Reduce::take_dirty`] gave it.
    ///
    /// # Errors
    /// One sentence on what cannot be read; the engine then refuses to run the stage.
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String>;

    /// Takes in one message and adds the emissions it gives rise to.
    ///
    /// # Errors
    /// A message that cannot be understood is rejected and becomes a dead letter; the state is
    /// unchanged.
    fn apply(&mut self, input: &Input<'_>, out: &mut Vec<Emission>) -> Result<(), Failure>;

    /// Lets time pass up to `now_ms` and adds the emissions that gives rise to.
    ///
    /// Work beyond one step stays due: [`Reduce::next_timer_ms`] is then still in the past.
    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>);

    /// Time at which [`Reduce::tick`] has something to do next, in milliseconds since 1970.
    fn next_timer_ms(&self) -> Option<u64>;

    /// Counts since it began and sizes now, for metrics and `status`: exact, since they are part of
    /// the state.
    fn tallies(&self) -> Vec<Tally> {
        Vec::new()
    }

    /// Number of keys changed since the last [`Reduce::take_dirty`].
    fn dirty_len(&self) -> usize;

    /// Takes the keys changed since the last call, each with its new value, or `None` where it is
    /// gone.
    ///
    /// Keys use `[A-Za-z0-9_-]` and dots only.
    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)>;
}

/// A number that a reduce stage keeps.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Tally {
    /// Name of a metric; those that end in `_total` only grow.
    pub name: &'static str,
    /// Labels: a channel, a reason. Values come from the configuration or a fixed set.
    pub labels: Vec<(&'static str, String)>,
    /// Value.
    pub value: u64,
}

/// Most keys of its state that a reduce stage changes in one step.
pub const KEYS_PER_STEP_MAX: usize = 100;

/// Emissions of a kind's stages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Emits {
    /// Events, which any stage may read.
    Events,
    /// Incident events, which stages that keep state may read.
    Incidents,
    /// Notifications, each for the channel that its route names.
    Notifications,
}

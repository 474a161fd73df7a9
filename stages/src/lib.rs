//! Stages: decisions of every kind of stage on its events, without I/O.
//!
//! Nothing here touches a broker, a clock, a socket, a file or a thread: time is an argument, and
//! the world is reached through [`World`] and [`Handler`]. The engine in the `millstream` crate
//! gives these decisions their events and carries them out.
//!
//! # Layout
//!
//! - this file: [`KINDS`], the list of kinds; [`kind`]: the two contracts, [`Map`] and [`Reduce`]
//! - [`event`], [`delivery`], [`failure`]: input of a stage, and its answer where it fails
//! - [`retry`], [`settle`], [`breaker`]: waits, the end of a delivery, and calls held back while a
//!   dependency is down
//! - [`headers`], [`units`], [`text`]: names of headers; durations, sizes and outside text as
//!   people read them
//! - [`envelope`], [`jq`], [`replies`], `schemas`: readers of an event and of a handler's reply,
//!   filters over an event, JSON Schemas
//! - [`fingerprint`], [`incident`], [`notification`]: forms of an error on its way to people
//! - [`operator`], [`matcher`], `channel_names`: actions of people, conditions on labels, and lists
//!   of channels in options
//! - [`simulate`]: stored errors run through the rules, in memory; `slots`: keys of a reduce
//!   stage's state
//! - [`validate`], [`handle`], [`dedupe`], [`aggregate_errors`], [`alert`]: kinds, one file each
#![warn(missing_docs)]

pub mod aggregate_errors;
pub mod alert;
pub mod breaker;
mod calendar;
mod channel_names;
pub mod dedupe;
pub mod delivery;
pub mod envelope;
pub mod event;
pub mod failure;
pub mod fingerprint;
pub mod handle;
pub mod headers;
pub mod incident;
pub mod jq;
pub mod kind;
pub mod matcher;
pub mod notification;
pub mod operator;
pub mod rate;
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

pub use delivery::Delivery;
pub use event::{Envelope, Event};
pub use failure::{Disposition, Failure};
pub use kind::{
    Build, Built, ChannelTerms, Emission, Emits, Handler, HeaderLookup, Input, KEYS_PER_STEP_MAX,
    Kind, Map, Pending, Problem, Reduce, Reply, Tally, World,
};

/// Every kind of stage, one line per kind. A new kind is one file and one line here.
pub const KINDS: &[Kind] =
    &[validate::KIND, handle::KIND, dedupe::KIND, aggregate_errors::KIND, alert::KIND];

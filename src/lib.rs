//! Millstream: event pipelines that survive failure, on NATS JetStream.
//!
//! # Layout, in suggested reading order
//!
//! - `millstream_stages`, re-exported as [`stages`]: what each kind of stage decides; no I/O
//! - [`config`]: `pipeline.toml` as written, every problem found, a checked [`config::Pipeline`]
//! - [`topology`]: the streams and consumers a pipeline needs, and the reconciler
//! - [`broker`]: the only room that names `async_nats`; the embedded server
//! - [`wire`]: stored forms that rooms share: subjects, identity, records
//! - [`map`], [`reduce`]: the two engines
//! - [`dead_letter`]: letters, stored and read; [`redrive`]: letters sent back; [`exhausted`]:
//!   letters of what the server gave up on
//! - [`incidents`]: incidents and silences, and what operators report of them
//! - [`keeper`]: edges trimmed of what is settled, floors of readers, events lost unread
//! - [`handlers`], [`channels`]: calls of stages, and targets of notifications
//! - [`filters`]: jq within bounds, off the runtime's threads
//! - [`observe`]: metrics, spans, logs, status
//! - [`supervise`]: background tasks by name, started again after a panic
//! - [`worker`]: one process of the fleet; [`commands`]: the command line over all of it

mod bounded_file;
pub mod broker;
pub mod channels;
pub mod cli;
pub mod commands;
pub mod config;
pub mod dead_letter;
pub mod descriptors;
mod error_chain;
pub mod exhausted;
pub mod filters;
pub mod handlers;
mod http_client;
mod http_server;
pub mod incidents;
pub mod keeper;
pub mod limits;
pub mod map;
pub mod observe;
mod panics;
pub mod redrive;
pub mod reduce;
mod shortage;
mod steady;
mod suggest;
pub mod supervise;
pub mod tls;
pub mod topology;
pub mod wire;
pub mod worker;

pub use cli::Millstream;
pub use millstream_stages as stages;

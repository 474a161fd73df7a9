//! Connection: a lean connection to NATS for all that carries messages.
//!
//! The client drops its connection for what a message holds, and bounds messages but not bytes.
//! Here the bytes of messages are looked at by who takes them, one task reads and writes, and what
//! is on its way is bounded by who asked for it.

mod auth;
mod block;
mod dial;
mod handle;
mod parse;
mod run;
mod state;
mod write;

pub(super) use block::Block;
pub(super) use dial::DialError;
pub(super) use handle::{Connection, SendError, Subscription};
pub(super) use parse::Frame;
pub(super) use write::{Sending, Unsendable, is_subject};

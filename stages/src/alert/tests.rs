//! Tests of `alert`: notifications by time and channel, and accounts that lose nothing.

mod bounds;
mod holds;
mod laws;
mod outboxes;
mod restarts;
mod routes;
mod timing;
mod told;

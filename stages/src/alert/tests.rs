//! Tests of `alert`: what is told when, and that nothing is lost from the accounts.

mod bounds;
mod holds;
mod laws;
mod outboxes;
mod restarts;
mod routes;
mod timing;

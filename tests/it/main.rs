//! Integration tests: one binary, one file per behaviour; `support` starts the servers.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

mod alerting;
mod bad_events;
mod breaker;
mod broker;
mod channels;
mod cli;
mod config;
mod connection;
mod crash;
mod cut_proxy;
mod dedupe;
mod dlq;
mod edges;
mod faults;
mod flow;
mod handlers;
mod incarnation;
mod innocent;
mod jobs;
mod malformed;
mod leftovers;
mod limits;
mod observe;
mod proxy;
mod reaper;
mod recovery;
mod reduce;
mod server;
mod shell;
mod support;
mod tidy;
mod topology;

//! Benchmarks: Millstream against a bare client doing the same broker work on the same server in
//! the same run.
//!
//! `cargo run --release -p bench` prints the throughput of one stage hop; `-- letters`, `--
//! parked`, `-- outage`, `-- reading`, `-- memory`, `-- storm` and `-- alerting` measure what
//! happens when things fail. Absolute rates say more about the machine than about us; the ratio is
//! what we hold ourselves to.

mod alerting;
mod hop;
mod letters;
mod memory;
mod outage;
mod parked;
mod reading;
mod shop;
mod stored;
mod storm;

use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Millstream against a bare client doing the same broker work.
#[derive(Debug, Parser)]
struct Args {
    #[command(subcommand)]
    what: Option<What>,
    #[command(flatten)]
    hop: hop::Args,
    /// The nats-server program; found or installed without it
    #[arg(long, global = true, env = "MILLSTREAM_NATS_SERVER")]
    nats_server: Option<PathBuf>,
}

#[derive(Debug, Subcommand)]
enum What {
    /// One hop of the `validate` stage: parse, check against a JSON Schema, forward
    Hop(hop::Args),
    /// Time to store a dead letter or a retry, and the rate at which letters are redriven
    Letters(letters::Args),
    /// Fresh events while tens of thousands are parked, and that those survive a restart of the
    /// server
    Parked(parked::Args),
    /// The service behind a stage goes away under load and comes back, and nobody does anything
    Outage(outage::Args),
    /// The first page, the groups and the totals of a million letters
    Reading(reading::Args),
    /// The memory of a worker beside a million letters and 50 000 parked events
    Memory(memory::Args),
    /// A million errors in a minute: are counts exact, rates held, criticals sent, and is the rest
    /// of the pipeline undisturbed?
    Storm(storm::Args),
    /// Time from an error to its incident, to a WebSocket, to a mail server; and the memory of the
    /// alerting worker
    Alerting(alerting::Args),
    /// A worker by itself, to be measured from outside
    #[command(hide = true)]
    Worker(memory::WorkerArgs),
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    millstream::tls::install_provider();
    let program = args.nats_server.as_deref();
    match args.what.unwrap_or(What::Hop(args.hop)) {
        What::Hop(args) => hop::run(&args, program).await,
        What::Letters(args) => letters::run(&args, program).await,
        What::Parked(args) => parked::run(&args, program).await,
        What::Outage(args) => outage::run(&args, program).await,
        What::Reading(args) => reading::run(&args, program).await,
        What::Memory(args) => memory::run(&args, program).await,
        What::Storm(args) => storm::run(&args, program).await,
        What::Alerting(args) => alerting::run(&args, program).await,
        What::Worker(args) => memory::work(&args).await,
    }
}

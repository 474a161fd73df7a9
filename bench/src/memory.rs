//! Memory: size of a worker beside a million letters and tens of thousands of parked events.

use std::{
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, atomic::AtomicU64},
    time::Duration,
};

use anyhow::{Context as _, Result};
use millstream::{
    broker::Broker,
    worker::{Options, Worker},
};
use tokio::process::Child;

use crate::{
    letters::{FAILING, registry},
    parked::park,
    shop::{Bare, Shop, pipeline, until},
    stored::store,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Letters that are stored
    #[arg(long, default_value_t = 1_000_000)]
    letters: u64,
    /// Events that are parked
    #[arg(long, default_value_t = 50_000)]
    parked: u64,
    /// Events that the worker handles meanwhile, each failing once
    #[arg(long, default_value_t = 100_000)]
    events: u64,
}

#[derive(Debug, clap::Args)]
pub(crate) struct WorkerArgs {
    file: PathBuf,
    url: String,
    /// The stages it runs; none: all of it
    #[arg(long = "stage")]
    stages: Vec<String>,
}

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let shop = Shop::open(program, FAILING, registry(&Arc::new(AtomicU64::new(0)))).await?;
    let bare = Bare::new(shop.server.url()).await?;
    let file = shop.folder.join("pipeline.toml");
    let mut worker = worker(&file, shop.server.url(), &[])?;
    let pid = worker.id().context("it runs")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    println!("a worker at rest                                {:>6.1} MiB", resident_mib(pid)?);
    store(&shop, args.letters, "letter").await?;
    park(&bare, args.parked).await?;
    // Long enough for its gauges and its sweep to have looked at all of it.
    tokio::time::sleep(Duration::from_secs(35)).await;
    println!(
        "beside {} letters and {} parked        {:>6.1} MiB",
        args.letters,
        args.parked,
        resident_mib(pid)?
    );
    bare.publish(args.events).await?;
    let names = shop.pipeline.names();
    let mut most: f64 = 0.0;
    until("the events", async || {
        most = most.max(resident_mib(pid)?);
        let state = shop
            .broker
            .consumer_state(&names.source_stream("events"), &names.stage_consumer("work"))
            .await?;
        Ok(state.num_pending + state.num_ack_pending == 0)
    })
    .await?;
    println!("the most while {} events fail once each     {most:>6.1} MiB", args.events);
    worker.kill().await?;
    shop.close().await
}

/// Runs a worker of the pipeline in `file` until standard input ends.
pub(crate) async fn work(args: &WorkerArgs) -> Result<()> {
    let registry = registry(&Arc::new(AtomicU64::new(0)));
    let pipeline = pipeline(&args.file, &args.url, &registry)?;
    let broker = Broker::connect(&pipeline.nats, "bench worker").await?;
    let options =
        Options { stages: (!args.stages.is_empty()).then(|| args.stages.clone()), registry };
    let worker = Worker::start(broker, pipeline, options).await?;
    let ended = async {
        let mut rest = Vec::new();
        // Ends with whoever started us, whatever becomes of it.
        tokio::io::AsyncReadExt::read_to_end(&mut tokio::io::stdin(), &mut rest).await.ok();
    };
    ended.await;
    drop(worker);
    Ok(())
}

/// Worker in a process of its own, which ends when the `Child` is dropped.
pub(crate) fn worker(file: &Path, url: &str, stages: &[&str]) -> Result<Child> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.args(["worker".as_ref(), file.as_os_str(), url.as_ref()]);
    for stage in stages {
        command.args(["--stage", stage]);
    }
    Ok(command.stdin(Stdio::piped()).kill_on_drop(true).spawn()?)
}

/// Resident memory of a process, in MiB.
pub(crate) fn resident_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .context("Linux says how much")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}

//! Outage: a service behind a stage that goes away under load and comes back, without an operator.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::Result;
use futures_util::TryStreamExt as _;
use millstream::{
    broker::get,
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply, failure::class, headers},
};

use crate::shop::{Bare, Shop, until};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events published a second, all the while
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Length of the outage, in seconds
    #[arg(long, default_value_t = 120)]
    seconds: u64,
}

/// Pipeline of one stage with a breaker; without it an outage would exhaust an event in under two
/// seconds.
const OUTAGE: &str = r#"
[pipeline]
name = "bench"

[source.events]
subjects = ["events.>"]

[stage.work]
kind    = "handle"
inputs  = ["source.events"]
handler = { rust = "service" }
breaker = true

[retry.default]
attempts = 3
backoff  = { fixed = "500ms" }
"#;

/// Time that the service is there before and after the outage.
const CALM: Duration = Duration::from_secs(10);

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let (down, calls, handled) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let shop = Shop::open(program, OUTAGE, registry(&down, &calls, &handled)).await?;
    let bare = Bare::new(shop.server.url()).await?;
    let workers = [shop.work(&[]).await?, shop.work(&[]).await?];
    let outage = Duration::from_secs(args.seconds);
    let published = args.rate * (CALM + outage + CALM).as_secs();
    let (publishing, began) = (bare.publish_evenly(published, args.rate), Instant::now());
    let watching = async {
        tokio::time::sleep(CALM).await;
        let before = calls.load(Ordering::Relaxed);
        down.store(true, Ordering::Relaxed);
        tokio::time::sleep(outage).await;
        println!(
            "away for {} s at {} events/s: called {} times",
            args.seconds,
            args.rate,
            calls.load(Ordering::Relaxed) - before
        );
        down.store(false, Ordering::Relaxed);
        let (back, backlog) = (Instant::now(), args.rate * args.seconds);
        let behind = || {
            ((began.elapsed().as_secs_f64() * args.rate as f64) as u64)
                .saturating_sub(handled.load(Ordering::Relaxed))
        };
        until("the backlog", async || Ok(behind() < args.rate)).await?;
        let took = back.elapsed().as_secs_f64();
        println!(
            "backlog of {backlog} drained {took:.1} s after it was back, {:.0} events/s",
            backlog as f64 / took
        );
        anyhow::Ok(())
    };
    let (all, watched) = tokio::join!(publishing, watching);
    watched?;
    all?;
    until("the last events", async || Ok(handled.load(Ordering::Relaxed) >= published)).await?;
    let names = shop.pipeline.names();
    let letters = shop.broker.stream_state(&names.dlq_stream()).await?.messages;
    let mut spent = 0;
    let mut failed =
        std::pin::pin!(shop.broker.scan(&names.failed_stream(), &names.failed_filter("work"), 1));
    while let Some(record) = failed.try_next().await? {
        spent += u64::from(get(&record.headers, headers::OUTCOME) != Some("defer"));
    }
    println!(
        "{published} published, {} handled, {letters} dead letters, {spent} attempts spent",
        handled.load(Ordering::Relaxed)
    );
    for worker in workers {
        worker.drain(std::future::pending()).await;
    }
    shop.close().await
}

/// Service that refuses connections while it is down, and takes 2 ms an event while it is not.
fn registry(down: &Arc<AtomicBool>, calls: &Arc<AtomicU64>, handled: &Arc<AtomicU64>) -> Registry {
    let (down, calls, handled) = (Arc::clone(down), Arc::clone(calls), Arc::clone(handled));
    let service = handler_fn(move |_, _| {
        let (down, handled) = (Arc::clone(&down), Arc::clone(&handled));
        calls.fetch_add(1, Ordering::Relaxed);
        async move {
            if down.load(Ordering::Relaxed) {
                return Err(Failure::retry(class::CONNECTION, "connection refused"));
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
            handled.fetch_add(1, Ordering::Relaxed);
            Ok(Reply::Pass)
        }
    });
    Registry::new().with("service", service)
}

//! Hop: throughput of one stage hop against a bare client.

use std::{path::Path, time::Instant};

use anyhow::Result;
use millstream::handlers::Registry;

use crate::shop::{Bare, CONCURRENCY, HOP, Shop, median, until};

#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Events in each round
    #[arg(long, default_value_t = 100_000)]
    pub(crate) events: u64,
    /// Rounds; each runs the bare client and the stage
    #[arg(long, default_value_t = 3)]
    pub(crate) rounds: u32,
}

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let shop = Shop::open(program, HOP, Registry::new()).await?;
    let bare = Bare::new(shop.server.url()).await?;
    println!(
        "one hop of validate, {} events a round, {CONCURRENCY} in hand, \
         server and clients on one machine",
        args.events
    );
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        bare.publish(args.events).await?;
        // Turn about, so that neither side always has the warmer cache.
        let (bare_rate, stage_rate) = if round % 2 == 1 {
            let bare_rate = bare.hop(args.events).await?;
            (bare_rate, stage_hop(&shop, args.events).await?)
        } else {
            let stage_rate = stage_hop(&shop, args.events).await?;
            (bare.hop(args.events).await?, stage_rate)
        };
        let ratio = stage_rate / bare_rate;
        ratios.push(ratio);
        println!(
            "round {round}: bare {bare_rate:>8.0}/s   validate {stage_rate:>8.0}/s   \
             ratio {ratio:.2}"
        );
    }
    println!("median ratio {:.2}", median(ratios));
    shop.close().await
}

/// Runs the stage until it is done with `count` events; returns events a second.
pub(crate) async fn stage_hop(shop: &Shop, count: u64) -> Result<f64> {
    let began = Instant::now();
    let worker = shop.work(&["validate"]).await?;
    until("the stage", async || Ok(worker.metrics().stage("validate").done() >= count)).await?;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    worker.drain(std::future::pending()).await;
    Ok(rate)
}

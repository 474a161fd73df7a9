//! Parked: rate of fresh events while tens of thousands wait in an hour-long backoff, which survive
//! a restart of the server.

use std::path::Path;

use anyhow::{Result, ensure};
use millstream::handlers::Registry;

use crate::{
    hop::stage_hop,
    shop::{Bare, HOP, Shop, Window, event, median},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events that are parked
    #[arg(long, default_value_t = 50_000)]
    parked: u64,
    /// Fresh events in each round
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Rounds without and with parked events
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let mut shop = Shop::open(program, HOP, Registry::new()).await?;
    let bare = Bare::new(shop.server.url()).await?;
    let calm = rounds(args, &shop, &bare, "none").await?;

    park(&bare, args.parked).await?;
    let retry = shop.pipeline.names().retry_stream();
    let stored = shop.broker.stream_state(&retry).await?.messages;
    ensure!(stored == args.parked, "{stored} of {} are parked", args.parked);
    let crowded = rounds(args, &shop, &bare, &args.parked.to_string()).await?;
    println!(
        "fresh throughput beside {} parked events: {:.2} of that beside none",
        args.parked,
        crowded / calm
    );

    shop.server.kill_hard();
    shop.server.restart().await?;
    let stored = shop.broker.stream_state(&retry).await?.messages;
    println!("{stored} of {} are parked after kill -9 and restart of the server", args.parked);
    ensure!(stored == args.parked, "parked events were lost");
    shop.close().await
}

/// Median rate of the stage over the rounds, in events a second.
async fn rounds(args: &Args, shop: &Shop, bare: &Bare, parked: &str) -> Result<f64> {
    let mut rates = Vec::new();
    for round in 1..=args.rounds {
        bare.publish(args.events).await?;
        let (bare_rate, stage_rate) =
            (bare.hop(args.events).await?, stage_hop(shop, args.events).await?);
        let ratio = stage_rate / bare_rate;
        println!(
            "{parked:>6} parked, round {round}: bare {bare_rate:>8.0}/s   \
             validate {stage_rate:>8.0}/s   ratio {ratio:.2}"
        );
        rates.push(stage_rate);
    }
    Ok(median(rates))
}

/// Parks events for an hour, as the engine does: a message schedule each.
pub(crate) async fn park(bare: &Bare, count: u64) -> Result<()> {
    let due = millstream::wire::rfc3339(
        std::time::SystemTime::now() + std::time::Duration::from_secs(3600),
    );
    let window = Window::new();
    for n in 0..count {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Millstream-Event-Id", format!("order-{n:08}"));
        headers.insert("Millstream-Event-Type", "order.created");
        headers.insert("Millstream-Life", format!("bench-in-events:{}", n + 1));
        headers.insert("Millstream-Attempts", "3");
        headers.insert("Nats-Schedule", format!("@at {due}"));
        headers.insert("Nats-Schedule-Target", "bench.retry.validate");
        let subject = format!("bench.parked.validate-bench-in-events-{}", n + 1);
        let jetstream = bare.jetstream.clone();
        window
            .run(async move {
                let stored =
                    jetstream.publish_with_headers(subject, headers, event(n).into()).await?;
                Ok(stored.await?)
            })
            .await;
    }
    window.done().await;
    Ok(())
}

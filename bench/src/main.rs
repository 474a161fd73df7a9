//! Throughput of one stage hop against a bare client doing the same broker work, on the same streams in the same run.
//!
//! `cargo run --release -p bench` prints both rates and their ratio, round by round. Absolute rates say more about
//! the machine than about us; the ratio is what we hold ourselves to.

use std::{
    future::IntoFuture as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, AckKind, consumer};
use clap::Parser;
use futures_util::StreamExt as _;
use millstream::{
    broker::{Broker, server::Server},
    config::{self, Catalogue, Pipeline},
    topology::{self, Topology},
    worker::{Options, Worker},
};
use tokio::sync::Semaphore;

/// Measures one hop of the `validate` stage: parse, check against a JSON Schema, forward.
#[derive(Debug, Parser)]
struct Args {
    /// Events in each round
    #[arg(long, default_value_t = 100_000)]
    events: u64,
    /// Rounds; each runs the bare client and the stage
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// The nats-server program; found or installed without it
    #[arg(long, env = "MILLSTREAM_NATS_SERVER")]
    nats_server: Option<PathBuf>,
}

const PIPELINE: &str = r#"
[pipeline]
name = "bench"

[source.events]
subjects = ["events.>"]

[stage.validate]
kind        = "validate"
inputs      = ["source.events"]
schemas     = "schemas"
concurrency = 1024

[stage.sink]                     # keeps the edge open; it is not run
kind    = "handle"
inputs  = ["validate"]
handler = { log = "debug" }
"#;

const SCHEMA: &str = r#"{
  "$schema": "https://json-schema.org/draft/2020-12/schema",
  "type": "object",
  "required": ["orderId", "amount", "currency"],
  "properties": {
    "orderId":  { "type": "string", "minLength": 1 },
    "amount":   { "type": "number", "exclusiveMinimum": 0 },
    "currency": { "enum": ["EUR", "USD", "GBP"] }
  }
}"#;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Deliveries in hand at once, for both sides.
const CONCURRENCY: usize = 1024;

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    millstream::broker::install_tls_provider();
    let folder = std::env::temp_dir().join(format!("millstream-bench-{}", std::process::id()));
    std::fs::create_dir_all(folder.join("schemas"))?;
    std::fs::write(folder.join("pipeline.toml"), PIPELINE)?;
    std::fs::write(folder.join("schemas/order.created.1.json"), SCHEMA)?;
    let mut server = Server::start(&Server::find(args.nats_server.as_deref()).await?, &folder.join("nats")).await?;
    let measured = measure(&args, &folder.join("pipeline.toml"), server.url()).await;
    server.stop().await;
    std::fs::remove_dir_all(&folder)?;
    measured
}

async fn measure(args: &Args, file: &std::path::Path, url: &str) -> Result<()> {
    let set = [("nats.url".to_owned(), url.to_owned())];
    let loaded = config::load(file, &set, &[], &Catalogue::new(Default::default()));
    let pipeline = Arc::new(loaded.pipeline.with_context(|| config::render(&loaded.reports, false))?);
    let broker = Broker::connect(&pipeline.nats, "bench").await?;
    topology::make(&broker, &Topology::of(&pipeline)).await?;
    let bare = Bare::new(url).await?;
    println!(
        "one hop of validate, {} events a round, {CONCURRENCY} in hand, server and clients on one machine",
        args.events
    );
    let mut ratios = Vec::new();
    for round in 1..=args.rounds {
        bare.publish(args.events).await?;
        // Turn about, so that neither side always has the warmer cache.
        let (bare_rate, stage_rate) = if round % 2 == 1 {
            let bare_rate = bare.hop(args.events).await?;
            (bare_rate, stage_hop(&pipeline, args.events).await?)
        } else {
            let stage_rate = stage_hop(&pipeline, args.events).await?;
            (bare.hop(args.events).await?, stage_rate)
        };
        let ratio = stage_rate / bare_rate;
        ratios.push(ratio);
        println!("round {round}: bare {bare_rate:>8.0}/s   validate {stage_rate:>8.0}/s   ratio {ratio:.2}");
    }
    ratios.sort_by(f64::total_cmp);
    println!("median ratio {:.2}", ratios[ratios.len() / 2]);
    Ok(())
}

/// Runs the stage until it is done with `count` events.
async fn stage_hop(pipeline: &Arc<Pipeline>, count: u64) -> Result<f64> {
    let broker = Broker::connect(&pipeline.nats, "bench stage").await?;
    let options = Options { stages: Some(vec!["validate".to_owned()]), ..Options::default() };
    let began = Instant::now();
    let worker = Worker::start(broker, Arc::clone(pipeline), options).await?;
    while worker.metrics().stage("validate").done() < count {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    let rate = count as f64 / began.elapsed().as_secs_f64();
    worker.drain(std::future::pending()).await;
    Ok(rate)
}

/// A bare client that does the same broker work: pull, publish the same bytes, await the PubAck, ack.
struct Bare {
    jetstream: jetstream::Context,
    consumer: consumer::PullConsumer,
}

impl Bare {
    async fn new(url: &str) -> Result<Self> {
        let jetstream = jetstream::new(async_nats::connect(url).await?);
        let config = consumer::pull::Config {
            durable_name: Some("bare".to_owned()),
            max_ack_pending: 10_000,
            ..Default::default()
        };
        let consumer = jetstream.create_consumer_on_stream(config, "bench-in-events").await?;
        Ok(Self { jetstream, consumer })
    }

    async fn publish(&self, count: u64) -> Result<()> {
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        for n in 0..count {
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let event = serde_json::json!({
                "eventId": format!("order-{n:08}"), "eventType": "order.created", "eventVersion": "1",
                "tenantId": "acme", "aggregateId": format!("o-{n}"), "timestamp": "2026-01-01T00:00:00Z",
                "eventData": { "orderId": format!("o-{n}"), "amount": 5 + n % 90, "currency": "EUR", "note": "leave it at the door" },
            });
            let stored = self.jetstream.publish("events.order.created", event.to_string().into()).await?.into_future();
            tokio::spawn(async move {
                stored.await.expect("the local server stores what is published");
                drop(slot);
            });
        }
        let _all = slots.acquire_many(u32::try_from(CONCURRENCY)?).await?;
        Ok(())
    }

    async fn hop(&self, count: u64) -> Result<f64> {
        let slots = Arc::new(Semaphore::new(CONCURRENCY));
        let done = Arc::new(AtomicU64::new(0));
        let began = Instant::now();
        let mut messages = self.consumer.stream().max_messages_per_batch(1000).messages().await?;
        for _ in 0..count {
            let message = messages.next().await.context("the consumer ended")??;
            let slot = Arc::clone(&slots).acquire_owned().await?;
            let (jetstream, done) = (self.jetstream.clone(), Arc::clone(&done));
            tokio::spawn(async move {
                let stored = jetstream.publish("bench.out.validate.order.created", message.payload.clone()).await;
                stored.expect("the local server is there").await.expect("the local server stores what is published");
                message.ack_with(AckKind::Ack).await.expect("the local server is there");
                done.fetch_add(1, Ordering::Relaxed);
                drop(slot);
            });
        }
        while done.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

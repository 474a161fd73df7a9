//! Letters: time to store the outcome of a failed attempt, and the rate at which letters are
//! redriven.

use millstream::{
    dead_letter::LetterFilter,
    handlers::{Registry, handler_fn},
    observe::Outcome,
    redrive::{
        context::{Context, Progress},
        job::{self, Job, Kind},
        run::{self, Ended},
        store::{Claim, Jobs},
        targets::Targets,
    },
    stages::{Failure, Reply},
};
use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use anyhow::{Context as _, Result, anyhow, bail};
use async_nats::jetstream::consumer;
use futures_util::TryStreamExt as _;
use tokio_util::sync::CancellationToken;

use crate::{
    shop::{Bare, Shop, Window, until},
    stored::store,
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Events that fail, at the rate of `--rate`
    #[arg(long, default_value_t = 20_000)]
    events: u64,
    /// Failing events a second
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Letters that are redriven
    #[arg(long, default_value_t = 100_000)]
    letters: u64,
}

/// A stage whose handler rejects every tenth event, and fails the others' first attempt.
pub(crate) const FAILING: &str = r#"
[pipeline]
name = "bench"

[source.events]
subjects = ["events.>"]

[stage.work]
kind        = "handle"
inputs      = ["source.events"]
handler     = { rust = "failing" }
concurrency = 256

[retry.default]
attempts = 5
backoff  = { fixed = "200ms" }
"#;

pub(crate) fn registry(handled: &Arc<AtomicU64>) -> Registry {
    let handled = Arc::clone(handled);
    Registry::new().with(
        "failing",
        handler_fn(move |event, delivery| {
            let handled = Arc::clone(&handled);
            async move {
                if event.id.starts_with("redriven") {
                    handled.fetch_add(1, Ordering::Relaxed);
                    return Ok(Reply::Pass);
                }
                match delivery.attempt {
                    _ if event.id.ends_with('0') => {
                        Err(Failure::reject("Refused", "it is refused for good"))
                    }
                    1 => Err(Failure::retry("Flaky", "it fails the first time")),
                    _ => Ok(Reply::Pass),
                }
            }
        }),
    )
}

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let handled = Arc::new(AtomicU64::new(0));
    let shop = Shop::open(program, FAILING, registry(&handled)).await?;
    let bare = Bare::new(shop.server.url()).await?;
    settling(args, &shop, &bare).await?;
    redriving(args, &shop, &bare, &handled).await?;
    shop.close().await
}

/// Prints the time from the failure of an attempt until all that must be stored of it is stored.
async fn settling(args: &Args, shop: &Shop, bare: &Bare) -> Result<()> {
    let worker = shop.work(&[]).await?;
    let stage = worker.metrics().stage("work");
    bare.publish_evenly(args.events, args.rate).await?;
    let letters = args.events / 10;
    until("the letters", async || Ok(stage.settling(Outcome::DeadLettered).count() >= letters))
        .await?;
    println!(
        "{} events that fail, {}/s; from the failure until it is stored:",
        args.events, args.rate
    );
    let shown = |q: Option<Duration>| {
        q.map_or("-".to_owned(), |q| format!("{:.2} ms", q.as_secs_f64() * 1000.0))
    };
    for (what, outcome) in [
        ("retry (error event)", Outcome::Retried),
        ("dead letter (error event, letter)", Outcome::DeadLettered),
    ] {
        let took = stage.settling(outcome);
        let (count, p50, p99) = (took.count(), took.quantile(0.5), took.quantile(0.99));
        println!("  {what:<34} {count:>7} times   p50 {:>8}   p99 {:>8}", shown(p50), shown(p99));
    }
    worker.drain(std::future::pending()).await;
    Ok(())
}

/// Prints the rate of letters sent back by a job, against a bare client that reads, publishes and
/// deletes as many.
async fn redriving(args: &Args, shop: &Shop, bare: &Bare, handled: &Arc<AtomicU64>) -> Result<()> {
    let names = shop.pipeline.names();
    let dlq = names.dlq_stream();
    let last = shop.broker.stream_state(&dlq).await?.last_seq;
    shop.broker.purge_up_to(&dlq, ">", last).await?;
    let first = last + 1;
    store(shop, args.letters, "bare").await?;
    let bare_rate = bare_redrive(bare, &dlq, first, args.letters).await?;
    println!(
        "{} letters; a bare client reads, publishes and deletes {bare_rate:>7.0}/s",
        args.letters
    );

    let stage = LetterFilter { stage: Some("work".to_owned()), ..LetterFilter::default() };
    let class = LetterFilter { class: Some("*".to_owned()), ..stage.clone() };
    let mut sent = 0;
    for (what, filter) in [("--stage work", stage), ("--stage work --class '*'", class)] {
        store(shop, args.letters, "redriven").await?;
        let rate = redrive(shop, filter, args.letters).await?;
        println!(
            "dlq redrive {what:<26} {rate:>7.0}/s   {:.2} of the bare client",
            rate / bare_rate
        );
        sent += args.letters;
    }
    let began = Instant::now();
    let worker = shop.work(&[]).await?;
    until("the redriven events", async || Ok(handled.load(Ordering::Relaxed) >= sent)).await?;
    println!(
        "handled again                          {:>7.0}/s",
        sent as f64 / began.elapsed().as_secs_f64()
    );
    worker.drain(std::future::pending()).await;
    Ok(())
}

/// Runs a job to its end; returns letters a second.
async fn redrive(shop: &Shop, filter: LetterFilter, count: u64) -> Result<f64> {
    let names = shop.pipeline.names();
    let (last, now) =
        (shop.broker.stream_state(&names.dlq_stream()).await?.last_seq, SystemTime::now());
    let job = Job::new(job::new_id('r', now), Kind::Redrive, filter, last, "bench", now);
    let context = Context {
        broker: shop.broker.clone(),
        names: names.clone(),
        targets: Targets::of(&shop.pipeline),
        metrics: None,
    };
    let began = Instant::now();
    let claim = Claim::create(&Jobs::new(&shop.broker, &names), job, "bench").await?;
    let progress = Progress::of(&claim);
    match run::run(&context, claim, &progress, &CancellationToken::new()).await {
        Ended::Job(job) if job.counts.redriven == count => {
            Ok(count as f64 / began.elapsed().as_secs_f64())
        }
        other @ (Ended::Job(_) | Ended::Released(_) | Ended::Taken | Ended::Broker(_)) => {
            bail!("the job did not redrive {count} letters: {other:?}")
        }
    }
}

/// Bare client that asks of the broker what a redrive asks; returns letters a second.
async fn bare_redrive(bare: &Bare, dlq: &str, first: u64, count: u64) -> Result<f64> {
    let stream = bare.jetstream.get_stream(dlq).await?;
    let began = Instant::now();
    let config = consumer::pull::Config {
        deliver_policy: consumer::DeliverPolicy::ByStartSequence { start_sequence: first },
        ack_policy: consumer::AckPolicy::None,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await?;
    let mut letters = consumer.stream().max_messages_per_batch(1000).messages().await?;
    let window = Window::of(millstream::limits::REDRIVES_IN_FLIGHT_MAX);
    for _ in 0..count {
        let letter = letters.try_next().await?.context("as many letters as were stored")?;
        let (jetstream, subject) = (bare.jetstream.clone(), format!("STREAM.MSG.DELETE.{dlq}"));
        window
            .run(async move {
                let seq = letter.info().map_err(|error| anyhow!(error))?.stream_sequence;
                jetstream.publish("bench.retry.work", letter.payload.clone()).await?.await?;
                let delete = serde_json::json!({ "seq": seq, "no_erase": true });
                let _: serde_json::Value = jetstream.request(subject, &delete).await?;
                Ok(())
            })
            .await;
    }
    window.done().await;
    let rate = count as f64 / began.elapsed().as_secs_f64();
    bare.jetstream.get_stream("bench-retry").await?.purge().await?;
    Ok(rate)
}

//! Storm: a million errors in a minute, and a channel that takes twenty notifications.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use axum::{Router, body::Bytes, extract::State, routing::post};
use futures_util::StreamExt as _;
use millstream::{
    handlers::Registry,
    incidents::snapshot,
    stages::notification::{About, Notification},
};

use crate::{
    memory::{resident_mib, worker},
    shop::{Shop, Window, quantile, until},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Errors in the storm
    #[arg(long, default_value_t = 1_000_000)]
    errors: u64,
    /// Length of the storm, in seconds
    #[arg(long, default_value_t = 60)]
    seconds: u64,
    /// Different failures among them
    #[arg(long, default_value_t = 1000)]
    fingerprints: u64,
    /// Critical failures among those, which begin one after another
    #[arg(long, default_value_t = 20)]
    criticals: u64,
    /// Events a second that are handled meanwhile
    #[arg(long, default_value_t = 1000)]
    rate: u64,
    /// Length of the calm before it, in seconds
    #[arg(long, default_value_t = 20)]
    calm: u64,
}

/// Pipeline that handles events, and counts and sends the errors beside them.
fn toml(address: &str) -> String {
    format!(
        r#"
[pipeline]
name = "bench"

[source.events]
subjects = ["events.>"]

[source.errors]
subjects = ["errors.>"]
envelope = "error"

[stage.validate]
kind    = "validate"
inputs  = ["source.events"]
schemas = "schemas"

[stage.sink]
kind    = "handle"
inputs  = ["validate"]
handler = {{ log = "debug" }}

[stage.errors]
kind      = "aggregate-errors"
inputs    = ["*.failed", "source.errors"]
threshold = 10
window    = "1m"
escalate  = 0

[[stage.errors.rule]]
code      = ["CRITICAL_*"]
severity  = "critical"
threshold = 3

[stage.alerts]
kind     = "alert"
inputs   = ["errors"]
channels = ["ops"]

[channel.ops]
kind          = "webhook"
url           = "http://{address}/"
allow_private = true
rate          = "20/min"
"#
    )
}

/// Notifications that the channel was sent, each with its time.
type Calls = Arc<Mutex<Vec<(SystemTime, Notification)>>>;

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let calls = Calls::default();
    let address = receiver(Arc::clone(&calls)).await?;
    let shop = Shop::open(program, &toml(&address), Registry::new()).await?;
    let file = shop.folder.join("pipeline.toml");
    let mut child = worker(&file, shop.server.url(), &[])?;
    let pid = child.id().context("it runs")?;
    tokio::time::sleep(Duration::from_secs(3)).await;
    let rest = resident_mib(pid)?;
    let jetstream = jetstream::new(async_nats::connect(shop.server.url()).await?);
    let latencies = Arc::new(Mutex::new(Vec::new()));
    let hearing = tokio::spawn(hear(shop.server.url().to_owned(), Arc::clone(&latencies)));
    tokio::time::sleep(Duration::from_millis(500)).await;

    let calm = handle(&jetstream, args.rate, args.calm, &latencies).await?;
    println!("calm:  {}", calm.said(args.rate));
    let began = SystemTime::now();
    let most = Arc::new(Mutex::new(0.0_f64));
    let watching = tokio::spawn({
        let most = Arc::clone(&most);
        async move {
            while let Ok(now) = resident_mib(pid) {
                {
                    let mut most = most.lock().unwrap_or_else(PoisonError::into_inner);
                    *most = most.max(now);
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    let (storm, handled) = tokio::join!(
        publish(&jetstream, args),
        handle(&jetstream, args.rate, args.seconds, &latencies)
    );
    let (storm, handled) = (storm?, handled?);
    println!("storm: {}", handled.said(args.rate));
    println!(
        "       handled in the storm / in the calm: {:.3}",
        handled.per_second / calm.per_second
    );
    println!(
        "       {} errors of {} failures published in {:.1} s ({:.0}/s)",
        args.errors,
        args.fingerprints,
        storm.took.as_secs_f64(),
        args.errors as f64 / storm.took.as_secs_f64()
    );
    let behind = Instant::now();
    until("the last error", async || Ok(counted(&shop).await? >= args.errors)).await?;
    let total = counted(&shop).await?;
    let exact = exact(&shop, args).await?;
    println!(
        "counts: {total} counted {:.1} s after the last was published; \
         {exact} of {} failures with the exact count",
        behind.elapsed().as_secs_f64(),
        args.fingerprints
    );
    // A digest that waits is sent by then.
    tokio::time::sleep(Duration::from_secs(30)).await;
    let calls = calls.lock().unwrap_or_else(PoisonError::into_inner).clone();
    sent(&calls, began);
    criticals(&calls, &storm.critical);
    let most = *most.lock().unwrap_or_else(PoisonError::into_inner);
    println!("memory of the worker: {rest:.1} MiB at rest, {most:.1} MiB at the most");
    watching.abort();
    hearing.abort();
    child.kill().await?;
    shop.close().await
}

/// Webhook receiver that keeps what it is sent; returns its address.
async fn receiver(calls: Calls) -> Result<String> {
    async fn take(State(calls): State<Calls>, body: Bytes) {
        if let Ok(notification) = serde_json::from_slice(&body) {
            calls
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((SystemTime::now(), notification));
        }
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?.to_string();
    let routes = Router::new().route("/", post(take)).with_state(calls);
    tokio::spawn(async move { axum::serve(listener, routes).await });
    Ok(address)
}

/// Rate and latency of handled events.
struct Handled {
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
}

impl Handled {
    fn said(&self, rate: u64) -> String {
        format!(
            "{rate} events/s offered, {:.0}/s handled; \
             publish to result p50 {:.1} ms, p99 {:.1} ms",
            self.per_second, self.p50_ms, self.p99_ms
        )
    }
}

/// Publishes events evenly; returns the rate of results in that time, and how long they took.
async fn handle(
    jetstream: &jetstream::Context,
    rate: u64,
    seconds: u64,
    latencies: &Arc<Mutex<Vec<f64>>>,
) -> Result<Handled> {
    latencies.lock().unwrap_or_else(PoisonError::into_inner).clear();
    let (began, window) = (Instant::now(), Window::new());
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let (mut sent, all) = (0, rate * seconds);
    while sent < all {
        ticks.tick().await;
        let due = (began.elapsed().as_micros() as u64 * rate / 1_000_000).min(all);
        for n in sent..due {
            let (jetstream, event) = (jetstream.clone(), stamped(n));
            window
                .run(async move {
                    Ok(jetstream.publish("events.order.created", event.into()).await?.await?)
                })
                .await;
        }
        sent = due;
    }
    let came = latencies.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Handled {
        per_second: came.len() as f64 / began.elapsed().as_secs_f64(),
        p50_ms: quantile(&came, 0.5),
        p99_ms: quantile(&came, 0.99),
    })
}

/// Event that holds the time at which it was made.
fn stamped(n: u64) -> String {
    serde_json::json!({
        "eventId": format!("order-{n}-{}", micros()),
        "eventType": "order.created",
        "eventVersion": "1",
        "eventData": { "orderId": micros().to_string(), "amount": 5, "currency": "EUR" },
    })
    .to_string()
}

fn micros() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_micros() as u64)
}

/// Notes the age of each result, in milliseconds, when it comes.
async fn hear(url: String, latencies: Arc<Mutex<Vec<f64>>>) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut results = client.subscribe("bench.out.validate.>").await?;
    while let Some(message) = results.next().await {
        let event: serde_json::Value = serde_json::from_slice(&message.payload)?;
        let made: u64 =
            event["eventData"]["orderId"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0);
        let age = micros().saturating_sub(made) as f64 / 1000.0;
        latencies.lock().unwrap_or_else(PoisonError::into_inner).push(age);
    }
    Ok(())
}

/// Time that publishing took, and the time at which each critical failure had the error stored that
/// reached its threshold.
struct Published {
    took: Duration,
    critical: BTreeMap<String, SystemTime>,
}

async fn publish(jetstream: &jetstream::Context, args: &Args) -> Result<Published> {
    let (began, window) = (Instant::now(), Window::new());
    let critical = Arc::new(Mutex::new(BTreeMap::new()));
    let seen: Arc<Vec<AtomicU64>> =
        Arc::new((0..args.criticals).map(|_| AtomicU64::new(0)).collect());
    let mut ticks = tokio::time::interval(Duration::from_millis(5));
    let mut sent = 0;
    while sent < args.errors {
        ticks.tick().await;
        let due = (began.elapsed().as_micros() as u64 * args.errors / (args.seconds * 1_000_000))
            .min(args.errors);
        for n in sent..due {
            let failure = failure(n, args);
            let (jetstream, critical, seen) =
                (jetstream.clone(), Arc::clone(&critical), Arc::clone(&seen));
            let body = error(failure, n, args);
            window
                .run(async move {
                    jetstream.publish("errors.bench", body.into()).await?.await?;
                    if let Some(seen) = seen.get(failure as usize)
                        && seen.fetch_add(1, Ordering::Relaxed) + 1 == 3
                    {
                        let mut critical = critical.lock().unwrap_or_else(PoisonError::into_inner);
                        critical.insert(format!("CRITICAL_{failure}"), SystemTime::now());
                    }
                    Ok(())
                })
                .await;
        }
        sent = due;
    }
    window.done().await;
    let critical = critical.lock().unwrap_or_else(PoisonError::into_inner).clone();
    Ok(Published { took: began.elapsed(), critical })
}

/// Number of the failure that error `n` is: the first few are critical, and begin one after another
/// over the first two thirds of the storm.
fn failure(n: u64, args: &Args) -> u64 {
    let failure = n % args.fingerprints;
    let begins = failure * args.errors * 2 / (args.criticals.max(1) * 3);
    if failure < args.criticals && n < begins { failure + args.criticals } else { failure }
}

fn error(failure: u64, n: u64, args: &Args) -> String {
    let code = if failure < args.criticals {
        format!("CRITICAL_{failure}")
    } else {
        format!("ERROR_{}", failure % 50)
    };
    serde_json::json!({
        "errorCode": code,
        "severity": "medium",
        "serviceName": format!("service-{}", (failure / 50) % 10),
        "message": format!(
            "could not reach {} at 10.0.{}.{}:5432 after {n} ms (request {n:032x})",
            word(failure),
            n % 256,
            n % 200
        ),
        "timestamp": "2026-01-01T00:00:00Z",
        "userId": format!("u-{}", n % 5000),
    })
    .to_string()
}

/// Word for a number, without digits: letters tell failures apart.
fn word(mut n: u64) -> String {
    let mut word = String::from("store-");
    for _ in 0..4 {
        word.push(char::from(b'a' + (n % 26) as u8));
        n /= 26;
    }
    word
}

/// Number of errors that the checkpoint has counted.
async fn counted(shop: &Shop) -> Result<u64> {
    let tallies = snapshot::tallies(&shop.broker, &shop.pipeline).await?;
    let counted = tallies
        .iter()
        .flat_map(|(_, tallies)| tallies)
        .find(|tally| tally.name == "errors_counted_total");
    Ok(counted.map_or(0, |tally| tally.value))
}

/// Number of failures whose count is exactly what was published of them.
async fn exact(shop: &Shop, args: &Args) -> Result<u64> {
    let mut published: BTreeMap<u64, u64> = BTreeMap::new();
    for n in 0..args.errors {
        *published.entry(failure(n, args)).or_default() += 1;
    }
    let mut wanted: Vec<u64> = published.into_values().collect();
    let mut found: Vec<u64> = snapshot::open(&shop.broker, &shop.pipeline)
        .await?
        .iter()
        .map(|(_, incident)| incident.total)
        .collect();
    wanted.sort_unstable();
    found.sort_unstable();
    Ok(wanted.iter().zip(&found).filter(|(a, b)| a == b).count() as u64)
}

fn sent(calls: &[(SystemTime, Notification)], began: SystemTime) {
    let digests =
        calls.iter().filter(|(_, told)| matches!(told.about, About::Digest { .. })).count();
    let minute = |from: &SystemTime| {
        let within = |at: &SystemTime| {
            at.duration_since(*from).is_ok_and(|since| since < Duration::from_secs(60))
        };
        calls.iter().filter(|(at, _)| within(at)).count()
    };
    let most = calls.iter().map(|(at, _)| minute(at)).max().unwrap_or(0);
    let last = calls.last().and_then(|(at, _)| at.duration_since(began).ok()).unwrap_or_default();
    println!(
        "channel at 20/min: {} notifications in {:.0} s, {digests} of them digests; \
         in any minute {most} at the most",
        calls.len(),
        last.as_secs_f64()
    );
}

/// Prints the time until each critical failure was notified, by itself or at the top of a digest.
fn criticals(calls: &[(SystemTime, Notification)], published: &BTreeMap<String, SystemTime>) {
    let names = |told: &Notification, code: &str| match &told.about {
        About::Incident { incident } => incident.code == code,
        About::Group { incidents } => incidents.list.iter().any(|incident| incident.code == code),
        About::Digest { digest } => digest.top.iter().any(|line| line.code == code),
    };
    let mut waits = Vec::new();
    for (code, at) in published {
        let told = calls.iter().find(|(_, told)| names(told, code));
        // A notification before the publisher had its answer came at once.
        waits.extend(
            told.map(|(told, _)| told.duration_since(*at).unwrap_or_default().as_secs_f64()),
        );
    }
    let most = waits.iter().copied().fold(0.0, f64::max);
    println!(
        "criticals: {} of {} told; from the error that reached the threshold p50 {:.2} s, \
         the latest {most:.2} s",
        waits.len(),
        published.len(),
        quantile(&waits, 0.5)
    );
}

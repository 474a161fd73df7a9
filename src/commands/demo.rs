//! `demo`: the whole thing at work in ten seconds, with real traffic through a real server.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};
use futures_util::{StreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use millstream_stages::headers;
use serde_json::{Value, json};

use super::{
    App,
    dev::own_server,
    graph, init, printable,
    stub::{Note, Stub},
    width::shorten,
};
use crate::{
    broker::{Broker, Outgoing},
    config::Pipeline,
    dead_letter::LetterRecord,
    limits,
    observe::logs,
    redrive::resend,
    topology::{self, Topology},
    worker::{Options, Worker},
};

const EXAMPLES: &str = "\
Examples:
  millstream demo
  millstream demo --events 20000

It needs nothing and leaves nothing running; what it wrote stays in .millstream/demo \
for you to look at.";

/// Arguments of `demo`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Events to publish
    #[arg(
        long,
        default_value_t = 4000,
        value_parser = clap::value_parser!(u64).range(100..=1_000_000)
    )]
    events: u64,
    /// The folder for the example and the server's data
    #[arg(long, value_name = "DIR", default_value = ".millstream/demo")]
    data: PathBuf,
}

/// Longest wait of the demo for its events to end; they take a few seconds.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs the example pipeline over events of which some fail; prints one event's retries, a group of
/// dead letters, an alert and the totals.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    logs::init(&app.log_options("error"), None)?;
    if args.data.exists() {
        std::fs::remove_dir_all(&args.data)
            .with_context(|| format!("could not clear \"{}\"", args.data.display()))?;
    }
    init::write_files(&args.data, EXAMPLE)?;
    let steps = spinner();
    steps.set_message("finding a nats-server");
    let mut server = own_server(app, &args.data.join("nats"), None).await?;
    let stub = Stub::start().await?;
    let pipeline = Arc::new(example_pipeline(app, &args, server.url(), &stub)?);
    let broker = Broker::connect(&pipeline.nats, "millstream demo").await?;
    topology::make(&broker, &Topology::of(&pipeline)).await?;
    let worker = Worker::start(
        broker.clone(),
        Arc::clone(&pipeline),
        Options { stages: None, registry: app.registry.clone() },
    )
    .await?;

    let began = Instant::now();
    let published = publish(&broker, args.events, &steps).await?;
    let totals = wait_until_settled(&broker, &pipeline, &worker, published, &steps).await?;
    let took = began.elapsed();
    let alert = wait_for_alert(&stub).await;
    steps.finish_and_clear();

    let story = Story { broker: &broker, pipeline: &pipeline };
    println!("{}", heading("The pipeline"));
    println!("{}", graph::draw(&pipeline, graph::Format::Text));
    story.retry_timeline().await?;
    story.dead_letter_group().await?;
    print_alert(alert.as_ref());
    println!("{}", heading("Totals"));
    println!(
        "  {} events published, and every one accounted for after {:.1} s:",
        totals.published,
        took.as_secs_f64()
    );
    println!(
        "  {} = {} done + {} dead-lettered + {} pending",
        totals.published, totals.done, totals.dead, totals.pending
    );
    println!(
        "  (waits were shortened for the demo: a real retry.default waits 1 s, 2 s, 4 s, …)\n"
    );
    println!("{}", heading("Try next"));
    // As it was called: `cargo run` does not put it on anybody's PATH.
    let program = std::env::args().next().unwrap_or_else(|| "millstream".to_owned());
    println!("  {program} dev             keep it running, and edit pipeline.toml as you go");
    println!("  {program} init shop       a commented pipeline of your own");
    println!("  {program} check --config {}", args.data.join("pipeline.toml").display());

    worker.drain(std::future::pending()).await;
    server.stop().await;
    ensure!(
        totals.published == totals.done + totals.dead + totals.pending,
        "the totals do not add up: this is a defect, please report it"
    );
    ensure!(alert.is_some(), "no alert was sent: this is a defect, please report it");
    Ok(ExitCode::SUCCESS)
}

/// Example pipeline of the repository: each file with its path in the folder.
const EXAMPLE: &[(&str, &str)] = &[
    ("pipeline.toml", include_str!("../../pipeline.toml")),
    ("schemas/common.json", include_str!("../../schemas/common.json")),
    ("schemas/order.cancelled.1.json", include_str!("../../schemas/order.cancelled.1.json")),
    ("schemas/order.created.1.json", include_str!("../../schemas/order.created.1.json")),
    ("schemas/order.shipped.1.json", include_str!("../../schemas/order.shipped.1.json")),
    ("schemas/payment.captured.1.json", include_str!("../../schemas/payment.captured.1.json")),
    ("schemas/payment.refunded.1.json", include_str!("../../schemas/payment.refunded.1.json")),
];

/// The example with the demo's service in place of yours, and waits that fit into ten seconds.
fn example_pipeline(app: &App, args: &Args, url: &str, stub: &Stub) -> anyhow::Result<Pipeline> {
    let at = stub.address;
    let set = [
        ("nats.url", url.to_owned()),
        ("observe.listen", "127.0.0.1:0".to_owned()),
        ("retry.default.backoff.exponential", "200ms".to_owned()),
        ("retry.default.backoff.max", "1s".to_owned()),
        ("retry.payments.backoff.linear", "100ms".to_owned()),
        ("stage.orders.handler.http", format!("http://{at}/orders")),
        ("stage.orders.handler.timeout", "1s".to_owned()),
        ("stage.payments.handler.http", format!("http://{at}/payments")),
        ("stage.payments.handler.timeout", "1s".to_owned()),
        ("channel.oncall.url", format!("http://{at}/alerts")),
        ("stage.alerts.channels", "[\"oncall\"]".to_owned()),
        ("stage.alerts.route", "[]".to_owned()),
    ];
    let mut common = app.common.clone();
    common.config = args.data.join("pipeline.toml");
    common.set =
        set.into_iter().map(|(key, value)| (key.to_owned(), value)).chain(common.set).collect();
    App { common, registry: app.registry.clone() }.pipeline()
}

/// Publishes `count` events of several types and tenants, of which some will fail, and waits until
/// all are stored.
async fn publish(broker: &Broker, count: u64, steps: &ProgressBar) -> anyhow::Result<u64> {
    steps.set_message(format!("publishing {count} events"));
    let mut stored =
        stream::iter(0..count)
            .map(|n| {
                let (subject, body) = event(n);
                async move {
                    broker.publish(Outgoing::new(subject, body).id(&format!("demo-{n}"))).await
                }
            })
            .buffer_unordered(limits::PUBLISH_WINDOW);
    let mut published = 0;
    while let Some(stored) = stored.next().await {
        stored?;
        published += 1;
    }
    Ok(published)
}

/// The `n`th event of the demo.
fn event(n: u64) -> (String, Vec<u8>) {
    match n % 1000 {
        7 => {
            return ("events.order.created".into(), b"{\"eventId\": \"cut off in the mid".to_vec());
        }
        507 => return ("events.order.created".into(), b"\xff\xfe not text at all".to_vec()),
        _ => {}
    }
    let note = match n % 200 {
        3 => Note::Broken,
        13 | 113 => Note::Flaky,
        23 => Note::Refused,
        33 if n % 400 == 33 => Note::Slow,
        _ => Note::Fine,
    };
    let (event_type, mut data) = match n % 4 {
        0 | 1 => (
            "order.created",
            json!({ "orderId": format!("o-{n}"), "amount": 5 + n % 90, "currency": "EUR" }),
        ),
        2 => (
            "order.cancelled",
            json!({
                "orderId": format!("o-{n}"),
                "amount": 5 + n % 90,
                "currency": "EUR",
                "reason": "changed my mind",
            }),
        ),
        _ => (
            "payment.captured",
            json!({
                "paymentId": format!("p-{n}"),
                "orderId": format!("o-{n}"),
                "amount": 5 + n % 90,
                "currency": "EUR",
            }),
        ),
    };
    let tenant = ["acme", "globex", "initech"][(n % 3) as usize];
    data["note"] = note.text().into();
    if n % 1000 == 333 {
        data["amount"] = (-1).into();
    }
    let event = json!({
        "eventId": format!("demo-{n}"),
        "eventType": event_type,
        "eventVersion": "1",
        "aggregateId": format!("o-{n}"),
        "tenantId": tenant,
        "timestamp": "2026-01-01T00:00:00Z",
        "eventData": data,
    });
    (format!("events.{event_type}"), event.to_string().into_bytes())
}

struct Totals {
    published: u64,
    done: u64,
    dead: u64,
    pending: u64,
}

/// Waits until nothing is pending: done events are counted by the stages, dead letters by their
/// stream.
async fn wait_until_settled(
    broker: &Broker,
    pipeline: &Pipeline,
    worker: &Worker,
    published: u64,
    steps: &ProgressBar,
) -> anyhow::Result<Totals> {
    let names = pipeline.names();
    let began = Instant::now();
    loop {
        let done =
            ["orders", "payments"].iter().map(|stage| worker.metrics().stage(stage).done()).sum();
        let dead = broker.stream_state(&names.dlq_stream()).await?.messages;
        let pending = published.saturating_sub(done + dead);
        steps.set_message(format!(
            "{done} done, {dead} dead-lettered, {pending} pending: retries wait for their time"
        ));
        if pending == 0 {
            return Ok(Totals { published, done, dead, pending });
        }
        if began.elapsed() > PATIENCE {
            bail!(
                "after {} s still {pending} of {published} events are pending; see {names:?}",
                PATIENCE.as_secs()
            );
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn wait_for_alert(stub: &Stub) -> Option<Value> {
    let began = Instant::now();
    while stub.first_alert().is_none() && began.elapsed() < Duration::from_secs(10) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    stub.first_alert()
}

struct Story<'a> {
    broker: &'a Broker,
    pipeline: &'a Pipeline,
}

impl Story<'_> {
    /// Prints the attempts of one event that was retried until it was dead-lettered.
    async fn retry_timeline(&self) -> anyhow::Result<()> {
        let names = self.pipeline.names();
        let mut attempts: BTreeMap<String, Vec<(Value, std::time::SystemTime)>> = BTreeMap::new();
        let mut failed =
            Box::pin(self.broker.scan(&names.failed_stream(), &names.failed_filter("orders"), 1));
        while let Some(report) = failed.next().await {
            let report = report?;
            let body: Value =
                serde_json::from_slice(&report.body).context("could not read a failed attempt")?;
            let id = body["metadata"]["eventId"].as_str().unwrap_or_default().to_owned();
            attempts.entry(id).or_default().push((body, report.stored_at));
        }
        let exhausted = |attempts: &[(Value, _)]| {
            attempts.last().is_some_and(|(body, _)| body["metadata"]["outcome"] == "exhausted")
        };
        let chosen =
            attempts.iter().find(|(_, attempts)| attempts.len() > 2 && exhausted(attempts));
        let (id, attempts) =
            chosen.context("no event was retried: this is a defect, please report it")?;
        println!("{}", heading(&format!("One event's retries: {id} at stage \"orders\"")));
        let first = attempts[0].1;
        for (body, at) in attempts {
            let about = &body["metadata"];
            let what = match about["waitMs"].as_u64() {
                Some(wait) => format!("again in {wait} ms"),
                None => {
                    format!("dead-lettered as {}", about["outcome"].as_str().unwrap_or_default())
                }
            };
            println!(
                "  {:>6} ms  attempt {}  {}: {} -> {what}",
                at.duration_since(first).unwrap_or_default().as_millis(),
                about["attempt"],
                printable(body["errorCode"].as_str().unwrap_or_default()),
                printable(body["message"].as_str().unwrap_or_default()),
            );
        }
        println!();
        Ok(())
    }

    /// Prints the largest group of dead letters that share a fingerprint.
    async fn dead_letter_group(&self) -> anyhow::Result<()> {
        let names = self.pipeline.names();
        let mut groups: BTreeMap<String, Vec<(LetterRecord, String)>> = BTreeMap::new();
        let mut letters = Box::pin(resend::letters(self.broker, &names, None));
        while let Some(letter) = letters.next().await {
            let letter = letter?;
            let record = LetterRecord::of(&letter);
            let body = String::from_utf8_lossy(&letter.body).into_owned();
            groups.entry(record.fingerprint.clone()).or_default().push((record, body));
        }
        let largest = groups
            .values()
            .max_by_key(|letters| letters.len())
            .context("there are no dead letters")?;
        let (sample, body) = &largest[0];
        println!("{}", heading(&format!("The largest of {} groups of dead letters", groups.len())));
        println!(
            "  {} letters, {} at stage \"{}\" after {} attempts",
            largest.len(),
            sample.reason,
            sample.stage,
            sample.attempts
        );
        println!("  {}: {}", printable(&sample.error_class), printable(&sample.error_message));
        let shown = shorten(&printable(body), 141);
        println!(
            "  one of them ({}): {shown}",
            sample.event_id.as_deref().unwrap_or(headers::EVENT_ID)
        );
        println!();
        Ok(())
    }
}

fn print_alert(alert: Option<&Value>) {
    println!("{}", heading("One alert, as it was sent"));
    if let Some(alert) = alert {
        println!("  POST /alerts, {} bytes of JSON; its title and text:", alert.to_string().len());
        let text = |key: &str| printable(alert[key].as_str().unwrap_or_default());
        for line in [text("title"), text("text")].join("\n").lines() {
            println!("  | {line}");
        }
    }
    println!();
}

fn heading(text: &str) -> String {
    if super::colour_on_stdout() {
        format!("\u{1b}[1m{text}\u{1b}[0m")
    } else {
        format!("== {text}")
    }
}

fn spinner() -> ProgressBar {
    let bar = ProgressBar::new_spinner();
    bar.set_style(
        ProgressStyle::with_template("{spinner} {msg}")
            .expect("the template is a constant that parses"),
    );
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

//! Shop: server, pipeline and bare client that the benchmarks share.

use std::{
    future::IntoFuture as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result};
use async_nats::jetstream::{self, AckKind, consumer};
use futures_util::StreamExt as _;
use millstream::{
    broker::{Broker, server::Server},
    config::{self, Catalogue, Pipeline},
    handlers::{HandlerContext, Registry},
    topology::{self, Topology},
    worker::{Options, Worker},
};
use tokio::sync::Semaphore;

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

/// Pipeline of one hop of `validate`, and a sink that keeps the edge open and is not run.
pub(crate) const HOP: &str = r#"
[pipeline]
name = "bench"

[source.events]
subjects = ["events.>"]

[stage.validate]
kind        = "validate"
inputs      = ["source.events"]
schemas     = "schemas"
concurrency = 1024

[stage.sink]
kind    = "handle"
inputs  = ["validate"]
handler = { log = "debug" }
"#;

/// Deliveries in flight at once, for both sides.
pub(crate) const CONCURRENCY: usize = 1024;

/// Server of its own with a pipeline on it; all of it goes when it is dropped.
pub(crate) struct Shop {
    pub(crate) server: Server,
    pub(crate) pipeline: Arc<Pipeline>,
    pub(crate) broker: Broker,
    pub(crate) folder: PathBuf,
    registry: Registry,
}

impl Shop {
    pub(crate) async fn open(
        program: Option<&Path>,
        toml: &str,
        registry: Registry,
    ) -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("millstream-bench-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("schemas"))?;
        let file = folder.join("pipeline.toml");
        std::fs::write(&file, toml)?;
        std::fs::write(folder.join("schemas/order.created.1.json"), SCHEMA)?;
        let server = Server::start(&Server::find(program).await?, &folder.join("nats")).await?;
        let pipeline = pipeline(&file, server.url(), &registry)?;
        let broker = Broker::connect(&pipeline.nats, "bench").await?;
        topology::make(&broker, &Topology::of(&pipeline)).await?;
        Ok(Self { server, pipeline, broker, folder, registry })
    }

    /// Starts a worker of these stages, on a connection of its own.
    pub(crate) async fn work(&self, stages: &[&str]) -> Result<Worker> {
        let broker = Broker::connect(&self.pipeline.nats, "bench worker").await?;
        let stages = (!stages.is_empty()).then(|| stages.iter().map(ToString::to_string).collect());
        let options = Options { stages, registry: self.registry.clone() };
        Ok(Worker::start(broker, Arc::clone(&self.pipeline), options).await?)
    }

    pub(crate) async fn close(mut self) -> Result<()> {
        self.server.stop().await;
        std::fs::remove_dir_all(&self.folder)?;
        Ok(())
    }
}

pub(crate) fn pipeline(file: &Path, url: &str, registry: &Registry) -> Result<Arc<Pipeline>> {
    let set = [("nats.url".to_owned(), url.to_owned())];
    let catalogue = Catalogue::new(HandlerContext {
        registered: registry.clone(),
        ..HandlerContext::default()
    });
    let loaded = config::load(file, &set, &[], &catalogue);
    Ok(Arc::new(loaded.pipeline.with_context(|| config::render(&loaded.reports, false))?))
}

/// Waits until `reached` is true; after ten minutes, an error that names `what`.
pub(crate) async fn until(
    what: &str,
    mut reached: impl AsyncFnMut() -> Result<bool>,
) -> Result<()> {
    let began = Instant::now();
    while !reached().await? {
        anyhow::ensure!(began.elapsed() < Duration::from_secs(600), "still waiting: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    Ok(())
}

/// Bound on the tasks of a run that are under way at once.
pub(crate) struct Window(Arc<Semaphore>, usize);

impl Window {
    pub(crate) fn new() -> Self {
        Self::of(CONCURRENCY)
    }

    /// Window of `most` tasks at once.
    pub(crate) fn of(most: usize) -> Self {
        Self(Arc::new(Semaphore::new(most)), most)
    }

    /// Runs `task` as soon as there is room; one that fails ends the program, since something else
    /// would be measured.
    pub(crate) async fn run<T: Send>(
        &self,
        task: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        let slot =
            Arc::clone(&self.0).acquire_owned().await.expect("the semaphore is never closed");
        tokio::spawn(async move {
            if let Err(error) = task.await {
                eprintln!("error: {error:#}");
                std::process::exit(2);
            }
            drop(slot);
        });
    }

    pub(crate) async fn done(&self) {
        let all = u32::try_from(self.1).expect("it is a small number");
        drop(self.0.acquire_many(all).await);
    }
}

/// An event in the domain envelope that passes the schema.
pub(crate) fn event(n: u64) -> String {
    serde_json::json!({
        "eventId": format!("order-{n:08}"),
        "eventType": "order.created",
        "eventVersion": "1",
        "tenantId": "acme",
        "aggregateId": format!("o-{n}"),
        "timestamp": "2026-01-01T00:00:00Z",
        "eventData": {
            "orderId": format!("o-{n}"),
            "amount": 5 + n % 90,
            "currency": "EUR",
            "note": "leave it at the door",
        },
    })
    .to_string()
}

/// Bare client that does the same broker work: pull, publish the same bytes, await the PubAck,
/// ack.
pub(crate) struct Bare {
    pub(crate) jetstream: jetstream::Context,
    consumer: consumer::PullConsumer,
}

impl Bare {
    pub(crate) async fn new(url: &str) -> Result<Self> {
        let jetstream = jetstream::new(async_nats::connect(url).await?);
        let config = consumer::pull::Config {
            durable_name: Some("bare".to_owned()),
            max_ack_pending: 10_000,
            ..Default::default()
        };
        let consumer = jetstream.create_consumer_on_stream(config, "bench-in-events").await?;
        Ok(Self { jetstream, consumer })
    }

    pub(crate) async fn publish(&self, count: u64) -> Result<()> {
        let window = Window::new();
        for n in 0..count {
            let stored = self
                .jetstream
                .publish("events.order.created", event(n).into())
                .await?
                .into_future();
            window.run(async move { Ok(stored.await?) }).await;
        }
        window.done().await;
        Ok(())
    }

    /// Publishes `count` events evenly, `rate` a second.
    pub(crate) async fn publish_evenly(&self, count: u64, rate: u64) -> Result<()> {
        let (began, window) = (Instant::now(), Window::new());
        let mut ticks = tokio::time::interval(Duration::from_millis(10));
        let mut sent = 0;
        while sent < count {
            ticks.tick().await;
            let due = (began.elapsed().as_millis() as u64 * rate / 1000).min(count);
            for n in sent..due {
                let jetstream = self.jetstream.clone();
                let publish = async move {
                    Ok(jetstream.publish("events.order.created", event(n).into()).await?.await?)
                };
                window.run(publish).await;
            }
            sent = due;
        }
        window.done().await;
        Ok(())
    }

    pub(crate) async fn hop(&self, count: u64) -> Result<f64> {
        let (window, done) = (Window::new(), Arc::new(AtomicU64::new(0)));
        let began = Instant::now();
        let mut messages = self.consumer.stream().max_messages_per_batch(1000).messages().await?;
        for _ in 0..count {
            let message = messages.next().await.context("the consumer ended")??;
            let (jetstream, done) = (self.jetstream.clone(), Arc::clone(&done));
            window
                .run(async move {
                    let stored = jetstream
                        .publish("bench.out.validate.order.created", message.payload.clone())
                        .await?;
                    stored.await?;
                    message.ack_with(AckKind::Ack).await.map_err(|error| anyhow::anyhow!(error))?;
                    done.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                })
                .await;
        }
        until("the bare client", async || Ok(done.load(Ordering::Relaxed) >= count)).await?;
        Ok(count as f64 / began.elapsed().as_secs_f64())
    }
}

/// Median of values, of which there is at least one.
pub(crate) fn median(mut of: Vec<f64>) -> f64 {
    of.sort_by(f64::total_cmp);
    of[of.len() / 2]
}

/// Value that this share of the values does not exceed; 0 for none.
pub(crate) fn quantile(of: &[f64], share: f64) -> f64 {
    let mut of = of.to_vec();
    of.sort_by(f64::total_cmp);
    let at = (of.len() as f64 * share).ceil() as usize;
    of.get(at.saturating_sub(1)).copied().unwrap_or(0.0)
}

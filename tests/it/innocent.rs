//! Innocent: events that come again though no worker died, and are not held to it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use millstream::{
    broker::{Broker, Nats},
    handlers::{Registry, handler_fn},
    stages::Reply,
    worker::{Options, Worker},
};
use serde_json::json;

use crate::{
    cut_proxy::CutProxy,
    support::{Mill, TestServer, eventually},
};

/// Stage whose events may be attempted once.
const ONCE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "slow" }
    concurrency = 32
    ack_wait = "2s"
    retry = "once"
    [retry.once]
    attempts = 1
"#;

const EVENTS: usize = 60;

/// Runs of each event in one worker.
#[derive(Clone, Default)]
struct Runs(Arc<Mutex<HashMap<String, Run>>>);

/// Runs of one event: so many are under way, and so many were at once.
#[derive(Clone, Default)]
struct Run {
    now: usize,
    at_once: usize,
}

impl Runs {
    /// Handler named `slow`, which takes so long.
    fn registry(&self, takes: Duration) -> Registry {
        let runs = self.clone();
        Registry::new().with(
            "slow",
            handler_fn(move |event, _| {
                let (runs, id) = (runs.clone(), event.id.clone());
                {
                    let mut runs = runs.0.lock().unwrap();
                    let run = runs.entry(id.clone()).or_default();
                    run.now += 1;
                    run.at_once = run.at_once.max(run.now);
                }
                async move {
                    tokio::time::sleep(takes).await;
                    runs.0.lock().unwrap().entry(id).or_default().now -= 1;
                    Ok(Reply::Pass)
                }
            }),
        )
    }

    /// True if an event ran beside itself.
    fn has_doubled(&self) -> bool {
        self.0.lock().unwrap().values().any(|run| run.at_once > 1)
    }

    fn begun(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

async fn worker(mill: &Mill, url: &str, registry: Registry) -> Worker {
    let nats = Nats { url: vec![url.to_owned()], ..Nats::default() };
    let broker = Broker::connect(&nats, "worker").await.unwrap();
    let options = Options { stages: None, registry };
    Worker::start(broker, Arc::clone(&mill.pipeline), options).await.unwrap()
}

async fn publish(mill: &Mill) {
    for n in 0..EVENTS {
        mill.event(&format!("e-{n}"), "order.created", json!({})).await;
    }
}

/// Value of a metric of a worker.
fn count(worker: &Worker, metric: &str) -> u32 {
    let text = worker.metrics().render();
    let value = text.lines().find_map(|line| line.strip_prefix(metric)?.strip_prefix(' '));
    value.unwrap().parse().unwrap()
}

/// Waits until every event has run, and makes sure that none was suspected. Returns how many came
/// again without a known end of what was before.
async fn all_are_innocent(mill: &Mill, runs: &Runs, workers: &[&Worker]) -> u32 {
    let mut innocent = 0;
    eventually(async || (runs.begun() == EVENTS).then_some(())).await;
    mill.idle("work").await;
    let quarantine = mill.broker.consumer_state("shop-retry", "shop-work+alone").await.unwrap();
    assert_eq!(quarantine.delivered, 0, "something ran in quarantine");
    for worker in workers {
        let redelivered = |verdict| {
            let labels = format!(r#"{{stage="work",verdict="{verdict}"}}"#);
            count(worker, &format!("millstream_events_redelivered_total{labels}"))
        };
        assert_eq!(redelivered("suspect"), 0);
        innocent += redelivered("innocent");
    }
    assert!(mill.letters().await.is_empty());
    innocent
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_is_no_events_fault_and_nothing_runs_beside_itself() {
    let runs = Runs::default();
    // Longer than the connection is away, and than the server waits for a sign of life.
    let takes = Duration::from_secs(4);
    let mill = Mill::still(TestServer::start().await, ONCE, runs.registry(takes)).await;
    let proxy = CutProxy::before(mill.server.server.url()).await;
    let worker = worker(&mill, &format!("nats://{}", proxy.address), runs.registry(takes)).await;
    publish(&mill).await;
    eventually(async || (runs.begun() >= 20).then_some(())).await;
    let began = Instant::now();
    for away in [0, 3] {
        proxy.cut();
        tokio::time::sleep(Duration::from_secs(away)).await;
        proxy.mend();
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    all_are_innocent(&mill, &runs, &[&worker]).await;
    let lapsed = count(&worker, r#"millstream_deliveries_lapsed_total{stage="work"}"#);
    println!("{lapsed} came again while they were in hand");
    assert!(lapsed > 0 && !runs.has_doubled());
    assert!(began.elapsed() < Duration::from_secs(60), "after {:?}", began.elapsed());
    worker.drain(std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_on_its_way_runs_at_once_among_others_though_each_may_be_attempted_once() {
    let runs = Runs::default();
    let takes = Duration::from_millis(100);
    let mill = Mill::still(TestServer::start().await, ONCE, runs.registry(takes)).await;
    let proxy = CutProxy::before(mill.server.server.url()).await;
    let away = worker(&mill, &format!("nats://{}", proxy.address), runs.registry(takes)).await;
    let state = async || mill.broker.consumer_state("shop-in-events", "shop-work").await.unwrap();
    eventually(async || (state().await.num_waiting > 0).then_some(())).await;
    proxy.swallow();
    publish(&mill).await;
    eventually(async || (state().await.num_ack_pending as usize == EVENTS).then_some(())).await;
    // Another one is there as well, to which they may come.
    let other = worker(&mill, mill.server.server.url(), runs.registry(takes)).await;
    proxy.cut();
    proxy.mend();
    let began = Instant::now();
    let innocent = all_are_innocent(&mill, &runs, &[&away]).await;
    println!("all have run after {:?}", began.elapsed());
    println!("{innocent} came again to the worker that lost them");
    assert!(innocent > 0, "none was lost on its way");
    assert!(began.elapsed() < Duration::from_secs(30), "after {:?}", began.elapsed());
    for worker in [away, other] {
        worker.drain(std::future::pending()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_killed_under_load_makes_no_suspects() {
    // Each has runs of its own: an event may well run in both at once.
    let (a, b, takes) = (Runs::default(), Runs::default(), Duration::from_secs(1));
    let mut mill = Mill::still(TestServer::start().await, ONCE, a.registry(takes)).await;
    let url = mill.server.server.url().to_owned();
    let workers = [
        worker(&mill, &url, a.registry(takes)).await,
        worker(&mill, &url, b.registry(takes)).await,
    ];
    publish(&mill).await;
    eventually(async || (a.begun() + b.begun() >= 30).then_some(())).await;
    mill.server.server.kill_hard();
    tokio::time::sleep(Duration::from_secs(3)).await;
    mill.server.server.restart().await.unwrap();
    eventually(async || {
        let (a, b) = (a.0.lock().unwrap(), b.0.lock().unwrap());
        (0..EVENTS)
            .all(|n| a.contains_key(&format!("e-{n}")) || b.contains_key(&format!("e-{n}")))
            .then_some(())
    })
    .await;
    let all = Runs::default();
    for of in [&a, &b] {
        all.0.lock().unwrap().extend(of.0.lock().unwrap().clone());
    }
    all_are_innocent(&mill, &all, &[&workers[0], &workers[1]]).await;
    for worker in workers {
        worker.drain(std::future::pending()).await;
    }
}

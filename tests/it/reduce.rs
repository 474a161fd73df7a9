//! Reduce: counts that stay exact while leaders are killed, stall and come back, and the server
//! restarts.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use millstream::{
    broker::{Broker, Outgoing},
    config::{Pipeline, pipeline::Stage},
    incidents::snapshot,
    observe::{Metrics, ReduceMetrics},
    reduce::{Shows, run},
    stages::{
        Build, ChannelTerms, Emission, Failure, Handler, Problem, Reduce, World,
        incident::Incident, notification::Notification, rate::Rate,
    },
    topology::{self, Topology},
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::support::{self, DEADLINE, TestServer};

/// Waits until `what` is there.
async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = ask().await {
            return found;
        }
        assert!(Instant::now() < end, "{what} did not come in {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// World with one channel.
struct OneChannel;

impl World for OneChannel {
    fn folder(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Err("none".to_owned())
    }

    fn handler(&self, _: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>> {
        Err(Vec::new())
    }

    fn channels(&self) -> Vec<ChannelTerms> {
        let rate = Rate::per_minute(600);
        vec![ChannelTerms { name: "log".to_owned(), rate, send_resolved: true }]
    }
}

fn built(stage: &Stage) -> Box<dyn Reduce> {
    let Build::Reduce(build) = &stage.kind.build else { panic!("not a reduce stage") };
    build(&stage.options, &OneChannel).unwrap()
}

/// Server with the streams of a pipeline, and a connection; `options` are keys of its `errors`
/// stage.
async fn mill(options: &str) -> (TestServer, Broker, Arc<Pipeline>) {
    let server = TestServer::start().await;
    let pipeline = support::pipeline(
        &format!(
            r#"
            [pipeline]
            name = "rt"
            [source.errors]
            subjects = ["errors.>"]
            envelope = "error"
            [stage.errors]
            kind = "aggregate-errors"
            inputs = ["source.errors"]
            escalate = 0
            {options}
            [stage.alerts]
            kind = "alert"
            inputs = ["errors"]
            group_interval = "1s"
            [channel.log]
            kind = "log"
            rate = "600/min"
            "#
        ),
        server.server.url(),
    );
    let broker = server.connect().await;
    topology::make(&broker, &Topology::of(&pipeline)).await.unwrap();
    (server, broker, pipeline)
}

/// Worker of one stage, in this process.
struct Worker {
    task: JoinHandle<()>,
    metrics: Arc<ReduceMetrics>,
    stop: CancellationToken,
}

impl Worker {
    fn start(broker: &Broker, pipeline: &Arc<Pipeline>, stage: &str, name: &str) -> Self {
        let build = built as fn(&Stage) -> Box<dyn Reduce>;
        Self::with(broker, pipeline, stage, name, build)
    }

    fn with(
        broker: &Broker,
        pipeline: &Arc<Pipeline>,
        stage: &str,
        name: &str,
        build: impl Fn(&Stage) -> Box<dyn Reduce> + Send + Sync + 'static,
    ) -> Self {
        let (metrics, stop) = (Metrics::new(pipeline).reduce(stage), CancellationToken::new());
        let (broker, pipeline, name) = (broker.clone(), pipeline.clone(), name.to_owned());
        let stage = pipeline.stage(stage).unwrap().clone();
        let given = Shows { metrics: metrics.clone(), conditions: Arc::default() };
        let stopped = stop.clone();
        let task = tokio::spawn(async move {
            run(broker, pipeline, &stage, &name, || build(&stage), given, stopped).await.unwrap();
        });
        Self { task, metrics, stop }
    }

    fn leads(&self) -> bool {
        self.metrics.snapshot().leading
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

/// Error number `n`: one of twenty failures, or, each hundredth, something that is no error event.
fn error(n: u64) -> Bytes {
    if n % 100 == 99 {
        return Bytes::from(format!("{{\"no\": \"error\", \"n\": {n}}}"));
    }
    let message =
        format!("{} failed after {n} ms", ["ant", "bee", "cow", "dog", "eel"][(n % 5) as usize]);
    let body = json!({
        "errorCode": format!("CODE_{}", n % 4),
        "serviceName": "cart",
        "message": message,
    });
    Bytes::from(body.to_string())
}

/// Publishes the errors of a range, each with its id, so that one whose answer was lost is stored
/// once.
async fn publish(broker: &Broker, range: std::ops::Range<u64>) {
    for n in range {
        let outgoing = Outgoing::new("errors.cart", error(n)).id(&format!("error-{n}"));
        let end = Instant::now() + DEADLINE;
        while let Err(error) = broker.publish(outgoing.clone()).await {
            assert!(Instant::now() < end, "error {n}: {error}");
        }
    }
}

/// Number of errors that the stored state has counted.
async fn counted(broker: &Broker, pipeline: &Pipeline) -> Option<u64> {
    let tallies = snapshot::tallies(broker, pipeline).await.ok()?;
    let (_, errors) = tallies.iter().find(|(stage, _)| stage == "errors")?;
    errors.iter().find(|tally| tally.name == "errors_counted_total").map(|tally| tally.value)
}

async fn scanned(broker: &Broker, stream: &str) -> Vec<(String, Bytes)> {
    let messages = broker.scan(stream, "", 1).map_ok(|message| (message.subject, message.body));
    messages.try_collect().await.unwrap()
}

/// Waits until everything is counted, then checks it: every error once, one dead letter for
/// everything that is none, and every change of an incident once.
async fn expect_exact(broker: &Broker, pipeline: &Pipeline, total: u64) {
    let odd = (0..total).filter(|n| n % 100 == 99).count() as u64;
    until("the last count", async || {
        (counted(broker, pipeline).await? >= total - odd).then_some(())
    })
    .await;
    assert_eq!(counted(broker, pipeline).await, Some(total - odd));
    let letters = scanned(broker, "rt-dlq").await;
    let mut bodies: Vec<_> = letters.iter().map(|(_, body)| body.clone()).collect();
    bodies.sort();
    bodies.dedup();
    assert_eq!((bodies.len() as u64, letters.len() as u64), (odd, odd));
    let mut news = BTreeMap::<String, Vec<Incident>>::new();
    for (_, body) in scanned(broker, "rt-out-errors").await {
        let incident: Incident = serde_json::from_slice(&body).unwrap();
        news.entry(incident.incident_id.clone()).or_default().push(incident);
    }
    assert_eq!(news.len(), 20);
    for news in news.values() {
        let counts: Vec<u64> = news.iter().map(|incident| incident.count).collect();
        let doubles: Vec<u64> = (0..counts.len() as u32).map(|n| 5 << n).collect();
        assert_eq!(counts, doubles, "{}", news[0].incident_id);
    }
}

/// Generator of numbers whose seed is printed, to run the same test again.
struct Dice(u64);

impl Dice {
    fn new() -> Self {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = given.unwrap_or(now.as_micros() as u64 | 1);
        println!("SEED={seed}");
        Self(seed)
    }

    fn below(&mut self, most: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % most
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_are_exact_though_leaders_are_killed_at_random_moments() {
    let (_server, broker, pipeline) = mill("").await;
    let mut dice = Dice::new();
    const TOTAL: u64 = 12_000;
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, 0..TOTAL).await }
    });
    let mut workers: Vec<Worker> = (0..2)
        .map(|n| Worker::start(&broker, &pipeline, "errors", &format!("worker-{n}")))
        .collect();
    for kill in 0..5 {
        let leader =
            until("a leader", async || workers.iter().position(|worker| worker.leads())).await;
        let applied = workers[leader].metrics.snapshot().applied + dice.below(1500);
        until("some work", async || {
            (publishing.is_finished() || workers[leader].metrics.snapshot().applied >= applied)
                .then_some(())
        })
        .await;
        let killed = workers.remove(leader);
        killed.task.abort();
        killed.task.await.unwrap_err();
        let since = Instant::now();
        workers.push(Worker::start(&broker, &pipeline, "errors", &format!("worker-{}", kill + 2)));
        until("a takeover", async || workers.iter().any(Worker::leads).then_some(())).await;
        let took = since.elapsed();
        println!("kill {kill}: taken over in {took:?}");
        assert!(took < Duration::from_secs(5), "the takeover took {took:?}");
    }
    publishing.await.unwrap();
    expect_exact(&broker, &pipeline, TOTAL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_worker_that_stops_hands_over_at_once() {
    let (_server, broker, pipeline) = mill("").await;
    let first = Worker::start(&broker, &pipeline, "errors", "first");
    until("a leader", async || first.leads().then_some(())).await;
    publish(&broker, 0..500).await;
    let second = Worker::start(&broker, &pipeline, "errors", "second");
    first.stop().await;
    let since = Instant::now();
    until("a takeover", async || second.leads().then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(1), "{:?}", since.elapsed());
    publish(&broker, 500..1000).await;
    expect_exact(&broker, &pipeline, 1000).await;
    second.stop().await;
}

/// Stage that stands still, thread and all, while `stalled` is set.
struct Stalling {
    inner: Box<dyn Reduce>,
    stalled: Arc<AtomicBool>,
}

impl Reduce for Stalling {
    fn restore(&mut self, key: &str, value: &[u8]) -> Result<(), String> {
        self.inner.restore(key, value)
    }

    fn apply(
        &mut self,
        input: &millstream::stages::Input<'_>,
        out: &mut Vec<Emission>,
    ) -> Result<(), Failure> {
        while self.stalled.load(Relaxed) {
            std::thread::sleep(Duration::from_millis(5));
        }
        self.inner.apply(input, out)
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Emission>) {
        self.inner.tick(now_ms, out);
    }

    fn next_timer_ms(&self) -> Option<u64> {
        self.inner.next_timer_ms()
    }

    fn dirty_len(&self) -> usize {
        self.inner.dirty_len()
    }

    fn take_dirty(&mut self) -> Vec<(String, Option<Vec<u8>>)> {
        self.inner.take_dirty()
    }
}

/// Thread for what may stand still: another thread of the test's own runtime could have the
/// connection waiting on it.
struct Apart(Option<tokio::runtime::Runtime>);

impl Apart {
    fn new() -> Self {
        Self(Some(
            tokio::runtime::Builder::new_multi_thread()
                .worker_threads(1)
                .enable_all()
                .build()
                .unwrap(),
        ))
    }

    async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        self.0.as_ref().unwrap().spawn(work).await.unwrap()
    }
}

impl Drop for Apart {
    fn drop(&mut self) {
        self.0.take().unwrap().shutdown_background();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_leader_that_stalled_and_wakes_up_is_fenced_out() {
    let (server, broker, pipeline) = mill("").await;
    let stalled = Arc::new(AtomicBool::new(false));
    let apart = Apart::new();
    let old = apart
        .run({
            let (nats, pipeline, stalled) = (server.nats(), pipeline.clone(), stalled.clone());
            async move {
                let broker = Broker::connect(&nats, "old").await.unwrap();
                Worker::with(&broker, &pipeline, "errors", "old", move |stage| {
                    Box::new(Stalling { inner: built(stage), stalled: stalled.clone() })
                })
            }
        })
        .await;
    until("a leader", async || old.leads().then_some(())).await;
    publish(&broker, 0..300).await;
    stalled.store(true, Relaxed);
    publish(&broker, 300..600).await;
    let new = Worker::start(&broker, &pipeline, "errors", "new");
    let since = Instant::now();
    until("a takeover", async || new.leads().then_some(())).await;
    assert!(since.elapsed() < Duration::from_secs(5), "{:?}", since.elapsed());
    publish(&broker, 600..800).await;
    until("the new leader's work", async || {
        (counted(&broker, &pipeline).await? >= 792).then_some(())
    })
    .await;
    let commits = old.metrics.snapshot().commits;
    stalled.store(false, Relaxed);
    until("the old leader to step down", async || (!old.leads()).then_some(())).await;
    publish(&broker, 800..1000).await;
    expect_exact(&broker, &pipeline, 1000).await;
    assert_eq!(old.metrics.snapshot().commits, commits, "the old leader has committed");
    assert!(new.leads());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn counts_are_exact_though_the_server_is_killed_and_restarted() {
    let (mut server, broker, pipeline) = mill("").await;
    let workers = [
        Worker::start(&broker, &pipeline, "errors", "one"),
        Worker::start(&broker, &pipeline, "errors", "two"),
    ];
    let publishing = tokio::spawn({
        let broker = broker.clone();
        async move { publish(&broker, 0..4000).await }
    });
    for at in [800, 2000] {
        until("some work", async || {
            (workers.iter().map(|w| w.metrics.snapshot().applied).sum::<u64>() >= at).then_some(())
        })
        .await;
        server.server.restart().await.unwrap();
    }
    publishing.await.unwrap();
    expect_exact(&broker, &pipeline, 4000).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn an_incident_becomes_notifications_until_it_resolves() {
    // Longer than the group_interval: an update that its end overtakes is notified as the end only.
    let (_server, broker, pipeline) = mill("quiet = \"3s\"").await;
    let workers = [
        Worker::start(&broker, &pipeline, "errors", "one"),
        Worker::start(&broker, &pipeline, "alerts", "one"),
    ];
    for n in 0..12 {
        publish(&broker, n * 20..n * 20 + 1).await;
    }
    let told = until("the resolve notice", async || {
        let told = scanned(&broker, "rt-notify").await;
        (told.len() >= 3).then_some(told)
    })
    .await;
    assert!(told.iter().all(|(subject, _)| subject == "rt.notify.log"));
    let told: Vec<Notification> =
        told.iter().map(|(_, body)| serde_json::from_slice(body).unwrap()).collect();
    let titles: Vec<&str> = told.iter().map(|notification| notification.title.as_str()).collect();
    expect_test::expect![[r#"
        [medium] CODE_0 opened: 5 errors in cart
        [medium] CODE_0 updated: 10 errors in cart
        [medium] CODE_0 resolved: 12 errors in cart"#]]
    .assert_eq(&titles.join("\n"));
    assert!(told.iter().all(|notification| notification.group == told[0].group));
    for worker in workers {
        worker.stop().await;
    }
}

//! Edges: what is between two stages is kept until every reader has settled it, whatever becomes of
//! the readers; and what a source loses unread is told.

mod losses;
mod trouble;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use expect_test::expect;
use millstream::{
    broker::{Broker, Retention, StreamSpec},
    handlers::{Registry, handler_fn},
    stages::Reply,
    topology::{Topology, diff},
    wire::FloorRecord,
    worker::{Options, Worker},
};
use serde_json::json;
use tokio::sync::watch;

use crate::support::{Mill, TestServer, eventually, pipeline_with};

const SHOP: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 3
    backoff = { fixed = "50ms" }
    [stage.first]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "noted" }
    [stage.work]
    kind = "handle"
    inputs = ["first"]
    handler = { rust = "noted" }
    ack_wait = "3s"
    max_ack_pending = 5000
    breaker = false
"#;

const SLOW: &str = r#"
    [stage.slow]
    kind = "handle"
    inputs = ["first"]
    handler = { rust = "gated" }
    concurrency = 4
    max_ack_pending = 8
"#;

const EDGE: &str = "shop-out-first";

/// Calls of the handlers, by stage and event, and a gate that the handler `gated` waits at.
#[derive(Clone)]
struct Calls {
    noted: Arc<Mutex<BTreeMap<(String, String), u32>>>,
    gate: Arc<watch::Sender<bool>>,
}

impl Calls {
    fn new() -> Self {
        Self { noted: Arc::default(), gate: Arc::new(watch::Sender::new(false)) }
    }

    fn registry(&self) -> Registry {
        let (noted, gated) = (self.clone(), self.clone());
        let note = |calls: &Self, stage: &str, id: &str| {
            let mut noted = calls.noted.lock().unwrap();
            *noted.entry((stage.to_owned(), id.to_owned())).or_default() += 1;
        };
        Registry::new()
            .with(
                "noted",
                handler_fn(move |event, delivery| {
                    note(&noted, &delivery.stage, &event.id);
                    async { Ok(Reply::Pass) }
                }),
            )
            .with(
                "gated",
                handler_fn(move |event, delivery| {
                    let (calls, mut gate) = (gated.clone(), gated.gate.subscribe());
                    let (stage, id) = (delivery.stage.clone(), event.id.clone());
                    async move {
                        gate.wait_for(|open| *open).await.unwrap();
                        note(&calls, &stage, &id);
                        Ok(Reply::Pass)
                    }
                }),
            )
    }

    /// Events that a stage has handled, each counted once.
    fn handled(&self, stage: &str) -> usize {
        self.noted.lock().unwrap().keys().filter(|(known, _)| known == stage).count()
    }

    fn runs(&self, stage: &str) -> u32 {
        let noted = self.noted.lock().unwrap();
        noted.iter().filter(|((known, _), _)| known == stage).map(|(_, runs)| runs).sum()
    }

    async fn all_handled(&self, stage: &str, events: usize) {
        eventually(async || (self.handled(stage) >= events).then_some(())).await;
    }
}

async fn publish(mill: &Mill, from: usize, to: usize) {
    for n in from..to {
        mill.event(&format!("e-{n}"), "order.created", json!({})).await;
    }
}

async fn stored(broker: &Broker, stream: &str) -> u64 {
    broker.stream_state(stream).await.unwrap().messages
}

async fn is_empty(mill: &Mill, stream: &str) {
    eventually(async || (stored(&mill.broker, stream).await == 0).then_some(())).await;
}

/// Floor of a consumer on record, once it is `floor`.
async fn floor(mill: &Mill, stream: &str, consumer: &str, floor: u64) {
    let (bucket, key) = (mill.names.state_bucket(), FloorRecord::key(stream, consumer));
    eventually(async || {
        let (value, _) = mill.broker.kv_get(&bucket, &key).await.unwrap()?;
        (FloorRecord::read(&value)?.floor == floor).then_some(())
    })
    .await;
}

async fn plan(mill: &Mill) -> String {
    diff(&Topology::of(&mill.pipeline), &mill.broker).await.unwrap().to_string()
}

/// Messages of findings of this code, once there is one.
async fn found(mill: &Mill, code: &str) -> Vec<String> {
    let filter = format!("shop.finding.{code}.>");
    eventually(async || {
        let mut messages = Vec::new();
        let mut from = 1;
        while let Some(message) =
            mill.broker.next_on_subject("shop-failed", &filter, from).await.unwrap()
        {
            from = message.seq + 1;
            let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
            messages.push(body["message"].as_str().unwrap().to_owned());
        }
        (!messages.is_empty()).then_some(messages)
    })
    .await
}

/// A worker that runs only these stages.
async fn worker_of(mill: &Mill, calls: &Calls, stages: &[&str]) -> Worker {
    let stages = Some(stages.iter().map(ToString::to_string).collect());
    let options = Options { stages, registry: calls.registry() };
    Worker::start(mill.broker.clone(), Arc::clone(&mill.pipeline), options).await.unwrap()
}

async fn still(toml: &str) -> (Mill, Calls) {
    let calls = Calls::new();
    (Mill::still(TestServer::start().await, toml, calls.registry()).await, calls)
}

#[tokio::test]
async fn a_consumer_that_was_never_there_is_given_all_that_was_published() {
    let (mut mill, calls) = still(SHOP).await;
    mill.broker.delete_consumer(EDGE, "shop-work").await.unwrap();
    for n in 0..20 {
        let id = format!("e-{n}");
        let event = crate::support::domain(&id, "order.created", json!({}));
        mill.publish("shop.out.first.order.created", event).await;
    }
    expect![[r#"
        + consumer "shop-work" on stream "shop-out-first": begins with the first message (20)
    "#]]
    .assert_eq(&plan(&mill).await);
    mill.work().await;
    // The keeper makes it, as `apply` would.
    eventually(async || (calls.runs("work") >= 20).then_some(())).await;
    is_empty(&mill, EDGE).await;
    assert_eq!(plan(&mill).await, "");
    mill.drain().await;
}

#[tokio::test]
async fn a_consumer_deleted_under_load_is_made_anew_and_nothing_is_lost() {
    let (mut mill, calls) = still(SHOP).await;
    mill.work().await;
    publish(&mill, 0, 300).await;
    mill.broker.delete_consumer(EDGE, "shop-work").await.unwrap();
    mill.broker.delete_consumer("shop-in-events", "shop-first").await.unwrap();
    publish(&mill, 300, 1000).await;
    calls.all_handled("work", 1000).await;
    let told = found(&mill, "ConsumerMadeAnew").await;
    assert!(told.iter().any(|text| text.contains("\"shop-work\" on stream \"shop-out-first\"")));
    let again = calls.runs("work") - 1000;
    assert!(again < 700, "{again} ran again: it began from the start");
    is_empty(&mill, EDGE).await;
    assert_eq!(plan(&mill).await, "", "it fits, wherever it began");
    assert_eq!(mill.letters().await.len(), 0);
    mill.drain().await;
}

#[tokio::test]
async fn a_consumer_made_anew_goes_on_behind_its_floor_and_the_plan_says_so() {
    let (mut mill, calls) = still(SHOP).await;
    mill.work().await;
    publish(&mill, 0, 40).await;
    calls.all_handled("work", 40).await;
    floor(&mill, EDGE, "shop-work", 40).await;
    floor(&mill, "shop-in-events", "shop-first", 40).await;
    mill.drain().await;
    publish(&mill, 40, 45).await;
    mill.broker.delete_consumer("shop-in-events", "shop-first").await.unwrap();
    expect![[r#"
        + consumer "shop-first" on stream "shop-in-events": goes on after 40 (5 messages)
    "#]]
    .assert_eq(&plan(&mill).await);
    mill.make().await;
    assert_eq!(plan(&mill).await, "");
    mill.work().await;
    calls.all_handled("work", 45).await;
    mill.drain().await;
    assert_eq!(calls.runs("first"), 45, "none ran a second time");
    // A stream made anew counts from 1 again: the floor is not its.
    mill.broker.delete_stream("shop-in-events").await.unwrap();
    mill.make().await;
    mill.broker.delete_consumer("shop-in-events", "shop-first").await.unwrap();
    publish(&mill, 45, 48).await;
    expect![[r#"
        + consumer "shop-first" on stream "shop-in-events": begins with the first message (3)
    "#]]
    .assert_eq(&plan(&mill).await);
}

#[tokio::test]
async fn the_slowest_reader_and_one_that_is_gone_hold_what_they_have_not_settled() {
    let calls = Calls::new();
    let toml = [SHOP, SLOW].concat();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    mill.work().await;
    publish(&mill, 0, 400).await;
    calls.all_handled("work", 400).await;
    floor(&mill, EDGE, "shop-work", 400).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 400, "the slow reader has settled nothing");
    calls.gate.send_replace(true);
    calls.all_handled("slow", 400).await;
    is_empty(&mill, EDGE).await;
    mill.drain().await;
    // One that is gone holds what is behind its floor; it is made again, and nobody runs its stage.
    mill.broker.delete_consumer(EDGE, "shop-slow").await.unwrap();
    let worker = worker_of(&mill, &calls, &["first", "work"]).await;
    publish(&mill, 400, 410).await;
    calls.all_handled("work", 410).await;
    floor(&mill, EDGE, "shop-work", 410).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 10);
    worker.drain(std::future::pending()).await;
    mill.work().await;
    calls.all_handled("slow", 410).await;
    is_empty(&mill, EDGE).await;
    assert_eq!(calls.runs("slow"), 410, "none ran a second time");
    mill.drain().await;
    // One that the configuration no longer names holds what it has not settled, until it is gone.
    let fewer = pipeline_with(SHOP, mill.server.server.url(), &calls.registry());
    mill.pipeline = fewer;
    mill.work().await;
    publish(&mill, 410, 420).await;
    calls.all_handled("work", 420).await;
    floor(&mill, EDGE, "shop-work", 420).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 10);
    mill.broker.delete_consumer(EDGE, "shop-slow").await.unwrap();
    is_empty(&mill, EDGE).await;
    mill.drain().await;
}

#[tokio::test]
async fn a_reader_added_begins_with_what_is_there_and_one_with_filters_holds_only_its_own() {
    let calls = Calls::new();
    let toml = [SHOP, SLOW, r#"types = ["order.*"]"#].concat();
    let mut mill = Mill::still(TestServer::start().await, SHOP, calls.registry()).await;
    mill.work().await;
    publish(&mill, 0, 20).await;
    is_empty(&mill, EDGE).await;
    mill.drain().await;
    mill.pipeline = pipeline_with(&toml, mill.server.server.url(), &calls.registry());
    mill.make().await;
    mill.work().await;
    for n in 0..50 {
        mill.event(&format!("u-{n}"), "user.created", json!({})).await;
    }
    calls.all_handled("work", 70).await;
    is_empty(&mill, EDGE).await;
    publish(&mill, 20, 23).await;
    mill.event("u-last", "user.created", json!({})).await;
    calls.all_handled("work", 74).await;
    floor(&mill, EDGE, "shop-work", 74).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 4, "from its first on");
    calls.gate.send_replace(true);
    calls.all_handled("slow", 3).await;
    is_empty(&mill, EDGE).await;
    mill.drain().await;
}

#[tokio::test]
async fn what_a_dead_worker_had_is_given_out_in_time_while_the_edge_is_trimmed() {
    // Long enough for the verdict on what comes again to need no further heartbeat.
    let (mut mill, calls) = still(&SHOP.replace("3s", "10s")).await;
    let worker = worker_of(&mill, &calls, &["first"]).await;
    publish(&mill, 0, 2000).await;
    mill.messages(EDGE, 2000).await;
    let mut pull = mill.broker.pull(EDGE, "shop-work", 2000).await.unwrap();
    for _ in 0..2000 {
        pull.next().await.unwrap().unwrap();
    }
    let died = Instant::now();
    drop(pull);
    mill.work().await;
    // Others go on meanwhile.
    let traffic = async {
        for n in 2000.. {
            publish(&mill, n, n + 1).await;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let taken = eventually(async || {
        let state = mill.broker.stream_state(EDGE).await.unwrap();
        (state.first_seq > 2000).then(|| died.elapsed())
    });
    let taken = tokio::select! {
        taken = taken => taken,
        () = traffic => unreachable!(),
    };
    assert!(taken < Duration::from_secs(25), "{taken:?}, of an ack wait of 10 s");
    worker.drain(std::future::pending()).await;
    mill.drain().await;
}

#[tokio::test]
async fn an_interest_edge_becomes_a_limits_edge_while_it_is_at_work() {
    let (mut mill, calls) = still(SHOP).await;
    let limits = mill.broker.find_stream(EDGE).await.unwrap().unwrap();
    let interest = StreamSpec { retention: Retention::Interest, ..limits };
    mill.broker.update_stream(&interest).await.unwrap();
    let worker = worker_of(&mill, &calls, &["first"]).await;
    publish(&mill, 0, 30).await;
    mill.messages(EDGE, 30).await;
    expect![[r#"
        ~ stream "shop-out-first"
            retention: interest -> limits (nothing is lost: workers trim what every reader has settled)
    "#]]
    .assert_eq(&plan(&mill).await);
    mill.make().await;
    mill.work().await;
    calls.all_handled("work", 30).await;
    is_empty(&mill, EDGE).await;
    worker.drain(std::future::pending()).await;
    mill.drain().await;
}

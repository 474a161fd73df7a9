//! Trouble: keepers that are refused, clusters that lose a server, readers that are paused.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use expect_test::expect;
use millstream::{
    broker::Broker,
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply},
    topology::Topology,
    worker::{Options, Worker},
};
use serde_json::json;

use super::{Calls, EDGE, SHOP, SLOW, floor, found, is_empty, plan, publish, stored};
use crate::support::{Mill, TestServer, eventually, pipeline_with, trouble};

#[tokio::test]
async fn a_keeper_that_may_not_purge_says_so_and_the_work_goes_on() {
    let calls = Calls::new();
    let server = TestServer::denying("$JS.API.STREAM.PURGE.>").await;
    let mill = Mill::still(server, SHOP, calls.registry()).await;
    let worker = mill.denied_worker().await;
    publish(&mill, 0, 10).await;
    calls.all_handled("work", 10).await;
    let told = found(&mill, "EdgeNotTrimmed").await.swap_remove(0);
    assert!(told.contains("the right to publish on \"$JS.API.STREAM.PURGE.shop-out-first\""));
    publish(&mill, 10, 20).await;
    calls.all_handled("work", 20).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 20);
    let told = trouble(&worker, "subject $JS.API.STREAM.PURGE.shop-out-first").await;
    assert!(told.remedy.unwrap().starts_with("grant publish on \"$JS.API.STREAM.PURGE."));
    worker.drain(std::future::pending()).await;
}

#[tokio::test]
async fn where_failures_never_pause_retries_come_in_time_and_the_edge_is_trimmed() {
    let toml = SHOP
        .replace("fixed = \"50ms\"", "fixed = \"1s\"")
        .replace("ack_wait = \"3s\"", "ack_wait = \"30s\"");
    let started = Arc::new(Mutex::new(BTreeMap::<String, (Instant, Duration)>::new()));
    let times = Arc::clone(&started);
    // Every third event of `work` fails twice.
    let handler = handler_fn(move |event, delivery| {
        let n: usize = event.id[2..].parse().unwrap();
        let fails = delivery.stage == "work" && n.is_multiple_of(3) && delivery.attempt <= 2;
        if delivery.stage == "work" {
            let mut times = times.lock().unwrap();
            let (first, took) =
                times.entry(event.id.clone()).or_insert_with(|| (Instant::now(), Duration::ZERO));
            *took = first.elapsed();
        }
        async move {
            match fails {
                true => Err(Failure::retry("Flaky", "not yet")),
                false => Ok(Reply::Pass),
            }
        }
    });
    let registry = Registry::new().with("noted", handler);
    let mut mill = Mill::still(TestServer::start().await, &toml, registry).await;
    mill.work().await;
    let (mut published, began) = (0, Instant::now());
    while began.elapsed() < Duration::from_secs(8) {
        publish(&mill, published, published + 10).await;
        published += 10;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let state = mill.broker.stream_state(EDGE).await.unwrap();
    assert!(state.first_seq > published as u64 / 3, "trimmed meanwhile: {state:?}");
    is_empty(&mill, EDGE).await;
    let times = started.lock().unwrap().clone();
    assert_eq!(times.len(), published);
    let slowest = times.values().map(|(_, took)| *took).max().unwrap();
    assert!(slowest < Duration::from_secs(15), "{slowest:?} for two waits of 1 s");
    mill.drain().await;
}

#[tokio::test]
async fn a_reader_that_is_paused_holds_what_it_has_not_settled() {
    let calls = Calls::new();
    let toml = [SHOP, SLOW].concat();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    calls.gate.send_replace(true);
    mill.work().await;
    publish(&mill, 0, 20).await;
    calls.all_handled("slow", 20).await;
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let pause = |until: &str| {
        let body = json!({ "pause_until": until }).to_string();
        client.request("$JS.API.CONSUMER.PAUSE.shop-out-first.shop-slow", body.into())
    };
    pause("2099-01-01T00:00:00Z").await.unwrap();
    publish(&mill, 20, 60).await;
    calls.all_handled("work", 60).await;
    floor(&mill, EDGE, "shop-work", 60).await;
    let held = stored(&mill.broker, EDGE).await;
    assert!(held >= 60 - calls.handled("slow") as u64, "{held}");
    pause("2020-01-01T00:00:00Z").await.unwrap();
    calls.all_handled("slow", 60).await;
    is_empty(&mill, EDGE).await;
    mill.drain().await;
}

#[tokio::test]
async fn in_a_cluster_that_loses_a_server_and_consumers_nothing_is_lost() {
    let calls = Calls::new();
    let [first, second, mut third] = TestServer::cluster().await;
    let broker = eventually(async || Broker::connect(&first.nats(), "test").await.ok()).await;
    let toml = [SHOP, SLOW, "[storage]\nreplicas = 3\n"].concat();
    let pipeline = pipeline_with(&toml, first.server.url(), &calls.registry());
    let topology = Topology::of(&pipeline);
    eventually(async || millstream::topology::make(&broker, &topology).await.ok()).await;
    calls.gate.send_replace(true);
    let options = Options { stages: None, registry: calls.registry() };
    let worker = Worker::start(broker.clone(), Arc::clone(&pipeline), options).await.unwrap();
    let publish = async |from: usize, to: usize| {
        for n in from..to {
            let id = format!("e-{n}");
            let event = crate::support::domain(&id, "order.created", json!({}));
            // An answer that was lost is no refusal: by its id it is stored once.
            eventually(async || {
                let outgoing =
                    millstream::broker::Outgoing::new("events.order.created", event.clone());
                broker.publish(outgoing.id(&id)).await.ok()
            })
            .await;
        }
    };
    publish(0, 200).await;
    third.server.kill_hard();
    publish(200, 300).await;
    for (consumer, from) in [("shop-work", 300), ("shop-slow", 350)] {
        // An answer may be lost of what was done.
        eventually(async || {
            let deleted = broker.delete_consumer(EDGE, consumer).await;
            let is_gone = matches!(broker.find_consumer(EDGE, consumer).await, Ok(None));
            (deleted.is_ok() || is_gone).then_some(())
        })
        .await;
        publish(from, from + 50).await;
    }
    third.server.restart().await.unwrap();
    publish(400, 500).await;
    calls.all_handled("work", 500).await;
    calls.all_handled("slow", 500).await;
    eventually(async || {
        let state = broker.stream_state(EDGE).await.ok()?;
        (state.messages == 0).then_some(())
    })
    .await;
    worker.drain(std::future::pending()).await;
    drop(second);
}

#[tokio::test]
async fn a_consumer_that_may_not_be_made_holds_what_comes_until_someone_makes_it() {
    let calls = Calls::new();
    let server = TestServer::denying("$JS.API.CONSUMER.CREATE.shop-out-first.>").await;
    let toml = [SHOP, SLOW].concat();
    let mill = Mill::still(server, &toml, calls.registry()).await;
    calls.gate.send_replace(true);
    let worker = mill.denied_worker().await;
    publish(&mill, 0, 10).await;
    calls.all_handled("slow", 10).await;
    is_empty(&mill, EDGE).await;
    mill.broker.delete_consumer(EDGE, "shop-slow").await.unwrap();
    publish(&mill, 10, 30).await;
    calls.all_handled("work", 30).await;
    let told = found(&mill, "ConsumerMissing").await.swap_remove(0);
    assert!(told.contains("\"shop-slow\" on stream \"shop-out-first\" is missing"), "{told}");
    floor(&mill, EDGE, "shop-work", 30).await;
    assert_eq!(stored(&mill.broker, EDGE).await, 20);
    expect![[r#"
        + consumer "shop-slow" on stream "shop-out-first": goes on after 10 (20 messages)
    "#]]
    .assert_eq(&plan(&mill).await);
    mill.make().await;
    calls.all_handled("slow", 30).await;
    is_empty(&mill, EDGE).await;
    assert_eq!(calls.runs("slow"), 30);
    worker.drain(std::future::pending()).await;
}

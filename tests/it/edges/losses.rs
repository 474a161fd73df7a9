//! Losses: what a source refuses, drops or lets expire is told.

use expect_test::expect;
use millstream::{
    keeper::KeeperRecord,
    topology::{Topology, diff},
};
use serde_json::json;

use super::{Calls, floor, found, publish, stored, worker_of};
use crate::support::{Mill, TestServer, eventually, pipeline_with};

#[tokio::test]
async fn a_full_source_refuses_what_is_new_is_told_and_takes_events_again_once_they_are_read() {
    let calls = Calls::new();
    let toml = r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        max_bytes = "64KiB"
        [stage.slow]
        kind = "handle"
        inputs = ["source.events"]
        handler = { rust = "gated" }
        concurrency = 4
    "#;
    let mut mill = Mill::still(TestServer::start().await, toml, calls.registry()).await;
    mill.work().await;
    let padding = "x".repeat(1000);
    let event = |n: usize| {
        crate::support::domain(&format!("e-{n}"), "order.created", json!({ "padding": padding }))
    };
    let mut taken = 0;
    let refused = loop {
        let outgoing = millstream::broker::Outgoing::new("events.order.created", event(taken));
        match mill.broker.publish(outgoing).await {
            Ok(_) => taken += 1,
            Err(refused) => break refused,
        }
    };
    assert!(refused.is_full(), "{refused:?}");
    let told = found(&mill, "SourceNearlyFull").await.swap_remove(0);
    assert!(told.contains("\"shop-in-events\" wait for stage \"slow\""), "{told}");
    let record = KeeperRecord::load(&mill.broker, &mill.names).await.unwrap();
    assert_eq!(record.conditions.len(), 1, "{record:?}");
    calls.gate.send_replace(true);
    eventually(async || {
        let outgoing = millstream::broker::Outgoing::new("events.order.created", event(taken));
        mill.broker.publish(outgoing).await.ok()
    })
    .await;
    calls.all_handled("slow", taken + 1).await;
    eventually(async || {
        let record = KeeperRecord::load(&mill.broker, &mill.names).await.unwrap();
        record.conditions.is_empty().then_some(())
    })
    .await;
    assert_eq!(record.lost, []);
    mill.drain().await;
}

#[tokio::test]
async fn events_that_expire_or_are_dropped_unread_are_told_with_their_number() {
    let calls = Calls::new();
    let toml = r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        max_age = "3s"
        [source.orders]
        subjects = ["orders.>"]
        max_bytes = "20KiB"
        on_full = "drop"
        [stage.first]
        kind = "handle"
        inputs = ["source.events", "source.orders"]
        handler = { rust = "noted" }
        [stage.other]
        kind = "handle"
        inputs = ["source.events"]
        handler = { rust = "noted" }
    "#;
    let mill = Mill::still(TestServer::start().await, toml, calls.registry()).await;
    // The stage is not run; the keeper is elected among whoever is there.
    let worker = worker_of(&mill, &calls, &["other"]).await;
    floor(&mill, "shop-in-events", "shop-first", 0).await;
    floor(&mill, "shop-in-orders", "shop-first", 0).await;
    publish(&mill, 0, 25).await;
    for n in 0..40 {
        let data = json!({ "padding": "x".repeat(1000) });
        let event = crate::support::domain(&format!("o-{n}"), "order.created", data);
        mill.publish("orders.created", event).await;
    }
    let kept = stored(&mill.broker, "shop-in-orders").await;
    let of = async |stream: &str, events: u64| {
        eventually(async || {
            let record = KeeperRecord::load(&mill.broker, &mill.names).await.unwrap();
            let lost = record.lost.into_iter().find(|lost| lost.stream == stream)?;
            (lost.events == events).then_some(lost.stage)
        })
        .await
    };
    assert_eq!(of("shop-in-orders", 40 - kept).await, "first");
    assert_eq!(of("shop-in-events", 25).await, "first");
    let told = found(&mill, "EventsLostUnread").await;
    assert!(
        told.iter().all(|text| text.ends_with("before stage \"first\" had read them")),
        "{told:?}"
    );
    let metrics = worker.metrics().render();
    let line = concat!(
        r#"millstream_events_lost_unread_total{stream="shop-in-events","#,
        r#"stage="first"} 25"#
    );
    assert!(metrics.lines().any(|known| known == line), "{metrics}");
    assert!(metrics.contains("millstream_source_fill_ratio{stream=\"shop-in-orders\"} 0."));
    worker.drain(std::future::pending()).await;
    // A source that dropped refuses from now on.
    let source = mill.broker.find_stream("shop-in-orders").await.unwrap().unwrap();
    assert!(source.drops_oldest && !source.keeps_oldest);
    let refuses = toml.replace("\"drop\"", "\"refuse\"");
    let refusing = pipeline_with(&refuses, mill.server.server.url(), &calls.registry());
    let planned = diff(&Topology::of(&refusing), &mill.broker).await.unwrap();
    expect![[r#"
        ~ stream "shop-in-orders"
            when_full: drops what is oldest -> refuses what is new
    "#]]
    .assert_eq(&planned.to_string());
}

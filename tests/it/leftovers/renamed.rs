//! Renamed: what a stage held goes on under its new name.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{Outgoing, StoredMessage, get},
    exhausted::{bury::Burial, sweep::Sweep},
    handlers::Registry,
    observe::Metrics,
    stages::headers,
    topology::{Leftovers, Topology, diff},
};
use serde_json::json;

use super::{BEGIN, HELD, RESULTS, for_program, left, shop};
use crate::{
    shell::Shell,
    support::{Mill, domain, eventually, scanned},
};

#[tokio::test(flavor = "multi_thread")]
async fn what_a_renamed_stage_holds_goes_on_under_its_new_name() {
    let (server, service) = left().await;
    let toml = shop("fulfil", "renamed_from = \"orders\"");
    let shell = Shell::new(&for_program(&toml), server.server.url());
    let plan = shell.run("plan").await;
    assert_eq!(plan.code, 1);
    let line = "> stage \"orders\" is renamed \"fulfil\": 2 not settled on stream \
                \"shop-out-pass\", 2 parked, 1 in letters, 1 results not settled: handed over; \
                letters stay, and a redrive sends them to \"fulfil\"";
    assert!(plan.out.contains(line), "{}", plan.out);
    let status = shell.run("status").await;
    assert!(
        status.code == 1 && status.out.contains("\"orders\", now \"fulfil\""),
        "{}",
        status.out
    );

    let mut mill = Mill::still(server, &toml, service.registry()).await;
    let topology = Topology::of(&mill.pipeline);
    let found = Leftovers::find(&topology, &mill.broker).await.unwrap();
    assert_eq!(found.waits().count(), 0, "{found:?}");
    assert!(found.streams.is_empty() && found.held.iter().all(|held| held.consumers.is_empty()));
    assert!(diff(&topology, &mill.broker).await.unwrap().is_done());
    mill.work().await;
    eventually(async || {
        let [work, after] = service.given();
        (work.keys().eq(&HELD) && after.keys().eq(&RESULTS)).then_some(())
    })
    .await;
    mill.idle("fulfil").await;
    mill.idle("after").await;
    let [work, after] = service.given();
    assert!(work.values().chain(after.values()).all(|times| *times == 1), "{work:?} {after:?}");

    let redriven = shell.run("dlq redrive --yes --stage orders").await;
    assert_eq!((redriven.code, mill.letters().await.len()), (0, 0), "{}", redriven.out);
    eventually(async || service.given()[0].contains_key("dead-1").then_some(())).await;
    mill.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_apply_that_is_killed_at_any_point_of_a_rename_goes_on() {
    let (server, service) = left().await;
    let toml = shop("fulfil", "renamed_from = \"orders\"");
    let shell = Shell::new(&for_program(&toml), server.server.url());
    for after_ms in (10..130).step_by(10) {
        let mut child = shell.command("apply").spawn().unwrap();
        let ended = tokio::time::timeout(Duration::from_millis(after_ms), child.wait()).await;
        if ended.is_err() {
            child.kill().await.unwrap();
        }
    }
    let applied = shell.run("apply").await;
    assert_eq!(applied.code, 0, "{}", applied.err);
    let mut mill = Mill::still(server, &toml, service.registry()).await;
    mill.work().await;
    eventually(async || {
        let [work, after] = service.given();
        (work.keys().eq(&HELD) && after.keys().eq(&RESULTS)).then_some(())
    })
    .await;
    mill.drain().await;
    let [work, after] = service.given();
    assert!(work.values().chain(after.values()).all(|times| *times <= 2), "{work:?} {after:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_stage_goes_on_in_its_source_and_its_readers_lose_no_result() {
    let (server, service) = left().await;
    let rename = |toml: &str| {
        toml.replace("[stage.pass]", "[stage.first]\n    renamed_from = [\"pass\"]")
            .replace("inputs = [\"pass\"]", "inputs = [\"first\"]")
    };
    let toml = rename(&shop("orders", ""));
    let mut mill = Mill::still(server, &toml, service.registry()).await;
    let topology = Topology::of(&mill.pipeline);
    let found = Leftovers::find(&topology, &mill.broker).await.unwrap();
    assert_eq!((found.waits().count(), found.streams.len()), (0, 0), "{found:?}");
    mill.work().await;
    eventually(async || service.given()[0].keys().eq(&HELD).then_some(())).await;
    mill.idle("first").await;
    mill.drain().await;
    let replayed = mill.broker.stream_state("shop-out-first").await.unwrap().last_seq;
    assert_eq!(replayed, 0, "what was handled is not handled again");
    let [work, _] = service.given();
    assert!(work.values().all(|times| *times == 1), "{work:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_stage_with_state_keeps_its_state_and_what_reads_it_goes_on() {
    let toml = |stage: &str, more: &str| {
        format!(
            r#"{BEGIN}
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [stage.{stage}]
    kind = "aggregate-errors"
    inputs = ["*.failed", "source.errors"]
    threshold = 1
    {more}
    [stage.alerts]
    kind = "alert"
    inputs = ["{stage}"]
    channels = ["log"]
"#
        )
    };
    let report = |n: u32| {
        let body = json!({
            "errorCode": "C", "severity": "high", "serviceName": "s", "message": format!("m {n}"),
        });
        Outgoing::new("errors.x", body.to_string())
    };
    let count = async |mill: &Mill| {
        let open = millstream::incidents::snapshot::open(&mill.broker, &mill.pipeline).await;
        open.unwrap().iter().map(|(stage, incident)| (stage.clone(), incident.count)).next()
    };
    let is = async |mill: &Mill, stage: &str, n: u64| {
        eventually(async || (count(mill).await == Some((stage.to_owned(), n))).then_some(())).await;
    };
    let mut mill = Mill::with(&toml("errors", ""), Registry::new()).await;
    for n in 0..3 {
        mill.broker.publish(report(n)).await.unwrap();
    }
    is(&mill, "errors", 3).await;
    let told = async |mill: &Mill| scanned(&mill.broker, "shop-out-errors").await.len();
    assert!(told(&mill).await > 0);
    mill.drain().await;
    let Mill { server, .. } = mill;
    let renamed = toml("faults", "renamed_from = \"errors\"");
    let mut mill = Mill::still(server, &renamed, Registry::new()).await;
    is(&mill, "faults", 3).await;
    let topology = Topology::of(&mill.pipeline);
    assert!(diff(&topology, &mill.broker).await.unwrap().is_done());
    mill.work().await;
    mill.broker.publish(report(3)).await.unwrap();
    is(&mill, "faults", 4).await;
    mill.drain().await;
    let left = mill.broker.kv_entries("shop-state", "errors.").await.unwrap();
    let left: Vec<&str> = left.iter().map(|(key, ..)| key.as_str()).collect();
    assert!(left.iter().all(|key| *key == "errors.lease"), "{left:?}");
    let incidents = scanned(&mill.broker, "shop-out-faults").await.len();
    assert!(incidents <= 2, "{incidents}: what alerts had read is not told again");
}

#[tokio::test]
async fn what_comes_under_an_old_name_after_the_hand_over_is_handed_over_later() {
    let (server, service) = left().await;
    let toml = shop("fulfil", "renamed_from = \"orders\"");
    let mill = Mill::still(server, &toml, service.registry()).await;
    // As workers do that still know the old name.
    let mut late = Outgoing::new("shop.retry.orders", domain("late-1", "order.created", json!({})));
    for (name, value) in [
        (headers::EVENT_ID, "late-1"),
        (headers::EVENT_TYPE, "order.created"),
        (headers::SOURCE, "shop-in-events:99@1000"),
        (headers::LIFE, "shop-out-pass:99@1000"),
        (headers::QUEUED_AT, "2026-11-28T00:00:00.000Z"),
    ] {
        late = late.header(name, value);
    }
    mill.broker.publish(late).await.unwrap();
    let topology = Topology::of(&mill.pipeline);
    let found = Leftovers::find(&topology, &mill.broker).await.unwrap();
    assert_eq!(found.of("orders").unwrap().waiting, 1);
    let mut sweep = Sweep::new(Burial {
        broker: mill.broker.clone(),
        pipeline: Arc::clone(&mill.pipeline),
        metrics: Metrics::new(&mill.pipeline),
    });
    sweep.round(SystemTime::now()).await;
    let found = Leftovers::find(&topology, &mill.broker).await.unwrap();
    assert_eq!(found.waits().count(), 0, "{found:?}");
    let waiting = scanned(&mill.broker, "shop-retry").await;
    let of = |it: &&StoredMessage| get(&it.headers, headers::EVENT_ID) == Some("late-1");
    assert_eq!(waiting.iter().find(of).unwrap().subject, "shop.retry.fulfil");
}

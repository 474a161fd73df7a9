//! Topology: streams and consumers of a pipeline, and their reconciliation on a real server.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use expect_test::expect;
use millstream::{
    broker::{AdminError, Nats, Outgoing},
    channels::Words,
    config::{
        Pipeline,
        pipeline::{Channel, Input, Observe, OnFull, Source, Stage, Storage},
    },
    stages::{Envelope, KINDS, rate::Rate, retry::Policy},
    topology::{Allowed, ApplyError, ChangeKind, Object, Topology, apply, diff},
};
use serde_json::json;

use crate::support::{TestServer, failure, stream};

const DAY: Duration = Duration::from_secs(24 * 3600);

fn source(name: &str, subjects: &[&str], envelope: Envelope) -> Source {
    Source {
        name: name.to_owned(),
        subjects: subjects.iter().map(ToString::to_string).collect(),
        envelope,
        max_age: 7 * DAY,
        max_bytes: None,
        on_full: OnFull::Refuse,
        external: None,
    }
}

fn stage(name: &str, kind: &str, inputs: &[Input]) -> Stage {
    Stage {
        name: name.to_owned(),
        kind: KINDS.iter().find(|known| known.name == kind).unwrap(),
        options: json!({}),
        inputs: inputs.to_vec(),
        types: Vec::new(),
        concurrency: 16,
        ack_wait: Duration::from_secs(30),
        max_ack_pending: 1000,
        policy: Policy::default(),
        breaker: None,
        recover: None,
        dedup: None,
        chain: false,
        renamed_from: Vec::new(),
    }
}

fn results(stage: &str) -> Input {
    Input::Results(stage.to_owned())
}

/// Pipeline of the shape of the shipped example, with a stage on a stream that is not ours.
fn shop() -> Pipeline {
    let events = Input::Source("events".to_owned());
    Pipeline {
        name: "shop".to_owned(),
        id: None,
        base: PathBuf::new(),
        config_hash: "000000000000".to_owned(),
        nats: Nats::default(),
        sources: vec![
            source("events", &["events.>"], Envelope::Domain),
            source("errors", &["errors.>"], Envelope::Error),
            Source {
                external: Some("LEGACY".to_owned()),
                ..source("legacy", &["legacy.orders"], Envelope::Raw)
            },
        ],
        stages: vec![
            stage("validate", "validate", &[events]),
            Stage {
                types: vec!["order.*".to_owned(), "order.created".to_owned()],
                dedup: Some(Duration::from_secs(120)),
                ..stage(
                    "orders",
                    "handle",
                    &[results("validate"), Input::Source("legacy".to_owned())],
                )
            },
            Stage { chain: true, ..stage("audit", "handle", &[results("orders")]) },
            stage(
                "errors",
                "aggregate-errors",
                &[
                    Input::Failed("orders".to_owned()),
                    Input::Failed("validate".to_owned()),
                    Input::Source("errors".to_owned()),
                    Input::Findings,
                ],
            ),
            stage("alerts", "alert", &[results("errors")]),
        ],
        channels: vec![Channel {
            name: "ops".to_owned(),
            kind: "log".to_owned(),
            options: json!({}),
            words: Words::default(),
            rate: Rate::per_minute(10),
            send_resolved: true,
            policy: Policy::default(),
        }],
        storage: Storage {
            replicas: 1,
            memory: false,
            results_max_age: DAY,
            failed_max_age: 7 * DAY,
            dlq_max_age: 30 * DAY,
            dlq_max_bytes: None,
            max_bytes: None,
            failed_max_bytes: None,
            results_max_bytes: None,
            retry_max_bytes: None,
            state_max_bytes: None,
            retry_max_age: Duration::ZERO,
        },
        observe: Observe { listen: None, otlp: None, sample: 0.0 },
    }
}

#[test]
fn the_shop_needs_these_feeds() {
    let topology = Topology::of(&shop());
    let mut text = String::new();
    for feed in topology.all_feeds() {
        writeln!(
            text,
            "{} <- {} {} {:?} {:?}",
            feed.stage, feed.stream, feed.consumer, feed.input, feed.filters
        )
        .unwrap();
    }
    for stage in ["errors", "alerts"] {
        for read in topology.reads(stage) {
            writeln!(text, "{stage} reads {} {:?} {:?}", read.stream, read.input, read.filters)
                .unwrap();
        }
    }
    expect![[r#"
        validate <- shop-in-events shop-validate Source(Domain) []
        validate <- shop-retry shop-validate Retry ["shop.retry.validate"]
        validate <- shop-retry shop-validate+alone Quarantine ["shop.alone.validate"]
        orders <- LEGACY shop-orders Source(Raw) ["legacy.orders"]
        orders <- shop-out-validate shop-orders Edge ["shop.out.validate.order.*"]
        orders <- shop-retry shop-orders Retry ["shop.retry.orders"]
        orders <- shop-retry shop-orders+alone Quarantine ["shop.alone.orders"]
        notify-ops <- shop-notify shop-notify-ops Edge ["shop.notify.ops"]
        notify-ops <- shop-retry shop-notify-ops Retry ["shop.retry.notify-ops"]
        notify-ops <- shop-retry shop-notify-ops+alone Quarantine ["shop.alone.notify-ops"]
        errors reads shop-failed Failed ["shop.failed.orders.>", "shop.failed.validate.>", "shop.finding.>"]
        errors reads shop-in-errors Source(Error) []
        errors reads KV_shop-state Operator ["$KV.shop-state.incident.>"]
        alerts reads shop-out-errors Edge []
        alerts reads KV_shop-state Operator ["$KV.shop-state.silence.>"]
    "#]]
    .assert_eq(&text);
    assert!(topology.feeds("audit").is_empty());
    assert_eq!(topology.feeds("notify-ops").len(), 2);
}

#[test]
fn the_shop_needs_these_streams() {
    let mut text = String::new();
    for spec in Topology::of(&shop()).streams {
        let age = spec.max_age.map(|age| age.as_secs());
        let window = spec.duplicate_window.as_millis();
        writeln!(
            text,
            "{} {:?} age {age:?} window {window} ms {}",
            spec.name,
            spec.retention,
            spec.subjects.join(" ")
        )
        .unwrap();
    }
    expect![[r#"
        KV_shop-state Limits age None window 120000 ms $KV.shop-state.>
        KV_shop-workers Limits age Some(15) window 15000 ms $KV.shop-workers.>
        shop-failed Limits age Some(604800) window 120000 ms shop.failed.> shop.finding.>
        shop-dlq Limits age Some(2592000) window 120000 ms shop.dlq.>
        shop-retry WorkQueue age None window 120000 ms shop.retry.* shop.alone.* shop.parked.*
        shop-notify WorkQueue age None window 120000 ms shop.notify.*
        shop-out-validate Limits age None window 100 ms shop.out.validate.>
        shop-out-errors Limits age Some(86400) window 120000 ms shop.out.errors.>
        shop-advisories WorkQueue age None window 120000 ms $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.LEGACY.shop-orders $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-in-events.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-notify.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-out-validate.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-retry.*
        shop-in-events Limits age Some(604800) window 120000 ms events.>
        shop-in-errors Limits age Some(604800) window 120000 ms errors.>
    "#]].assert_eq(&text);
}

async fn legacy_server() -> TestServer {
    let server = TestServer::start().await;
    let legacy = stream("LEGACY", "legacy.>", millstream::broker::Retention::Limits);
    server.connect().await.create_stream(&legacy).await.unwrap();
    server
}

async fn applied(pipeline: &Pipeline) -> TestServer {
    let server = legacy_server().await;
    let broker = server.connect().await;
    let plan = diff(&Topology::of(pipeline), &broker).await.unwrap();
    apply(&plan, &broker, Allowed::default()).await.unwrap();
    server
}

#[tokio::test]
async fn applying_again_finds_nothing_to_do() {
    let pipeline = shop();
    let server = applied(&pipeline).await;
    let plan = diff(&Topology::of(&pipeline), &server.connect().await).await.unwrap();
    assert_eq!(plan.to_string(), "");
}

#[tokio::test]
async fn consumers_come_before_the_streams_that_others_publish_to() {
    let server = legacy_server().await;
    let plan = diff(&Topology::of(&shop()), &server.connect().await).await.unwrap();
    let text = plan.to_string();
    let at = |line: &str| text.find(line).unwrap_or_else(|| panic!("no {line} in\n{text}"));
    assert!(
        at("+ consumer \"shop-orders\" on stream \"shop-out-validate\"")
            < at("+ stream \"shop-in-events\"")
    );
    assert!(
        at("+ stream \"shop-in-events\"")
            < at("+ consumer \"shop-validate\" on stream \"shop-in-events\"")
    );
}

#[tokio::test]
async fn two_that_apply_at_once_both_succeed() {
    let (pipeline, server) = (shop(), legacy_server().await);
    let (one, two) = (server.connect().await, server.connect().await);
    let topology = Topology::of(&pipeline);
    let plan = diff(&topology, &one).await.unwrap();
    let (a, b) = tokio::join!(
        apply(&plan, &one, Allowed::default()),
        apply(&plan, &two, Allowed::default())
    );
    a.unwrap();
    b.unwrap();
    assert!(diff(&topology, &one).await.unwrap().changes.is_empty());
}

#[tokio::test]
async fn drift_is_shown_and_mended() {
    let mut pipeline = shop();
    let server = applied(&pipeline).await;
    let broker = server.connect().await;
    pipeline.stages[1].types.push("payment.>".to_owned());
    pipeline.stages[0].ack_wait = Duration::from_secs(45);
    pipeline.storage.dlq_max_age = 31 * DAY;
    pipeline.channels.clear();
    let topology = Topology::of(&pipeline);
    let plan = diff(&topology, &broker).await.unwrap();
    expect![[r#"
        ~ stream "shop-dlq"
            max_age: 30d -> 31d
        ~ stream "shop-advisories"
            subjects: $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.LEGACY.shop-orders $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-in-events.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-notify.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-out-validate.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-retry.* -> $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.LEGACY.shop-orders $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-in-events.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-out-validate.* $JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.shop-retry.*
        ~ consumer "shop-validate" on stream "shop-retry"
            ack_wait: 30s -> 45s
        ~ consumer "shop-validate+alone" on stream "shop-retry"
            ack_wait: 30s -> 45s
        ~ consumer "shop-orders" on stream "shop-out-validate"
            filters: shop.out.validate.order.* -> shop.out.validate.order.* shop.out.validate.payment.>
        ~ consumer "shop-validate" on stream "shop-in-events"
            ack_wait: 30s -> 45s
        - consumer "shop-notify-ops" on stream "shop-notify": no longer named, left as it is (0 messages)
        - consumer "shop-notify-ops" on stream "shop-retry": no longer named, left as it is (0 messages)
        - consumer "shop-notify-ops+alone" on stream "shop-retry": no longer named, left as it is (0 messages)
    "#]].assert_eq(&plan.to_string());
    apply(&plan, &broker, Allowed { delete_extra: true, ..Allowed::default() }).await.unwrap();
    assert_eq!(diff(&topology, &broker).await.unwrap().to_string(), "");
}

#[tokio::test]
async fn what_the_server_never_changes_is_an_error_that_says_what_to_do() {
    let mut pipeline = shop();
    let server = applied(&pipeline).await;
    let broker = server.connect().await;
    pipeline.storage.memory = true;
    pipeline.sources[0].max_age = 8 * DAY;
    let plan = diff(&Topology::of(&pipeline), &broker).await.unwrap();
    let error = failure(
        apply(&plan, &broker, Allowed { lossy: true, delete_extra: true, take_over: false }).await,
    );
    expect![[r#"bucket "shop-workers", stream "shop-failed", stream "shop-dlq", stream "shop-retry", stream "shop-notify", stream "shop-out-validate", stream "shop-out-errors", stream "shop-advisories", stream "shop-in-events", stream "shop-in-errors" cannot be changed in place: storage: file -> memory; put the setting back, or drain it, delete it (`nats stream rm` or `nats consumer rm`) and apply again"#]]
    .assert_eq(&error.to_string());
    let after = broker.find_stream("shop-in-events").await.unwrap().unwrap();
    assert_eq!(after.max_age, Some(7 * DAY), "a refused plan is not begun");
}

#[tokio::test]
async fn what_would_lose_messages_is_refused_unless_told() {
    let mut pipeline = shop();
    pipeline.sources[0].on_full = OnFull::Drop;
    let server = applied(&pipeline).await;
    let broker = server.connect().await;
    for _ in 0..3 {
        broker.publish(Outgoing::new("events.order.created", vec![b'x'; 1000])).await.unwrap();
    }
    pipeline.sources[0].max_bytes = Some(2000);
    pipeline.stages[0].policy.attempts = 2;
    let topology = Topology::of(&pipeline);
    let plan = diff(&topology, &broker).await.unwrap();
    assert_eq!(
        plan.changes.iter().filter(|change| matches!(change.kind, ChangeKind::Lossy(..))).count(),
        2,
        "{plan}"
    );
    let error = failure(apply(&plan, &broker, Allowed::default()).await);
    assert!(matches!(error, ApplyError::Refused { .. }), "{error:?}");
    assert_eq!(broker.stream_state("shop-in-events").await.unwrap().messages, 3);
    apply(&plan, &broker, Allowed { lossy: true, ..Allowed::default() }).await.unwrap();
    assert_eq!(broker.stream_state("shop-in-events").await.unwrap().messages, 1);
}

#[tokio::test]
async fn what_is_no_longer_named_is_deleted_only_where_it_is_empty() {
    let mut pipeline = shop();
    let server = applied(&pipeline).await;
    let broker = server.connect().await;
    broker.publish(Outgoing::new("errors.a", "x")).await.unwrap();
    pipeline.sources.remove(1);
    pipeline.stages[3].inputs.retain(|input| !matches!(input, Input::Source(_)));
    let topology = Topology::of(&pipeline);
    for _ in 0..2 {
        let plan = diff(&topology, &broker).await.unwrap();
        let [change] = plan.changes.as_slice() else { panic!("{plan}") };
        assert!(matches!(&change.object, Object::Stream(spec) if spec.name == "shop-in-errors"));
        assert_eq!(change.kind, ChangeKind::Extra { holds: 1 });
        assert!(plan.is_done());
        apply(&plan, &broker, Allowed { delete_extra: true, ..Allowed::default() }).await.unwrap();
    }
    let plan = diff(&topology, &broker).await.unwrap();
    apply(&plan, &broker, Allowed { delete_extra: true, lossy: true, take_over: false })
        .await
        .unwrap();
    assert!(diff(&topology, &broker).await.unwrap().changes.is_empty());
}

#[tokio::test]
async fn a_stream_of_another_pipeline_is_left_alone() {
    let server = applied(&shop()).await;
    let broker = server.connect().await;
    let mut theirs = broker.find_stream("shop-dlq").await.unwrap().unwrap();
    theirs.pipeline = "market".to_owned();
    broker.update_stream(&theirs).await.unwrap();
    let plan = diff(&Topology::of(&shop()), &broker).await.unwrap();
    let error = failure(
        apply(&plan, &broker, Allowed { lossy: true, delete_extra: true, take_over: false }).await,
    );
    assert!(matches!(error, ApplyError::Refused { .. }), "{error:?}");
}

#[tokio::test]
async fn an_external_stream_that_is_not_there_is_named() {
    let server = TestServer::start().await;
    let error = failure(diff(&Topology::of(&shop()), &server.connect().await).await);
    assert!(matches!(&error, AdminError::NoStream { stream } if stream == "LEGACY"), "{error:?}");
}

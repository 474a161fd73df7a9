//! Sweep: events that the server gave up on while nobody heard its advisory.

use expect_test::expect;
use millstream::{
    broker::{Expects, StreamSpec},
    dead_letter::{Letter, letter::Identity},
    exhausted::{orphans::ReadStream, router::Router, sweep::Sweep},
    stages::{Failure, settle::Reason},
    topology::Topology,
    wire::Place,
};

use super::{
    EDGE, PIPELINE, RETRY, afterwards, exhaust, findings, header, later, on_edge, on_retry,
    outgoing, records, routed, spec, still, stored, swept,
};
use crate::support::{Mill, eventually, timeless};

const UNHEARD: &str = "crashed WorkerCrashed: the server gave it up without a notice that was \
                       heard; it may have completed";

#[tokio::test]
async fn with_the_advisory_stream_deleted_what_is_given_up_on_becomes_one_letter_all_the_same() {
    let (mill, _) = still(PIPELINE).await;
    mill.broker.delete_stream("shop-advisories").await.unwrap();
    let edge = on_edge(&mill, "e-1", 7).await;
    on_retry(&mill, "r-1", 8).await;
    exhaust(&mill, EDGE).await;
    exhaust(&mill, RETRY).await;
    assert_eq!(orphans(&mill).await, ["work shop-out-first 1", "work shop-retry 1"]);
    swept(&mill).await;
    swept(&mill).await;
    assert_eq!(
        findings(&mill).await,
        [format!("work e-1 {UNHEARD}"), format!("work r-1 {UNHEARD}")]
    );
    let letter = mill.letters().await.swap_remove(0);
    let subject = format!("shop.dlq.work.shop-out-first.{}", edge.seq);
    assert_eq!(timeless(&letter.subject), subject);
    assert_eq!(
        (header(&letter, "Millstream-Source"), header(&letter, "Millstream-Attempts")),
        ("shop-in-events:7", "3")
    );
    assert_eq!((stored(&mill, "shop-out-first").await, stored(&mill, "shop-retry").await), (0, 0));
    assert_eq!(orphans(&mill).await, Vec::<String>::new());
}

#[tokio::test]
async fn with_the_advisory_stream_full_too() {
    let (mill, _) = still(PIPELINE).await;
    let found = mill.broker.find_stream("shop-advisories").await.unwrap().unwrap();
    let full = StreamSpec { max_bytes: Some(1), keeps_oldest: true, ..found };
    mill.broker.update_stream(&full).await.unwrap();
    on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, EDGE).await;
    assert_eq!(stored(&mill, "shop-advisories").await, 0, "no notice was kept");
    swept(&mill).await;
    assert_eq!(findings(&mill).await, [format!("work e-1 {UNHEARD}")]);
}

#[tokio::test]
async fn a_fleet_that_boots_without_the_advisory_stream_works_and_its_router_goes_on_with_it() {
    let (mut mill, calls) = still(PIPELINE).await;
    mill.broker.delete_stream("shop-advisories").await.unwrap();
    on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, EDGE).await;
    mill.work().await;
    on_edge(&mill, "e-2", 8).await;
    eventually(async || calls.has("work e-2").then_some(())).await;
    swept(&mill).await;
    assert_eq!(findings(&mill).await, [format!("work e-1 {UNHEARD}")]);
    mill.drain().await;
    mill.make().await;
    on_edge(&mill, "e-3", 9).await;
    exhaust(&mill, EDGE).await;
    mill.messages("shop-advisories", 1).await;
    mill.work().await;
    mill.messages("shop-dlq", 2).await;
    eventually(async || (stored(&mill, "shop-out-first").await == 0).then_some(())).await;
    mill.drain().await;
    expect!["work e-3 crashed WorkerCrashed: 2 deliveries and no settlement"]
        .assert_eq(&findings(&mill).await[1]);
}

#[tokio::test]
async fn worker_router_and_sweep_at_once_write_one_letter() {
    let (mill, _) = still(PIPELINE).await;
    for n in 0..10 {
        on_edge(&mill, &format!("e-{n}"), 100 + n).await;
    }
    exhaust(&mill, EDGE).await;
    let sweep = async {
        let mut sweep = Sweep::new(afterwards(&mill));
        sweep.round(later()).await;
        sweep.round(later()).await;
    };
    let router = Router(afterwards(&mill));
    let routed = async {
        // The server's notice may come three times.
        for seq in (1..=10).rev().chain(1..=10).chain(1..=10) {
            let given_up = router.give_up("work", EDGE.0, EDGE.1, seq, 2).await;
            given_up.unwrap();
        }
    };
    let worker = async {
        let failure = Failure::retry("TimeoutError", "no answer in 5s");
        for seq in [5, 4, 6, 3, 7, 2, 8, 1, 9, 10] {
            let Some(message) = mill.broker.message(EDGE.0, seq).await.unwrap() else { continue };
            let (origin, identity) = Identity::stored(&mill.pipeline, EDGE.0, &message);
            let now = std::time::SystemTime::now();
            let letter = Letter {
                stage: "work",
                reason: Reason::Exhausted,
                failure: &failure,
                attempts: 3,
                first_failed_at: now,
                dead_at: now,
                origin: &origin,
                identity,
                traceparent: None,
                config: "",
                body: message.body.clone(),
                malformed: None,
            };
            letter.publish(&mill.broker, &mill.names).await.unwrap();
        }
    };
    tokio::join!(sweep, routed, worker);
    let mut subjects: Vec<String> =
        mill.letters().await.into_iter().map(|letter| letter.subject).collect();
    assert_eq!(subjects.len(), 10);
    subjects.sort();
    subjects.dedup();
    assert_eq!(subjects.len(), 10);
    eventually(async || (stored(&mill, EDGE.0).await == 0).then_some(())).await;
}

#[tokio::test]
async fn what_is_in_hand_or_waits_or_is_young_is_left_alone() {
    let (mill, _) = still(PIPELINE).await;
    on_edge(&mill, "given-up", 7).await;
    exhaust(&mill, EDGE).await;
    let whole = spec(&mill, EDGE);
    mill.broker.update_consumer(&whole).await.unwrap();
    for n in 0..2 {
        on_edge(&mill, &format!("e-{n}"), 10 + n).await;
    }
    let mut pull = mill.broker.pull(EDGE.0, EDGE.1, 2).await.unwrap();
    let in_hand = pull.next().await.unwrap().unwrap();
    let waits = pull.next().await.unwrap().unwrap();
    let mut young = Sweep::new(afterwards(&mill));
    for _ in 0..3 {
        young.round(std::time::SystemTime::now()).await;
    }
    let mut sweep = Sweep::new(afterwards(&mill));
    for _ in 0..3 {
        sweep.round(later()).await;
    }
    assert_eq!(
        findings(&mill).await,
        Vec::<String>::new(),
        "which of three it is that was given up on cannot be told"
    );
    drop(pull);
    waits.ack().await;
    in_hand.ack().await;
    mill.idle("work").await;
    on_edge(&mill, "e-2", 12).await;
    eventually(async || (stored(&mill, EDGE.0).await == 2).then_some(())).await;
    for _ in 0..3 {
        young.round(std::time::SystemTime::now()).await;
    }
    assert_eq!(findings(&mill).await, Vec::<String>::new(), "an ack may be on its way");
    let mut sweep = Sweep::new(afterwards(&mill));
    sweep.round(later()).await;
    assert_eq!(findings(&mill).await, Vec::<String>::new(), "once seen is not enough");
    sweep.round(later()).await;
    assert_eq!(findings(&mill).await, [format!("work given-up {UNHEARD}")]);
    assert_eq!(stored(&mill, EDGE.0).await, 1, "what was never delivered is left alone");
}

#[tokio::test]
async fn on_a_stage_that_is_never_idle_what_stays_for_much_longer_than_it_may_is_given_up_on() {
    let (mill, _) = still(PIPELINE).await;
    on_edge(&mill, "given-up", 7).await;
    exhaust(&mill, EDGE).await;
    mill.broker.update_consumer(&spec(&mill, EDGE)).await.unwrap();
    let mut sweep = Sweep::new(afterwards(&mill));
    for n in 0..3 {
        on_edge(&mill, &format!("e-{n}"), 10 + n).await;
        let mut pull = mill.broker.pull(EDGE.0, EDGE.1, 1).await.unwrap();
        let in_hand = pull.next().await.unwrap().unwrap();
        assert_eq!(findings(&mill).await, Vec::<String>::new());
        sweep.round(later() + n as u32 * std::time::Duration::from_secs(500)).await;
        in_hand.nak(std::time::Duration::from_secs(30)).await;
    }
    assert_eq!(findings(&mill).await, [format!("work given-up {UNHEARD}")]);
    assert_eq!(stored(&mill, EDGE.0).await, 3);
}

#[tokio::test]
async fn what_is_delivered_again_by_a_consumer_made_anew_is_not_given_up_on() {
    let (mut mill, calls) = still(PIPELINE).await;
    on_retry(&mill, "r-1", 7).await;
    exhaust(&mill, RETRY).await;
    let mut sweep = Sweep::new(afterwards(&mill));
    sweep.round(later()).await;
    mill.broker.delete_consumer(RETRY.0, RETRY.1).await.unwrap();
    mill.make().await;
    sweep.round(later()).await;
    assert_eq!(findings(&mill).await, Vec::<String>::new());
    mill.work().await;
    eventually(async || calls.has("work r-1").then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn notices_about_what_is_no_longer_there_are_not_tried_for_ever() {
    let (mill, _) = still(PIPELINE).await;
    let edge = on_edge(&mill, "e-1", 7).await;
    on_retry(&mill, "r-1", 8).await;
    exhaust(&mill, EDGE).await;
    exhaust(&mill, RETRY).await;
    mill.broker.delete_stream(EDGE.0).await.unwrap();
    mill.broker.delete_consumer(RETRY.0, RETRY.1).await.unwrap();
    routed(&mill, EDGE, edge.seq).await;
    routed(&mill, RETRY, 1).await;
    expect![[r#"["work r-1 crashed WorkerCrashed: 2 deliveries and no settlement"]"#]]
        .assert_eq(&format!("{:?}", findings(&mill).await));
}

#[tokio::test]
async fn a_restart_of_the_broker_hides_nothing_that_was_given_up_on() {
    let (mut mill, _) = still(PIPELINE).await;
    mill.broker.delete_stream("shop-advisories").await.unwrap();
    on_edge(&mill, "e-1", 7).await;
    on_retry(&mill, "r-1", 8).await;
    exhaust(&mill, EDGE).await;
    exhaust(&mill, RETRY).await;
    // Consumer states are written within two seconds or at the end.
    mill.server.server.stop().await;
    mill.server.server.restart().await.unwrap();
    eventually(async || mill.broker.stream_state("shop-retry").await.ok()).await;
    assert_eq!(orphans(&mill).await, ["work shop-out-first 1", "work shop-retry 1"]);
    swept(&mill).await;
    let mut told = findings(&mill).await;
    told.sort();
    assert_eq!(told, [format!("work e-1 {UNHEARD}"), format!("work r-1 {UNHEARD}")]);
}

#[tokio::test]
async fn a_letter_says_what_its_worker_had_recorded_before_it_died() {
    let (mill, _) = still(PIPELINE).await;
    // Two events of one source, so that only the ids tell their records apart.
    let (one, two) = (on_edge(&mill, "e-1", 7).await, on_edge(&mill, "e-2", 7).await);
    let source = Place::parse("shop-in-events:7").unwrap();
    exhaust(&mill, EDGE).await;
    for (seq, outcome, class) in [
        (one.seq, "retry", "Flaky"),
        (two.seq, "retry", "Flaky"),
        (one.seq, "exhausted", "TimeoutError"),
    ] {
        let life = mill.place(EDGE.0, seq).await;
        let error =
            serde_json::json!({ "errorCode": class, "message": "no answer in 5s" }).to_string();
        let record = millstream::broker::Outgoing {
            subject: mill.names.failed_subject("work", &source),
            expects: Expects::Anything,
            ..millstream::broker::Outgoing::new("", error)
        };
        let record = record
            .id(&format!("{life}:1{outcome}:work"))
            .header("Millstream-Life", &life.to_string())
            .header("Millstream-Outcome", outcome)
            .header("Millstream-Attempts", "2")
            .header("Millstream-First-Failed-At", "2026-01-01T00:00:00.000Z");
        mill.broker.publish(record).await.unwrap();
    }
    routed(&mill, EDGE, two.seq).await;
    swept(&mill).await;
    expect![[r#"
        work e-2 crashed WorkerCrashed: 2 deliveries and no settlement; before that Flaky: no answer in 5s
        work e-1 exhausted TimeoutError: no answer in 5s"#]]
    .assert_eq(&findings(&mill).await.join("\n"));
    for record in records(&mill).await {
        assert_eq!(
            (record.attempts, record.first_failed_at.as_str()),
            (2, "2026-01-01T00:00:00.000Z")
        );
    }
}

#[tokio::test]
async fn an_event_whose_worker_died_between_parking_and_settling_it_lives_on_without_a_letter() {
    let (mill, _) = still(PIPELINE).await;
    let edge = on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, EDGE).await;
    let life = mill.place(EDGE.0, edge.seq).await;
    let parked = outgoing(&mill.names.parked_subject("work", &life), "e-1", 7)
        .header("Millstream-Life", &life.to_string())
        .header("Nats-Schedule", "@at 2099-01-01T00:00:00Z")
        .header("Nats-Schedule-Target", "shop.retry.work");
    mill.broker.publish(parked).await.unwrap();
    swept(&mill).await;
    assert!(mill.letters().await.is_empty());
    assert_eq!((stored(&mill, EDGE.0).await, stored(&mill, "shop-retry").await), (0, 1));
}

/// Feeds with orphans, as `<stage> <stream> <how many>`.
async fn orphans(mill: &Mill) -> Vec<String> {
    let mut lines = Vec::new();
    for read_stream in ReadStream::all(&mill.broker, &Topology::of(&mill.pipeline)).await.unwrap() {
        for reader in &read_stream.readers {
            match read_stream.orphans(&mill.broker, reader).await.unwrap() {
                Some(orphans) if orphans > 0 => {
                    lines.push(format!("{} {} {orphans}", reader.feed.stage, read_stream.stream));
                }
                Some(_) | None => {}
            }
        }
    }
    lines
}

#[tokio::test]
async fn on_a_source_what_was_given_up_on_is_counted_until_it_is_settled() {
    let (mill, _) = still(PIPELINE).await;
    let source = ("shop-in-events", "shop-first");
    for n in 0..3 {
        mill.event(&format!("e-{n}"), "order.created", serde_json::json!({})).await;
    }
    exhaust(&mill, source).await;
    assert_eq!(orphans(&mill).await, ["first shop-in-events 3"]);
    Router(afterwards(&mill)).give_up("first", source.0, source.1, 2, 2).await.unwrap();
    assert_eq!(orphans(&mill).await, ["first shop-in-events 2"]);
    let metrics = afterwards(&mill).metrics;
    let mut sweep = Sweep::new(millstream::exhausted::bury::Burial {
        metrics: metrics.clone(),
        ..afterwards(&mill)
    });
    sweep.round(later()).await;
    sweep.round(later()).await;
    assert_eq!(findings(&mill).await.len(), 1, "nothing tells which they are");
    let shown = metrics.render();
    assert!(
        shown.contains("millstream_orphans{stage=\"first\",stream=\"shop-in-events\"} 2"),
        "{shown}"
    );
}

//! Given up: dead letters whoever writes them, redrives, and streams taken away from a worker.

use expect_test::expect;
use millstream::{
    broker::{Lease, Outgoing},
    dead_letter::LetterRecord,
    redrive::resend,
};
use serde_json::{Value, json};

use super::{Calls, SOURCE, WORK, header, headers, started, take_and_die};
use crate::support::{Mill, TestServer, domain, eventually, timeless};

#[tokio::test]
async fn a_rejected_event_is_a_letter_at_the_first_attempt_with_every_header_of_the_contract() {
    let (mut mill, calls) = started(WORK).await;
    let mut event: Value = serde_json::from_str(&domain(
        "e-1",
        "order.created",
        json!({ "reject": "no\r\nsuch: ü article" }),
    ))
    .unwrap();
    event["tenantId"] = "acme".into();
    event["eventVersion"] = 2.into();
    let body = event.to_string();
    mill.publish("events.order.created", body.clone()).await;
    let (record, letter) = mill.next_dead_letter().await;
    assert_eq!(letter.body, body);
    assert_eq!(timeless(&letter.subject), "shop.dlq.work.shop-in-events.1");
    expect![[r#"
        Millstream-Attempts: 1
        Millstream-Config: …
        Millstream-Dead-At: …
        Millstream-Envelope: domain
        Millstream-Error-Class: Refused
        Millstream-Error-Message: no  such: ü article
        Millstream-Event-Id: e-1
        Millstream-Event-Type: order.created
        Millstream-Event-Version: 2
        Millstream-Fingerprint: …
        Millstream-First-Failed-At: …
        Millstream-Life: shop-in-events:1
        Millstream-Reason: rejected
        Millstream-Redrives: 0
        Millstream-Source-Subject: events.order.created
        Millstream-Source: shop-in-events:1
        Millstream-Stage: work
        Millstream-Tenant: acme
        Millstream-Trace-Id: …
        Nats-Expected-Last-Subject-Sequence: 0
        traceparent: …
    "#]]
    .assert_eq(&headers(&letter.headers));
    assert_eq!(record.config.as_deref(), Some(mill.pipeline.config_hash.as_str()));
    assert_eq!(header(&letter, "traceparent").split('-').nth(1), record.trace_id.as_deref());
    for at in [&record.dead_at, &record.first_failed_at] {
        let at: jiff::Timestamp = at.parse().unwrap();
        assert!(jiff::Timestamp::now().duration_since(at).as_secs() < 60);
    }
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(calls.of("e-1"), ["work 1"]);
    let failed = mill.messages("shop-failed", 1).await;
    assert_eq!(
        (failed.len(), header(&failed[0], "Millstream-Life")),
        (1, header(&letter, "Millstream-Life"))
    );
    let error: Value = serde_json::from_slice(&failed[0].body).unwrap();
    assert_eq!(error["message"], "no\r\nsuch: ü article", "the full text is in the error event");
}

#[tokio::test]
async fn an_exhausted_event_is_one_letter_and_each_attempt_an_error_event() {
    let (mut mill, calls) = started(WORK).await;
    mill.event("e-1", "order.created", json!({ "fails": 99 })).await;
    let (record, _) = mill.next_dead_letter().await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!((record.reason.as_str(), record.attempts, record.redrives), ("exhausted", 3, 0));
    assert_eq!(calls.of("e-1").len(), 3);
    assert_eq!(mill.letters().await.len(), 1);
    let told: Vec<String> = mill
        .messages("shop-failed", 3)
        .await
        .iter()
        .map(|failed| {
            let error: Value = serde_json::from_slice(&failed.body).unwrap();
            let about = &error["metadata"];
            format!(
                "{} {} {} {} {}",
                error["message"],
                about["attempt"],
                about["outcome"],
                about["waitMs"],
                about["source"]
            )
        })
        .collect();
    expect![[r#"
        "attempt 1 failed" 1 "retry" 50 "shop-in-events:1"
        "attempt 2 failed" 2 "retry" 50 "shop-in-events:1"
        "attempt 3 failed" 3 "exhausted" null "shop-in-events:1""#]]
    .assert_eq(&timeless(&told.join("\n")));
}

#[tokio::test]
async fn a_message_that_nobody_settles_is_one_crashed_letter_however_often_the_server_says_so() {
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\n").replace("attempts = 3", "attempts = 1");
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    let body = "\u{feff}not even JSON \u{0}";
    mill.publish("events.order.created", body).await;
    // One attempt, and four more for the worker that notices: all die. The server says that it is
    // over when someone asks for a sixth.
    let advisory = tokio::select! {
        () = take_and_die(&mill, "shop-in-events", "shop-work", 6) => {
            panic!("it was handed out six times")
        }
        mut advisories = mill.messages("shop-advisories", 1) => advisories.swap_remove(0),
    };
    for _ in 0..2 {
        mill.publish(&advisory.subject, advisory.body.clone()).await;
    }
    mill.work().await;
    let (record, letter) = mill.next_dead_letter().await;
    eventually(async || {
        (mill.broker.stream_state("shop-advisories").await.unwrap().messages == 0).then_some(())
    })
    .await;
    mill.drain().await;
    assert_eq!(letter.body, body);
    assert_eq!(mill.letters().await.len(), 1);
    assert!(calls.0.lock().unwrap().is_empty());
    assert_eq!((record.reason.as_str(), record.attempts), ("crashed", 1));
    expect![[r#"
        Millstream-Attempts: 1
        Millstream-Config: …
        Millstream-Dead-At: …
        Millstream-Envelope: domain
        Millstream-Error-Class: WorkerCrashed
        Millstream-Error-Message: 5 deliveries and no settlement
        Millstream-Fingerprint: …
        Millstream-First-Failed-At: …
        Millstream-Life: shop-in-events:1
        Millstream-Reason: crashed
        Millstream-Redrives: 0
        Millstream-Source-Subject: events.order.created
        Millstream-Source: shop-in-events:1
        Millstream-Stage: work
        Nats-Expected-Last-Subject-Sequence: 0
    "#]]
    .assert_eq(&headers(&letter.headers));
}

#[tokio::test]
async fn a_crashed_letter_of_the_router_says_whose_event_it_is_and_a_redrive_keeps_it_so() {
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\n").replace("attempts = 3", "attempts = 1");
    let toml = toml.replace("subjects =", "envelope = \"raw\"\nsubjects =");
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    let stored =
        mill.broker.publish(Outgoing::new("events.order.created", "[1]").id("m-1")).await.unwrap();
    tokio::select! {
        () = take_and_die(&mill, &stored.stream, "shop-work", 6) => {
            panic!("it was handed out six times")
        }
        _ = mill.messages("shop-advisories", 1) => {}
    }
    mill.work().await;
    let (record, letter) = mill.next_dead_letter().await;
    assert_eq!((record.reason.as_str(), record.event_id.as_deref()), ("crashed", Some("m-1")));
    assert_eq!(record.event_type.as_deref(), Some("events.order.created"));
    assert!(record.trace_id.is_some());
    resend::redrive(&mill.broker, &mill.names, &letter).await.unwrap();
    eventually(async || (calls.of("m-1") == ["work 1"]).then_some(())).await;
    mill.drain().await;
}

#[tokio::test]
async fn a_delivery_beyond_the_attempts_is_dead_lettered_as_crashed_and_not_executed() {
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\n").replace("attempts = 3", "attempts = 1");
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    mill.event("e-1", "order.created", json!({})).await;
    take_and_die(&mill, "shop-in-events", "shop-work", 1).await;
    mill.work().await;
    let (record, _) = mill.next_dead_letter().await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!((record.reason.as_str(), record.event_id.as_deref()), ("crashed", Some("e-1")));
    assert!(calls.of("e-1").is_empty());
}

#[tokio::test]
async fn a_redrive_reaches_the_failed_stage_only_and_failing_again_is_a_letter_of_that_source() {
    let beside = r#"
        [stage.beside]
        kind = "handle"
        inputs = ["source.events"]
        handler = { rust = "told" }
    "#;
    let (mut mill, calls) = started(&format!("{WORK}{beside}")).await;
    for n in 0..3 {
        mill.event(&format!("e-{n}"), "order.created", json!({ "reject": "no" })).await;
    }
    let letters = mill.messages("shop-dlq", 6).await;
    let of_work: Vec<_> =
        letters.iter().filter(|letter| LetterRecord::of(letter).stage == "work").collect();
    assert_eq!(of_work.len(), 3);

    resend::redrive(&mill.broker, &mill.names, of_work[0]).await.unwrap();
    let first = LetterRecord::of(of_work[0]);
    let again = eventually(async || {
        let letters = mill.letters().await;
        letters.iter().map(LetterRecord::of).find(|letter| letter.redrives == 1)
    })
    .await;
    assert_eq!(
        (&again.source, &again.event_id, &again.stage),
        (&first.source, &first.event_id, &first.stage)
    );
    assert_eq!((&again.source_subject, again.attempts), (&first.source_subject, 1));
    assert_eq!(again.trace_id, first.trace_id);
    assert_eq!(
        mill.letters().await.len(),
        6,
        "the letter that was redriven is gone, and the new one is there"
    );

    for letter in
        mill.letters().await.iter().filter(|letter| LetterRecord::of(letter).stage == "work")
    {
        resend::redrive(&mill.broker, &mill.names, letter).await.unwrap();
    }
    let redrives = eventually(async || {
        let letters = mill.letters().await;
        let mut redrives: Vec<_> =
            letters.iter().map(LetterRecord::of).filter(|letter| letter.stage == "work").collect();
        redrives.sort_by_key(|letter| letter.redrives);
        let redrives: Vec<u32> = redrives.iter().map(|letter| letter.redrives).collect();
        (redrives == [1, 1, 2]).then_some(redrives)
    })
    .await;
    mill.idle("work").await;
    mill.idle("beside").await;
    mill.drain().await;
    assert_eq!(redrives.len(), 3);
    let beside = calls.0.lock().unwrap().iter().filter(|call| call.0 == "beside").count();
    assert_eq!(beside, 3, "the other stage has seen each event once");
}

#[tokio::test]
async fn a_letter_of_a_reduce_stage_is_not_redriven_into_nowhere() {
    let errors = r#"
        [source.errors]
        subjects = ["errors.>"]
        envelope = "error"
        [stage.errors]
        kind = "aggregate-errors"
        inputs = ["source.errors"]
    "#;
    let (mut mill, _) = started(&format!("{WORK}{errors}")).await;
    // The second is larger than its letter may be.
    mill.publish("errors.cart", "not an error").await;
    mill.publish("errors.cart", vec![b'x'; (1 << 20) - 100]).await;
    let mut letters = mill.messages("shop-dlq", 3).await;
    assert_eq!(letters.remove(1).subject, format!("{}.body", letters[1].subject));
    assert_eq!(
        (&letters[0].body[..], header(&letters[0], "Millstream-Body")),
        (&b"not an error"[..], "")
    );
    assert_eq!((letters[1].body.len(), header(&letters[1], "Millstream-Body")), (0, "apart"));
    let error = resend::redrive(&mill.broker, &mill.names, &letters[0]).await.unwrap_err();
    expect![[
        r#"letter 1 cannot be redriven: nothing brings stage "errors" its redriven events (a reduce stage takes none; for any other, `millstream apply` creates the consumer)"#
    ]]
    .assert_eq(&error.to_string());
    assert_eq!(mill.letters().await.len(), 2);
    assert_eq!(mill.broker.stream_state("shop-retry").await.unwrap().messages, 0);
    mill.drain().await;
}

#[tokio::test]
async fn a_consumer_that_is_deleted_under_a_worker_shows_in_readiness_and_is_bound_again() {
    let toml = format!("{SOURCE}{WORK}[observe]\nlisten = \"127.0.0.1:0\"\n");
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    // The keeper makes a consumer anew: it is held off until the gap has been seen.
    let mut keeper = Lease::acquire(&mill.broker, "shop-state", "keeper", "held off").await;
    mill.work().await;
    let ready = format!("http://{}/readyz", mill.worker.as_ref().unwrap().listening.unwrap());
    let status = async || reqwest::get(&ready).await.unwrap().status().as_u16();
    let gap = async {
        eventually(async || (status().await == 200).then_some(())).await;
        mill.broker.delete_consumer("shop-in-events", "shop-work").await.unwrap();
        eventually(async || (status().await == 503).then_some(())).await;
        let said = reqwest::get(&ready).await.unwrap().text().await.unwrap();
        assert!(said.contains("shop-work") && said.contains("shop-in-events"), "{said}");
        mill.event("e-1", "order.created", json!({})).await;
    };
    tokio::select! {
        () = keeper.keep() => panic!("another worker took the lease"),
        () = gap => {}
    }
    keeper.release().await;
    eventually(async || (calls.of("e-1").len() == 1).then_some(())).await;
    eventually(async || (status().await == 200).then_some(())).await;
    mill.drain().await;
}

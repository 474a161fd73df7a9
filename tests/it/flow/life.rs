//! Life: events that pass, wait, branch and change on their way through the stages.

use std::time::{Duration, Instant, SystemTime};

use expect_test::expect;
use futures_util::StreamExt as _;
use millstream::{
    broker::Outgoing,
    handlers::handler_fn,
    stages::{Failure, Reply},
};
use serde_json::{Value, json};

use super::{Calls, SOURCE, WORK, answer, header, listen, started};
use crate::support::{Mill, domain, eventually, timeless};

#[tokio::test]
async fn an_event_passes_validate_and_handle_byte_for_byte() {
    let mut mill = Mill::start(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [stage.validate]
        kind = "validate"
        inputs = ["source.events"]
        schemas = "schemas"
        unknown = "pass"
        [stage.ship]
        kind = "handle"
        inputs = ["validate"]
        handler = { nats = "svc.ship" }
        "#,
    )
    .await;
    let (client, mut requests) = listen(&mill, "svc.ship").await;
    // Spaces, key order, escapes, a number that no double holds, a repeated key: all travel as they
    // are.
    let body = "{ \"eventData\" :{\"n\":1.10,\"big\":123456789012345678901234567890,\
                \"a\":1,\"a\":2}, \
                \"eventType\":\"\\u0074hing.done\",\t\"eventId\":\"e-1\" ,\"tenantId\":\"acme\"}";
    mill.publish("events.any", body).await;
    let request = answer(&client, &mut requests).await;
    assert_eq!(request.payload, body);
    let told = request.headers.unwrap();
    assert_eq!(told.get("Millstream-Event-Id").unwrap().as_str(), "e-1");
    assert_eq!(told.get("Millstream-Event-Type").unwrap().as_str(), "thing.done");
    mill.idle("ship").await;
    // A settled result goes.
    eventually(async || {
        let state = mill.broker.stream_state("shop-out-validate").await.unwrap();
        (state.messages == 0).then_some(())
    })
    .await;
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_retried_event_comes_back_after_its_waits_and_is_done() {
    let (mut mill, calls) = started(WORK).await;
    mill.event("e-1", "order.created", json!({ "fails": 2 })).await;
    eventually(async || (calls.of("e-1").len() == 3).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(calls.of("e-1"), ["work 1", "work 2", "work 3"]);
    let times = calls.times();
    for wait in times.windows(2).map(|pair| pair[1] - pair[0]) {
        assert!(wait >= Duration::from_millis(49), "{wait:?}");
    }
    assert!(mill.letters().await.is_empty());
    assert_eq!(mill.messages("shop-failed", 2).await.len(), 2);
}

#[tokio::test]
async fn a_long_wait_is_spent_parked_and_not_in_the_consumer() {
    let toml = format!("{SOURCE}{WORK}").replace("50ms", "31s");
    let calls = Calls::default();
    let mut mill = Mill::with(&toml, calls.registry()).await;
    let body = domain("e-1", "order.created", json!({ "fails": 1 }));
    mill.publish("events.order.created", body.clone()).await;
    let parked = mill.messages("shop-retry", 1).await.swap_remove(0);
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(timeless(&parked.subject), "shop.parked.work-shop-in-events-1");
    assert_eq!(parked.body, body);
    let at: jiff::Timestamp =
        header(&parked, "Nats-Schedule").strip_prefix("@at ").unwrap().parse().unwrap();
    let wait = SystemTime::from(at).duration_since(parked.stored_at).unwrap();
    assert!(wait > Duration::from_secs(29) && wait <= Duration::from_secs(31), "{wait:?}");
    assert_eq!(header(&parked, "Nats-Schedule-Target"), "shop.retry.work");
    assert_eq!(header(&parked, "Millstream-Attempts"), "1");
    assert_eq!(header(&parked, "Millstream-Event-Id"), "e-1");
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_deferred_event_spends_no_attempt_and_is_done_when_the_service_is_there() {
    let toml = format!(
        "{}{}",
        SOURCE.replace("50ms", "200ms").replace("attempts = 3", "attempts = 2"),
        WORK.replace("{ rust = \"told\" }", "{ nats = \"svc.work\" }")
    );
    let mut mill = Mill::start(&toml).await;
    let body = domain("e-1", "order.created", json!({}));
    mill.publish("events.order.created", body.clone()).await;
    // More deferrals than there are attempts.
    let failed = mill.messages("shop-failed", 4).await;
    for failed in &failed {
        let error: Value = serde_json::from_slice(&failed.body).unwrap();
        assert_eq!(
            (&error["metadata"]["outcome"], &error["metadata"]["attempt"]),
            (&json!("defer"), &json!(1))
        );
    }
    let state = mill.broker.consumer_state("shop-in-events", "shop-work").await.unwrap();
    assert_eq!((state.num_pending, state.num_ack_pending), (0, 0));
    let (client, mut requests) = listen(&mill, "svc.work").await;
    let request = answer(&client, &mut requests).await;
    assert_eq!(request.payload, body);
    let told = request.headers.unwrap();
    assert_eq!(told.get("Millstream-Event-Id").unwrap().as_str(), "e-1");
    assert_eq!(told.get("Millstream-Attempt").unwrap().as_str(), "1");
    eventually(async || {
        (mill.broker.stream_state("shop-retry").await.unwrap().messages == 0).then_some(())
    })
    .await;
    mill.drain().await;
    assert!(mill.letters().await.is_empty(), "a deferral never dead-letters");
}

#[tokio::test]
async fn a_chain_has_no_stream_between_and_fails_as_one() {
    let chain = r#"
        [stage.second]
        kind = "handle"
        inputs = ["work"]
        handler = { rust = "second" }
        chain = true
        [stage.third]
        kind = "handle"
        inputs = ["second"]
        handler = { nats = "svc.third" }
    "#;
    let calls = Calls::default();
    let second = calls.clone();
    let registry = calls.registry().with(
        "second",
        handler_fn(move |event, delivery| {
            let call = ("second".into(), event.id.clone(), delivery.attempt, Instant::now());
            second.0.lock().unwrap().push(call);
            let fails = delivery.attempt == 1;
            async move {
                if fails { Err(Failure::retry("Flaky", "once")) } else { Ok(Reply::Pass) }
            }
        }),
    );
    let mut mill = Mill::with(&format!("{SOURCE}{WORK}{chain}"), registry).await;
    assert!(mill.broker.find_stream("shop-out-work").await.unwrap().is_none());
    let (client, mut requests) = listen(&mill, "svc.third").await;
    let body = domain("e-1", "order.created", json!({}));
    mill.publish("events.order.created", body.clone()).await;
    assert_eq!(answer(&client, &mut requests).await.payload, body);
    mill.idle("third").await;
    mill.drain().await;
    assert_eq!(calls.of("e-1"), ["work 1", "second 1", "work 2", "second 2"]);
    let failed = mill.messages("shop-failed", 1).await;
    assert_eq!(failed.len(), 1);
    let subject = &failed[0].subject;
    assert!(subject.starts_with("shop.failed.second."), "of the stage that failed: {subject}");
}

#[tokio::test]
async fn results_fan_out_to_every_reader_and_failures_fan_in() {
    let stages = r#"
        [stage.left]
        kind = "handle"
        inputs = ["work"]
        handler = { nats = "svc.left" }
        [stage.right]
        kind = "handle"
        inputs = ["work"]
        handler = { nats = "svc.right" }
        [stage.mourn]
        kind = "handle"
        inputs = ["work.failed", "left.failed", "right.failed"]
        handler = { nats = "svc.mourn" }
    "#;
    let (mut mill, _) = started(&format!("{WORK}{stages}")).await;
    let (client, mut left) = listen(&mill, "svc.left").await;
    let (_, mut right) = listen(&mill, "svc.right").await;
    let (_, mut mourn) = listen(&mill, "svc.mourn").await;
    mill.event("good", "order.created", json!({})).await;
    mill.event("bad", "order.created", json!({ "reject": "no" })).await;
    assert_eq!(answer(&client, &mut left).await.payload, answer(&client, &mut right).await.payload);
    let error = answer(&client, &mut mourn).await;
    let told: Value = serde_json::from_slice(&error.payload).unwrap();
    assert_eq!(
        (&told["errorCode"], &told["metadata"]["eventId"]),
        (&json!("Refused"), &json!("bad"))
    );
    for stage in ["left", "right", "mourn"] {
        mill.idle(stage).await;
    }
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 1);
}

#[tokio::test]
async fn types_on_a_source_are_checked_by_the_worker() {
    let (mut mill, calls) = started(&format!("{WORK}types = [\"order.*\"]\n")).await;
    mill.publish("events.wrong.subject", domain("other", "payment.captured", json!({}))).await;
    mill.publish("events.payment.captured", domain("ours", "order.created", json!({}))).await;
    eventually(async || (calls.of("ours").len() == 1).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert!(calls.of("other").is_empty());
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_jq_handler_gives_no_one_or_three_events_and_a_reply_replaces_the_event() {
    let stages = r#"
        [stage.split]
        kind = "handle"
        inputs = ["source.events"]
        handler = { jq = ".eventData.lines[]" }
        [stage.price]
        kind = "handle"
        inputs = ["split"]
        handler = { nats = "svc.price", output = "reply" }
        [stage.end]
        kind = "handle"
        inputs = ["price"]
        handler = { nats = "svc.end" }
    "#;
    let mut mill = Mill::start(&format!("{SOURCE}{stages}")).await;
    let (client, mut price) = listen(&mill, "svc.price").await;
    let (_, mut end) = listen(&mill, "svc.end").await;
    tokio::spawn({
        let client = client.clone();
        async move {
            while let Some(request) = price.next().await {
                let line: Value = serde_json::from_slice(&request.payload).unwrap();
                let reply = json!({ "price": line["n"].as_u64().unwrap() * 10 }).to_string();
                client.publish(request.reply.unwrap(), reply.into()).await.unwrap();
            }
        }
    });
    mill.event("none", "order.created", json!({ "lines": [] })).await;
    mill.event("one", "order.created", json!({ "lines": [{ "n": 1 }] })).await;
    mill.event("three", "order.created", json!({ "lines": [{ "n": 3 }, { "n": 4 }, { "n": 5 }] }))
        .await;
    let mut ended = Vec::new();
    for _ in 0..4 {
        let request = answer(&client, &mut end).await;
        let told = request.headers.unwrap();
        let body = String::from_utf8(request.payload.to_vec()).unwrap();
        ended.push(format!("{} {body}", told.get("Millstream-Event-Id").unwrap()));
    }
    ended.sort();
    expect![[r#"
        one/1/1 {"price":10}
        three/1/1 {"price":30}
        three/2/1 {"price":40}
        three/3/1 {"price":50}"#]]
    .assert_eq(&ended.join("\n"));
    for stage in ["split", "price", "end"] {
        mill.idle(stage).await;
    }
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn dedup_on_an_edge_drops_the_results_of_an_event_that_runs_again() {
    let second = r#"
        dedup = "1m"
        [stage.second]
        kind = "handle"
        inputs = ["work"]
        handler = { rust = "told" }
    "#;
    let (mut mill, calls) = started(&format!("{WORK}{second}")).await;
    mill.event("e-1", "order.created", json!({})).await;
    eventually(async || (calls.of("e-1").len() == 2).then_some(())).await;
    mill.idle("second").await;
    mill.drain().await;
    let life = mill.place("shop-in-events", 1).await;
    // What a worker that died between publishing and acking leaves behind: the same result,
    // published again.
    let again = Outgoing::new("shop.out.work.order.created", "{}").id(&format!("{life}:work:0"));
    assert!(mill.broker.publish(again).await.unwrap().duplicate);
}

//! Letters: size of letters, room for them, permission to write them, and their truth.

use millstream::{
    broker::{Outgoing, StoredMessage},
    dead_letter::{LetterRecord, completed_late::completed_late, store, stored},
    exhausted::sweep::Sweep,
    redrive::resend,
    wire::Place,
};
use std::{cell::RefCell, time::SystemTime};

use expect_test::expect;
use serde_json::json;

use super::{
    Calls, EDGE, PIPELINE, afterwards, exhaust, findings, header, later, on_edge, outgoing, routed,
    still, stored,
};
use crate::support::{Mill, TestServer, eventually, failure, trouble};

/// Default `max_payload` of the server, in bytes.
const MAX: usize = 1 << 20;

/// Puts an event of so many bytes on the edge and gives up on it; returns the payload and its
/// letter.
async fn given_up(mill: &Mill, bytes: usize) -> (Vec<u8>, StoredMessage) {
    let body = vec![b'x'; bytes];
    let event = Outgoing {
        body: body.clone().into(),
        ..outgoing("shop.out.first.order.created", "e-1", 7)
    };
    let edge = mill.broker.publish(event).await.unwrap();
    let life = mill.place(EDGE.0, edge.seq).await;
    exhaust(mill, EDGE).await;
    routed(mill, EDGE, edge.seq).await;
    let subject = mill.names.dlq_subject("work", &life);
    (body, mill.broker.last_on_subject("shop-dlq", &subject).await.unwrap().unwrap())
}

#[tokio::test]
async fn a_letter_around_max_payload_keeps_its_bytes_and_can_be_redriven_as_long_as_the_event_fits()
{
    let (mill, _) = still(PIPELINE).await;
    let small = outgoing("", "e-1", 7);
    let event_headers = small.bytes() - small.body.len();
    let (_, letter) = given_up(&mill, 10).await;
    let letter_headers = Outgoing { headers: letter.headers, ..Outgoing::new("", "") }.bytes();
    assert!(
        (500..900).contains(&letter_headers) && event_headers < 350,
        "{letter_headers} and {event_headers} bytes"
    );
    let room = MAX - letter_headers - (2 << 10);
    let mut apart = Vec::new();
    for bytes in [room - 100, room + 100, MAX - letter_headers + 1, MAX - event_headers] {
        let (body, letter) = given_up(&mill, bytes).await;
        apart.push(header(&letter, "Millstream-Body") == "apart");
        let payload = stored::payload(&mill.broker, &mill.names, &letter).await.unwrap().unwrap();
        assert!(payload == body, "{bytes} bytes are not what they were");
        assert_eq!(letter.body.is_empty(), *apart.last().unwrap());
        // There is room for what is known later.
        let life = Place::parse(header(&letter, "Millstream-Life")).unwrap();
        assert!(
            completed_late(&mill.broker, &mill.names, "work", &life, SystemTime::now())
                .await
                .unwrap()
        );
        let letter =
            mill.broker.last_on_subject("shop-dlq", &letter.subject).await.unwrap().unwrap();
        let redriven = resend::redrive(&mill.broker, &mill.names, &letter).await;
        if bytes == MAX - event_headers {
            let error = failure(redriven).to_string();
            let start = format!("letter {} cannot be redriven: its event is 10", letter.seq);
            assert!(
                error.starts_with(&start)
                    && error.contains("raise max_payload of the server to 10"),
                "{error}"
            );
            assert!(mill.broker.message("shop-dlq", letter.seq).await.unwrap().is_some());
        } else {
            redriven.unwrap();
            let last = mill
                .broker
                .last_on_subject("shop-retry", "shop.retry.work")
                .await
                .unwrap()
                .unwrap();
            assert!(last.body == body);
            let left = mill
                .broker
                .next_on_subject("shop-dlq", &format!("{}.>", letter.subject), 1)
                .await
                .unwrap();
            assert!(left.is_none(), "the payload went with its letter");
        }
    }
    assert_eq!(apart, [false, true, true, true]);
}

#[tokio::test]
async fn an_event_of_exactly_max_payload_is_a_letter_too() {
    let (mut mill, _) = still(PIPELINE).await;
    let body = vec![b'x'; MAX];
    mill.publish("events.order.created", body.clone()).await;
    mill.work().await;
    let letter = eventually(async || mill.letters().await.pop()).await;
    mill.idle("first").await;
    mill.drain().await;
    assert_eq!(
        (LetterRecord::of(&letter).reason.as_str(), header(&letter, "Millstream-Body")),
        ("undecodable", "apart")
    );
    let payload = stored::payload(&mill.broker, &mill.names, &letter).await.unwrap().unwrap();
    assert!(payload == body);
}

#[tokio::test]
async fn a_dead_letter_stream_that_is_full_holds_what_fails_and_loses_nothing() {
    let (mut mill, _) = still(&format!("{PIPELINE}[storage]\ndlq_max_bytes = \"4KiB\"\n")).await;
    for n in 0..8 {
        mill.event(&format!("e-{n}"), "order.created", json!({ "reject": "no" })).await;
    }
    mill.work().await;
    let held = async || {
        let state = mill.broker.consumer_state("shop-in-events", "shop-first").await.unwrap();
        (state.num_pending, state.num_ack_pending)
    };
    let first = mill.messages("shop-dlq", 2).await.len() as u64;
    eventually(async || {
        let letters = stored(&mill, "shop-dlq").await;
        (letters >= first && held().await == (0, 8 - letters)).then_some(())
    })
    .await;
    let kept = mill.letters().await;
    assert!(kept.len() < 8, "it is full with {}", kept.len());
    let refused = Outgoing {
        headers: kept[0].headers.clone(),
        ..Outgoing::new("shop.dlq.first.x.1", vec![b'x'; 900])
    };
    let error = failure(store::store(&mill.broker, &mill.names, refused).await);
    let cause = std::error::Error::source(&error).unwrap().to_string();
    expect![
        "the dead-letter stream is full (dlq_max_bytes in [storage]): redrive or drop letters \
         (`millstream dlq`), or raise it and `millstream apply`"
    ]
    .assert_eq(&cause);
    // With room again, what was held is written by itself.
    let seen = RefCell::new(Vec::new());
    eventually(async || {
        for letter in mill.letters().await {
            seen.borrow_mut().push(header(&letter, "Millstream-Event-Id").to_owned());
            stored::remove(&mill.broker, &mill.names, &letter).await.unwrap();
        }
        (seen.borrow().len() >= 8).then_some(())
    })
    .await;
    let mut seen = seen.into_inner();
    seen.sort();
    assert_eq!(seen, (0..8).map(|n| format!("e-{n}")).collect::<Vec<_>>());
    mill.idle("first").await;
    mill.drain().await;
}

#[tokio::test]
async fn while_letters_cannot_be_stored_suspects_and_fresh_events_go_on() {
    let (mut mill, calls) =
        still(&format!("{PIPELINE}[storage]\ndlq_max_bytes = \"4KiB\"\n")).await;
    for n in 0..8 {
        mill.event(&format!("no-{n}"), "order.created", json!({ "reject": "no" })).await;
    }
    for n in 0..20 {
        on_edge(&mill, &format!("suspect-{n}"), 100 + n).await;
    }
    // A worker that has them in hand, and dies.
    let mut pull = mill.broker.pull(EDGE.0, EDGE.1, 20).await.unwrap();
    for _ in 0..20 {
        pull.next().await.unwrap().unwrap();
    }
    drop(pull);
    mill.work().await;
    eventually(async || {
        let held = mill.broker.consumer_state("shop-in-events", "shop-first").await.ok()?;
        (held.num_pending == 0 && (1..8).contains(&held.num_ack_pending)).then_some(())
    })
    .await;
    mill.event("fresh", "order.created", json!({})).await;
    eventually(async || {
        let all = (0..20).all(|n| calls.has(&format!("work suspect-{n}")));
        (all && calls.has("work fresh")).then_some(())
    })
    .await;
    let held = mill.broker.consumer_state("shop-in-events", "shop-first").await.unwrap();
    assert!(held.num_ack_pending > 0, "what could not be stored is held meanwhile");
}

#[tokio::test]
async fn where_letters_may_not_be_written_the_event_stays_and_the_operator_is_told_what_to_grant() {
    let server = TestServer::denying("shop.dlq.>").await;
    let calls = Calls::default();
    let mill = Mill::still(server, PIPELINE, calls.registry()).await;
    super::with_old_edges(&mill).await;
    on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, EDGE).await;
    mill.messages("shop-advisories", 1).await;
    let worker = mill.denied_worker().await;
    let told = trouble(&worker, "subject shop.dlq.work.>").await;
    expect![[r#"grant publish on "shop.dlq.work.>" to the user of [nats]"#]]
        .assert_eq(&told.remedy.unwrap());
    worker.drain(std::future::ready(())).await;
    assert_eq!((mill.letters().await.len(), stored(&mill, EDGE.0).await), (0, 1));
    // Granted, it is written.
    super::swept(&mill).await;
    assert_eq!(findings(&mill).await.len(), 1);
}

#[tokio::test]
async fn what_completes_although_it_was_given_up_on_is_flagged_once() {
    let (mill, _) = still(PIPELINE).await;
    let (_, letter) = given_up(&mill, 10).await;
    let life = Place::parse(header(&letter, "Millstream-Life")).unwrap();
    let at = SystemTime::now();
    let mark = || completed_late(&mill.broker, &mill.names, "work", &life, at);
    let marked = tokio::join!(mark(), mark(), mark());
    let marked = [marked.0.unwrap(), marked.1.unwrap(), marked.2.unwrap()];
    assert_eq!(marked.iter().filter(|marked| **marked).count(), 1, "{marked:?}");
    assert!(!mark().await.unwrap());
    let letters = mill.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (header(&letters[0], "Millstream-Completed-At"), &letters[0].body),
        (&*millstream::wire::rfc3339(at), &letter.body)
    );
    let none = Place { seq: 99, ..life };
    assert!(!completed_late(&mill.broker, &mill.names, "work", &none, at).await.unwrap());
}

#[tokio::test]
async fn a_message_that_was_settled_late_is_done_and_gets_no_letter() {
    let (mill, _) = still(PIPELINE).await;
    let edge = on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, EDGE).await;
    // What the late ack of a slow worker does.
    mill.broker.settle_for(EDGE.0, EDGE.1, edge.seq).await.unwrap();
    for _ in 0..3 {
        routed(&mill, EDGE, edge.seq).await;
    }
    let mut sweep = Sweep::new(afterwards(&mill));
    sweep.round(later()).await;
    sweep.round(later()).await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_notice_about_a_consumer_that_runs_events_alone_is_one_of_its_stage() {
    let (mut mill, _) = still(PIPELINE).await;
    mill.broker.publish(outgoing("shop.alone.work", "a-1", 7)).await.unwrap();
    exhaust(&mill, ("shop-retry", "shop-work+alone")).await;
    mill.messages("shop-advisories", 1).await;
    mill.work().await;
    let (record, _) = mill.next_dead_letter().await;
    assert_eq!((record.stage.as_str(), record.reason.as_str()), ("work", "crashed"));
    eventually(async || (stored(&mill, "shop-retry").await == 0).then_some(())).await;
    mill.drain().await;
}

//! Prior delivery: deliveries after one that ended badly; only failures on record cost attempts.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{Headers, Outgoing},
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply},
    worker::Worker,
};
use serde_json::json;

use super::{Calls, SOURCE, WORK, take_and_die};
use crate::support::{Mill, TestServer, domain, eventually, trouble};

/// Worker whose user may not publish on `deny`, and a mill without a worker of its own.
async fn denied(deny: &str, calls: &Calls) -> (Mill, Worker) {
    let server = TestServer::denying(deny).await;
    let mill =
        Mill::still(server, &format!("{SOURCE}{WORK}ack_wait = \"1s\"\n"), calls.registry()).await;
    let worker = mill.denied_worker().await;
    (mill, worker)
}

/// Waits until the server refuses the worker its acks, and ends it at once, as a kill would.
async fn dies_of_it(worker: Worker) {
    trouble(&worker, "subject $JS.ACK.shop-in-events.shop-work.>").await;
    worker.drain(std::future::ready(())).await;
}

#[tokio::test]
async fn a_worker_that_dies_between_letter_and_term_leaves_one_letter_and_runs_nothing_twice() {
    let calls = Calls::default();
    let (mut mill, worker) = denied("$JS.ACK.shop-in-events.>", &calls).await;
    mill.event("e-1", "order.created", json!({ "reject": "no" })).await;
    dies_of_it(worker).await;
    let letter = mill.letters().await.swap_remove(0);
    assert_eq!(
        mill.broker.consumer_state("shop-in-events", "shop-work").await.unwrap().num_ack_pending,
        1
    );

    mill.work().await;
    mill.idle("work").await;
    mill.drain().await;
    let letters = mill.letters().await;
    assert_eq!((letters.len(), letters[0].seq), (1, letter.seq));
    assert_eq!(calls.of("e-1"), ["work 1"]);
}

#[tokio::test]
async fn a_worker_that_dies_between_the_record_and_the_nak_has_spent_one_attempt() {
    let calls = Calls::default();
    let (mut mill, worker) = denied("$JS.ACK.shop-in-events.>", &calls).await;
    mill.event("e-1", "order.created", json!({ "fails": 2 })).await;
    dies_of_it(worker).await;

    mill.work().await;
    eventually(async || (calls.of("e-1").len() == 3).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(calls.of("e-1"), ["work 1", "work 2", "work 3"]);
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn what_a_stopping_worker_gives_back_unhandled_has_spent_no_attempt() {
    let started = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&started);
    let registry = Registry::new().with(
        "slow",
        handler_fn(move |_, delivery| {
            counted.fetch_add(1, Ordering::SeqCst);
            async move {
                tokio::time::sleep(Duration::from_millis(50)).await;
                if delivery.attempt == 1 {
                    Ok(Reply::Pass)
                } else {
                    Err(Failure::reject("Late", "not the first attempt"))
                }
            }
        }),
    );
    // One attempt means one: if being given back counted, every event of these would be a letter.
    let toml = format!("{SOURCE}{WORK}concurrency = 4\n")
        .replace("\"told\"", "\"slow\"")
        .replace("attempts = 3", "attempts = 1");
    let mut mill = Mill::with(&toml, registry).await;
    for n in 0..60 {
        mill.event(&format!("e-{n}"), "order.created", json!({})).await;
    }
    while started.load(Ordering::SeqCst) < 60 {
        let before = started.load(Ordering::SeqCst);
        eventually(async || (started.load(Ordering::SeqCst) > before).then_some(())).await;
        mill.drain().await;
        mill.work().await;
    }
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(started.load(Ordering::SeqCst), 60, "none ran twice");
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn what_may_have_killed_its_worker_runs_beside_few_of_its_kind_and_has_lost_no_attempt() {
    let (suspects, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let calls = Calls::default();
    let (now, at_once, seen) = (Arc::clone(&suspects), Arc::clone(&most), calls.clone());
    let beside = Arc::new(AtomicUsize::new(0));
    let fresh = Arc::clone(&beside);
    let registry = Registry::new().with(
        "watched",
        handler_fn(move |event, delivery| {
            let is_suspect = event.id.starts_with("suspect");
            if is_suspect {
                at_once.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            } else if now.load(Ordering::SeqCst) > 0 {
                fresh.fetch_add(1, Ordering::SeqCst);
            }
            let (now, seen) = (Arc::clone(&now), seen.clone());
            async move {
                let takes = if is_suspect { 300 } else { 1 };
                tokio::time::sleep(Duration::from_millis(takes)).await;
                seen.0.lock().unwrap().push((
                    delivery.stage,
                    event.id.clone(),
                    delivery.attempt,
                    std::time::Instant::now(),
                ));
                if is_suspect {
                    now.fetch_sub(1, Ordering::SeqCst);
                }
                Ok(Reply::Pass)
            }
        }),
    );
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\nconcurrency = 64\n")
        .replace("\"told\"", "\"watched\"");
    let mut mill = Mill::still(TestServer::start().await, &toml, registry).await;
    for n in 0..40 {
        mill.event(&format!("suspect-{n}"), "order.created", json!({})).await;
    }
    take_and_die(&mill, "shop-in-events", "shop-work", 40).await;
    mill.work().await;
    eventually(async || (suspects.load(Ordering::SeqCst) > 0).then_some(())).await;
    for n in 0..200 {
        mill.event(&format!("other-{n}"), "order.created", json!({})).await;
    }
    eventually(async || (calls.0.lock().unwrap().len() == 240).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    for n in 0..40 {
        assert_eq!(calls.of(&format!("suspect-{n}")), ["work 1"]);
    }
    assert_eq!(most.load(Ordering::SeqCst), 16, "suspects at once");
    assert!(beside.load(Ordering::SeqCst) > 50, "fresh events wait for suspects");
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_suspect_that_fails_in_the_ordinary_way_is_retried_among_the_others() {
    let calls = Calls::default();
    let mut mill = Mill::still(
        TestServer::start().await,
        &format!("{SOURCE}{WORK}ack_wait = \"1s\"\n"),
        calls.registry(),
    )
    .await;
    mill.event("e-1", "order.created", json!({ "fails": 2 })).await;
    take_and_die(&mill, "shop-in-events", "shop-work", 1).await;
    mill.work().await;
    eventually(async || (calls.of("e-1").len() == 3).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(calls.of("e-1"), ["work 1", "work 2", "work 3"]);
    let failed = mill.messages("shop-failed", 2).await;
    let outcomes: Vec<_> =
        failed.iter().map(|told| super::header(told, "Millstream-Outcome")).collect();
    assert_eq!(outcomes, ["park", "retry"]);
}

#[tokio::test]
async fn an_event_that_completes_after_others_gave_up_on_it_says_so_in_its_letter_and_is_counted() {
    let registry = Registry::new().with(
        "slow",
        handler_fn(|_, _| async {
            tokio::time::sleep(Duration::from_millis(1500)).await;
            Ok(Reply::Pass)
        }),
    );
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\n").replace("\"told\"", "\"slow\"");
    let mut mill = Mill::with(&toml, registry).await;
    let body = domain("e-1", "order.created", json!({}));
    let source = mill.event("e-1", "order.created", json!({})).await;
    let life = mill.place("shop-in-events", source.seq).await;
    // As the router or the sweep of another worker writes it meanwhile.
    let letter = Outgoing::new(mill.names.dlq_subject("work", &life), body.clone());
    mill.broker
        .publish(letter.header("Millstream-Stage", "work").header("Millstream-Reason", "crashed"))
        .await
        .unwrap();
    let letter = eventually(async || {
        let letters = mill.letters().await;
        letters
            .into_iter()
            .find(|letter| !super::header(letter, "Millstream-Completed-At").is_empty())
    })
    .await;
    assert_eq!(
        (letter.body.as_ref(), super::header(&letter, "Millstream-Reason")),
        (body.as_bytes(), "crashed")
    );
    mill.idle("work").await;
    let counted = mill.worker.as_ref().unwrap().metrics().render();
    assert!(
        counted.contains("millstream_events_completed_late_total{stage=\"work\"} 1"),
        "{counted}"
    );
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 1);
}

#[tokio::test]
async fn what_waited_in_the_retry_stream_for_too_long_is_an_expired_letter_and_is_not_run() {
    let calls = Calls::default();
    let mut mill =
        Mill::still(TestServer::start().await, &format!("{SOURCE}{WORK}"), calls.registry()).await;
    let queued = |ago: Duration| millstream::wire::rfc3339(SystemTime::now() - ago);
    for (id, days) in [("e-old", 8), ("e-young", 6)] {
        let mut headers = Headers::new();
        for (name, value) in [
            ("Millstream-Event-Id", id),
            ("Millstream-Event-Type", "order.created"),
            ("Millstream-Attempts", "2"),
            ("Millstream-Queued-At", &queued(Duration::from_secs(days * 86_400))),
            ("Millstream-First-Failed-At", "2026-01-01T00:00:00.000Z"),
        ] {
            headers.insert(name, value);
        }
        let body = domain(id, "order.created", json!({}));
        mill.broker
            .publish(Outgoing { headers, ..Outgoing::new("shop.retry.work", body) })
            .await
            .unwrap();
    }
    mill.work().await;
    let (record, _) = mill.next_dead_letter().await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(
        (record.reason.as_str(), record.event_id.as_deref(), record.attempts),
        ("expired", Some("e-old"), 2)
    );
    assert_eq!(record.first_failed_at, "2026-01-01T00:00:00.000Z");
    assert_eq!(record.error_message, "waited in the retry stream for longer than 7d");
    assert_eq!((calls.of("e-old").len(), calls.of("e-young")), (0, vec!["work 3".to_owned()]));
}

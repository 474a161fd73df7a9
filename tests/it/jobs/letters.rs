//! Letters: a job that meets payloads kept apart, letters that cannot be sent, and ten thousand.

use std::time::Instant;

use futures_util::future::join_all;
use millstream::{
    broker::{Outgoing, StoredMessage},
    redrive::job::State,
};
use serde_json::json;

use super::{PIPELINE, Service, job, of_work, run};
use crate::support::{Mill, TestServer, domain, timeless};

/// Letter of stage `work`, as a worker writes it.
fn letter(n: usize, source: &str, body: String) -> Outgoing {
    Outgoing::new(format!("shop.dlq.work.shop-in-events.{n}"), body)
        .header("Millstream-Event-Id", &format!("e-{n}"))
        .header("Millstream-Event-Type", "order.created")
        .header("Millstream-Envelope", "domain")
        .header("Millstream-Stage", "work")
        .header("Millstream-Reason", "rejected")
        .header("Millstream-Error-Class", "HttpServerError")
        .header("Millstream-Redrives", "0")
        .header("Millstream-First-Failed-At", "2026-11-21T08:00:00.000Z")
        .header("Millstream-Source", &format!("shop-in-events:{source}"))
        .header("Millstream-Source-Subject", "events.order.created")
}

#[tokio::test]
async fn a_letter_whose_payload_is_kept_apart_is_sent_with_it_or_stays() {
    let service = Service::default();
    let mill = Mill::still(TestServer::start().await, PIPELINE, service.registry()).await;
    let body = domain("e-1", "order.created", json!({}));
    for n in 1..=3 {
        let letter = letter(n, "77", if n == 3 { "{}".into() } else { String::new() });
        let letter = if n == 3 { letter } else { letter.header("Millstream-Body", "apart") };
        mill.broker.publish(letter).await.unwrap();
    }
    // It may be stored again after its letter, by whoever was second to give up.
    mill.broker
        .publish(Outgoing::new("shop.dlq.work.shop-in-events.1.body", body.clone()))
        .await
        .unwrap();
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.state, done.counts.redriven, done.counts.failed), (State::Done, 2, 1));
    assert_eq!(
        done.why.as_deref(),
        Some(
            "letter 2 cannot be redriven: its payload, which was kept apart on \
             \"shop.dlq.work.shop-in-events.2.body\", is gone"
        )
    );
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [2]);
    let sent: Vec<StoredMessage> = mill.messages("shop-retry", 2).await;
    let sent = sent.into_iter().find(|sent| sent.body == body).unwrap();
    assert_eq!(sent.subject, "shop.retry.work");
    let header = |name: &str| {
        sent.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
    };
    assert_eq!(header("Millstream-Redrives"), "1");
    assert_eq!(header("Millstream-First-Failed-At"), "2026-11-21T08:00:00.000Z");
    assert_eq!(timeless(&header("Nats-Msg-Id")), "redrive:shop-dlq:1");
    assert_eq!(timeless(&header("Millstream-Life")), "shop-dlq:1", "known before it was sent");
    assert!(header("Millstream-Queued-At").ends_with('Z'));
}

#[tokio::test]
async fn a_letter_that_is_not_sent_never_goes_with_the_run_around_it() {
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", "{}".into());
        let letter = match n {
            // Its subject says that it is of the stage, its headers say otherwise.
            20 => letter.header("Millstream-Stage", "beside"),
            // Its payload is gone.
            40 => letter.header("Millstream-Body", "apart"),
            _ => letter,
        };
        mill.broker.publish(letter).await.unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.state, done.counts.redriven, done.counts.failed), (State::Done, 58, 1));
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [20, 40]);
    // What is kept beside letters goes with its letter alone, whatever runs go.
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", if n == 30 { String::new() } else { "{}".into() });
        if n == 30 {
            mill.broker
                .publish(Outgoing::new(format!("{}.body", letter.subject), "apart"))
                .await
                .unwrap();
        }
        mill.broker
            .publish(if n == 30 { letter.header("Millstream-Body", "apart") } else { letter })
            .await
            .unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.counts.redriven, done.counts.failed), (60, 0));
    assert_eq!(mill.broker.stream_state("shop-dlq").await.unwrap().messages, 0);
    assert_eq!(
        mill.messages("shop-retry", 60).await.iter().filter(|sent| sent.body == "apart").count(),
        1
    );
    // What was under way when the one that cannot be sent was found out went one by one.
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", "{}".into());
        mill.broker
            .publish(if n == 10 { letter.header("Millstream-Body", "apart") } else { letter })
            .await
            .unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.counts.redriven, done.counts.failed, done.cursor), (59, 1, 60));
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_letters_go_at_once_and_those_of_others_stay() {
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    const COUNT: usize = 10_000;
    for chunk in (1..=COUNT).collect::<Vec<_>>().chunks(500) {
        let bodies = chunk.iter().map(|n| letter(*n, &n.to_string(), "{}".repeat(100)));
        join_all(bodies.map(|letter| mill.broker.publish(letter))).await;
    }
    let other = Outgoing {
        subject: "shop.dlq.beside.shop-in-events.1".into(),
        ..letter(0, "1", "{}".into())
    };
    mill.broker.publish(other.header("Millstream-Stage", "beside")).await.unwrap();
    let started = Instant::now();
    let done = run(&mill, job(&mill, of_work()).await).await;
    let took = started.elapsed();
    println!("{COUNT} letters in {took:?}: {:.0}/s", COUNT as f64 / took.as_secs_f64());
    assert_eq!(
        (done.state, done.counts.redriven, done.counts.settled()),
        (State::Done, 10_000, 10_000)
    );
    assert_eq!(mill.broker.stream_state("shop-retry").await.unwrap().messages, 10_000);
    assert_eq!(mill.letters().await.len(), 1);
}

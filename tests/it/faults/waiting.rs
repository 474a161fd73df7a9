//! Waiting: events that are in the retry stream for too long.

use std::time::{Duration, SystemTime};

use expect_test::expect;
use futures_util::StreamExt as _;
use millstream::{exhausted::sweep::Sweep, limits, stages::settle::Reason, wire::rfc3339};

use super::{PIPELINE, RETRY, afterwards, findings, header, on_retry, outgoing, still, stored};
use crate::support::{Mill, eventually};

const DAY: Duration = Duration::from_secs(86_400);

fn ago(days: u32) -> String {
    rfc3339(SystemTime::now() - DAY * days)
}

async fn parked(mill: &Mill, id: &str, queued_days_ago: u32) {
    let parked = outgoing("shop.parked.work-shop-in-events-7", id, 7)
        .header("Millstream-Life", "shop-in-events:7")
        .header("Millstream-Attempts", "2")
        .header("Millstream-Queued-At", &ago(queued_days_ago))
        .header("Nats-Schedule", "@at 2099-01-01T00:00:00Z")
        .header("Nats-Schedule-Target", "shop.retry.work");
    mill.broker.publish(parked).await.unwrap();
}

#[tokio::test]
async fn what_waits_for_a_retry_longer_than_it_may_becomes_an_expired_letter() {
    let (mill, _) = still(PIPELINE).await;
    on_retry(&mill, "young", 5).await;
    let old = outgoing("shop.retry.work", "old", 6).header("Millstream-Queued-At", &ago(8));
    mill.broker.publish(old).await.unwrap();
    // Parked anew a moment ago, due in years, and waiting for eight days in all.
    parked(&mill, "parked", 8).await;
    let alone = outgoing("shop.alone.work", "alone", 9).header("Millstream-Queued-At", &ago(6));
    mill.broker.publish(alone).await.unwrap();
    let afterwards = afterwards(&mill);
    let mut sweep = Sweep::new(afterwards.clone());
    sweep.round(SystemTime::now()).await;
    expect![[r#"
        work old expired ExpiredError: waited in the retry stream for longer than 7d
        work parked expired ExpiredError: waited in the retry stream for longer than 7d"#]]
    .assert_eq(&findings(&mill).await.join("\n"));
    let letter = mill.letters().await.swap_remove(1);
    assert_eq!(letter.subject, "shop.dlq.work.shop-in-events.7", "its life is what it was");
    assert_eq!(header(&letter, "Millstream-Attempts"), "2");
    let left: Vec<String> = mill
        .messages("shop-retry", 2)
        .await
        .iter()
        .map(|left| header(left, "Millstream-Event-Id").to_owned())
        .collect();
    assert_eq!(left, ["young", "alone"]);
    assert!(afterwards.metrics.render().contains("reason=\"expired\"} 2"));
    // By the time it was stored, where it does not say since when it waits.
    sweep.round(SystemTime::now() + DAY * 7 + DAY / 2).await;
    assert_eq!((mill.letters().await.len(), stored(&mill, "shop-retry").await), (4, 0));
    assert_eq!(Reason::named("expired"), Some(Reason::Expired));
}

#[tokio::test]
async fn what_a_worker_has_in_hand_does_not_expire_under_its_hands() {
    let (mill, _) = still(PIPELINE).await;
    let old = outgoing("shop.retry.work", "old", 6).header("Millstream-Queued-At", &ago(8));
    mill.broker.publish(old).await.unwrap();
    let mut pull = mill.broker.pull(RETRY.0, RETRY.1, 1).await.unwrap();
    let in_hand = pull.next().await.unwrap().unwrap();
    let mut sweep = Sweep::new(afterwards(&mill));
    for _ in 0..3 {
        sweep.round(SystemTime::now()).await;
    }
    assert!(mill.letters().await.is_empty());
    in_hand.ack().await;
    eventually(async || (stored(&mill, "shop-retry").await == 0).then_some(())).await;
}

#[tokio::test]
async fn without_a_limit_nothing_expires() {
    let (mill, _) = still(&format!("{PIPELINE}\n[storage]\nretry_max_age = \"0s\"\n")).await;
    parked(&mill, "parked", 800).await;
    Sweep::new(afterwards(&mill)).round(SystemTime::now()).await;
    assert_eq!((mill.letters().await.len(), stored(&mill, "shop-retry").await), (0, 1));
}

#[tokio::test]
async fn where_more_have_expired_than_one_round_deals_with_the_next_is_to_follow_at_once() {
    let (mill, _) = still(PIPELINE).await;
    let many = limits::SWEEP_LOOKS_MAX + 10;
    let old = |n: usize| {
        outgoing("shop.retry.work", &format!("old-{n}"), n as u64)
            .header("Millstream-Queued-At", &ago(8))
    };
    futures_util::stream::iter(0..many)
        .for_each_concurrent(64, async |n| _ = mill.broker.publish(old(n)).await.unwrap())
        .await;
    let mut sweep = Sweep::new(afterwards(&mill));
    assert!(sweep.round(SystemTime::now()).await);
    assert_eq!(stored(&mill, "shop-retry").await, 10);
    assert!(!sweep.round(SystemTime::now()).await);
    assert_eq!(
        (stored(&mill, "shop-dlq").await, stored(&mill, "shop-retry").await),
        (many as u64, 0)
    );
}

//! Parked: events in a long backoff that leave the consumer, and come back as they were whatever
//! happens meanwhile.

use std::time::Duration;

use serde_json::json;

use super::{Calls, SOURCE, WORK, header};
use crate::support::{Mill, TestServer, eventually, scanned, timeless};

/// Retry policy whose retries are parked: every wait is longer than a consumer is to hold.
const PARKING: &str = "park_after = \"100ms\"\n    backoff = { fixed = \"3s\" }";

#[tokio::test]
async fn parked_events_survive_the_server_and_their_consumer_and_come_back_with_all_they_had() {
    let toml = format!("{SOURCE}{WORK}ack_wait = \"1s\"\n")
        .replace("backoff = { fixed = \"50ms\" }", PARKING);
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, &toml, calls.registry()).await;
    for n in 0..50 {
        mill.event(&format!("e-{n}"), "order.created", json!({ "fails": 1, "n": n })).await;
    }
    mill.work().await;
    let parked = mill.messages("shop-retry", 50).await;
    let one =
        parked.iter().find(|message| header(message, "Millstream-Event-Id") == "e-7").unwrap();
    assert_eq!(header(one, "Millstream-Attempts"), "1");
    assert_eq!(header(one, "Millstream-Life"), header(one, "Millstream-Source"));
    assert_eq!(header(one, "Millstream-Source-Subject"), "events.order.created");
    mill.idle("work").await;
    let state = mill.broker.consumer_state("shop-in-events", "shop-work").await.unwrap();
    assert_eq!(state.num_ack_pending, 0, "what is parked takes nobody's place");

    mill.server.server.kill_hard();
    mill.server.server.restart().await.unwrap();
    mill.broker.delete_consumer("shop-retry", "shop-work").await.unwrap();
    mill.make().await;
    // A server that is killed forgets what was settled a moment ago: an event may begin anew, and
    // is parked anew.
    let done = |n: usize| calls.of(&format!("e-{n}")).last().is_some_and(|call| call == "work 2");
    eventually(async || (0..50).all(done).then_some(())).await;
    mill.idle("work").await;
    assert!(mill.letters().await.is_empty());
    eventually(async || scanned(&mill.broker, "shop-retry").await.is_empty().then_some(())).await;
    mill.drain().await;
}

#[tokio::test]
async fn what_fails_to_the_end_after_a_park_is_a_letter_of_the_first_failure_and_all_attempts() {
    let toml = format!("{SOURCE}{WORK}").replace("backoff = { fixed = \"50ms\" }", PARKING);
    let toml = toml.replace("3s", "300ms");
    let calls = Calls::default();
    let mut mill = Mill::with(&toml, calls.registry()).await;
    mill.event("e-1", "order.created", json!({ "fails": 9 })).await;
    let (record, letter) = mill.next_dead_letter().await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!((record.attempts, record.reason.as_str()), (3, "exhausted"));
    assert_eq!(timeless(&letter.subject), "shop.dlq.work.shop-in-events.1");
    let failed = mill.messages("shop-failed", 3).await;
    let outcomes: Vec<_> = failed.iter().map(|told| header(told, "Millstream-Outcome")).collect();
    assert_eq!(outcomes, ["park", "park", "exhausted"]);
    assert_eq!(record.first_failed_at, header(&failed[0], "Millstream-First-Failed-At"));
    let time = |text: &str| millstream::wire::parse_rfc3339(text).unwrap();
    let lasted = time(&record.dead_at).duration_since(time(&record.first_failed_at)).unwrap();
    assert!(lasted >= Duration::from_millis(600), "{lasted:?}");
}

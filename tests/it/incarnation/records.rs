//! Records: error events on a bounded number of subjects, found among those that share them.

use std::time::SystemTime;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use millstream::{
    broker::Outgoing,
    stages::Failure,
    wire::{
        Origin, Place,
        attempt_record::{AttemptRecord, AttemptReport, Spent, Who},
    },
};
use serde_json::json;

use super::{Calls, PIPELINE};
use crate::support::{Mill, TestServer, eventually};

/// Origin of an event whose life began in this second.
fn origin(source: u64, life: u64) -> Origin {
    let now = SystemTime::now();
    let life = Place::new("shop-out-first", life, now);
    Origin { life, ..Origin::first(Place::new("shop-in-events", source, now), "events.order") }
}

/// Error event of the first delivery of an event.
fn report(mill: &Mill, origin: &Origin, message: &str) -> Outgoing {
    let failure = Failure::retry("Flaky", message.to_owned());
    let report = AttemptReport {
        stage: "work",
        failure: &failure,
        outcome: "retry",
        wait: None,
        delivery_id: &format!("{}:1", origin.life),
        attempt: 1,
        spent: Spent { attempts: 1, first_failed_at: None },
        origin,
        who: Who::default(),
        traceparent: None,
    };
    report.message(&mill.names, mill.broker.now())
}

#[tokio::test]
async fn twenty_thousand_failed_events_leave_a_bounded_number_of_subjects_and_each_is_found() {
    let mill = Mill::still(TestServer::start().await, PIPELINE, Calls::default().registry()).await;
    let origins: Vec<Origin> = (1..=20_000).map(|n| origin(n, n)).collect();
    stream::iter(&origins)
        .map(|origin| mill.broker.publish(report(&mill, origin, &origin.life.to_string())))
        .buffer_unordered(256)
        .try_for_each(async |_| Ok(()))
        .await
        .unwrap();
    let state = mill.broker.stream_state("shop-failed").await.unwrap();
    assert_eq!(state.messages, 20_000);
    assert!(state.subjects <= 4096, "{} subjects", state.subjects);
    for origin in origins.iter().step_by(997) {
        let since = SystemTime::now() - std::time::Duration::from_secs(60);
        let found = AttemptRecord::last(&mill.broker, &mill.names, &["work"], origin, since).await;
        let found = found.unwrap().unwrap();
        assert_eq!(found.delivery_of(&origin.life), Some("1:work"));
        assert_eq!(found.message, origin.life.to_string());
    }
    let none = origin(20_001, 20_001);
    let since = SystemTime::now();
    let found = AttemptRecord::last(&mill.broker, &mill.names, &["work"], &none, since).await;
    assert_eq!(found.unwrap(), None);
}

#[tokio::test]
async fn a_record_is_found_however_many_others_follow_it_on_its_subject() {
    let mill = Mill::still(TestServer::start().await, PIPELINE, Calls::default().registry()).await;
    let since = SystemTime::now();
    let wanted = origin(7, 1);
    for others in [0_u64, 5, 100, 400] {
        mill.broker.publish(report(&mill, &wanted, &format!("before {others}"))).await.unwrap();
        // As long as the server keeps ids, only the first of those is stored.
        let first = 10_000 + others * 1000;
        let other = |n| Origin { life: origin(7, first + n).life, ..wanted.clone() };
        for n in 0..others {
            mill.broker.publish(report(&mill, &other(n), "another's")).await.unwrap();
        }
        let found = AttemptRecord::last(&mill.broker, &mill.names, &["work"], &wanted, since).await;
        let found = found.unwrap().unwrap();
        assert_eq!((found.message.as_str(), found.spent.attempts), ("before 0", 1));
    }
    // What was stored before the message was is not its own.
    let later = SystemTime::now() + std::time::Duration::from_secs(3600);
    let found = AttemptRecord::last(&mill.broker, &mill.names, &["work"], &wanted, later).await;
    assert_eq!(found.unwrap(), None);
    let bucket = mill.names.failed_subject("work", &wanted.source);
    let first = mill.broker.next_since("shop-failed", &bucket, since).await.unwrap().unwrap();
    assert_eq!(first.seq, 1);
    assert!(mill.broker.next_since("shop-failed", &bucket, later).await.unwrap().is_none());
}

#[tokio::test]
async fn attempts_of_a_redelivered_event_are_counted_among_those_of_others_on_its_subject() {
    let calls = Calls::default();
    let mut mill = Mill::still(TestServer::start().await, PIPELINE, calls.registry()).await;
    let source = mill.event("e-1", "order.created", json!({ "fails": 2 })).await;
    let shared = mill.place("shop-in-events", source.seq).await;
    mill.work().await;
    // Error events of others come all the time on the subject of this one.
    let mut n = 0;
    while calls.of("work e-1") < 3 {
        n += 1;
        let other = Origin { source: shared.clone(), ..origin(7, 1000 + n) };
        mill.broker.publish(report(&mill, &other, "another's")).await.unwrap();
    }
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(calls.of("work e-1"), 3, "two failed attempts and one that passed");
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_record_of_another_life_of_the_stream_in_the_form_of_an_older_version_is_not_its_own() {
    let mill = Mill::still(TestServer::start().await, PIPELINE, Calls::default().registry()).await;
    let old = Outgoing::new("shop.failed.work.Flaky.shop-in-events.7.shop-out-first-1", "{}")
        .id("shop-out-first:1:1:work")
        .header("Millstream-Attempts", "2")
        .header("Millstream-Outcome", "exhausted");
    let before = SystemTime::now();
    mill.broker.publish(old).await.unwrap();
    let look = async |origin: &Origin, since| {
        AttemptRecord::last(&mill.broker, &mill.names, &["work"], origin, since).await.unwrap()
    };
    let of_it = look(&origin(7, 1), before).await.unwrap();
    assert_eq!((of_it.outcome.as_str(), of_it.spent.attempts), ("exhausted", 2));
    assert_eq!(of_it.delivery_of(&origin(7, 1).life), Some("1:work"));
    eventually(async || (SystemTime::now() > before).then_some(())).await;
    let later = SystemTime::now() + std::time::Duration::from_secs(1);
    assert_eq!(look(&origin(7, 1), later).await, None);
}

//! Incarnation: streams and buckets that are deleted, made anew or lost with memory.
//!
//! What names a message holds beyond the life of its stream: no two are taken for each other.

mod claims;
mod followed;
mod records;

use std::sync::{Arc, Mutex};

use millstream::{
    broker::StoredMessage,
    dead_letter::LetterRecord,
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply},
};
use serde_json::json;

use crate::support::{Mill, eventually};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 3
    backoff = { fixed = "50ms" }
    [stage.first]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "told" }
    [stage.work]
    kind = "handle"
    inputs = ["first"]
    handler = { rust = "told" }
    breaker = false
"#;

/// Calls of the handler, `<stage> <event id>`.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    /// Handler named `told`: at `work` it fails the first `eventData.fails` attempts, and rejects
    /// an event where `eventData.reject` is set.
    fn registry(&self) -> Registry {
        let calls = self.clone();
        let told = handler_fn(move |event, delivery| {
            calls.0.lock().unwrap().push(format!("{} {}", delivery.stage, event.id));
            let data = event.json().unwrap()["eventData"].clone();
            let (is_work, attempt) = (delivery.stage == "work", u64::from(delivery.attempt));
            async move {
                if is_work && data["reject"] == true {
                    return Err(Failure::reject("Refused", "no stock"));
                }
                if is_work && attempt <= data["fails"].as_u64().unwrap_or(0) {
                    return Err(Failure::retry("Flaky", "once"));
                }
                Ok(Reply::Pass)
            }
        });
        Registry::new().with("told", told)
    }

    fn of(&self, call: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|known| *known == call).count()
    }
}

fn header<'a>(message: &'a StoredMessage, name: &str) -> &'a str {
    message.headers.get(name).map_or("", |value| value.as_str())
}

/// Ids of the events that have a letter, sorted.
async fn given_up(mill: &Mill) -> Vec<String> {
    let records = mill.letters().await;
    let mut ids: Vec<String> =
        records.iter().filter_map(|letter| LetterRecord::of(letter).event_id).collect();
    ids.sort();
    ids
}

/// Deletes a stream and makes it anew: its sequences begin at 1 again.
async fn made_anew(mill: &Mill, stream: &str) {
    mill.broker.delete_stream(stream).await.unwrap();
    mill.make().await;
}

/// Findings of this code that are stored.
async fn findings(mill: &Mill, code: &str) -> Vec<String> {
    let filter = format!("shop.finding.{code}.*");
    use futures_util::TryStreamExt as _;
    let found: Vec<StoredMessage> =
        mill.broker.scan("shop-failed", &filter, 1).try_collect().await.unwrap();
    found.iter().map(|finding| String::from_utf8_lossy(&finding.body).into_owned()).collect()
}

#[tokio::test]
async fn events_of_an_edge_that_was_made_anew_get_letters_of_their_own_and_complete_no_old_one() {
    let calls = Calls::default();
    let mut mill = Mill::with(PIPELINE, calls.registry()).await;
    let rejects = json!({ "reject": true });
    for n in 0..3 {
        mill.event(&format!("a-{n}"), "order.created", rejects.clone()).await;
    }
    eventually(async || (given_up(&mill).await.len() == 3).then_some(())).await;
    mill.idle("work").await;
    made_anew(&mill, "shop-out-first").await;
    for n in 0..3 {
        mill.event(&format!("b-{n}"), "order.created", rejects.clone()).await;
    }
    let all = ["a-0", "a-1", "a-2", "b-0", "b-1", "b-2"];
    eventually(async || (given_up(&mill).await == all).then_some(())).await;
    // Within the duplicate window, deliveries of both lives have the same numbers.
    assert_eq!(mill.messages("shop-failed", 6).await.len(), 6, "no error event was dropped");
    mill.idle("work").await;
    made_anew(&mill, "shop-out-first").await;
    for n in 0..3 {
        mill.event(&format!("c-{n}"), "order.created", json!({ "fails": 1 })).await;
    }
    eventually(async || (0..3).all(|n| calls.of(&format!("work c-{n}")) == 2).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    let letters = mill.letters().await;
    assert_eq!(given_up(&mill).await, all);
    let completed: Vec<_> =
        letters.iter().filter(|it| !header(it, "Millstream-Completed-At").is_empty()).collect();
    assert!(completed.is_empty(), "{completed:?}");
    for letter in &letters {
        let life = header(letter, "Millstream-Life").to_owned();
        let (_, token) = letter.subject.rsplit_once('.').unwrap();
        assert_eq!(life, format!("shop-out-first:{}", token.replace('-', "@")));
        let source = header(letter, "Millstream-Source");
        assert!(source.starts_with("shop-in-events:") && source.contains('@'), "{source}");
    }
}

#[tokio::test]
async fn results_for_a_source_that_was_made_anew_within_the_duplicate_window_are_not_dropped() {
    let calls = Calls::default();
    let mut mill = Mill::with(PIPELINE, calls.registry()).await;
    mill.event("a-1", "order.created", json!({})).await;
    eventually(async || (calls.of("work a-1") == 1).then_some(())).await;
    mill.idle("first").await;
    made_anew(&mill, "shop-in-events").await;
    let again = mill.event("b-1", "order.created", json!({})).await;
    assert_eq!(again.seq, 1, "the sequence of another event before");
    eventually(async || (calls.of("work b-1") == 1).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!((calls.of("work a-1"), calls.of("work b-1")), (1, 1));
}

#[tokio::test]
async fn events_without_an_id_of_their_own_have_another_in_each_life_of_their_source() {
    let toml = PIPELINE.replace("[source.events]", "[source.events]\nenvelope = \"raw\"");
    let mut mill = Mill::with(&toml, Calls::default().registry()).await;
    let mut ids = Vec::new();
    for n in 1..3 {
        mill.publish("events.order.created", r#"{"eventData":{"reject":true}}"#).await;
        eventually(async || (given_up(&mill).await.len() == n).then_some(())).await;
        mill.idle("work").await;
        ids = given_up(&mill).await;
        made_anew(&mill, "shop-in-events").await;
    }
    mill.drain().await;
    assert!(ids.iter().all(|id| id.starts_with("shop-in-events:1@")), "{ids:?}");
    assert_ne!(ids[0], ids[1]);
}

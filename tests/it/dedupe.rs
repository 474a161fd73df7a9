//! Dedupe: of each key one event passes, whatever happens to the worker, and its reader gets it
//! whole.

use std::collections::BTreeMap;

use millstream::{broker::StoredMessage, stages::headers};
use serde_json::json;

use crate::support::{Mill, TestServer, eventually, timeless};

const PIPELINE: &str = r#"
[pipeline]
name = "shop"

[source.events]
subjects = ["events.>"]

[stage.once]
kind = "dedupe"
inputs = ["source.events"]
key = ".eventData.order"
window = "1h"
on_duplicate = "drop"

[stage.work]
kind = "handle"
inputs = ["once"]
handler = { jq = "." }
"#;

/// One header of a message.
fn header<'a>(message: &'a StoredMessage, name: &'static str) -> &'a str {
    millstream::broker::get(&message.headers, name).unwrap_or_default()
}

/// Events that the stage passed on, by the order they are about.
async fn passed(mill: &Mill) -> BTreeMap<u64, Vec<String>> {
    let mut passed: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    for message in crate::support::scanned(&mill.broker, &mill.names.out_stream("once")).await {
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap();
        let order = body["eventData"]["order"].as_u64().unwrap();
        passed.entry(order).or_default().push(header(&message, headers::EVENT_ID).to_owned());
    }
    passed
}

#[tokio::test(flavor = "multi_thread")]
async fn of_each_key_one_event_passes_through_takeovers_and_a_restart_of_the_server() {
    let mut mill = Mill::still(TestServer::start().await, PIPELINE, Default::default()).await;
    mill.work().await;
    let mut expected = 0;
    for round in 0..3_u64 {
        for n in 0..200_u64 {
            let (id, order) = (format!("{round}-{n}"), n % 50 + round * 25);
            mill.event(&id, "order.created", json!({ "order": order })).await;
        }
        expected = 50 + round * 25;
        if round == 0 {
            // Cut off in the middle of its work: the next worker begins at the checkpoint.
            drop(mill.worker.take());
            mill.server.server.kill_hard();
            mill.server.server.restart().await.unwrap();
            mill.work().await;
        }
    }
    eventually(async || (passed(&mill).await.len() as u64 >= expected).then_some(())).await;
    // Whatever is emitted twice would be there by the time the last one is handled.
    mill.idle("work").await;
    let passed = passed(&mill).await;
    assert_eq!(passed.len() as u64, expected);
    let twice: Vec<_> = passed.iter().filter(|(_, ids)| ids.len() > 1).collect();
    assert!(twice.is_empty(), "{twice:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_duplicate_becomes_a_letter_where_it_should_and_the_rest_keeps_its_identity() {
    let toml = PIPELINE.replace("\"drop\"", "\"letter\"");
    let mill = Mill::start(&toml).await;
    mill.event("a", "probe.made", json!({ "order": 1 })).await;
    mill.event("b", "probe.made", json!({ "order": 1 })).await;
    let (letter, _) = mill.next_dead_letter().await;
    assert_eq!((letter.stage.as_str(), letter.event_id.as_deref()), ("once", Some("b")));
    assert_eq!((letter.reason.as_str(), letter.error_class.as_str()), ("rejected", "Duplicate"));
    let out = mill.messages(&mill.names.out_stream("once"), 1).await.swap_remove(0);
    assert_eq!(out.subject, "shop.out.once.probe.made");
    assert_eq!(header(&out, headers::EVENT_ID), "a");
    assert_eq!(header(&out, headers::ENVELOPE), "domain");
    assert_eq!(timeless(header(&out, headers::SOURCE)), "shop-in-events:1");
    let metrics = mill.worker.as_ref().unwrap().metrics().stage("work");
    eventually(async || (metrics.done() == 1).then_some(())).await;
}

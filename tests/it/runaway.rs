//! Runaway: filters that do not end, or grow without end, beside events that are none of it.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use millstream::{
    broker::{Outgoing, get},
    dead_letter::LetterFilter,
    handlers::{Registry, handler_fn},
    stages::{Reply, headers},
};
use serde_json::json;

use crate::support::{Mill, eventually};

/// A filter takes what an event says: to loop, to build a text, to call itself.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 2
    backoff = { fixed = "50ms" }
    [stage.once]
    kind = "dedupe"
    inputs = ["source.events"]
    key = "if .eventData.key == \"loop\" then last(repeat(.)) else .eventId end"
    [stage.some]
    kind = "handle"
    inputs = ["source.events"]
    when = "if .eventData.when == \"loop\" then last(repeat(.)) else true end"
    handler = { log = "debug", timeout = "30s" }
    [stage.made]
    kind = "handle"
    inputs = ["source.events"]
    handler = { jq = '''
        def deep: 1 + deep;
        if .eventData.jq == "loop" then last(range(infinite))
        elif .eventData.jq == "deep" then deep
        else .eventData.text = ("-" * .eventData.n) end
    ''', timeout = "30s" }
    [stage.end]
    kind = "handle"
    inputs = ["made"]
    handler = { rust = "end" }
"#;

#[tokio::test]
async fn runaway_events_become_letters_and_innocent_ones_keep_their_pace() {
    let ended = Arc::new(Mutex::new(Vec::new()));
    let seen = ended.clone();
    let end = handler_fn(move |event, _| {
        seen.lock().unwrap().push(event.id);
        async { Ok(Reply::Pass) }
    });
    let mut mill = Mill::with(PIPELINE, Registry::new().with("end", end)).await;
    for (id, data) in [
        ("when", json!({ "when": "loop", "n": 1 })),
        ("when-2", json!({ "when": "loop", "n": 1 })),
        ("loop", json!({ "jq": "loop" })),
        ("loop-2", json!({ "jq": "loop" })),
        ("deep", json!({ "jq": "deep" })),
        ("large", json!({ "n": 900_000_000_000_u64 })),
        ("key", json!({ "key": "loop", "n": 1 })),
    ] {
        mill.event(id, "order.created", data).await;
    }
    for n in 0..50 {
        mill.event(&format!("innocent-{n}"), "order.created", json!({ "n": 2 })).await;
    }
    let innocent = || {
        let ended = ended.lock().unwrap();
        ended.iter().filter(|id| id.starts_with("innocent-")).count()
    };
    eventually(async || (innocent() == 50).then_some(())).await;
    let letters = mill.letters().await.len();
    assert!(letters < 7, "the innocent waited until all {letters} runaways were dealt with");
    let letters = eventually(async || {
        let letters = mill.letters().await;
        (letters.len() >= 7).then_some(letters)
    })
    .await;
    let told = |id: &str, words: &str| {
        let mut said = letters.iter().filter_map(|letter| {
            let value = |name| get(&letter.headers, name).unwrap_or_default();
            (value(headers::EVENT_ID) == id).then(|| value(headers::ERROR_MESSAGE).to_owned())
        });
        let said = said.next().unwrap_or_else(|| panic!("{id} is no letter"));
        assert!(said.contains(words), "{id}: {said}");
    };
    told("when", "when cannot be decided: the filter took more than 10000000 steps");
    told("when-2", "when cannot be decided: the filter took more than 10000000 steps");
    told("loop", "jq: the filter took more than 10000000 steps");
    told("loop-2", "jq: the filter took more than 10000000 steps");
    told("deep", "jq: the filter called itself too deep");
    told("large", "jq: the filter held more than 8388608 bytes at once");
    told("key", "the key cannot be found: the filter took more than 200000 steps");
    for stage in ["some", "made"] {
        mill.idle(stage).await;
    }
    mill.drain().await;
}

#[tokio::test]
async fn a_condition_on_letters_that_never_ends_leaves_them_out_and_can_be_given_up() {
    let plain = PIPELINE.replace("rust = \"end\"", "log = \"debug\"");
    let mill = Mill::start(&plain).await;
    let letter = Outgoing::new("shop.dlq.made.shop-in-events.1-1", "{}");
    mill.broker.publish(letter).await.unwrap();
    let letter = mill.letters().await.remove(0);
    let filter =
        LetterFilter { condition: Some("last(repeat(.))".to_owned()), ..LetterFilter::default() };
    let selecting = filter.compile().unwrap();
    let takes = selecting.takes(&mill.broker, &mill.names, &letter);
    let given_up = tokio::time::timeout(Duration::from_millis(100), takes).await;
    assert!(given_up.is_err(), "{given_up:?}");
    assert!(!selecting.takes(&mill.broker, &mill.names, &letter).await.unwrap());
}

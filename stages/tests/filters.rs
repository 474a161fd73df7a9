//! Filters: jq over the largest events that may come.

use bytes::Bytes;
use millstream_stages::{
    Envelope, Event,
    envelope::{Carrier, decode},
    event::Identity,
    jq::{Bounds, Filter, Stop},
};

fn runs(filter: &str, body: &str) {
    let carrier = Carrier { subject: "events.orders", message_id: None, fallback_id: "in:1" };
    let event = decode(Envelope::Raw, Bytes::copy_from_slice(body.as_bytes()), &carrier)
        .expect("the body is JSON");
    let outputs = Filter::compile(filter).expect("it is jq").outputs(
        &event,
        10,
        &Bounds::FULL,
        &Stop::default(),
    );
    assert_eq!(outputs.map(|outputs| outputs.len()), Ok(1), "{filter}");
}

#[test]
fn the_deepest_and_longest_events_fit_the_stack_of_a_thread() {
    let deep = format!("{}1{}", "[".repeat(128), "]".repeat(128));
    for filter in [
        "walk(.)",
        "[..] | length",
        "tojson | fromjson",
        "[paths] | length",
        "flatten",
        ". == .",
        "tostring",
    ] {
        runs(filter, &deep);
    }
    let long = format!("[{}1]", "1,".repeat(100_000));
    for filter in [
        "map(. + 1) | add",
        "reduce .[] as $x (0; . + $x)",
        "sort | unique",
        "group_by(.) | length",
        "last(.[])",
        "until(length == 0; .[1000:])",
    ] {
        runs(filter, &long);
    }
}

#[test]
fn usual_filters_and_events_need_no_thread_of_their_own() {
    let items: Vec<String> = (0..60)
        .map(|n| format!(r#"{{"sku": "sku-{n}", "n": {n}, "price": "1.{n}", "tags": ["x", "y"]}}"#))
        .collect();
    let body =
        format!(r#"{{"tenantId": "acme", "eventData": {{"items": [{}]}}}}"#, items.join(","));
    let event = Event::new(
        Identity {
            id: "e1".to_owned(),
            event_type: "order.created".to_owned(),
            version: "1".to_owned(),
            tenant: None,
        },
        Envelope::Raw,
        body.into(),
    );
    for filter in [
        ".",
        ".eventData.items[0].n == 0 and .tenantId == \"acme\"",
        "[.eventData.items[] | select(.n > 30) | {sku, total: (.n * 2)}]",
        ".eventData.items |= map(.n += 1)",
        "[.eventData.items[].sku] | join(\",\")",
        ".eventData.items | group_by(.n % 10) | map(length)",
        ".tenantId | test(\"^ac\")",
    ] {
        let outputs = Filter::compile(filter).expect("it is jq").outputs(
            &event,
            10,
            &Bounds::SHORT,
            &Stop::default(),
        );
        assert_eq!(outputs.map(|outputs| outputs.len()), Ok(1), "{filter}");
    }
}

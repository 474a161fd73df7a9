//! Filters: jq over the largest events that may come.

use bytes::Bytes;
use millstream_stages::{
    Envelope,
    envelope::{Carrier, decode},
    jq::Filter,
};

fn runs(filter: &str, body: &str) {
    let carrier = Carrier { subject: "events.orders", message_id: None, fallback_id: "in:1" };
    let event = decode(Envelope::Raw, Bytes::copy_from_slice(body.as_bytes()), &carrier)
        .expect("the body is JSON");
    let outputs = Filter::compile(filter).expect("it is jq").outputs(&event, 10);
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

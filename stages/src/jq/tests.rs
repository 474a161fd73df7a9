//! Filters: what they give, what they cannot be, and where they end.

mod bounds;

use super::*;
use crate::{Envelope, event::Identity};
use expect_test::{Expect, expect};

fn event(body: &str) -> Event {
    let identity = Identity {
        id: "e1".into(),
        event_type: "order.created".into(),
        version: "1".into(),
        tenant: None,
    };
    Event::new(identity, Envelope::Raw, Bytes::copy_from_slice(body.as_bytes()))
}

fn run(filter: &str, body: &str, bounds: &Bounds) -> Result<Vec<Bytes>, Fault> {
    Filter::compile(filter).unwrap().outputs(&event(body), 10, bounds, &Stop::default())
}

fn truthy(filter: &Filter, event: &Event) -> Result<bool, Fault> {
    filter.truthy(event, &Bounds::FULL, &Stop::default())
}

fn outputs(filter: &str, body: &str) -> String {
    match run(filter, body, &Bounds::FULL) {
        Ok(outputs) => {
            outputs.iter().map(|output| String::from_utf8_lossy(output) + "\n").collect()
        }
        Err(message) => format!("error: {message}\n"),
    }
}

#[track_caller]
fn check(filter: &str, expect: Expect) {
    let JqError { message, offset } = Filter::compile(filter).unwrap_err();
    expect.assert_eq(&format!("{offset}: {message}"));
}

#[test]
fn a_filter_can_be_run_by_any_number_of_threads() {
    fn shared<T: Send + Sync>() {}
    shared::<Filter>();
}

#[test]
fn what_is_wrong_with_a_filter_is_told_with_its_place() {
    check("", expect!["0: expected a value, such as .key or 1, found the end"]);
    check(".amount >", expect!["9: expected a value, such as .key or 1, found the end"]);
    check("(.amount > 0", expect![[r#"12: "(" is never closed"#]]);
    check(".a | \"text", expect!["10: a text in quotes is never closed"]);
    check("if .a then 1", expect![[r#"12: expected "else" or "end", found the end"#]]);
    check(".a } .b", expect![[r#"3: "} .b" does not belong here"#]]);
    check(".a == 'x'", expect!["6: jq writes text in double quotes"]);
    check(
        ".amount | lenght",
        expect![[r#"10: there is no function "lenght" (write ".lenght" for a key)"#]],
    );
    check(
        "amount > 0",
        expect![[r#"0: there is no function "amount" (write ".amount" for a key)"#]],
    );
    check("map(.a; .b)", expect![[r#"0: there is no function "map" with 2 arguments"#]]);
    check("$order.amount", expect![[r#"0: there is no variable "$order""#]]);
    check("include \"file\"; .", expect!["9: a filter may not include or import a file"]);
    check(".a && .b", expect![[r#"3: jq writes "and" for "&&""#]]);
}

#[test]
fn a_filter_reaches_nothing_but_its_event() {
    for filter in
        ["env", "$ENV.HOME", "now", "input", "debug", "stderr", "halt", "halt_error", "localtime"]
    {
        let error = Filter::compile(filter).unwrap_err();
        assert!(error.message.contains("is not available"), "{filter}: {error}");
    }
    assert!(Filter::compile("$__loc__, input_filename, getpath([\"a\"]), @base64").is_err());
}

#[test]
fn truth_is_what_jq_holds_for_true() {
    let event = event(r#"{"amount": 3, "name": "Ada", "none": null, "items": []}"#);
    for (filter, truth) in [
        (".amount > 0", true),
        (".amount > 3", false),
        (".none", false),
        (".missing", false),
        ("empty", false),
        (".items[]", false),
        ("0, false", true),
        ("false, true", false),
        (".name | test(\"^a\"; \"i\")", true),
        (".amount | IN(1, 2, 3)", true),
    ] {
        match Filter::compile(filter) {
            Ok(filter) => assert_eq!(truthy(&filter, &event), Ok(truth), "{filter:?}"),
            Err(error) => panic!("{filter}: {error}"),
        }
    }
    let error = truthy(&Filter::compile(".name.first > 0").unwrap(), &event).unwrap_err();
    expect![[r#"cannot index "Ada" with "first""#]].assert_eq(&error.to_string());
}

#[test]
fn outputs_are_compact_json_and_numbers_keep_their_digits() {
    let body = r#"{ "big": 12345678901234567890123, "dec": 1.10, "huge": 1e400, "text": "a\u00e9\n\"", "z": 1, "a": 2 }"#;
    expect![[r#"
        {"big":12345678901234567890123,"dec":1.10,"huge":1e400,"text":"aé\n\"","z":1,"a":2}
    "#]]
    .assert_eq(&outputs(".", body));
    expect![[r#"
        12345678901234567890123
        1.10
        1e400
        1.5
    "#]]
    .assert_eq(&outputs(".big, .dec, .huge, .z + 0.5", body));
    expect![[r#"
        error: an output has no form in JSON: NaN
    "#]]
    .assert_eq(&outputs("nan", body));
    expect![[r#"
        error: an output has no form in JSON: Infinity
    "#]]
    .assert_eq(&outputs("infinite", body));
    expect![[r#"
        {"1":1}
        {"a":2}
    "#]]
    .assert_eq(&outputs("{(.z|tostring): 1}, {\"a\": .a}", body));
    expect![[r#"
        error: an output has no form in JSON: "�"
    "#]]
    .assert_eq(&outputs("\"/w==\" | @base64d", body));
    expect![].assert_eq(&outputs("empty", body));
    expect![[r#"
        error: not today
    "#]]
    .assert_eq(&outputs("error(\"not\\ntoday\")", body));
    expect![[r#"
        "2026-07-24T00:00:00Z"
        1784851200
    "#]]
    .assert_eq(&outputs("1784851200 | todate, (\"2026-07-24T00:00:00Z\" | fromdate)", body));
    expect![[r#"
        "YcOpCiI="
    "#]]
    .assert_eq(&outputs(".text | @base64", body));
}

#[test]
fn what_never_ends_is_cut_where_outputs_are_counted() {
    for filter in ["repeat(.)", "range(infinite)", "def f: 1, f; f"] {
        assert_eq!(outputs(filter, "1"), "error: the filter gives more than 10 outputs\n");
    }
    assert_eq!(truthy(&Filter::compile("repeat(.)").unwrap(), &event("1")), Ok(true));
}

#[test]
fn what_cannot_be_read_is_an_error_and_never_a_panic() {
    expect![[r#"
        error: the event is not JSON: EOF while parsing a list at line 1 column 100000
    "#]]
    .assert_eq(&outputs(".", &"[".repeat(100_000)));
    let embedded = serde_json::to_string(&"[".repeat(100_000)).unwrap();
    expect![[r#"
        error: the text is not JSON: EOF while parsing a list at line 1 column 100000
    "#]]
    .assert_eq(&outputs("fromjson", &embedded));
    expect![[r#"
        error: the text is not JSON: EOF while parsing a list at line 1 column 100000
    "#]]
    .assert_eq(&outputs("tonumber", &embedded));
    let embedded =
        serde_json::to_string(&format!("{}{}", "[".repeat(129), "]".repeat(129))).unwrap();
    expect![[r#"
        error: the text is nested deeper than 128 levels
    "#]]
    .assert_eq(&outputs("fromjson", &embedded));
    expect![[r#"
        {"a":1.10}
        1.10
    "#]]
    .assert_eq(&outputs("fromjson, (.[6:10] | tonumber)", r#""{\"a\": 1.10}""#));
    expect![[r#"
        error: the event is not JSON: expected value at line 1 column 1
    "#]]
    .assert_eq(&outputs(".", "# \"\n[1]"));
    expect![[r#"
        error: the event is not JSON: half a surrogate pair at byte 9
    "#]]
    .assert_eq(&outputs(".", r#"{"a": "\ud800"}"#));
    expect![[r#"
        error: the event is not JSON: EOF while parsing an object at line 1 column 1
    "#]]
    .assert_eq(&outputs(".", "{"));
    expect![[r#"
        true
    "#]]
    .assert_eq(&outputs(". == \"[[\\\"[\"", r#""[[\"[""#));
}

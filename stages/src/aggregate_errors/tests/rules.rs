//! Tests of error events, options and rules: accepted input, and the terms of an error.

use expect_test::expect;

use super::*;

#[test]
fn what_is_not_an_error_event_is_rejected_and_changes_nothing() {
    let mut stage = stage(&json!({}));
    let mut said = String::new();
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"errorCode":"A","message":"m"}"#,
        r#"{"errorCode":"A","serviceName":"s","message":null}"#,
        r#"{"errorCode":"","message":"m","serviceName":"s"}"#,
        r#"{"errorCode":500,"message":"m","serviceName":"s"}"#,
        r#"{"errorCode":"A","message":{"text":"m"},"serviceName":"s"}"#,
        r#"{"errorCode":"A","message":"m","message":"n","serviceName":"s"}"#,
    ] {
        let failure =
            stage.apply(&input(1, None, &Bytes::from(body)), &mut Vec::new()).unwrap_err();
        assert_eq!(failure.class, class::DECODE, "{body}");
        said += &format!("{}\n", failure.message);
    }
    expect![[r#"
        not an error event: it is not JSON: EOF while parsing a value at line 1 column 0
        not an error event: it is not a JSON object
        not an error event: it is not a JSON object
        not an error event: errorCode is missing
        not an error event: serviceName is missing
        not an error event: message is missing
        not an error event: errorCode is empty
        not an error event: errorCode must be a string, got 500
        not an error event: message must be a string, got {"text":"m"}
        not an error event: duplicate field `message` at line 1 column 40
    "#]]
    .assert_eq(&said);
    assert_eq!((stage.dirty_len(), stage.cells.len()), (0, 0));
}

#[test]
fn optional_fields_may_be_anything() {
    let mut stage = stage(&json!({ "threshold": 1, "fingerprint": ["code", "metadata.zone"] }));
    for (n, more) in [
        r#""severity":5,"userId":{},"metadata":"x","more":[1]"#,
        r#""severity":null,"userId":null,"metadata":null,"timestamp":null,"stackTrace":null,"userMessage":null"#,
        r#""severity":["high"],"userId":[1,[2]],"metadata":[{}],"timestamp":12"#,
        r#""metadata":{"eventId":{"a":[1]},"traceId":true,"stage":null,"zone":{"b":2},"tenantId":[]}"#,
        r#""metadata":{"zone":1.5,"eventId":-7}"#,
        r#""metadata":{"zone":"caf\u00e9 \n","stage":"\u0000"}"#,
    ]
    .iter()
    .enumerate()
    {
        let body = Bytes::from(format!(r#"{{"errorCode":"A","message":"m","serviceName":"s",{more}}}"#));
        let mut out = Vec::new();
        stage.apply(&input(n as u64, None, &body), &mut out).unwrap();
    }
    let zones: Vec<_> = stage
        .incidents()
        .iter()
        .map(|i| (i.labels.get("metadata.zone").cloned(), i.count))
        .collect();
    assert_eq!(stage.cells.len(), 3);
    assert_eq!(zones[0], (None, 4));
    assert!(
        zones.contains(&(Some("1.5".to_owned()), 1))
            && zones.contains(&(Some("café \n".to_owned()), 1))
    );
}

#[test]
fn options_that_cannot_hold_are_problems() {
    expect![[r#"
        threshold: expected a threshold from 1 to 1000
        window: expected a window longer than nothing
        quiet: expected a quiet period longer than nothing
        escalate: expected a multiple from 2, or 0
         hint: 10: worse at ten times the threshold, and again at a hundred times; 0: never
        fingerprint: expected 1 to 16 parts
        fingerprints_max: expected a number from 100 to 200000
        rule.0.threshold: expected a threshold from 1 to 1000
        rule.0.window: expected a window longer than nothing
        rule.0.quiet: expected a quiet period longer than nothing
        rule.0.escalate: expected a multiple from 2, or 0
         hint: 10: worse at ten times the threshold, and again at a hundred times; 0: never
        rule.0.channels.0: channel "pager" is not declared
         hint: declare it with [channel.pager]
        rule.1.fingerprint.1: no part of a fingerprint is called "massage"
         hint: expected one of code, service, message, stage, type, tenant, severity, user or metadata.KEY
        rule.1.fingerprint.2: no part of a fingerprint is called "metadata."
         hint: expected one of code, service, message, stage, type, tenant, severity, user or metadata.KEY
        rule.1.fingerprint.3: no part of a fingerprint is called "metadata.a b"
         hint: expected one of code, service, message, stage, type, tenant, severity, user or metadata.KEY
    "#]]
    .assert_eq(&problems(&json!({
        "threshold": 0, "window": "0s", "quiet": "0s", "escalate": 1, "fingerprints_max": 99,
        "fingerprint": [],
        "rule": [
            {
                "threshold": 1001, "window": "0s", "quiet": "0s", "escalate": 1,
                "channels": ["pager"],
            },
            { "fingerprint": ["code", "massage", "metadata.", "metadata.a b", "metadata.zone"] },
        ],
    })));
    expect![[r#"
        : unknown field `cod`, expected one of `code`, `class`, `stage`, `service`, `tenant`, `reported`, `severity`, `threshold`, `window`, `quiet`, `escalate`, `fingerprint`, `channels`
    "#]].assert_eq(&problems(&json!({ "rule": [{ "cod": ["A"] }] })));
}

#[test]
fn severity_comes_from_the_rule_then_the_errors_then_the_stage() {
    let options = json!({
        "threshold": 1, "severity": "low", "rule": [{ "code": ["RULED"], "severity": "high" }],
    });
    let mut stage = stage(&options);
    for (code, said, severity) in [
        ("RULED", Some("fatal"), Severity::High),
        ("OTHER", Some("FATAL"), Severity::Critical),
        ("THIRD", Some("purple"), Severity::Low),
        ("FOURTH", None, Severity::Low),
    ] {
        let mut body = error("x");
        body["errorCode"] = json!(code);
        body["severity"] = json!(said);
        assert_eq!(apply(&mut stage, 1, &body)[0].severity, severity, "{code}");
    }
}

/// Returns the threshold that holds for an error, which tells the rule.
fn threshold(rule: &Value, body: &Value) -> u64 {
    let mut rule = rule.clone();
    rule["threshold"] = json!(1);
    let mut stage =
        stage(&json!({ "threshold": 2, "rule": [rule, { "threshold": 1, "code": ["REDIS*"] }] }));
    apply(&mut stage, 1, body);
    2 - stage.incidents().len() as u64
}

#[test]
fn a_rule_matches_by_all_that_it_names() {
    let (service, failed) = (
        json!({ "errorCode": "TimeoutError", "serviceName": "shop/orders", "message": "m" }),
        attempt("TimeoutError", "m"),
    );
    for (rule, of_service, of_attempt) in [
        (json!({}), 1, 1),
        (json!({ "code": ["Time*", "x"] }), 1, 1),
        (json!({ "code": ["Time"] }), 2, 2),
        (json!({ "class": ["Time*"] }), 2, 1),
        (json!({ "stage": ["ord*"] }), 2, 1),
        (json!({ "stage": ["*"], "class": ["Other"] }), 2, 2),
        (json!({ "service": ["shop/*"] }), 1, 1),
        (json!({ "tenant": ["acme"] }), 2, 1),
        (json!({ "tenant": ["*"] }), 2, 1),
        (json!({ "reported": ["low", "high"] }), 2, 1),
        (json!({ "reported": ["high"] }), 2, 2),
        (json!({ "tenant": ["acme"], "stage": ["orders"], "service": ["cart"] }), 2, 2),
    ] {
        assert_eq!(
            (threshold(&rule, &service), threshold(&rule, &failed)),
            (of_service, of_attempt),
            "{rule}"
        );
    }
}

#[test]
fn the_rule_of_a_worse_report_holds_until_it_is_quiet() {
    let worse = json!({ "reported": ["critical"], "quiet": "1m", "threshold": 1 });
    let options = json!({ "threshold": 3, "quiet": "10m", "rule": [worse] });
    let mut stage = stage(&options);
    assert_eq!(apply(&mut stage, 0, &error("x")).len(), 0);
    let mut fatal = error("x");
    fatal["severity"] = json!("fatal");
    let told = apply(&mut stage, 1, &fatal);
    assert_eq!(
        (told[0].event, told[0].threshold, told[0].severity),
        (Change::Opened, 1, Severity::Critical)
    );
    apply(&mut stage, 2, &error("x"));
    assert_eq!(stage.next_timer_ms(), Some(2 + MINUTE));
    let mut bucket = Bucket::new();
    commit(&mut stage, &mut bucket);
    // A restart under other rules goes by what is kept.
    let same = restarted(&options, &bucket);
    assert_eq!(same.next_timer_ms(), Some(2 + MINUTE));
    assert_eq!(restarted(&json!({ "quiet": "3m" }), &bucket).next_timer_ms(), Some(2 + 3 * MINUTE));
    tick(&mut stage, 2 + MINUTE);
    assert_eq!(apply(&mut stage, 3 + MINUTE, &error("x")).len(), 0);
}

#[test]
fn a_fingerprint_is_made_of_what_its_rule_says() {
    let by_tenant = json!({ "code": ["Timeout*"], "fingerprint": ["tenant", "code", "type"] });
    let mut stage = stage(&json!({ "threshold": 1, "rule": [by_tenant] }));
    let mut other = attempt("TimeoutError", "another text");
    let first = apply(&mut stage, 1, &attempt("TimeoutError", "m")).remove(0);
    assert_eq!(apply(&mut stage, 2, &other)[0].fingerprint, first.fingerprint);
    other["metadata"]["tenantId"] = json!("zeta");
    let second = apply(&mut stage, 3, &other).remove(0);
    assert_ne!(second.fingerprint, first.fingerprint);
    expect![[r#"
        {
            "code": "TimeoutError",
            "fingerprint": "d80bee013475a7a4",
            "service": "shop/orders",
            "severity": "low",
            "stage": "orders",
            "tenant": "zeta",
            "type": "order.created",
        }"#]]
    .assert_eq(&format!("{:#?}", second.labels));
    // As the dead letter of the same failure has it.
    let third = apply(&mut stage, 4, &attempt("Refused", "no 5")).remove(0);
    assert_eq!(
        third.fingerprint,
        crate::fingerprint::fingerprint("Refused", "shop/orders", "no 5")
    );
    assert_eq!(third.labels.get("stage").unwrap(), "orders");
    assert_eq!(third.labels.get("tenant"), None);
}

#[test]
fn every_part_tells_errors_apart_and_their_order_does_not() {
    let base = attempt("A", "m");
    for (part, pointer) in [
        ("code", "/errorCode"),
        ("service", "/serviceName"),
        ("message", "/message"),
        ("stage", "/metadata/stage"),
        ("type", "/metadata/eventType"),
        ("tenant", "/metadata/tenantId"),
        ("severity", "/severity"),
        ("user", "/userId"),
        ("metadata.attempt", "/metadata/attempt"),
    ] {
        let mut of_part = stage(&json!({ "fingerprint": [part] }));
        let mut base = base.clone();
        base["userId"] = json!("u1");
        let mut other = base.clone();
        *other.pointer_mut(pointer).unwrap() = json!("high");
        for body in [&base, &other, &base] {
            apply(&mut of_part, 1, body);
        }
        assert_eq!(of_part.cells.len(), 2, "{part}");
    }
    let key = |parts: [&str; 3]| {
        let mut stage = stage(&json!({ "threshold": 1, "fingerprint": parts }));
        apply(&mut stage, 1, &base).remove(0).fingerprint
    };
    assert_eq!(key(["code", "tenant", "stage"]), key(["stage", "code", "tenant"]));
    assert_ne!(key(["code", "tenant", "stage"]), key(["code", "tenant", "service"]));
}

//! Envelopes: what an event is known by, in each form it may come in.

use bytes::Bytes;
use expect_test::{Expect, expect};
use millstream_stages::{
    Envelope,
    envelope::{Carrier, decode},
    event::IDENTITY_BYTES_MAX,
    text::excerpt,
};

const CARRIER: Carrier<'static> =
    Carrier { subject: "events.orders", message_id: Some("m1"), fallback_id: "shop-in-events:7" };

fn told(envelope: Envelope, body: &str) -> String {
    match decode(envelope, Bytes::copy_from_slice(body.as_bytes()), &CARRIER) {
        Ok(event) => {
            let tenant = event.tenant.map(|tenant| format!(" of {tenant}")).unwrap_or_default();
            format!("{} {} {}{tenant}", event.id, event.event_type, event.version)
        }
        Err(failure) => format!("rejected: {}", failure.message),
    }
}

/// What becomes of each body, one line each, the body cut short.
#[track_caller]
fn check(envelope: Envelope, bodies: &[&str], expect: Expect) {
    let line = |body: &&str| format!("{}\n    {}\n", excerpt(body, 90), told(envelope, body));
    expect.assert_eq(&bodies.iter().map(line).collect::<String>());
}

#[test]
fn a_domain_event_is_known_by_the_fields_of_its_envelope() {
    check(
        Envelope::Domain,
        &[
            r#"{"eventId":"e1","eventType":"order.created","eventData":{"amount":3}}"#,
            r#" {"eventData":null,"eventVersion":2,"tenantId":"acme","eventType":"a b","eventId":"é","more":[1]} "#,
            r#"{"eventId":"e1","eventType":"t","eventVersion":"2024-01","tenantId":null,"eventData":1}"#,
            r#"{"eventId":"e1","eventType":"t","eventVersion":0,"eventData":1}"#,
            r#"{"eventId":"e1","eventType":"t","eventVersion":1.5,"eventData":1}"#,
            r#"{"eventId":5,"eventType":"t","eventData":1}"#,
            r#"{"eventType":"t","eventData":1}"#,
            r#"{"eventId":null,"eventType":"t","eventData":1}"#,
            r#"{"eventId":"e1","eventData":1}"#,
            r#"{"eventId":"e1","eventType":"t"}"#,
            r#"{"eventId":"","eventType":"t","eventData":1}"#,
            r#"{"eventId":" e1","eventType":"t","eventData":1}"#,
            r#"["e1","t","1",null,{}]"#,
            r#""text""#,
            r#"{"eventId":"e1","eventType":"t","eventData":1} {}"#,
        ],
        expect![[r#"
            {"eventId":"e1","eventType":"order.created","eventData":{"amount":3}}
                e1 order.created 1
            {"eventData":null,"eventVersion":2,"tenantId":"acme","eventType":"a b","eventId":"é","mor…
                é a b 2 of acme
            {"eventId":"e1","eventType":"t","eventVersion":"2024-01","tenantId":null,"eventData":1}
                e1 t 2024-01
            {"eventId":"e1","eventType":"t","eventVersion":0,"eventData":1}
                rejected: eventVersion must be a string or a positive whole number, got 0
            {"eventId":"e1","eventType":"t","eventVersion":1.5,"eventData":1}
                rejected: eventVersion must be a string or a positive whole number, got 1.5
            {"eventId":5,"eventType":"t","eventData":1}
                rejected: eventId must be a string, got 5
            {"eventType":"t","eventData":1}
                rejected: eventId is missing
            {"eventId":null,"eventType":"t","eventData":1}
                rejected: eventId is missing
            {"eventId":"e1","eventData":1}
                rejected: eventType is missing
            {"eventId":"e1","eventType":"t"}
                rejected: eventData is missing
            {"eventId":"","eventType":"t","eventData":1}
                rejected: eventId is empty
            {"eventId":" e1","eventType":"t","eventData":1}
                rejected: eventId begins or ends with a space
            ["e1","t","1",null,{}]
                rejected: not a JSON object
            "text"
                rejected: not a JSON object
            {"eventId":"e1","eventType":"t","eventData":1} {}
                rejected: not JSON: trailing characters at line 1 column 48
        "#]],
    );
}

#[test]
fn a_cloud_event_is_known_by_its_context_attributes() {
    let base = r#"{"specversion":"1.0","id":"c1","source":"/shop","type":"order.created""#;
    check(
        Envelope::CloudEvents,
        &[
            &format!(r#"{base},"data":{{}},"dataversion":"3","tenantid":"acme"}}"#),
            &format!(r#"{base},"data_base64":"e30="}}"#),
            &format!("{base}}}"),
            &format!(r#"{base},"data":null,"data_base64":"e30="}}"#),
            r#"{"specversion":"0.3","id":"c1","source":"/shop","type":"t"}"#,
            r#"{"id":"c1","source":"/shop","type":"t"}"#,
            r#"{"specversion":"1.0","id":"c1","source":"","type":"t"}"#,
            r#"{"specversion":"1.0","id":"","source":"/shop","type":"t"}"#,
            r#"{"specversion":"1.0","id":"c1","source":"/shop"}"#,
        ],
        expect![[r#"
            {"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","data":{},"datavers…
                c1 order.created 3 of acme
            {"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","data_base64":"e30=…
                c1 order.created 1
            {"specversion":"1.0","id":"c1","source":"/shop","type":"order.created"}
                c1 order.created 1
            {"specversion":"1.0","id":"c1","source":"/shop","type":"order.created","data":null,"data_b…
                rejected: data and data_base64 exclude each other
            {"specversion":"0.3","id":"c1","source":"/shop","type":"t"}
                rejected: specversion must be "1.0", got "0.3"
            {"id":"c1","source":"/shop","type":"t"}
                rejected: specversion is missing
            {"specversion":"1.0","id":"c1","source":"","type":"t"}
                rejected: source is missing
            {"specversion":"1.0","id":"","source":"/shop","type":"t"}
                rejected: id is empty
            {"specversion":"1.0","id":"c1","source":"/shop"}
                rejected: type is missing
        "#]],
    );
}

#[test]
fn a_raw_event_is_any_json_known_by_its_message() {
    check(
        Envelope::Raw,
        &["{}", "3", " null ", "[1e400]", r#""\ud800""#, "nul", "{} {}"],
        expect![[r#"
        {}
            m1 events.orders 1
        3
            m1 events.orders 1
        null
            m1 events.orders 1
        [1e400]
            m1 events.orders 1
        "\ud800"
            m1 events.orders 1
        nul
            rejected: not JSON: EOF while parsing a value at line 1 column 3
        {} {}
            rejected: not JSON: trailing characters at line 1 column 4
    "#]],
    );
    let carrier = Carrier { message_id: None, ..CARRIER };
    assert_eq!(decode(Envelope::Raw, "1".into(), &carrier).unwrap().id, "shop-in-events:7");
    let carrier = Carrier { message_id: Some("a\tb"), ..CARRIER };
    expect!["Nats-Msg-Id has a control character in it"]
        .assert_eq(&decode(Envelope::Raw, "1".into(), &carrier).unwrap_err().message);
}

#[test]
fn an_error_report_is_known_by_its_code() {
    let base = r#"{"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop""#;
    check(
        Envelope::Error,
        &[
            &format!(
                r#"{base},"timestamp":"2026-07-24T10:00:00.5+02:00","metadata":{{"tenantId":"acme","x":[1]}}}}"#
            ),
            &format!(r#"{base},"timestamp":1784851200000,"userId":"u1"}}"#),
            &format!("{base}}}"),
            &format!(r#"{base},"timestamp":"yesterday"}}"#),
            &format!(r#"{base},"timestamp":-5}}"#),
            &format!(r#"{base},"metadata":"none"}}"#),
            &format!(r#"{base},"metadata":{{"tenantId":7}}}}"#),
            r#"{"errorCode":"DB_DOWN","severity":"fatal","message":"no","serviceName":"shop"}"#,
            r#"{"errorCode":"DB_DOWN","severity":"high","serviceName":"shop"}"#,
            r#"{"errorCode":"DB_DOWN","severity":"high","message":"no"}"#,
            r#"{"severity":"high","message":"no","serviceName":"shop"}"#,
        ],
        expect![[r#"
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","timestamp":"…
                m1 DB_DOWN 1 of acme
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","timestamp":1…
                m1 DB_DOWN 1
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop"}
                m1 DB_DOWN 1
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","timestamp":"…
                rejected: timestamp must be RFC 3339 or milliseconds since 1970, got "yesterday"
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","timestamp":-…
                rejected: timestamp must be RFC 3339 or milliseconds since 1970, got -5
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","metadata":"n…
                rejected: metadata is not what it should be: not a JSON object
            {"errorCode":"DB_DOWN","severity":"high","message":"no","serviceName":"shop","metadata":{"…
                rejected: metadata.tenantId must be a string, got 7
            {"errorCode":"DB_DOWN","severity":"fatal","message":"no","serviceName":"shop"}
                rejected: severity must be critical, high, medium, low or info, got "fatal"
            {"errorCode":"DB_DOWN","severity":"high","serviceName":"shop"}
                rejected: message is missing
            {"errorCode":"DB_DOWN","severity":"high","message":"no"}
                rejected: serviceName is missing
            {"severity":"high","message":"no","serviceName":"shop"}
                rejected: errorCode is missing
        "#]],
    );
}

#[test]
fn an_output_keeps_what_the_handler_wrote_or_takes_after_its_parent() {
    let parent = decode(
        Envelope::Domain,
        r#"{"eventId":"e1","eventType":"order.created","eventVersion":2,"tenantId":"acme","eventData":{}}"#.into(),
        &CARRIER,
    );
    let parent = parent.unwrap();
    let told = |n, body: &'static str| match parent.derive(body.into(), n) {
        Ok(event) => {
            format!(
                "{:?} {} {} {} {:?}",
                event.envelope, event.id, event.event_type, event.version, event.tenant
            )
        }
        Err(failure) => format!("{:?} {failure}", failure.disposition),
    };
    expect!["Domain e9 invoice.sent 1 None"]
        .assert_eq(&told(1, r#"{"eventId":"e9","eventType":"invoice.sent","eventData":{}}"#));
    expect![[r#"Raw e1/2 order.created 2 Some("acme")"#]]
        .assert_eq(&told(2, r#"{"eventType":"invoice.sent"}"#));
    expect![[r#"Raw e1/3 order.created 2 Some("acme")"#]].assert_eq(&told(3, "17"));
    expect!["Retry { after: None } HandlerError: output 4 of the handler cannot be read: not JSON: expected value at line 1 column 1"].assert_eq(&told(4, "oops"));

    let mut raw = decode(Envelope::Raw, "{}".into(), &CARRIER).unwrap();
    raw.id = format!("ä{}", "x".repeat(IDENTITY_BYTES_MAX - 2));
    let child = raw.derive("1".into(), 12).unwrap();
    assert_eq!(child.id, format!("{}/12", "x".repeat(IDENTITY_BYTES_MAX - 3)));
}

//! Bad events: every payload is rejected with its reason or passes byte for byte, and none panics.

use bytes::Bytes;
use expect_test::expect;
use millstream_stages::{
    Disposition, Envelope,
    envelope::{Carrier, decode},
    event::IDENTITY_BYTES_MAX,
    failure::class,
    headers,
    text::excerpt,
};
use proptest::prelude::*;

const CARRIER: Carrier<'static> =
    Carrier { subject: "events.orders", message_id: Some("m1"), fallback_id: "shop-in-events:7" };
const ENVELOPES: [Envelope; 4] =
    [Envelope::Domain, Envelope::CloudEvents, Envelope::Raw, Envelope::Error];

fn told(envelope: Envelope, body: impl Into<Bytes>) -> String {
    let body = body.into();
    match decode(envelope, body.clone(), &CARRIER) {
        Ok(event) => {
            assert_eq!(event.body, body, "the bytes are the ones that came");
            let tenant = event.tenant.map(|tenant| format!(" of {tenant}")).unwrap_or_default();
            format!("{} {} {}{tenant}", event.id, event.event_type, event.version)
        }
        Err(failure) => {
            assert_eq!(
                (failure.class.as_ref(), failure.disposition),
                (class::DECODE, Disposition::Reject)
            );
            assert!(failure.message.len() < 300 && !failure.message.contains(char::is_control));
            format!("rejected: {}", failure.message)
        }
    }
}

fn domain_with(field: &str) -> String {
    format!(r#"{{"eventId":"e1","eventType":"order.created","eventData":{{}},{field}}}"#)
}

#[test]
fn a_bad_payload_is_rejected_with_the_reason_or_passes_byte_for_byte() {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("spaces", b"  ".to_vec()),
        ("not json", b"hello".to_vec()),
        ("xml", b"<event/>".to_vec()),
        ("cut short", br#"{"eventId":"e1","#.to_vec()),
        ("byte order mark", [b"\xef\xbb\xbf", domain_with(r#""a":1"#).as_bytes()].concat()),
        ("utf-16", b"\xff\xfe{\0}\0".to_vec()),
        (
            "invalid utf-8 in data",
            [br#"{"eventId":"e1","eventType":"t","eventData":"#.as_slice(), b"\"\xff\"}"].concat(),
        ),
        (
            "invalid utf-8 in a field nobody reads",
            [br#"{"eventId":"e1","eventType":"t","eventData":1,"x":""#.as_slice(), b"\xc0\x80\"}"]
                .concat(),
        ),
        ("nul", b"\0".to_vec()),
        ("nul after", [domain_with(r#""a":1"#).as_bytes(), b"\0"].concat()),
        ("nul in a string", domain_with("\"a\":\"\0\"").into_bytes()),
        ("escaped nul in data", domain_with(r#""a":"\u0000""#).into_bytes()),
        ("line break in a string", domain_with("\"a\":\"\r\n\"").into_bytes()),
        ("deep", deep.clone().into_bytes()),
        (
            "deep in data",
            format!(r#"{{"eventId":"e1","eventType":"t","eventData":{deep}}}"#).into_bytes(),
        ),
        ("deep in a field nobody reads", domain_with(&format!(r#""a":{deep}"#)).into_bytes()),
        (
            "deep and never closed",
            domain_with(&format!(r#""a":{}"#, "{\"a\":".repeat(100_000))).into_bytes(),
        ),
        ("1 MiB", domain_with(&format!(r#""a":"{}""#, "x".repeat(1 << 20))).into_bytes()),
        (
            "huge number",
            domain_with(r#""a":1e400,"b":123456789012345678901234567890"#).into_bytes(),
        ),
        ("lone surrogate in data", domain_with(r#""a":"\ud800""#).into_bytes()),
        ("NaN", domain_with(r#""a":NaN"#).into_bytes()),
        ("comment", domain_with(r#""a":1 // one"#).into_bytes()),
        ("trailing comma", domain_with(r#""a":1,"#).into_bytes()),
        ("duplicate id", domain_with(r#""eventId":"e2""#).into_bytes()),
        ("duplicate id, escaped", domain_with(r#""event\u0049d":"e2""#).into_bytes()),
        ("duplicate data", domain_with(r#""eventData":2"#).into_bytes()),
        ("duplicate field nobody reads", domain_with(r#""a":1,"a":2"#).into_bytes()),
        (
            "id too long",
            format!(r#"{{"eventId":"{}","eventType":"t","eventData":1}}"#, "x".repeat(257))
                .into_bytes(),
        ),
        (
            "longest id",
            format!(r#"{{"eventId":"{}","eventType":"t","eventData":1}}"#, "x".repeat(256))
                .into_bytes(),
        ),
        (
            "id with a lone surrogate",
            br#"{"eventId":"\udc00","eventType":"t","eventData":1}"#.to_vec(),
        ),
        ("id with CR and LF", br#"{"eventId":"a\r\nX: y","eventType":"t","eventData":1}"#.to_vec()),
        ("id with NUL", br#"{"eventId":"a\u0000","eventType":"t","eventData":1}"#.to_vec()),
        ("type with a line break", br#"{"eventId":"a","eventType":"t\nu","eventData":1}"#.to_vec()),
        (
            "version with an escape code",
            br#"{"eventId":"a","eventType":"t","eventVersion":"\u001b[2J","eventData":1}"#.to_vec(),
        ),
        ("tenant with DEL", domain_with(r#""tenantId":"a\u007fb""#).into_bytes()),
        ("tenant with C1", domain_with(r#""tenantId":"a\u0085b""#).into_bytes()),
    ];
    let line = |(name, body): (&str, Vec<u8>)| {
        format!("{name:37} {}\n", excerpt(&told(Envelope::Domain, body), 120))
    };
    expect![[r#"
        empty                                 rejected: the payload is empty
        spaces                                rejected: not JSON: EOF while parsing a value at line 1 column 2
        not json                              rejected: not JSON: expected value at line 1 column 1
        xml                                   rejected: not JSON: expected value at line 1 column 1
        cut short                             rejected: not JSON: EOF while parsing a value at line 1 column 16
        byte order mark                       rejected: the payload begins with a byte order mark, which JSON does not allow
        utf-16                                rejected: not UTF-8: invalid byte at offset 0
        invalid utf-8 in data                 rejected: not UTF-8: invalid byte at offset 45
        invalid utf-8 in a field nobody reads rejected: not UTF-8: invalid byte at offset 51
        nul                                   rejected: not JSON: expected value at line 1 column 1
        nul after                             rejected: not JSON: trailing characters at line 1 column 66
        nul in a string                       rejected: not JSON: control character (\u0000-\u001F) found while parsing a string at line 1 column 64
        escaped nul in data                   e1 order.created 1
        line break in a string                rejected: not JSON: control character (\u0000-\u001F) found while parsing a string at line 1 column 64
        deep                                  rejected: not a JSON object
        deep in data                          e1 t 1
        deep in a field nobody reads          e1 order.created 1
        deep and never closed                 rejected: not JSON: expected value at line 1 column 500064
        1 MiB                                 e1 order.created 1
        huge number                           e1 order.created 1
        lone surrogate in data                e1 order.created 1
        NaN                                   rejected: not JSON: expected value at line 1 column 64
        comment                               rejected: not JSON: expected `,` or `}` at line 1 column 66
        trailing comma                        rejected: not JSON: trailing comma at line 1 column 66
        duplicate id                          rejected: duplicate field `eventId` at line 1 column 68
        duplicate id, escaped                 rejected: duplicate field `eventId` at line 1 column 73
        duplicate data                        rejected: duplicate field `eventData` at line 1 column 70
        duplicate field nobody reads          e1 order.created 1
        id too long                           rejected: eventId is 257 bytes long, more than 256
        longest id                            xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…
        id with a lone surrogate              rejected: eventId cannot be read: lone leading surrogate in hex escape at line 1 column 7
        id with CR and LF                     rejected: eventId has a control character in it
        id with NUL                           rejected: eventId has a control character in it
        type with a line break                rejected: eventType has a control character in it
        version with an escape code           rejected: eventVersion has a control character in it
        tenant with DEL                       rejected: tenantId has a control character in it
        tenant with C1                        rejected: tenantId has a control character in it
    "#]].assert_eq(&bodies.into_iter().map(line).collect::<String>());
}

proptest! {
    #[test]
    fn no_bytes_make_decoding_panic(body: Vec<u8>) {
        for envelope in ENVELOPES {
            told(envelope, body.clone());
        }
    }

    #[test]
    fn no_field_makes_decoding_panic_and_what_passes_is_fit_for_a_header(
        name in concat!(
            "eventId|eventType|eventVersion|tenantId|id|type|specversion|",
            "errorCode|severity|timestamp|metadata",
        ),
        value in r#""\PC{0,20}"|"(\\u[0-9a-f]{4}|\\.|.){0,8}"|-?[0-9]{1,30}(\.[0-9]+)?|null|\[\]|\{\}|[\[{"]{0,5}"#,
    ) {
        let sound = [
            ("eventId", "\"e\""), ("eventType", "\"t\""), ("eventData", "1"),
            ("specversion", "\"1.0\""), ("id", "\"i\""), ("source", "\"s\""), ("type", "\"t\""),
            ("errorCode", "\"E\""), ("severity", "\"low\""), ("message", "\"m\""),
            ("serviceName", "\"s\""),
        ];
        let others = sound.iter().filter(|(other, _)| *other != name);
        let fields = others.map(|(name, value)| format!(",\"{name}\":{value}")).collect::<String>();
        let body = format!("{{\"{name}\":{value}{fields}}}");
        for envelope in ENVELOPES {
            if let Ok(event) = decode(envelope, body.clone().into(), &CARRIER) {
                let texts = [&event.id, &event.event_type, &event.version];
                for text in texts.into_iter().chain(&event.tenant) {
                    prop_assert_eq!(&headers::clean(text), text);
                    prop_assert!(!text.is_empty() && text.len() <= IDENTITY_BYTES_MAX);
                }
            }
        }
    }
}

//! Bad events: rejected at the first attempt with the reason, or passed byte for byte, whatever
//! anyone publishes.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use expect_test::expect;
use futures_util::StreamExt as _;
use millstream::{
    broker::{Outgoing, StoredMessage},
    dead_letter::LetterRecord,
    redrive::resend::{self, RedriveError},
    stages::text::excerpt,
};

use crate::support::{Mill, domain, eventually, timeless};

/// Pipeline of `validate` without schemas, then a service.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.validate]
    kind = "validate"
    inputs = ["source.events"]
    schemas = "schemas"
    unknown = "pass"
    [stage.ship]
    kind = "handle"
    inputs = ["validate"]
    handler = { nats = "svc.ship" }
"#;

/// Service that takes everything; returns what it was sent so far.
async fn service(mill: &Mill) -> Arc<Mutex<Vec<Bytes>>> {
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let mut requests = client.subscribe("svc.ship").await.unwrap();
    client.flush().await.unwrap();
    let sent = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn({
        let sent = sent.clone();
        async move {
            while let Some(request) = requests.next().await {
                sent.lock().unwrap().push(request.payload);
                client.publish(request.reply.unwrap(), "".into()).await.unwrap();
            }
        }
    });
    sent
}

fn with(field: &str) -> String {
    format!(r#"{{"eventId":"e","eventType":"thing.done","eventData":{{}},{field}}}"#)
}

fn data(value: &str) -> String {
    format!(r#"{{"eventId":"e","eventType":"thing.done","eventData":{value}}}"#)
}

fn corpus() -> Vec<(&'static str, Vec<u8>)> {
    let deep = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let field = |name: &str, value: &str| {
        let all = [
            ("eventId", "e"),
            ("eventType", "thing.done"),
            ("eventVersion", "1"),
            ("tenantId", "t"),
        ];
        let fields = all.map(|(other, sound)| {
            format!("\"{other}\":\"{}\"", if other == name { value } else { sound })
        });
        format!("{{{},\"eventData\":{{}}}}", fields.join(",")).into_bytes()
    };
    vec![
        ("empty", vec![]),
        ("not JSON", b"hello".to_vec()),
        ("cut short", br#"{"eventId":"e","#.to_vec()),
        ("an array", b"[]".to_vec()),
        ("null", b"null".to_vec()),
        ("invalid UTF-8", b"\xff\xfe{}".to_vec()),
        (
            "invalid UTF-8 in the data",
            [b"{\"eventId\":\"e\",\"eventType\":\"t\",\"eventData\":\"".as_slice(), b"\xc3\x28\"}"]
                .concat(),
        ),
        ("byte order mark", format!("\u{feff}{}", data("1")).into_bytes()),
        ("NUL", b"\0".to_vec()),
        ("NUL at the end", format!("{}\0", data("1")).into_bytes()),
        ("depth 100 000", deep.clone().into_bytes()),
        ("depth 100 000 in the data", data(&deep).into_bytes()),
        ("depth 100 000 beside the data", with(&format!("\"x\":{deep}")).into_bytes()),
        (
            "depth 100, which passes",
            data(&format!("{}1{}", "[".repeat(100), "]".repeat(100))).into_bytes(),
        ),
        ("a key twice in the data, which passes", data(r#"{"a":1,"a":2}"#).into_bytes()),
        ("the id twice", with(r#""eventId":"f""#).into_bytes()),
        ("a number past 1e308", data("1e400").into_bytes()),
        (
            "a number no double holds, which passes",
            data("123456789012345678901234567890.123456789").into_bytes(),
        ),
        ("lone surrogate in the data", data(r#""\ud800""#).into_bytes()),
        ("lone surrogate in the id", field("eventId", "\\udc00")),
        ("escaped NUL in the data, which passes", data(r#""\u0000\r\n\u001b""#).into_bytes()),
        ("raw line break in the data", data("\"\r\n\"").into_bytes()),
        ("CR and LF in the id", field("eventId", "a\\r\\nNats-Msg-Id: x")),
        ("CR and LF in the type", field("eventType", "a\\r\\nb")),
        ("CR and LF in the version", field("eventVersion", "1\\r\\n")),
        ("CR and LF in the tenant", field("tenantId", "t\\r\\n")),
        ("escape code in the tenant", field("tenantId", "\\u001b[2J")),
        ("C1 in the id", field("eventId", "\\u0085")),
        ("wildcards in the type, which pass", field("eventType", "a.*.>.. $JS %")),
        ("id of 257 bytes", field("eventId", &"x".repeat(257))),
        ("no id", br#"{"eventType":"t","eventData":1}"#.to_vec()),
        ("a number for an id", br#"{"eventId":1,"eventType":"t","eventData":1}"#.to_vec()),
    ]
}

#[tokio::test]
async fn every_bad_event_is_rejected_at_the_first_attempt_or_passes_byte_for_byte() {
    let mut mill = Mill::start(PIPELINE).await;
    let sent = service(&mill).await;
    let mut by_seq = BTreeMap::new();
    for (name, body) in corpus() {
        let stored = mill.publish("events.any", body.clone()).await;
        by_seq.insert(stored.seq, (name, body));
    }
    let good = domain("good", "thing.done", 1.into());
    mill.publish("events.any", good.clone()).await;
    eventually(async || {
        let settled = mill.letters().await.len() + sent.lock().unwrap().len();
        (settled > by_seq.len()).then_some(())
    })
    .await;
    mill.idle("validate").await;
    mill.idle("ship").await;
    mill.drain().await;
    let passed = sent.lock().unwrap().clone();
    assert!(passed.contains(&Bytes::from(good)), "the worker goes on");
    let letters: BTreeMap<String, _> = mill
        .letters()
        .await
        .into_iter()
        .map(|letter| (timeless(&LetterRecord::of(&letter).source), letter))
        .collect();
    let mut table = String::new();
    for (seq, (name, body)) in &by_seq {
        let told = match letters.get(&format!("shop-in-events:{seq}")) {
            Some(letter) => {
                assert_eq!(letter.body, body, "{name}");
                let LetterRecord { stage, reason, attempts, error_message, .. } =
                    LetterRecord::of(letter);
                assert_eq!(attempts, 1, "{name}");
                format!("{stage} {reason}: {error_message}")
            }
            None => {
                assert_eq!(passed.iter().filter(|sent| *sent == body).count(), 1, "{name}");
                "passes".to_owned()
            }
        };
        writeln!(table, "{name:38} {}", excerpt(&told, 120)).unwrap();
    }
    expect![[r#"
        empty                                  validate undecodable: the payload is empty
        not JSON                               validate undecodable: not JSON: expected value at line 1 column 1
        cut short                              validate undecodable: not JSON: EOF while parsing a value at line 1 column 15
        an array                               validate undecodable: not a JSON object
        null                                   validate undecodable: not a JSON object
        invalid UTF-8                          validate undecodable: not UTF-8: invalid byte at offset 0
        invalid UTF-8 in the data              validate undecodable: not UTF-8: invalid byte at offset 44
        byte order mark                        validate undecodable: the payload begins with a byte order mark, which JSON does not allow
        NUL                                    validate undecodable: not JSON: expected value at line 1 column 1
        NUL at the end                         validate undecodable: not JSON: trailing characters at line 1 column 55
        depth 100 000                          validate undecodable: not a JSON object
        depth 100 000 in the data              validate undecodable: not JSON: recursion limit exceeded at line 1 column 179
        depth 100 000 beside the data          validate undecodable: not JSON: recursion limit exceeded at line 1 column 186
        depth 100, which passes                passes
        a key twice in the data, which passes  passes
        the id twice                           validate undecodable: duplicate field `eventId` at line 1 column 64
        a number past 1e308                    validate undecodable: not JSON: number out of range at line 1 column 57
        a number no double holds, which passes passes
        lone surrogate in the data             validate undecodable: not JSON: unexpected end of hex escape at line 1 column 60
        lone surrogate in the id               validate undecodable: eventId cannot be read: lone leading surrogate in hex escape at line 1 column 7
        escaped NUL in the data, which passes  passes
        raw line break in the data             validate undecodable: not JSON: control character (\u0000-\u001F) found while parsing a string at line 1 column 53
        CR and LF in the id                    validate undecodable: eventId has a control character in it
        CR and LF in the type                  validate undecodable: eventType has a control character in it
        CR and LF in the version               validate undecodable: eventVersion has a control character in it
        CR and LF in the tenant                validate undecodable: tenantId has a control character in it
        escape code in the tenant              validate undecodable: tenantId has a control character in it
        C1 in the id                           validate undecodable: eventId has a control character in it
        wildcards in the type, which pass      passes
        id of 257 bytes                        validate undecodable: eventId is 257 bytes long, more than 256
        no id                                  validate undecodable: eventId is missing
        a number for an id                     validate undecodable: eventId must be a string, got 1
    "#]].assert_eq(&table);
}

/// Letters, one line each, by source.
async fn table(mill: &Mill) -> String {
    let line = |letter: &StoredMessage| {
        let body = letter.headers.get("Millstream-Body").map_or("here", |value| value.as_str());
        let LetterRecord { source, stage, error_message, event_id, redrives, bytes, .. } =
            LetterRecord::of(letter);
        let event_id = event_id.unwrap();
        format!(
            "{} {event_id} redrives {redrives}, {bytes} bytes {body}, \
             {stage}: {error_message}\n",
            timeless(&source)
        )
    };
    let mut lines: Vec<String> = mill.letters().await.iter().map(line).collect();
    lines.sort();
    lines.concat()
}

#[tokio::test]
async fn a_letter_too_large_for_its_headers_keeps_its_payload_apart_and_a_redrive_fetches_it() {
    let toml = PIPELINE
        .replace("{ nats = \"svc.ship\" }", "{ jq = 'error(.eventData | length | tostring)' }");
    let mut mill = Mill::start(&toml).await;
    let largest = 1 << 20;
    let sized = |bytes: usize| data(&format!("\"{}\"", "x".repeat(bytes - data("\"\"").len())));
    mill.broker.publish(Outgoing::new("events.any", sized(largest + 1))).await.unwrap_err();
    // Fits as it was published only; with the headers of an edge, and not with those of a letter;
    // everywhere.
    for bytes in [largest, largest - 600, largest - 4096] {
        mill.publish("events.any", sized(bytes)).await;
    }
    mill.messages("shop-dlq", 3).await;
    mill.idle("validate").await;
    mill.idle("ship").await;
    expect![[r#"
        shop-in-events:1 e redrives 0, 1048576 bytes apart, validate: a result could not be stored: the message for "shop.out.validate.thing.done" is larger than the server's max_payload
        shop-in-events:2 e redrives 0, 1047976 bytes apart, ship: jq: 1047921
        shop-in-events:3 e redrives 0, 1044480 bytes here, ship: jq: 1044425
    "#]].assert_eq(&table(&mill).await);
    for letter in mill.letters().await {
        let redriven = resend::redrive(&mill.broker, &mill.names, &letter).await;
        if let Err(error) = redriven {
            // With the headers that bring it to its stage it does not fit either. The letter stays.
            assert_eq!(timeless(&LetterRecord::of(&letter).source), "shop-in-events:1");
            assert!(matches!(error, RedriveError::TooLarge { .. }), "{error:?}");
        }
    }
    eventually(async || (mill.letters().await.len() == 3).then_some(())).await;
    mill.idle("ship").await;
    mill.drain().await;
    expect![[r#"
        shop-in-events:1 e redrives 0, 1048576 bytes apart, validate: a result could not be stored: the message for "shop.out.validate.thing.done" is larger than the server's max_payload
        shop-in-events:2 e redrives 1, 1047976 bytes apart, ship: jq: 1047921
        shop-in-events:3 e redrives 1, 1044480 bytes here, ship: jq: 1044425
    "#]].assert_eq(&table(&mill).await);
}

//! Malformed: header blocks that no client can parse, in sources and answers; nothing is stuck.

use std::{
    fmt::Write as _,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use futures_util::{StreamExt as _, TryStreamExt as _};
use millstream::{
    broker::{RequestError, StoredMessage},
    dead_letter::LetterRecord,
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpStream,
};

use crate::support::{Mill, TestServer, domain, eventually, failure, scanned};

/// Client that writes the protocol itself: it may send what no library would.
pub(crate) struct Raw {
    stream: BufReader<TcpStream>,
}

impl Raw {
    pub(crate) async fn connect(url: &str) -> Self {
        let socket = TcpStream::connect(url.trim_start_matches("nats://")).await.unwrap();
        let mut raw = Self { stream: BufReader::new(socket) };
        raw.line().await;
        raw.send(b"CONNECT {\"headers\":true,\"no_responders\":true,\"verbose\":false}\r\n").await;
        raw.pong().await;
        raw
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).await.unwrap();
    }

    async fn line(&mut self) -> String {
        let mut line = Vec::new();
        self.stream.read_until(b'\n', &mut line).await.unwrap();
        String::from_utf8_lossy(&line).into_owned()
    }

    /// Waits until the server has read everything.
    pub(crate) async fn pong(&mut self) {
        self.send(b"PING\r\n").await;
        loop {
            let line = self.line().await;
            assert!(!line.starts_with("-ERR"), "{line}");
            if line == "PONG\r\n" {
                return;
            }
        }
    }

    pub(crate) async fn publish(&mut self, subject: &str, head: &[u8], body: &[u8]) {
        let mut bytes =
            format!("HPUB {subject} {} {}\r\n", head.len(), head.len() + body.len()).into_bytes();
        bytes.extend_from_slice(head);
        bytes.extend_from_slice(body);
        bytes.extend_from_slice(b"\r\n");
        self.send(&bytes).await;
    }
}

/// A hundred malformed blocks, of ten kinds.
fn blocks() -> Vec<Vec<u8>> {
    let kinds: [&[u8]; 10] = [
        b"NATS/1.0\r\nno colon here\r\n\r\n",
        b"NATS/1.0\r\na name: with a space\r\n\r\n",
        b"NATS/1.0\r\nName: \xff\xfe\r\n\r\n",
        b"NATS/1.0\r\n\xc3\x28: bad name\r\n\r\n",
        b"NATS/2.0\r\nA: b\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nA: b\r\n\r\n",
        b"nats/1.0\r\nA: b\r\n\r\n",
        b"NATS/1.0\r\nA: b\r\n: nameless\r\n\r\n",
        b"NATS/1.0\r\nA: b\r\ntruncated",
        b"\x00\x01\x02",
    ];
    let padded = |kind: &[u8], n: usize| {
        let pad = format!("X-Pad: {n}\r\n");
        // In the middle, where the block has lines at all.
        match kind.iter().position(|byte| *byte == b'\n') {
            Some(at) => [&kind[..=at], pad.as_bytes(), &kind[at + 1..]].concat(),
            None => [kind, pad.as_bytes()].concat(),
        }
    };
    (0..100).map(|n| padded(kinds[n % kinds.len()], n)).collect()
}

/// Raw headers that letters keep, sorted.
fn kept(letters: &[StoredMessage]) -> Vec<Vec<u8>> {
    let raw = |letter: &StoredMessage| {
        let text = letter.headers.get("Millstream-Raw-Headers").unwrap();
        STANDARD.decode(text.as_str()).unwrap()
    };
    let mut all: Vec<_> = letters.iter().map(raw).collect();
    all.sort();
    all
}

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { nats = "svc.work", output = "reply" }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["source.errors", "monitor"]
"#;

fn report(n: usize) -> String {
    json!({ "errorCode": format!("E{n}"), "severity": "high", "message": "it broke",
            "serviceName": "pay", "timestamp": "2026-11-27T10:00:00Z" })
    .to_string()
}

#[tokio::test]
async fn malformed_messages_become_letters_with_their_bytes_and_all_else_flows() {
    let mill = Mill::start(PIPELINE).await;
    let service = async_nats::connect(mill.server.server.url()).await.unwrap();
    let mut requests = service.subscribe("svc.work").await.unwrap();
    service.flush().await.unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    tokio::spawn({
        let asked = Arc::clone(&asked);
        async move {
            while let Some(request) = requests.next().await {
                asked.fetch_add(1, Ordering::SeqCst);
                service.publish(request.reply.unwrap(), request.payload).await.unwrap();
            }
        }
    });
    let mut raw = Raw::connect(mill.server.server.url()).await;
    for (n, block) in blocks().iter().enumerate() {
        let event = domain(&format!("bad-{n}"), "order.placed", json!({ "n": n }));
        raw.publish("events.order.placed", block, event.as_bytes()).await;
        raw.publish("errors.pay", block, report(n).as_bytes()).await;
        raw.pong().await;
        if n % 10 == 0 {
            mill.event(&format!("good-{n}"), "order.placed", json!({ "n": n })).await;
            mill.publish("errors.pay", report(1000 + n)).await;
        }
    }
    let letters = mill.messages(&mill.names.dlq_stream(), 200).await;
    assert_eq!(letters.len(), 200, "one letter each");
    let mut wanted = blocks();
    wanted.sort();
    for stage in ["work", "errors"] {
        let of: Vec<_> = letters
            .iter()
            .filter(|letter| LetterRecord::of(letter).stage == stage)
            .cloned()
            .collect();
        assert!(of.iter().all(|letter| LetterRecord::of(letter).reason == "undecodable"));
        assert_eq!(kept(&of), wanted, "{stage}");
    }
    mill.idle("work").await;
    assert_eq!(asked.load(Ordering::SeqCst), 10, "all that is well went its way");
    let findings = eventually(async || {
        let found = scanned(&mill.broker, &mill.names.failed_stream()).await;
        let of = |message: &&StoredMessage| message.subject.contains("MalformedMessage");
        let count = found.iter().filter(of).count();
        (count >= 100).then_some(count)
    });
    assert_eq!(findings.await, 100, "each report is a finding besides");
    let said = &letters[0].headers.get("Millstream-Error-Message").unwrap();
    assert!(said.as_str().contains("malformed"), "{said:?}");
}

#[tokio::test]
async fn a_malformed_answer_is_a_failure_of_the_handler_and_the_next_is_read() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    let mut raw = Raw::connect(server.server.url()).await;
    raw.send(b"SUB svc.* 1\r\n").await;
    raw.pong().await;
    tokio::spawn(async move {
        let all = blocks();
        let mut answered = 0;
        loop {
            let line = raw.line().await;
            let Some(rest) = line.strip_prefix("MSG ").or_else(|| line.strip_prefix("HMSG "))
            else {
                continue;
            };
            let (subject, reply) =
                (rest.split(' ').next().unwrap(), rest.split(' ').nth(2).unwrap().to_owned());
            match subject {
                "svc.good" => raw.publish(&reply, b"NATS/1.0\r\nA: b\r\n\r\n", b"yes").await,
                _ => raw.publish(&reply, &all[answered], b"yes").await,
            }
            answered += 1;
        }
    });
    let ask = async |subject: &str| {
        broker.request(subject, Default::default(), "q".into(), Duration::from_secs(20)).await
    };
    for _ in 0..10 {
        let failed = failure(ask("svc.bad").await);
        assert!(matches!(failed, RequestError::Malformed { .. }), "{failed}");
        assert_eq!(ask("svc.good").await.unwrap().body, "yes");
    }
}

#[tokio::test]
async fn reads_give_what_can_be_read_of_every_message() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    let spec = crate::support::stream("s", "s.>", millstream::broker::Retention::Limits);
    broker.create_stream(&spec).await.unwrap();
    let mut raw = Raw::connect(server.server.url()).await;
    let mut wanted = String::new();
    for (n, block) in blocks().iter().take(10).enumerate() {
        raw.publish(&format!("s.{n}"), block, b"body").await;
        writeln!(wanted, "s.{n} body {}", block.escape_ascii()).unwrap();
    }
    // A well-formed block with a status, which a stored message may have as any other.
    raw.publish("s.status", b"NATS/1.0 404 No Messages\r\nA: b\r\n\r\n", b"body").await;
    raw.pong().await;
    let shown = |message: &StoredMessage| {
        let body = String::from_utf8_lossy(&message.body).into_owned();
        let malformed = message.malformed.as_ref();
        let raw = malformed.map(|malformed| malformed.raw_headers.escape_ascii().to_string());
        format!("{} {body} {}\n", message.subject, raw.unwrap_or_default())
    };
    wanted.push_str("s.status body \n");
    // Read by the server is not stored yet.
    eventually(async || {
        let state = broker.stream_state("s").await.unwrap();
        (state.messages == 11).then_some(())
    })
    .await;
    let read: Vec<StoredMessage> = broker.scan("s", "", 1).try_collect().await.unwrap();
    assert_eq!(read.iter().map(shown).collect::<String>(), wanted);
    let mut got = String::new();
    for seq in 1..=11 {
        let message = broker.message("s", seq).await.unwrap().unwrap();
        let last = broker.last_on_subject("s", &message.subject).await.unwrap().unwrap();
        assert_eq!(shown(&last), shown(&message));
        got.push_str(&shown(&message));
    }
    assert_eq!(got, wanted);
}

//! Shortage: workers that have no descriptors left, or hundreds of silent connections.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use axum::{Router, extract::State, http::HeaderMap, routing::post};
use millstream::{
    broker::{Broker, Outgoing},
    descriptors,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::timeout,
};

use crate::{
    crash::fleet::Fleet,
    support::{DEADLINE, TestServer, domain, eventually, scanned},
};

/// Service that holds its calls until it is let go, and knows the events that it has accepted.
#[derive(Clone, Default)]
struct Service {
    is_quick: Arc<AtomicBool>,
    accepted: Arc<Mutex<HashSet<String>>>,
}

impl Service {
    async fn start(&self) -> SocketAddr {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let routes = Router::new().route("/", post(call)).with_state(self.clone());
        tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });
        address
    }

    fn accepted(&self) -> usize {
        self.accepted.lock().unwrap().len()
    }
}

async fn call(State(service): State<Service>, headers: HeaderMap) {
    while !service.is_quick.load(Ordering::SeqCst) {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let id = headers["millstream-event-id"].to_str().unwrap().to_owned();
    service.accepted.lock().unwrap().insert(id);
}

fn pipeline(handler: &str) -> String {
    format!(
        r#"
[pipeline]
name = "shop"
[source.events]
subjects = ["events.>"]
[retry.default]
attempts = 2
backoff = {{ fixed = "200ms" }}
[stage.work]
kind = "handle"
inputs = ["source.events"]
handler = {handler}
concurrency = 48
[observe]
listen = "127.0.0.1:0"
"#
    )
}

/// Worker of a pipeline with this handler that may have so many descriptors, its server, and the
/// address where it answers.
async fn worker(handler: &str, most: u32) -> (Fleet, TestServer, Broker, SocketAddr) {
    let server = TestServer::start().await;
    let mut fleet = Fleet::of(&pipeline(handler), &[("nats.url", server.server.url().to_owned())]);
    fleet.apply();
    fleet.start_with_descriptors(most);
    let address = eventually(async || fleet.listening(0)).await;
    let broker = server.connect().await;
    (fleet, server, broker, address)
}

async fn publish(broker: &Broker, events: usize) {
    for n in 0..events {
        let body = domain(&format!("e-{n}"), "order", json!({}));
        broker.publish(Outgoing::new("events.order", body)).await.unwrap();
    }
}

/// Body of the answer to a request; `None` if there is none.
async fn asked(address: SocketAddr, path: &str) -> Option<String> {
    let ask = async {
        let mut stream = TcpStream::connect(address).await.ok()?;
        let request = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.ok()?;
        Some(answer.split_once("\r\n\r\n")?.1.to_owned())
    };
    timeout(Duration::from_secs(2), ask).await.ok()?
}

/// What `/readyz` says of a condition that does not hold.
async fn trouble(address: SocketAddr, name: &str) -> Option<Value> {
    let said: Value = serde_json::from_str(&asked(address, "/readyz").await?).ok()?;
    said["missing"].as_array()?.iter().find(|it| it["what"] == name).cloned()
}

async fn has_settled_all(broker: &Broker) {
    eventually(async || {
        let source = broker.consumer_state("shop-in-events", "shop-work").await.unwrap();
        let retry = broker.stream_state("shop-retry").await.unwrap();
        let left = source.num_pending + source.num_ack_pending + retry.messages;
        (left == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_without_descriptors_defers_says_so_and_goes_on() {
    let service = Service::default();
    let at = service.start().await;
    let handler = format!("{{ http = \"http://{at}/\", timeout = \"60s\" }}");
    let (_fleet, _server, broker, address) = worker(&handler, 48).await;
    publish(&broker, 60).await;
    let missing = eventually(async || trouble(address, "files").await).await;
    let remedy = missing["remedy"].as_str().unwrap();
    assert!(remedy.contains("ulimit -n") && remedy.contains("LimitNOFILE"), "{missing}");
    // What could not connect was deferred, and is not held against it, however often.
    let outcomes = async || -> HashSet<String> {
        let failed = scanned(&broker, "shop-failed").await;
        let bodies = failed.iter().filter_map(|it| serde_json::from_slice::<Value>(&it.body).ok());
        bodies.map(|it| format!("{} {}", it["errorCode"], it["metadata"]["outcome"])).collect()
    };
    let deferred = HashSet::from([r#""WorkerShortage" "defer""#.to_owned()]);
    eventually(async || (!outcomes().await.is_empty()).then_some(())).await;
    assert_eq!(outcomes().await, deferred);

    service.is_quick.store(true, Ordering::SeqCst);
    has_settled_all(&broker).await;
    assert_eq!(service.accepted(), 60);
    assert_eq!(scanned(&broker, "shop-dlq").await.len(), 0, "letters");
    assert_eq!(outcomes().await, deferred);
    let well = async || asked(address, "/readyz").await.filter(|it| it.contains("true"));
    eventually(well).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_cannot_be_started_for_want_of_descriptors_costs_no_attempt() {
    let script = r#"while read -r line; do sleep 0.2; echo '{\"ok\": true}'; done"#;
    let handler = format!("{{ exec = [\"sh\", \"-c\", \"{script}\"], processes = 24 }}");
    let (_fleet, _server, broker, address) = worker(&handler, 48).await;
    publish(&broker, 60).await;
    eventually(async || trouble(address, "files").await).await;
    has_settled_all(&broker).await;
    assert_eq!(scanned(&broker, "shop-dlq").await.len(), 0, "letters");
    let failed = scanned(&broker, "shop-failed").await;
    let shortages = failed.iter().filter(|it| {
        let text = String::from_utf8_lossy(&it.body);
        text.contains("WorkerShortage") && text.contains("file descriptors")
    });
    assert!(shortages.count() > 0, "no event found too few descriptors");
}

#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_cost_no_event_and_no_answer() {
    const SILENT: usize = 1100;
    descriptors::raise();
    let service = Service::default();
    service.is_quick.store(true, Ordering::SeqCst);
    let at = service.start().await;
    let handler = format!("{{ http = \"http://{at}/\", timeout = \"5s\" }}");
    let (_fleet, _server, broker, address) = worker(&handler, 256).await;
    let mut silent = Vec::with_capacity(SILENT);
    while silent.len() < SILENT {
        let stream = timeout(DEADLINE, TcpStream::connect(address)).await.unwrap();
        silent.extend(stream.ok());
    }
    assert_eq!(asked(address, "/healthz").await.as_deref(), Some(r#"{"alive":true}"#));
    publish(&broker, 100).await;
    has_settled_all(&broker).await;
    assert_eq!(service.accepted(), 100);
    assert_eq!(scanned(&broker, "shop-dlq").await.len(), 0, "letters");
    assert_eq!(scanned(&broker, "shop-failed").await.len(), 0, "failures");
    assert!(trouble(address, "files").await.is_none(), "descriptors are left");
    drop(silent);
}

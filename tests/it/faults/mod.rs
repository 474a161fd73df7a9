//! Faults: failures around the workers, by which no event is lost or given up on twice.

mod letters;
mod shared;
mod sweep;
mod waiting;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{ConsumerSpec, Outgoing, Retention, Stored, StoredMessage, StreamSpec},
    dead_letter::LetterRecord,
    exhausted::{bury::Burial, router::Router, sweep::Sweep},
    handlers::{Registry, handler_fn},
    observe::Metrics,
    stages::{Failure, Reply},
    topology::Topology,
};
use serde_json::json;

use crate::support::{Mill, TestServer, domain, eventually};

/// Pipeline of a source, a stage that feeds another, and no waiting.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 3
    backoff = { fixed = "50ms" }
    [stage.first]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "told" }
    [stage.work]
    kind = "handle"
    inputs = ["first"]
    handler = { rust = "told" }
    ack_wait = "1s"
"#;

/// Edge that `work` reads, and its consumer there.
const EDGE: (&str, &str) = ("shop-out-first", "shop-work");
/// Stream of the retries of `work`, and its consumer there.
const RETRY: (&str, &str) = ("shop-retry", "shop-work");

/// Ids of the events that a handler was called with.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>);

impl Calls {
    /// Handler named `told`, which rejects an event where `eventData.reject` is set.
    fn registry(&self) -> Registry {
        let calls = self.clone();
        let handler = handler_fn(move |event, delivery| {
            calls.0.lock().unwrap().push(format!("{} {}", delivery.stage, event.id));
            let data = event.json().unwrap()["eventData"].clone();
            async move {
                match data["reject"].as_str() {
                    Some(why) => Err(Failure::reject("Refused", why)),
                    None => Ok(Reply::Pass),
                }
            }
        });
        Registry::new().with("told", handler)
    }

    fn has(&self, call: &str) -> bool {
        self.0.lock().unwrap().iter().any(|known| known == call)
    }
}

/// Pipeline without a worker, whose edges are still the interest streams of before 2026-11-28: on
/// those the server gives up on events.
async fn still(toml: &str) -> (Mill, Calls) {
    let calls = Calls::default();
    let mill = Mill::still(TestServer::start().await, toml, calls.registry()).await;
    with_old_edges(&mill).await;
    (mill, calls)
}

async fn with_old_edges(mill: &Mill) {
    for edge in Topology::of(&mill.pipeline).trimmed {
        let found = mill.broker.find_stream(&edge).await.unwrap().unwrap();
        let before = StreamSpec { retention: Retention::Interest, ..found };
        mill.broker.update_stream(&before).await.unwrap();
    }
}

/// Event as a stage or a redrive publishes it.
fn outgoing(subject: &str, id: &str, source_seq: u64) -> Outgoing {
    Outgoing::new(subject, domain(id, "order.created", json!({})))
        .header("Millstream-Event-Id", id)
        .header("Millstream-Event-Type", "order.created")
        .header("Millstream-Envelope", "domain")
        .header("Millstream-Source", &format!("shop-in-events:{source_seq}"))
        .header("Millstream-Source-Subject", "events.order.created")
}

/// Puts an event on the edge to `work`.
async fn on_edge(mill: &Mill, id: &str, source_seq: u64) -> Stored {
    mill.broker.publish(outgoing("shop.out.first.order.created", id, source_seq)).await.unwrap()
}

/// Puts an event into the retry stream for `work`.
async fn on_retry(mill: &Mill, id: &str, source_seq: u64) -> Stored {
    mill.broker.publish(outgoing("shop.retry.work", id, source_seq)).await.unwrap()
}

fn spec(mill: &Mill, (stream, consumer): (&str, &str)) -> ConsumerSpec {
    let all = Topology::of(&mill.pipeline).consumers;
    all.into_iter().find(|spec| spec.stream == stream && spec.name == consumer).unwrap()
}

/// Exhausts all that a consumer holds, delivered twice, as often as it then may, and never settled,
/// as by workers that die, without the wait; the server is done with them when this returns.
async fn exhaust(mill: &Mill, (stream, consumer): (&str, &str)) {
    let whole = spec(mill, (stream, consumer));
    mill.broker.update_consumer(&ConsumerSpec { max_deliver: Some(2), ..whole }).await.unwrap();
    let mut pull = mill.broker.pull(stream, consumer, 100).await.unwrap();
    let done = eventually(async || {
        let state = mill.broker.consumer_state(stream, consumer).await.unwrap();
        (state.num_pending == 0 && state.num_ack_pending == 0).then_some(())
    });
    let give_back = async {
        loop {
            if let Some(Ok(delivered)) = pull.next().await {
                delivered.nak(Duration::ZERO).await;
            }
        }
    };
    tokio::select! {
        () = done => {}
        () = give_back => {}
    }
}

fn afterwards(mill: &Mill) -> Burial {
    Burial {
        broker: mill.broker.clone(),
        pipeline: Arc::clone(&mill.pipeline),
        metrics: Metrics::new(&mill.pipeline),
    }
}

/// Time at which everything that is there now is old.
fn later() -> SystemTime {
    SystemTime::now() + Duration::from_secs(3600)
}

/// Runs two rounds of a sweep, an hour from now.
async fn swept(mill: &Mill) {
    let mut sweep = Sweep::new(afterwards(mill));
    sweep.round(later()).await;
    sweep.round(later()).await;
}

async fn records(mill: &Mill) -> Vec<LetterRecord> {
    mill.letters().await.iter().map(LetterRecord::of).collect()
}

/// Letters as `<stage> <event id> <reason> <class>: <message>`.
async fn findings(mill: &Mill) -> Vec<String> {
    let line = |letter: LetterRecord| {
        let LetterRecord { stage, reason, error_class, error_message, .. } = letter;
        format!(
            "{stage} {} {reason} {error_class}: {error_message}",
            letter.event_id.unwrap_or_default()
        )
    };
    records(mill).await.into_iter().map(line).collect()
}

async fn stored(mill: &Mill, stream: &str) -> u64 {
    mill.broker.stream_state(stream).await.unwrap().messages
}

fn header<'a>(message: &'a StoredMessage, name: &str) -> &'a str {
    message.headers.get(name).map_or("", |value| value.as_str())
}

/// Gives up on a message of `work` as the router does at an advisory.
async fn routed(mill: &Mill, (stream, consumer): (&str, &str), seq: u64) {
    Router(afterwards(mill)).give_up("work", stream, consumer, seq, 2).await.unwrap();
}

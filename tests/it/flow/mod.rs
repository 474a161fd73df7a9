//! Flow: life of an event through the map engine, on a real server.

mod given_up;
mod life;
mod parked;
mod prior_delivery;

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::StreamExt as _;
use millstream::{
    broker::{Headers, StoredMessage},
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply},
};

use crate::support::{Mill, timeless};

/// Source, and retries that take no time to speak of.
const SOURCE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 3
    backoff = { fixed = "50ms" }
"#;

/// Stage `work`, which does what the event says; see [`Calls`].
const WORK: &str = r#"
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "told" }
"#;

/// Call of a handler: stage, event id, attempt, and time.
type Call = (String, String, u32, Instant);

/// Calls of the handlers of a test.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<Call>>>);

impl Calls {
    /// Handler named `told`, which fails the first `eventData.fails` attempts, and rejects an event
    /// where `eventData.reject` is set.
    fn registry(&self) -> Registry {
        let calls = self.clone();
        Registry::new().with(
            "told",
            handler_fn(move |event, delivery| {
                calls.0.lock().unwrap().push((
                    delivery.stage.clone(),
                    event.id.clone(),
                    delivery.attempt,
                    Instant::now(),
                ));
                let data = event.json().unwrap()["eventData"].clone();
                let fails = data["fails"].as_u64().unwrap_or(0);
                async move {
                    if let Some(reason) = data["reject"].as_str() {
                        Err(Failure::reject("Refused", reason))
                    } else if u64::from(delivery.attempt) <= fails {
                        Err(Failure::retry("Flaky", format!("attempt {} failed", delivery.attempt)))
                    } else {
                        Ok(Reply::Pass)
                    }
                }
            }),
        )
    }

    /// Calls of an event so far, as `<stage> <attempt>`.
    fn of(&self, id: &str) -> Vec<String> {
        let calls = self.0.lock().unwrap();
        calls
            .iter()
            .filter(|call| call.1 == id)
            .map(|call| format!("{} {}", call.0, call.2))
            .collect()
    }

    fn times(&self) -> Vec<Instant> {
        self.0.lock().unwrap().iter().map(|call| call.3).collect()
    }
}

async fn started(toml: &str) -> (Mill, Calls) {
    let calls = Calls::default();
    (Mill::with(&format!("{SOURCE}{toml}"), calls.registry()).await, calls)
}

fn header<'a>(message: &'a StoredMessage, name: &str) -> &'a str {
    message.headers.get(name).map_or("", |value| value.as_str())
}

/// Headers as `name: value` lines, sorted, with `…` for all that differs from run to run.
fn headers(all: &Headers) -> String {
    const PASSING: [&str; 6] = [
        "Millstream-Config",
        "Millstream-Dead-At",
        "Millstream-Fingerprint",
        "Millstream-First-Failed-At",
        "Millstream-Trace-Id",
        "traceparent",
    ];
    let value = |name: &str, value: &str| {
        if PASSING.contains(&name) { "…".to_owned() } else { timeless(value) }
    };
    let mut lines: Vec<String> = all
        .iter()
        .map(|(name, values)| format!("{name}: {}", value(name.as_ref(), values[0].as_str())))
        .collect();
    lines.sort();
    lines.join("\n") + "\n"
}

/// Listens on a plain subject, to which the `nats` handlers of a test send.
async fn listen(mill: &Mill, subject: &str) -> (async_nats::Client, async_nats::Subscriber) {
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let requests = client.subscribe(subject.to_owned()).await.unwrap();
    client.flush().await.unwrap();
    (client, requests)
}

async fn answer(
    client: &async_nats::Client,
    requests: &mut async_nats::Subscriber,
) -> async_nats::Message {
    let request =
        tokio::time::timeout(Duration::from_secs(20), requests.next()).await.unwrap().unwrap();
    client.publish(request.reply.clone().unwrap(), "".into()).await.unwrap();
    client.flush().await.unwrap();
    request
}

/// Takes a message from a consumer and never settles it.
async fn take_and_die(mill: &Mill, stream: &str, consumer: &str, times: usize) {
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let consumer: async_nats::jetstream::consumer::PullConsumer =
        jetstream.get_consumer_from_stream(consumer, stream).await.unwrap();
    let taken = async {
        let mut taken = 0;
        while taken < times {
            let mut batch = consumer.fetch().max_messages(1).messages().await.unwrap();
            while let Some(message) = batch.next().await {
                message.unwrap();
                taken += 1;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(30), taken).await.unwrap();
}

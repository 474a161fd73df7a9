//! Both: workers of the configuration before a rename and after it, at work on the same events.

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use millstream::{
    broker::get,
    config::Pipeline,
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply, headers},
    topology::{self, Topology},
    worker::{Options, Worker},
};
use serde_json::json;
use tokio::sync::Semaphore;

use super::shop;
use crate::support::{DEADLINE, Mill, TestServer, eventually, pipeline_with};

/// Handler that has events in hand until it is let go, then refuses them.
#[derive(Clone)]
struct Gate {
    in_hand: Arc<AtomicUsize>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn shut() -> Self {
        Self { in_hand: Arc::default(), open: Arc::new(Semaphore::new(0)) }
    }

    fn registry(&self, done: Arc<Mutex<Vec<String>>>) -> Registry {
        let own = self.clone();
        let work = handler_fn(move |event, _| {
            let (gate, done, id) = (own.clone(), Arc::clone(&done), event.id.clone());
            async move {
                gate.in_hand.fetch_add(1, Ordering::SeqCst);
                gate.open.acquire().await.unwrap().forget();
                if id.starts_with("dead") {
                    return Err(Failure::reject("Refused", "no"));
                }
                done.lock().unwrap().push(id);
                Ok(Reply::Pass)
            }
        });
        Registry::new()
            .with("work", work)
            .with("after", handler_fn(|_, _| async { Ok(Reply::Pass) }))
    }

    async fn holds(&self, count: usize) {
        eventually(async || (self.in_hand.load(Ordering::SeqCst) == count).then_some(())).await;
    }
}

async fn worker(mill: &Mill, pipeline: &Arc<Pipeline>, registry: Registry) -> Worker {
    let options = Options { stages: None, registry };
    Worker::start(mill.broker.clone(), Arc::clone(pipeline), options).await.unwrap()
}

const EVENTS: [&str; 6] = ["dead-1", "dead-2", "dead-3", "dead-4", "dead-5", "dead-6"];

/// Letters after a worker of each configuration had the same events in hand, and `first` of them,
/// 0 or 1, or both at once, gave them up before the other.
async fn letters(first: Option<usize>) -> BTreeMap<String, Vec<String>> {
    let gates = [Gate::shut(), Gate::shut()];
    let done = Arc::new(Mutex::new(Vec::new()));
    let registries = gates.each_ref().map(|gate| gate.registry(Arc::clone(&done)));
    let before = shop("orders", "");
    let mill = Mill::still(TestServer::start().await, &before, registries[0].clone()).await;
    let old = worker(&mill, &mill.pipeline, registries[0].clone()).await;
    for id in EVENTS {
        mill.event(id, "order.created", json!({})).await;
    }
    gates[0].holds(EVENTS.len()).await;

    let after = shop("fulfil", "renamed_from = \"orders\"");
    let url = mill.server.server.url();
    let renamed = pipeline_with(&after, url, &registries[1]);
    topology::make(&mill.broker, &Topology::of(&renamed)).await.unwrap();
    let new = worker(&mill, &renamed, registries[1].clone()).await;
    gates[1].holds(EVENTS.len()).await;

    let all = async |count: usize| {
        mill.messages("shop-dlq", count).await;
    };
    match first {
        Some(n) => {
            gates[n].open.add_permits(EVENTS.len());
            all(EVENTS.len()).await;
            gates[1 - n].open.add_permits(EVENTS.len());
        }
        None => gates.iter().for_each(|gate| gate.open.add_permits(EVENTS.len())),
    }
    for worker in [old, new] {
        worker.drain(tokio::time::sleep(DEADLINE)).await;
    }
    let mut by_event = BTreeMap::<String, Vec<String>>::new();
    for letter in mill.letters().await {
        let header = |name| get(&letter.headers, name).unwrap_or_default().to_owned();
        by_event.entry(header(headers::EVENT_ID)).or_default().push(header(headers::STAGE));
    }
    by_event
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_of_both_names_of_a_stage_write_one_letter_of_an_event() {
    for first in [Some(0), Some(1), None, None] {
        let letters = letters(first).await;
        let events: Vec<&str> = letters.keys().map(String::as_str).collect();
        assert_eq!(events, EVENTS, "first: {first:?}");
        assert!(letters.values().all(|stages| stages.len() == 1), "first: {first:?}, {letters:?}");
        let written = ["orders", "fulfil"];
        if let Some(n) = first {
            assert!(letters.values().flatten().all(|stage| stage == written[n]), "{letters:?}");
        }
    }
}

//! Backlog: many events that wait for a retry, beside fresh ones on the same consumer.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use millstream::{
    handlers::{Registry, handler_fn},
    observe::Outcome,
    stages::{Failure, Reply, failure::class},
};
use serde_json::json;

use crate::support::{Mill, domain, eventually};

/// Calls of the handler by event, and the time of the last.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<HashMap<String, (u32, Instant)>>>);

impl Calls {
    /// Handler `work`, which never succeeds with an event whose id begins with `bad`.
    fn registry(&self) -> Registry {
        let calls = self.clone();
        let work = handler_fn(move |event, _| {
            let mut calls = calls.0.lock().unwrap();
            let call = calls.entry(event.id.clone()).or_insert((0, Instant::now()));
            *call = (call.0 + 1, Instant::now());
            let bad = event.id.starts_with("bad");
            async move { if bad { Err(Failure::retry("Busy", "later")) } else { Ok(Reply::Pass) } }
        });
        Registry::new().with("work", work)
    }

    fn count(&self, prefix: &str) -> usize {
        self.0.lock().unwrap().keys().filter(|id| id.starts_with(prefix)).count()
    }

    fn at(&self, id: &str) -> Instant {
        self.0.lock().unwrap()[id].1
    }
}

fn shop(backoff: &str) -> String {
    format!(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = {{ rust = "work" }}
        breaker = false
        concurrency = 16
        max_ack_pending = 200
        retry = "always"
        [retry.always]
        attempts = 1000
        backoff = {{ fixed = "{backoff}" }}
        park_after = "2m"
        "#
    )
}

/// Publishes so many fresh events, a few at a time, and waits for them; 95 % were at their handler
/// within the time that is returned.
async fn fresh(mill: &Mill, calls: &Calls, name: &str, count: usize) -> Duration {
    let mut published = Vec::new();
    for n in 0..count {
        let id = format!("{name}-{n}");
        published.push((id.clone(), Instant::now()));
        mill.event(&id, "order", json!({})).await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    eventually(async || (calls.count(name) == count).then_some(())).await;
    let mut waits: Vec<Duration> =
        published.iter().map(|(id, at)| calls.at(id).duration_since(*at)).collect();
    waits.sort();
    waits[count * 95 / 100]
}

#[tokio::test]
async fn what_waits_for_a_retry_takes_no_fresh_events_place() {
    let calls = Calls::default();
    let mut mill = Mill::with(&shop("60s"), calls.registry()).await;
    for n in 0..1000 {
        mill.event(&format!("bad-{n}"), "order", json!({})).await;
    }
    eventually(async || (calls.count("bad") == 1000).then_some(())).await;
    // None of them is due before a minute is over.
    let p95 = fresh(&mill, &calls, "fresh", 500).await;
    assert!(p95 < Duration::from_secs(5), "{p95:?}");
    let waiting = eventually(async || {
        let state = mill.broker.consumer_state("shop-in-events", "shop-work").await.ok()?;
        (state.num_ack_pending <= 50).then_some(state.num_ack_pending)
    })
    .await;
    assert_eq!(waiting, 50, "a quarter is left to the consumer");
    let parked = mill.broker.stream_state("shop-retry").await.unwrap().messages;
    assert_eq!(parked, 950, "the rest is parked, though the wait is short");
    assert!(mill.letters().await.is_empty());
    mill.drain().await;
}

#[tokio::test]
async fn a_retry_storm_leaves_fresh_events_nearly_as_quick_as_they_are_alone() {
    let calls = Calls::default();
    let mut mill = Mill::with(&shop("500ms"), calls.registry()).await;
    let alone = fresh(&mill, &calls, "alone", 200).await;
    for n in 0..500 {
        mill.event(&format!("bad-{n}"), "order", json!({})).await;
    }
    eventually(async || (calls.count("bad") == 500).then_some(())).await;
    let beside = fresh(&mill, &calls, "beside", 200).await;
    println!("95 % within {alone:?} alone, {beside:?} beside 500 that are tried twice a second");
    assert!(beside < alone * 20 + Duration::from_secs(2), "{alone:?} alone, {beside:?}");
    mill.drain().await;
}

#[tokio::test]
async fn what_is_given_back_unhandled_enters_no_quantile() {
    const TAKES: Duration = Duration::from_millis(200);
    let broken = Arc::new(Mutex::new(false));
    let is_broken = Arc::clone(&broken);
    let work = handler_fn(move |_, _| {
        let broken = *is_broken.lock().unwrap();
        async move {
            tokio::time::sleep(TAKES).await;
            let down = Failure::retry(class::CONNECTION, "refused");
            if broken { Err(down) } else { Ok(Reply::Pass) }
        }
    });
    let toml = shop("1s").replace("breaker = false", "breaker = { failures = 3, wait = \"10s\" }");
    let mut mill = Mill::with(&toml, Registry::new().with("work", work)).await;
    let stage = mill.worker.as_ref().unwrap().metrics().stage("work");
    for n in 0..20 {
        mill.event(&format!("e-{n}"), "order", json!({})).await;
    }
    mill.publish("events.order", "no JSON").await;
    mill.next_dead_letter().await;
    eventually(async || (stage.done() == 20).then_some(())).await;
    *broken.lock().unwrap() = true;
    // At once: more than run together are in hand as the breaker opens.
    let bodies = (20..200).map(|n| domain(&format!("e-{n}"), "order", json!({})));
    join_all(bodies.map(|body| mill.publish("events.order", body))).await;
    let released = || {
        let text = mill.worker.as_ref().unwrap().metrics().render();
        let of = format!("status=\"{}\"", Outcome::Released.as_str());
        let lines = text.lines().filter(|l| l.contains("handled_total") && l.contains(&of));
        lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum::<u64>()
    };
    eventually(async || (released() > 0).then_some(())).await;
    let snapshots = mill.worker.as_ref().unwrap().metrics().snapshot();
    let (_, work) = snapshots.into_iter().find(|(name, _)| name == "work").unwrap();
    let quickest = work.took.quantile(0.001).unwrap();
    assert!(quickest >= TAKES, "{quickest:?}, after {} that did not run", released());
    assert!(work.handled >= work.took.count() + released(), "they count as handled");
    mill.drain().await;
}

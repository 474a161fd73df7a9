//! Innocent: suspects of a kill and of a pause, which are only what the worker had in hand.

use std::{collections::BTreeSet, fs, time::Duration};

use millstream::broker::{Broker, Outgoing};
use rustix::process::Signal;

use super::{beside_two, fleet::Fleet, ledger};
use crate::support::{TestServer, eventually};

const EVENTS: usize = 90;
/// Events that a worker runs at once, and as many again wait in it.
const AT_ONCE: usize = 8;

/// Pipeline whose handler writes down who began what, and who ended it.
const TOLD: &str = r#"
[pipeline]
name = "mill"

[source.events]
subjects = ["events.>"]
envelope = "raw"

[stage.work]
kind = "handle"
inputs = ["source.events"]
handler = { exec = ["sh", "-c", '''
while read -r line; do
  id="$${line#*\"id\":\"}"; id="$${id%%\"*}"
  echo "$PPID $id" >> begun
  sleep 0.5
  echo "$PPID $id" >> ended
  echo '{"ok": true}'
done
'''], processes = 8 }
concurrency = 8
ack_wait = "5s"

[retry.default]
attempts = 3
backoff = { fixed = "100ms" }
"#;

async fn started(workers: usize) -> (TestServer, Fleet, Broker) {
    let server = TestServer::start().await;
    let mut fleet = Fleet::of(TOLD, &[("nats.url", server.server.url().to_owned())]);
    fleet.apply();
    for _ in 0..workers {
        fleet.start();
    }
    let broker = server.connect().await;
    eventually(async || {
        let records = broker.kv_entries("mill-workers", "").await.ok()?;
        (records.len() == workers).then_some(())
    })
    .await;
    for n in 0..EVENTS {
        let event = Outgoing::new("events.done", format!("{{\"n\": {n}}}"));
        broker.publish(event.id(&format!("e-{n}"))).await.unwrap();
    }
    (server, fleet, broker)
}

/// Lines `<worker> <event>` of a file that the handlers write.
fn told(fleet: &Fleet, file: &str) -> Vec<(u32, String)> {
    let text = fs::read_to_string(fleet.folder.path().join(file)).unwrap_or_default();
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(worker, event)| Some((worker.parse().ok()?, event.to_owned())))
        .collect()
}

fn of(told: &[(u32, String)], worker: u32) -> BTreeSet<String> {
    told.iter().filter(|(by, _)| *by == worker).map(|(_, event)| event.clone()).collect()
}

fn events(told: &[(u32, String)]) -> BTreeSet<String> {
    told.iter().map(|(_, event)| event.clone()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn only_what_a_killed_worker_had_in_hand_is_suspected_of_it() {
    let _turn = beside_two().await;
    let (_server, mut fleet, broker) = started(3).await;
    let victim = fleet.pid(0);
    eventually(async || (of(&told(&fleet, "begun"), victim).len() >= AT_ONCE).then_some(())).await;
    fleet.kill(0);
    let at_the_kill = told(&fleet, "begun");
    ledger::settled(&broker, &fleet.pipeline()).await;
    let pipeline = fleet.pipeline();
    assert!(ledger::letters(&broker, &pipeline).await.is_empty());
    assert_eq!(events(&told(&fleet, "ended")).len(), EVENTS);
    let suspects = fleet.logged("a worker may have died of it");
    println!("{} suspects", suspects.len());
    assert!(suspects.len() <= 2 * AT_ONCE, "{suspects:#?}");
    let theirs: BTreeSet<_> = events(&at_the_kill);
    let theirs: BTreeSet<_> = theirs.difference(&of(&at_the_kill, victim)).cloned().collect();
    for line in &suspects {
        let innocent = theirs.iter().find(|event| line.contains(&format!("event_id={event} ")));
        assert!(innocent.is_none(), "a survivor had it: {line}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_wakes_after_a_pause_runs_nothing_that_had_only_waited_in_it() {
    let _turn = beside_two().await;
    let (_server, mut fleet, broker) = started(2).await;
    let sleeper = fleet.pid(0);
    eventually(async || (of(&told(&fleet, "ended"), sleeper).len() >= AT_ONCE).then_some(())).await;
    fleet.signal(0, Signal::STOP);
    eventually(async || (events(&told(&fleet, "ended")).len() == EVENTS).then_some(())).await;
    // As long again as the server waits for it.
    tokio::time::sleep(Duration::from_secs(6)).await;
    // Its children are not stopped: what they were given before, they have begun by now.
    let before = of(&told(&fleet, "begun"), sleeper);
    fleet.signal(0, Signal::CONT);
    ledger::settled(&broker, &fleet.pipeline()).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    let begun = told(&fleet, "begun");
    let after = of(&begun, sleeper);
    let stale: Vec<_> = after.difference(&before).collect();
    let twice = begun.len() - EVENTS;
    println!("{twice} ran twice, {} of what had waited in the worker", stale.len());
    assert!(stale.is_empty(), "it ran what others had run by then: {stale:?}");
    assert!(twice <= AT_ONCE, "{twice} ran twice, more than it had in hand");
    assert!(ledger::letters(&broker, &fleet.pipeline()).await.is_empty());
}

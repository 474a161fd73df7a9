//! Suspects: slow events that a killed worker had in hand, and fresh ones beside them.

use std::fs;

use millstream::broker::{Broker, Outgoing};

use super::{beside_two, fleet::Fleet, ledger};
use crate::support::{TestServer, eventually};

const SLOW: usize = 40;
const FRESH: usize = 200;

/// Pipeline whose handler takes three seconds for some events.
const SLOWLY: &str = r#"
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
  echo "$id" >> begun
  case "$line" in *slow*) sleep 3;; esac
  echo "$id" >> ended
  echo '{"ok": true}'
done
'''], processes = 48 }
concurrency = 48
ack_wait = "2s"

[retry.default]
attempts = 3
backoff = { fixed = "100ms" }
"#;

/// Ids in a file of the handler that begin so, as often as they are there.
fn told(fleet: &Fleet, file: &str, lead: &str) -> usize {
    let text = fs::read_to_string(fleet.folder.path().join(file)).unwrap_or_default();
    text.lines().filter(|id| id.starts_with(lead)).count()
}

async fn publish(broker: &Broker, of: &str, count: usize) {
    for n in 0..count {
        let event = Outgoing::new("events.done", format!("{{\"do\": \"{of}\", \"n\": {n}}}"));
        broker.publish(event.id(&format!("{of}-{n}"))).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn slow_events_of_a_killed_worker_go_on_together_and_fresh_ones_beside_them() {
    let _turn = beside_two().await;
    let server = TestServer::start().await;
    let mut fleet = Fleet::of(SLOWLY, &[("nats.url", server.server.url().to_owned())]);
    fleet.apply();
    fleet.start();
    let broker = server.connect().await;
    publish(&broker, "slow", SLOW).await;
    eventually(async || (told(&fleet, "begun", "slow") == SLOW).then_some(())).await;
    // The only worker there is, so that nobody else takes the fresh ones.
    fleet.replace(0);
    let before = told(&fleet, "ended", "slow");
    eventually(async || (told(&fleet, "begun", "slow") > SLOW).then_some(())).await;
    publish(&broker, "fresh", FRESH).await;
    eventually(async || (told(&fleet, "ended", "fresh") == FRESH).then_some(())).await;
    let ran = told(&fleet, "begun", "slow") - SLOW;
    println!("{ran} of {SLOW} suspects had begun when {FRESH} fresh events were done");
    assert!(before == 0 && ran < SLOW, "fresh events waited for suspects");
    ledger::settled(&broker, &fleet.pipeline()).await;
    assert!(ledger::letters(&broker, &fleet.pipeline()).await.is_empty());
    assert_eq!(told(&fleet, "begun", ""), 2 * SLOW + FRESH, "each ran once more, and no other did");
}

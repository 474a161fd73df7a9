//! Crash: real processes that are killed at work, and acknowledged events that still end once each.

pub(crate) mod fleet;
mod innocent;
mod ledger;
mod mail;
mod service;
mod suspects;

use std::time::Duration;

use millstream::broker::{Broker, Outgoing};
use tokio::sync::{Semaphore, SemaphorePermit};

use crate::support::{TestServer, eventually};
use fleet::{Fleet, Publisher};
use ledger::Totals;
use mail::Mail;
use service::Service;

/// Turns of these tests, whose fleets are many processes: some keep every core busy, most wait.
static TURNS: Semaphore = Semaphore::const_new(TURNS_MAX as usize);
const TURNS_MAX: u32 = 3;

/// Turn of a test that keeps every core busy: beside others it would measure them.
pub(crate) async fn alone() -> SemaphorePermit<'static> {
    TURNS.acquire_many(TURNS_MAX).await.unwrap()
}

/// Turn of a test that mostly waits.
pub(crate) async fn beside_two() -> SemaphorePermit<'static> {
    TURNS.acquire().await.unwrap()
}

/// Generator of numbers that a printed seed repeats (SplitMix64).
pub(crate) struct Chance(u64);

impl Chance {
    /// Seeds it from the variable SEED, else from the clock; printed either way.
    pub(crate) fn new() -> Self {
        let clock = || std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64;
        let seed = std::env::var("SEED").ok().map_or_else(clock, |seed| seed.parse().unwrap());
        println!("SEED={seed}");
        Self(seed)
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % end as u64) as usize
    }
}

/// Shipped example at work: a server, the service, and a fleet.
struct Shop {
    fleet: Fleet,
    service: Service,
    _mail: Mail,
    broker: Broker,
    server: TestServer,
}

impl Shop {
    async fn open(workers: usize, takes: Duration, ack_wait: &str) -> Self {
        Self::open_with(workers, takes, ack_wait, &[]).await
    }

    async fn open_with(
        workers: usize,
        takes: Duration,
        ack_wait: &str,
        more: &[(&str, String)],
    ) -> Self {
        let server = TestServer::start().await;
        let service = Service::start(takes).await;
        let mail = Mail::start().await;
        let at = service.address;
        let set = [
            ("nats.url", server.server.url().to_owned()),
            ("observe.listen", "127.0.0.1:0".to_owned()),
            ("stage.validate.ack_wait", ack_wait.to_owned()),
            ("stage.orders.ack_wait", ack_wait.to_owned()),
            ("stage.payments.ack_wait", ack_wait.to_owned()),
            ("stage.orders.handler.http", format!("http://{at}/orders")),
            ("stage.payments.handler.http", format!("http://{at}/payments")),
            ("channel.oncall.url", format!("http://{at}/alerts")),
            ("channel.email.smtp", mail.address.to_string()),
            ("channel.ws.listen", "127.0.0.1:0".to_owned()),
            ("retry.default.backoff.exponential", "200ms".to_owned()),
            ("retry.payments.backoff.linear", "100ms".to_owned()),
        ];
        let mut fleet = Fleet::of_the_example(&[&set, more].concat());
        fleet.apply();
        for _ in 0..workers {
            fleet.start();
        }
        let broker = server.connect().await;
        Self { fleet, service, _mail: mail, broker, server }
    }

    fn publish(&self, count: usize, rate: u32, more: &[&str]) -> Publisher {
        Publisher::start(self.fleet.folder.path(), self.server.server.url(), count, rate, more)
    }

    /// Waits until all is settled, and compares the accounts of publisher, service and letters.
    async fn close(&self, publisher: Publisher) -> Totals {
        let published = publisher.acknowledged().await;
        let pipeline = self.fleet.pipeline();
        ledger::settled(&self.broker, &pipeline).await;
        let letters = ledger::letters(&self.broker, &pipeline).await;
        let mut totals = ledger::balance(&published, &self.service.accepted(), &letters);
        totals.errors = ledger::count_errors(&self.broker, &pipeline, &letters).await;
        println!("{} calls of the service, {totals:?}", self.service.calls());
        totals
    }

    /// Kills a random worker every second, so many times, and replaces it at once.
    async fn kill_workers(&mut self, kills: usize, chance: &mut Chance) {
        for _ in 0..kills {
            tokio::time::sleep(Duration::from_secs(1)).await;
            let victim = chance.below(self.fleet.len());
            self.fleet.replace(victim);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_event_ends_once_while_workers_are_killed() {
    let _turn = alone().await;
    let mut chance = Chance::new();
    let mut shop = Shop::open(3, Duration::ZERO, "2s").await;
    let publisher = shop.publish(20_000, 1200, &[]);
    shop.kill_workers(20, &mut chance).await;
    let totals = shop.close(publisher).await;
    assert_eq!((totals.done, totals.dead, totals.innocent), (19_100, 500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_acknowledged_event_ends_once_while_the_server_is_killed() {
    let _turn = alone().await;
    let mut chance = Chance::new();
    let mut shop = Shop::open(3, Duration::ZERO, "2s").await;
    let publisher = shop.publish(20_000, 2000, &[]);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(2000 + chance.below(1000) as u64)).await;
        shop.server.server.kill_hard();
        tokio::time::sleep(Duration::from_millis(chance.below(2000) as u64)).await;
        shop.server.server.restart().await.unwrap();
    }
    let totals = shop.close(publisher).await;
    assert_eq!((totals.done, totals.dead, totals.innocent), (19_100, 500, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poison_event_becomes_one_letter_and_takes_no_other_along() {
    let _turn = beside_two().await;
    let server = TestServer::start().await;
    let mut fleet = Fleet::of(POISONED, &[("nats.url", server.server.url().to_owned())]);
    fleet.apply();
    fleet.start();
    fleet.start();
    let broker = server.connect().await;
    let body = |n| match n {
        POISON => r#"{"do": "poison",  "n": 20}"#.to_owned(),
        n => format!(r#"{{"do": "work", "n": {n}}}"#),
    };
    for n in 0..EVENTS {
        broker.publish(Outgoing::new("events.done", body(n)).id(&format!("e-{n}"))).await.unwrap();
    }
    let pipeline = fleet.pipeline();
    let settling = ledger::settled(&broker, &pipeline);
    tokio::pin!(settling);
    let mut deaths = 0;
    loop {
        tokio::select! {
            () = &mut settling => break,
            () = tokio::time::sleep(Duration::from_millis(20)) => deaths += fleet.revive(),
        }
    }
    let letters = ledger::letters(&broker, &pipeline).await;
    let done = std::fs::read_to_string(fleet.folder.path().join("done")).unwrap();
    let done = (0..EVENTS).filter(|n| done.contains(&format!("\"id\":\"e-{n}\""))).count();
    println!(
        "{deaths} workers died of it, {done} of {EVENTS} events are done, {} letters",
        letters.len()
    );
    assert_eq!(
        done,
        EVENTS - 1,
        "letters: {:#?}",
        letters.iter().map(|letter| &letter.record).collect::<Vec<_>>()
    );
    let [letter] = letters.as_slice() else { panic!("{} letters", letters.len()) };
    assert_eq!(
        (letter.record.reason.as_str(), letter.record.event_id.as_deref()),
        ("crashed", Some("e-20"))
    );
    assert_eq!(letter.body, body(POISON).into_bytes());
}

const EVENTS: usize = 50;
const POISON: usize = 20;

/// Pipeline with a handler that kills its worker, on one event.
const POISONED: &str = r#"
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
  case "$line" in *poison*) kill -9 "$PPID"; exit;; esac
  echo "$line" >> done
  echo '{"ok": true}'
done
'''] }
ack_wait = "1s"

[retry.default]
attempts = 3
backoff = { fixed = "100ms" }
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_is_told_to_stop_finishes_what_it_has_in_hand() {
    let _turn = alone().await;
    let mut shop = Shop::open(2, Duration::from_millis(200), "30s").await;
    let publisher = shop.publish(6000, 2000, &[]);
    eventually(async || (shop.service.accepted_len() > 1500).then_some(())).await;
    let (status, took) = shop.fleet.terminate(0).await;
    println!("stopped after {took:?}, {} events later", shop.service.accepted_len());
    assert!(status.success() && took < Duration::from_secs(30), "{status} after {took:?}");
    let totals = shop.close(publisher).await;
    assert_eq!(totals.repeated, 0, "events were handled twice because a worker was told to stop");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_waits_for_its_turn_is_not_handed_out_again() {
    let _turn = beside_two().await;
    let slow = [
        ("stage.orders.concurrency", "4".to_owned()),
        ("stage.payments.concurrency", "4".to_owned()),
    ];
    let shop = Shop::open_with(1, Duration::from_millis(700), "1s", &slow).await;
    let totals = shop.close(shop.publish(60, 1000, &[])).await;
    assert_eq!(
        (totals.repeated, totals.innocent),
        (0, 0),
        "events were handled twice, and nobody died"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_refused_has_one_letter_whenever_its_worker_dies() {
    let _turn = alone().await;
    let mut chance = Chance::new();
    // Without it an event that is validated twice has two lives behind it, each with its letter.
    let dedup = [("stage.validate.dedup", "2m".to_owned())];
    let mut shop = Shop::open_with(3, Duration::ZERO, "1s", &dedup).await;
    let publisher = shop.publish(5000, 1000, &["--refuse-all"]);
    for _ in 0..20 {
        tokio::time::sleep(Duration::from_millis(100 + chance.below(400) as u64)).await;
        let victim = chance.below(shop.fleet.len());
        shop.fleet.replace(victim);
    }
    let totals = shop.close(publisher).await;
    assert_eq!((totals.done, totals.dead, totals.letters), (0, 5000, 5000));
}

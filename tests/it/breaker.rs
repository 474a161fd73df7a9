//! Breaker: state of a handler that one worker finds and every worker knows, whatever becomes of
//! workers and broker meanwhile.

mod outage;
mod tenants;

use std::{sync::Arc, time::Duration};

use millstream::{
    broker::{Broker, CommitError},
    config::Pipeline,
    map::{
        Breakers,
        breaker::{Breaker, Pace},
    },
    observe::Metrics,
    stages::{Failure, failure::class},
    topology::{self, Topology},
    wire::{
        Names,
        breaker_record::{BreakerRecord, BreakerState},
    },
};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::support::{DEADLINE, TestServer, eventually, pipeline, raw_event};

/// Pipeline of one stage whose breaker opens after three failures, with waits for a test.
const SHOP: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "debug" }
    breaker = { failures = 3, wait = "500ms", max_wait = "2s" }
"#;

/// Server with the pipeline's streams and buckets, and no worker.
struct Fleet {
    pipeline: Arc<Pipeline>,
    broker: Broker,
    server: TestServer,
}

/// Breakers of one worker on a connection of its own; dropping it is like `kill -9`.
struct Member {
    work: Arc<Breaker>,
    metrics: Arc<Metrics>,
    broker: Broker,
    _stop: DropGuard,
}

impl Fleet {
    async fn new(toml: &str) -> Self {
        let server = TestServer::start().await;
        let pipeline = pipeline(toml, server.server.url());
        let broker = server.connect().await;
        topology::make(&broker, &Topology::of(&pipeline)).await.unwrap();
        Self { pipeline, broker, server }
    }

    async fn member(&self, name: &str) -> Member {
        let (broker, metrics) = (self.server.connect().await, Metrics::new(&self.pipeline));
        let breakers = Breakers::load(&broker, &self.pipeline, &metrics, name).await;
        let (work, stop) = (breakers.of("work"), CancellationToken::new());
        let running = stop.clone();
        tokio::spawn(async move { breakers.run(running).await });
        Member { work, metrics, broker, _stop: stop.drop_guard() }
    }

    /// Record of the breaker in its key, once it is as `wanted`.
    async fn record(&self, wanted: impl Fn(&BreakerRecord) -> bool) -> BreakerRecord {
        let (broker, key, wanted) = (&self.broker, Names::breaker_key("work"), &wanted);
        eventually(|| async {
            let found = broker.kv_get("shop-state", &key).await.ok()??;
            BreakerRecord::read(&found.0).filter(wanted)
        })
        .await
    }
}

impl Member {
    fn fails(&self, event: &str) -> bool {
        let failure = Failure::retry(class::CONNECTION, "connection refused");
        self.work.failed(&raw_event(event), 1, Duration::ZERO, &failure).is_some()
    }

    /// Fails as many events as open the breaker: none of them is deferred, and the next is.
    fn opens(&self) {
        for n in 0..3 {
            assert_eq!((self.pace(), self.fails(&format!("e{n}"))), (Pace::Full, false));
        }
        assert_eq!((self.pace(), self.fails("in hand")), (Pace::Stopped, true));
    }

    fn pace(&self) -> Pace {
        *self.work.pace().borrow()
    }

    #[track_caller]
    fn comes_to(&self, wanted: Pace) -> impl Future<Output = ()> {
        let (mut pace, caller) = (self.work.pace(), std::panic::Location::caller());
        async move {
            let came = tokio::time::timeout(DEADLINE, pace.wait_for(|pace| *pace == wanted)).await;
            assert!(came.is_ok(), "not {wanted:?} after {DEADLINE:?}, at {caller}");
        }
    }

    #[track_caller]
    fn shows(&self, line: &str) {
        let text = self.metrics.render();
        assert!(text.lines().any(|shown| shown == line), "no line {line} in\n{text}");
    }
}

#[tokio::test]
async fn what_one_worker_opens_stops_all_and_a_success_of_any_resumes_all() {
    let fleet = Fleet::new(SHOP).await;
    let (one, two) = (fleet.member("w-1").await, fleet.member("w-2").await);
    one.opens();
    two.comes_to(Pace::Stopped).await;
    assert!(two.fails("in hand of the other"), "the other defers it");
    one.shows(r#"millstream_breaker_opens_total{stage="work"} 1"#);
    two.shows(r#"millstream_breaker_opens_total{stage="work"} 0"#);
    two.shows(r#"millstream_breaker_state{stage="work"} 1"#);
    let record = fleet.record(|record| record.state == BreakerState::Open).await;
    assert_eq!(
        (record.reason.as_str(), record.by.as_str()),
        ("ConnectionError: connection refused", "w-1")
    );

    // Without traffic a worker waits for its first event; whoever has one shows the others what
    // became of it.
    one.comes_to(Pace::Probe).await;
    two.comes_to(Pace::Probe).await;
    two.shows(r#"millstream_breaker_state{stage="work"} 2"#);
    assert!(two.fails("probe"), "a probe that fails costs no attempt");
    one.comes_to(Pace::Stopped).await;
    let record = fleet.record(|record| record.opens == 2).await;
    assert_eq!((record.wait_ms, record.by.as_str()), (1000, "w-2"));

    one.comes_to(Pace::Probe).await;
    one.work.succeeded(None, Duration::ZERO);
    two.comes_to(Pace::Full).await;
    two.shows(r#"millstream_breaker_state{stage="work"} 0"#);
    let record = fleet.record(|record| record.state == BreakerState::Closed).await;
    assert!(record.by == "w-1" && record.closed_at.is_some(), "{record:?}");
}

#[tokio::test]
async fn a_fleet_that_was_killed_whole_begins_open() {
    let fleet = Fleet::new(SHOP).await;
    let killed = fleet.member("w-1").await;
    killed.opens();
    fleet.record(|record| record.state == BreakerState::Open).await;
    drop(killed);
    let next = fleet.member("w-2").await;
    assert!(
        [Pace::Stopped, Pace::Probe].contains(&next.pace()),
        "it begins with what the fleet knew"
    );
    assert!(next.fails("first"), "nothing is spent");
    next.comes_to(Pace::Stopped).await;
    next.comes_to(Pace::Probe).await;
    next.work.succeeded(None, Duration::ZERO);
    fleet.record(|record| record.state == BreakerState::Closed && record.by == "w-2").await;
    assert_eq!(fleet.member("w-3").await.pace(), Pace::Full);
}

#[tokio::test]
async fn with_the_broker_away_a_breaker_works_and_tells_later() {
    let mut fleet = Fleet::new(SHOP).await;
    let (one, two) = (fleet.member("w-1").await, fleet.member("w-2").await);
    fleet.server.server.kill_hard();
    one.opens();
    one.comes_to(Pace::Probe).await;
    assert!(one.fails("probe"));
    assert_eq!((one.pace(), two.pace()), (Pace::Stopped, Pace::Full));
    fleet.server.server.restart().await.unwrap();
    two.comes_to(Pace::Stopped).await;
    one.comes_to(Pace::Probe).await;
    one.work.succeeded(None, Duration::ZERO);
    two.comes_to(Pace::Full).await;
}

#[tokio::test]
async fn of_two_that_open_at_once_one_tells_and_both_hold_to_it() {
    let fleet = Fleet::new(SHOP).await;
    for round in 1..=5 {
        let (one, two) = (fleet.member("w-1").await, fleet.member("w-2").await);
        one.opens();
        two.opens();
        let told = fleet.record(|record| record.state == BreakerState::Open).await;
        assert_eq!(told.opens, 1, "round {round}: the loser has not counted on");
        one.comes_to(Pace::Probe).await;
        two.comes_to(Pace::Probe).await;
        // Both probes end at once, and differently: the record written last holds for both.
        one.work.succeeded(None, Duration::ZERO);
        two.fails("probe");
        let same = eventually(async || {
            let found =
                fleet.broker.kv_get("shop-state", &Names::breaker_key("work")).await.ok()??;
            let open = BreakerRecord::read(&found.0)?.state == BreakerState::Open;
            let holds = |member: &Member| (member.pace() != Pace::Full) == open;
            (holds(&one) && holds(&two)).then_some(open)
        });
        if same.await {
            two.comes_to(Pace::Probe).await;
            two.work.succeeded(None, Duration::ZERO);
        }
        one.comes_to(Pace::Full).await;
        two.comes_to(Pace::Full).await;
        drop((one, two));
        fleet.broker.kv_delete("shop-state", &Names::breaker_key("work")).await.unwrap();
    }
}

#[tokio::test]
async fn deleting_the_key_closes_it_everywhere_and_what_cannot_be_read_does_too() {
    let fleet = Fleet::new(SHOP).await;
    let (one, two) = (fleet.member("w-1").await, fleet.member("w-2").await);
    let key = Names::breaker_key("work");
    one.opens();
    two.comes_to(Pace::Stopped).await;
    one.broker.kv_delete("shop-state", &key).await.unwrap();
    one.comes_to(Pace::Full).await;
    two.comes_to(Pace::Full).await;
    two.opens();
    one.comes_to(Pace::Stopped).await;
    let found = two.broker.kv_create("shop-state", &key, "x").await;
    assert!(matches!(found, Err(CommitError::Fenced { .. })), "it was told over the deletion");
    two.broker.kv_put("shop-state", &key, "no record of ours").await.unwrap();
    one.comes_to(Pace::Full).await;
    two.comes_to(Pace::Full).await;
}

#[tokio::test]
async fn without_a_bucket_a_breaker_works_by_itself() {
    let server = TestServer::start().await;
    let fleet = Fleet {
        pipeline: pipeline(SHOP, server.server.url()),
        broker: server.connect().await,
        server,
    };
    let alone = fleet.member("w-1").await;
    alone.opens();
    alone.comes_to(Pace::Probe).await;
    alone.work.succeeded(None, Duration::ZERO);
    assert_eq!(alone.pace(), Pace::Full);
    topology::make(&fleet.broker, &Topology::of(&fleet.pipeline)).await.unwrap();
    fleet
        .record(|record| record.state == BreakerState::Closed && record.reason.contains("refused"))
        .await;
}

#[tokio::test]
async fn a_stage_without_a_breaker_never_stops() {
    let fleet =
        Fleet::new(&SHOP.replace("{ failures = 3, wait = \"500ms\", max_wait = \"2s\" }", "false"))
            .await;
    let member = fleet.member("w-1").await;
    for n in 0..100 {
        assert!(!member.fails(&n.to_string()));
    }
    assert_eq!(member.pace(), Pace::Full);
    assert!(!member.metrics.render().contains("breaker_state{"), "it says nothing of one");
}

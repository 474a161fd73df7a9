//! Leftovers: what stages that were renamed, removed or re-wired leave on the server, and what
//! `apply` refuses before it begins.

mod both;
mod renamed;

use std::{
    collections::BTreeMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{Outgoing, Retention, StreamSpec, get, set},
    dead_letter::LetterRecord,
    exhausted::{bury::Burial, sweep::Sweep},
    handlers::{Registry, handler_fn},
    observe::Metrics,
    stages::{Failure, Reply, headers},
    topology::{Leftovers, Topology},
    worker::{Options, Worker},
};
use serde_json::json;

use crate::{
    shell::Shell,
    support::{Mill, TestServer, eventually, scanned, stream},
};

/// Handlers that can be mended, and the events that they were given.
#[derive(Clone, Default)]
struct Service {
    mended: Arc<AtomicBool>,
    work: Arc<Mutex<Vec<String>>>,
    after: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// `work` rejects `dead-…` and asks for `park-…` again, until it is mended; `after` takes all.
    fn registry(&self) -> Registry {
        let (own, other) = (self.clone(), self.clone());
        let work = handler_fn(move |event, _| {
            own.work.lock().unwrap().push(event.id.clone());
            let failure = match (own.mended.load(Ordering::SeqCst), event.id.split_once('-')) {
                (false, Some(("dead", _))) => Some(Failure::reject("Refused", "no")),
                (false, Some(("park", _))) => Some(Failure::retry("Busy", "later")),
                _ => None,
            };
            async move { failure.map_or(Ok(Reply::Pass), Err) }
        });
        let after = handler_fn(move |event, _| {
            other.after.lock().unwrap().push(event.id.clone());
            async { Ok(Reply::Pass) }
        });
        Registry::new().with("work", work).with("after", after)
    }

    fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
        self.work.lock().unwrap().clear();
    }

    /// Events given to `work` and `after` since, with how often.
    fn given(&self) -> [BTreeMap<String, u32>; 2] {
        [&self.work, &self.after].map(|calls| {
            let mut given = BTreeMap::new();
            for id in calls.lock().unwrap().iter() {
                *given.entry(id.clone()).or_insert(0) += 1;
            }
            given
        })
    }
}

const BEGIN: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 5
    backoff = { fixed = "2s" }
    park_after = "1s"
    [stage.pass]
    kind = "handle"
    inputs = ["source.events"]
    handler = { jq = "." }
"#;

/// Pipeline with a stage of this name between `pass` and `after`.
fn shop(stage: &str, more: &str) -> String {
    format!(
        r#"{BEGIN}
    [stage.{stage}]
    kind = "handle"
    inputs = ["pass"]
    handler = {{ rust = "work" }}
    breaker = false
    {more}
    [stage.after]
    kind = "handle"
    inputs = ["{stage}"]
    handler = {{ rust = "after" }}
"#
    )
}

/// Pipeline without that stage.
fn without() -> String {
    format!(
        r#"{BEGIN}
    [stage.audit]
    kind = "handle"
    inputs = ["pass"]
    handler = {{ jq = "empty" }}
"#
    )
}

/// The same for the built program, which has no Rust handlers.
fn for_program(toml: &str) -> String {
    toml.replace("{ rust = \"work\" }", "{ jq = \".\" }")
        .replace("{ rust = \"after\" }", "{ jq = \".\" }")
}

async fn worker(mill: &Mill, service: &Service, stages: &[&str]) -> Worker {
    let stages = stages.iter().map(ToString::to_string).collect();
    let options = Options { stages: Some(stages), registry: service.registry() };
    Worker::start(mill.broker.clone(), Arc::clone(&mill.pipeline), options).await.unwrap()
}

/// Server on which `orders` has a letter, two parked events, a backlog of two, and a result that
/// `after` has not read; no worker runs.
async fn left() -> (TestServer, Service) {
    let service = Service::default();
    let toml = shop("orders", "");
    let mill = Mill::still(TestServer::start().await, &toml, service.registry()).await;
    let first = worker(&mill, &service, &["pass", "orders"]).await;
    for id in ["dead-1", "park-1", "park-2", "done-1"] {
        mill.event(id, "order.created", json!({})).await;
    }
    mill.messages("shop-dlq", 1).await;
    mill.messages("shop-out-orders", 1).await;
    let held = async |stream: &'static str, count: u64| {
        eventually(async || {
            let state = mill.broker.stream_state(stream).await.unwrap();
            (state.messages == count).then_some(())
        })
        .await;
    };
    held("shop-retry", 2).await;
    held("shop-out-pass", 0).await;
    first.drain(std::future::pending()).await;
    let second = worker(&mill, &service, &["pass"]).await;
    for id in ["backlog-1", "backlog-2"] {
        mill.event(id, "order.created", json!({})).await;
    }
    held("shop-out-pass", 2).await;
    second.drain(std::future::pending()).await;
    service.mend();
    let Mill { server, .. } = mill;
    (server, service)
}

/// Events that `orders` held, and those that `after` was still to be given.
const HELD: [&str; 4] = ["backlog-1", "backlog-2", "park-1", "park-2"];
const RESULTS: [&str; 5] = ["backlog-1", "backlog-2", "done-1", "park-1", "park-2"];

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_that_is_gone_is_named_until_someone_decides() {
    let (server, service) = left().await;
    let toml = without();
    let shell = Shell::new(&for_program(&toml), server.server.url());
    let mill = Mill::still(server, &toml, service.registry()).await;
    let plan = shell.run("plan").await;
    let lines = "- stage \"orders\" is gone: 2 not settled on stream \"shop-out-pass\", 2 parked, \
                 1 in letters\n    apply with --move orders=STAGE, --to-letters orders, or \
                 --drop orders";
    assert!(plan.out.contains(lines), "{}", plan.out);
    let status = shell.run("status").await;
    assert!(status.code == 1 && status.out.contains("! stage \"orders\""), "{}", status.out);

    // A finding says so as well, once two looks have seen it.
    let mut sweep = Sweep::new(Burial {
        broker: mill.broker.clone(),
        pipeline: Arc::clone(&mill.pipeline),
        metrics: Metrics::new(&mill.pipeline),
    });
    for seconds in [0, 31] {
        sweep.round(SystemTime::now() + Duration::from_secs(seconds)).await;
    }
    let failed = scanned(&mill.broker, "shop-failed").await;
    let told = |stage: &str| format!("shop.finding.LeftoverEvents.{stage}");
    for stage in ["orders", "after"] {
        assert_eq!(failed.iter().filter(|it| it.subject == told(stage)).count(), 1, "{stage}");
    }

    // A redrive leaves its letters, and sends those of others.
    let refused = shell.run("dlq redrive --yes --stage orders").await;
    assert!(refused.code == 2 && refused.err.contains("\"orders\""), "{}", refused.err);
    let letter = mill.letters().await.swap_remove(0);
    let mut other = Outgoing::new("shop.dlq.pass.shop-in-events.99", letter.body.clone());
    other.headers = letter.headers.clone();
    set(&mut other.headers, headers::STAGE, "pass");
    set(&mut other.headers, headers::MSG_ID, "other");
    mill.broker.publish(other).await.unwrap();
    let some = shell.run("dlq redrive --yes --all").await;
    assert_eq!(some.code, 1, "{}", some.err);
    assert!(some.out.contains("redrove 1 letter, 1 skipped"), "{}", some.out);
    let letters = mill.letters().await;
    assert_eq!(letters.len(), 1);
    assert_eq!(get(&letters[0].headers, headers::STAGE), Some("orders"));

    let unknown = shell.run("apply --drop nothing").await;
    assert_eq!(unknown.code, 2, "{}", unknown.out);
    let told = shell.run("apply --to-letters orders --drop after").await;
    assert_eq!(told.code, 0, "{}", told.err);
    for line in [
        "made dead letters of 4 events of stage \"orders\" (reason abandoned)",
        "dropped 1 events and 3 consumers of stage \"after\"",
        "removed stream \"shop-out-orders\", which nothing reads any more",
    ] {
        assert!(told.out.contains(line), "{}", told.out);
    }
    let mut reasons: Vec<String> = mill
        .letters()
        .await
        .iter()
        .map(LetterRecord::of)
        .map(|letter| format!("{} {}", letter.event_id.unwrap_or_default(), letter.reason))
        .collect();
    reasons.sort();
    assert_eq!(
        reasons,
        [
            "backlog-1 abandoned",
            "backlog-2 abandoned",
            "dead-1 rejected",
            "park-1 abandoned",
            "park-2 abandoned"
        ]
    );
    let found = Leftovers::find(&Topology::of(&mill.pipeline), &mill.broker).await.unwrap();
    assert!(found.waits().next().is_none() && found.streams.is_empty(), "{found:?}");
    assert_eq!(found.of("orders").unwrap().letters, 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_rewired_stage_no_longer_reads_is_moved_to_it_when_told() {
    let (server, service) = left().await;
    let toml = shop("orders", "").replace("inputs = [\"pass\"]", "inputs = [\"source.events\"]");
    let shell = Shell::new(&for_program(&toml), server.server.url());
    let mut mill = Mill::still(server, &toml, service.registry()).await;
    let status = shell.run("status").await;
    assert!(status.out.contains("2 not settled on stream \"shop-out-pass\""), "{}", status.out);
    assert_eq!(status.code, 1);
    let moved = shell.run("apply --move orders=orders").await;
    assert_eq!(moved.code, 0, "{}", moved.err);
    let line = "handed over from \"orders\" to \"orders\": 2 events published anew";
    assert!(moved.out.contains(line), "{}", moved.out);
    mill.work().await;
    let all_are_given = async || {
        let [work, _] = service.given();
        HELD.iter().all(|id| work.contains_key(*id)).then_some(())
    };
    eventually(all_are_given).await;
    mill.drain().await;
}

#[tokio::test]
async fn what_others_capture_is_found_before_anything_is_made() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    let theirs = StreamSpec {
        pipeline: "market".to_owned(),
        ..stream("market-in-all", "events.order.>", Retention::Limits)
    };
    broker.create_stream(&theirs).await.unwrap();
    let toml = shop("orders", "").replace("max_age", "").replace(
        "[source.events]",
        "[source.others]\n    subjects = [\"theirs.>\"]\n    [source.events]",
    );
    let foreign =
        StreamSpec { pipeline: String::new(), ..stream("LEGACY", "theirs.>", Retention::Limits) };
    broker.create_stream(&foreign).await.unwrap();
    let shell = Shell::new(&for_program(&toml), server.server.url());
    let plan = shell.run("plan").await;
    let refused = shell.run("apply").await;
    assert_eq!(refused.code, 2);
    for line in [
        "stream \"shop-in-events\" cannot capture \"events.>\": stream \"market-in-all\" of pipeline \
         \"market\" captures \"events.order.>\"",
        "stream \"shop-in-others\" cannot capture \"theirs.>\": stream \"LEGACY\", which is of no \
         pipeline, captures \"theirs.>\"",
    ] {
        assert!(plan.out.contains(line), "{}", plan.out);
        assert!(refused.err.contains(line), "{}", refused.err);
    }
    assert!(broker.streams_of("shop").await.unwrap().is_empty(), "nothing was made");
}

#[tokio::test]
async fn a_source_that_takes_the_subjects_of_one_that_is_gone_waits_until_that_is_dropped() {
    let server = TestServer::start().await;
    let toml = for_program(&shop("orders", ""));
    let shell = Shell::new(&toml, server.server.url());
    assert_eq!(shell.run("apply").await.code, 0);
    let renamed =
        toml.replace("[source.events]", "[source.all]").replace("source.events", "source.all");
    let shell = Shell::new(&renamed, server.server.url());
    let refused = shell.run("apply").await;
    assert!(refused.err.contains("apply with --drop shop-in-events"), "{}", refused.err);
    let dropped = shell.run("apply --drop shop-in-events").await;
    assert_eq!(dropped.code, 0, "{}", dropped.err);
    assert!(shell.run("plan").await.out.starts_with("nothing to do"));
}

#[tokio::test]
async fn a_pipeline_of_the_same_name_is_not_rewritten_silently() {
    let server = TestServer::start().await;
    let toml = for_program(&shop("orders", ""));
    let with =
        |id: &str| toml.replace("name = \"shop\"", &format!("name = \"shop\"\n    id = \"{id}\""));
    let (one, two) = (with("one"), with("two"));
    let [one, two, none] = [&one, &two, &toml].map(|toml| Shell::new(toml, server.server.url()));
    assert_eq!(none.run("apply").await.code, 0);
    assert_eq!(one.run("apply").await.code, 0, "the same stages: it is given its id");
    for other in [&two, &none] {
        let refused = other.run("apply").await;
        assert!(
            refused.code == 2 && refused.err.contains("it has the id \"one\""),
            "{}",
            refused.err
        );
    }
    assert_eq!(two.run("apply --take-over").await.code, 0);
    assert_eq!(one.run("apply").await.code, 2);

    // Without ids, by having nothing in common.
    let server = TestServer::start().await;
    let first = Shell::new(&toml, server.server.url());
    assert_eq!(first.run("apply").await.code, 0);
    let other = toml
        .replace("events", "users")
        .replace("pass", "check")
        .replace("orders", "mails")
        .replace("stage.after", "stage.then");
    let second = Shell::new(&other, server.server.url());
    let refused = second.run("apply").await;
    assert!(refused.code == 2 && refused.err.contains("in common"), "{}", refused.err);
    assert_eq!(second.run("apply --take-over").await.code, 0);

    // A source that is renamed, with the stage as it was, is no other pipeline.
    let server = TestServer::start().await;
    let small = "[pipeline]\nname = \"shop\"\n[source.a]\nsubjects = [\"a.>\"]\n[stage.work]\n\
                 kind = \"handle\"\ninputs = [\"source.a\"]\nhandler = { jq = \"empty\" }\n";
    let renamed = small.replace("source.a", "source.b").replace("a.>", "b.>");
    for toml in [small, renamed.as_str()] {
        let applied = Shell::new(toml, server.server.url()).run("apply").await;
        assert_eq!(applied.code, 0, "{}", applied.err);
    }
}

#[tokio::test]
async fn a_consumer_that_is_gone_is_taken_over_where_its_floor_was_kept() {
    let service = Service::default();
    let toml = shop("orders", "");
    let mill = Mill::still(TestServer::start().await, &toml, service.registry()).await;
    for id in ["e-1", "e-2", "e-3"] {
        mill.event(id, "order.created", json!({})).await;
    }
    let created = mill.broker.created_ms("shop-in-events").await.unwrap().unwrap();
    mill.broker.delete_consumer("shop-in-events", "shop-pass").await.unwrap();
    let floor = |created: u64| json!({ "created": created, "floor": 2, "at": 0 }).to_string();
    let key = "floor.shop-in-events.shop-pass";
    let renamed = toml
        .replace("[stage.pass]", "[stage.first]\n    renamed_from = \"pass\"")
        .replace("inputs = [\"pass\"]", "inputs = [\"first\"]");
    let shell = Shell::new(&for_program(&renamed), mill.server.server.url());
    let line = "+ consumer \"shop-first\" on stream \"shop-in-events\"";
    mill.broker.kv_put("shop-state", key, floor(created + 1)).await.unwrap();
    let other = shell.run("plan").await.out;
    assert!(other.contains(line) && !other.contains("from sequence"), "another life: {other}");
    mill.broker.kv_put("shop-state", key, floor(created)).await.unwrap();
    let plan = shell.run("plan").await.out;
    assert!(plan.contains(&format!("{line}: from sequence 3")), "{plan}");
    assert_eq!(shell.run("apply").await.code, 0);
    let state = mill.broker.consumer_state("shop-in-events", "shop-first").await.unwrap();
    assert_eq!(state.num_pending, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn notifications_of_a_channel_that_is_gone_are_named_and_can_be_letters() {
    let toml = |channel: &str| format!("{}\n{channel}", shop("orders", ""));
    let hook = "[channel.hook]\nkind = \"log\"\n";
    let service = Service::default();
    let mill = Mill::still(TestServer::start().await, &toml(hook), service.registry()).await;
    let waiting = Outgoing::new("shop.notify.hook", "{}").header(headers::EVENT_ID, "n-1");
    mill.broker.publish(waiting).await.unwrap();
    let shell = Shell::new(&for_program(&toml("")), mill.server.server.url());
    assert_eq!(shell.run("apply").await.code, 0);
    let status = shell.run("status").await;
    assert!(status.code == 1 && status.out.contains("\"notify-hook\""), "{}", status.out);
    let told = shell.run("apply --to-letters notify-hook").await;
    assert!(told.out.contains("made dead letters of 1 events"), "{} {}", told.out, told.err);
    assert_eq!(mill.letters().await.len(), 1);
    assert_eq!(mill.broker.stream_state("shop-notify").await.unwrap().messages, 0);
}

//! Refused: subjects refused one by one, each a condition of what was refused; the worker lives,
//! and goes on once they are granted.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use millstream::{
    broker::{Auth, Broker, Nats},
    dead_letter::LetterFilter,
    handlers::{Registry, handler_fn},
    redrive::{
        job::{self, Job, Kind, State},
        store::Jobs,
    },
    stages::{Failure, Reply},
    worker::{Options, Worker},
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;

use crate::support::{Mill, TestServer, eventually, trouble, trouble_now};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [source.others]
    subjects = ["others.>"]
    [retry.default]
    attempts = 1
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "work" }
    ack_wait = "2s"
    [stage.beside]
    kind = "handle"
    inputs = ["source.others"]
    handler = { rust = "work" }
"#;

/// Calls of the handlers: events, as `<stage> <id>`; those with `eventData.reject` are rejected
/// until they are mended.
#[derive(Clone, Default)]
struct Calls(Arc<Mutex<Vec<String>>>, Arc<AtomicBool>);

impl Calls {
    fn registry(&self) -> Registry {
        let own = self.clone();
        let work = handler_fn(move |event, delivery| {
            own.0.lock().unwrap().push(format!("{} {}", delivery.stage, event.id));
            let is_bad = event.json().unwrap()["eventData"]["reject"] == true;
            let fails = is_bad && !own.1.load(Ordering::SeqCst);
            let answer =
                if fails { Err(Failure::reject("Refused", "no")) } else { Ok(Reply::Pass) };
            async move { answer }
        });
        Registry::new().with("work", work)
    }

    fn of(&self, what: &str) -> usize {
        self.0.lock().unwrap().iter().filter(|call| *call == what).count()
    }
}

/// Configuration of a server whose user `worker` is denied some subjects, to publish and to
/// subscribe to.
fn config(publish: &[&str], subscribe: &[&str]) -> String {
    let list = |subjects: &[&str]| {
        let quoted: Vec<_> = subjects.iter().map(|subject| format!("\"{subject}\"")).collect();
        quoted.join(", ")
    };
    format!(
        r#"
        authorization {{
            users = [
                {{ user: admin, password: a, permissions: {{ publish: ">", subscribe: ">" }} }}
                {{ user: worker, password: w, permissions: {{
                    publish: {{ allow: ">", deny: [{}] }},
                    subscribe: {{ allow: ">", deny: [{}] }}
                }} }}
            ]
        }}
        no_auth_user: admin
        "#,
        list(publish),
        list(subscribe)
    )
}

/// Has the server read another configuration, and waits until it goes by it.
async fn reload(server: &TestServer, text: &str) {
    let reloads = || {
        let log = std::fs::read_to_string(server.server.log_path()).unwrap();
        log.matches("Reloaded server configuration").count()
    };
    let before = reloads();
    std::fs::write(server.data().join("nats.conf"), text).unwrap();
    let pid = Pid::from_raw(server.server.pid().try_into().unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    eventually(async || (reloads() > before).then_some(())).await;
}

struct World {
    mill: Mill,
    calls: Calls,
    worker: Worker,
}

impl World {
    /// A pipeline at work by a user who may do everything.
    async fn start() -> Self {
        let server = TestServer::configured(&config(&[], &[])).await;
        let calls = Calls::default();
        let mill = Mill::still(server, PIPELINE, calls.registry()).await;
        let worker = mill.denied_worker().await;
        let world = Self { mill, calls, worker };
        world.works("before").await;
        world
    }

    async fn refuse(&self, publish: &[&str], subscribe: &[&str]) {
        reload(&self.mill.server, &config(publish, subscribe)).await;
    }

    async fn grant(&self) {
        self.refuse(&[], &[]).await;
    }

    async fn event(&self, id: &str) {
        self.mill.event(id, "order.created", json!({})).await;
    }

    async fn other(&self, id: &str) {
        let event = crate::support::domain(id, "order.created", json!({}));
        self.mill.publish("others.x", event).await;
    }

    /// Waits until an event has gone through each of the stages.
    async fn works(&self, id: &str) {
        self.event(id).await;
        self.other(id).await;
        for stage in ["work", "beside"] {
            let what = format!("{stage} {id}");
            eventually(async || (self.calls.of(&what) > 0).then_some(())).await;
            self.mill.idle(stage).await;
        }
    }

    /// Waits until nothing is refused any more, which is within a minute.
    async fn well(&self) {
        let began = Instant::now();
        eventually(async || {
            let failed = self.worker.conditions().failed();
            failed.iter().all(|(name, _)| !name.starts_with("subject ")).then_some(())
        })
        .await;
        assert!(began.elapsed() < Duration::from_secs(60));
    }

    async fn close(self) {
        self.worker.drain(std::future::pending()).await;
    }
}

#[tokio::test]
async fn a_refused_dead_letter_holds_its_event_and_is_written_once_granted() {
    let world = World::start().await;
    world.refuse(&["shop.dlq.>"], &[]).await;
    world.mill.event("e-1", "order.created", json!({ "reject": true })).await;
    let told = trouble(&world.worker, "subject shop.dlq.work.>").await;
    assert_eq!(told.why, "the NATS server refuses us publish on \"shop.dlq.work.>\"");
    assert_eq!(told.remedy.unwrap(), "grant publish on \"shop.dlq.work.>\" to the user of [nats]");
    // Others go on, of the same stage, too.
    world.event("e-2").await;
    world.other("e-2").await;
    for what in ["work e-2", "beside e-2"] {
        eventually(async || (world.calls.of(what) == 1).then_some(())).await;
    }
    assert!(world.mill.letters().await.is_empty());
    assert!(trouble_now(&world.worker, "subject shop.dlq.work.>").is_some());
    world.grant().await;
    let (record, _) = world.mill.next_dead_letter().await;
    assert_eq!(record.reason, "rejected");
    world.well().await;
    world.mill.idle("work").await;
    assert_eq!((world.mill.letters().await.len(), world.calls.of("work e-1")), (1, 1));
    world.close().await;
}

#[tokio::test]
async fn refused_acks_stop_their_stage_alone_and_nothing_runs_again_and_again() {
    let world = World::start().await;
    world.refuse(&["$JS.ACK.shop-in-events.>"], &[]).await;
    // The first is acked in vain.
    let mut refused = 0;
    while trouble_now(&world.worker, "subject $JS.ACK.shop-in-events.shop-work.>").is_none() {
        world.event(&format!("e-{refused}")).await;
        refused += 1;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let before = world.calls.0.lock().unwrap().len();
    for n in 0..20 {
        world.event(&format!("later-{n}")).await;
    }
    // Several ack waits: what is in hand would come again, and the others with it.
    for n in 0..6 {
        world.other(&format!("o-{n}")).await;
        eventually(async || (world.calls.of(&format!("beside o-{n}")) == 1).then_some(())).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    let runs = world.calls.0.lock().unwrap().len() - before - 6;
    assert!(runs <= 20, "{runs} runs while nothing can be settled");
    assert!(trouble_now(&world.worker, "subject $JS.ACK.shop-in-events.shop-work.>").is_some());
    world.grant().await;
    world.well().await;
    for n in 0..20 {
        eventually(async || (world.calls.of(&format!("work later-{n}")) > 0).then_some(())).await;
    }
    world.mill.idle("work").await;
    assert!(world.mill.letters().await.is_empty(), "no attempt was spent on it");
    world.close().await;
}

#[tokio::test]
async fn refused_pulls_and_results_stop_what_needs_them_and_nothing_else() {
    let world = World::start().await;
    world.refuse(&["$JS.API.CONSUMER.MSG.NEXT.shop-in-events.shop-work"], &[]).await;
    let name = "subject $JS.API.CONSUMER.MSG.NEXT.shop-in-events.>";
    let told = trouble(&world.worker, name).await;
    assert!(told.remedy.unwrap().starts_with("grant publish on"), "{name}");
    // What was asked for before is still delivered: a pull lasts for a while.
    world.other("o-1").await;
    eventually(async || (world.calls.of("beside o-1") == 1).then_some(())).await;
    world.grant().await;
    world.works("after").await;
    world.well().await;
    world.close().await;
}

#[tokio::test]
async fn a_refused_service_and_a_refused_channel_spend_no_attempt() {
    let toml = PIPELINE.replace(
        "inputs = [\"source.others\"]\n    handler = { rust = \"work\" }",
        "inputs = [\"source.others\"]\n    handler = { nats = \"till.ask\" }",
    ) + r#"
        [stage.errors]
        kind = "aggregate-errors"
        inputs = ["*.failed"]
        [stage.alerts]
        kind = "alert"
        inputs = ["errors"]
        channels = ["ops"]
        [channel.ops]
        kind = "nats"
        subject = "ops.alerts"
    "#;
    let server = TestServer::configured(&config(&["till.ask", "ops.alerts"], &[])).await;
    let calls = Calls::default();
    let mill = Mill::still(server, &toml, calls.registry()).await;
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let mut asked = client.subscribe("till.ask").await.unwrap();
    let mut heard = client.subscribe("ops.alerts").await.unwrap();
    client.flush().await.unwrap();
    let answering = client.clone();
    tokio::spawn(async move {
        while let Some(request) = futures_util::StreamExt::next(&mut asked).await {
            answering.publish(request.reply.unwrap(), "".into()).await.unwrap();
        }
    });
    let worker = mill.denied_worker().await;
    let event = crate::support::domain("o-1", "order.created", json!({}));
    mill.publish("others.x", event).await;
    mill.event("e-1", "order.created", json!({ "reject": true })).await;
    trouble(&worker, "subject till.ask").await;
    trouble(&worker, "subject ops.alerts").await;
    reload(&mill.server, &config(&[], &[])).await;
    let next = futures_util::StreamExt::next(&mut heard);
    tokio::time::timeout(crate::support::DEADLINE, next).await.unwrap().unwrap();
    mill.idle("beside").await;
    let world = World { mill, calls, worker };
    world.well().await;
    assert_eq!(world.mill.letters().await.len(), 1, "that of the event that was rejected");
    world.close().await;
}

#[tokio::test]
async fn whatever_is_refused_is_named_the_worker_lives_and_goes_on_once_it_is_granted() {
    // Subject denied, and the condition that names it.
    let table = [
        ("shop.failed.>", "subject shop.failed.work.>"),
        ("$JS.API.STREAM.MSG.GET.>", "subject $JS.API.STREAM.MSG.GET.shop-state"),
        ("$JS.API.CONSUMER.INFO.>", "subject $JS.API.CONSUMER.INFO.shop-in-events.>"),
        (
            "$JS.API.CONSUMER.MSG.NEXT.shop-advisories.>",
            "subject $JS.API.CONSUMER.MSG.NEXT.shop-advisories.>",
        ),
        ("$JS.API.STREAM.INFO.>", "subject $JS.API.STREAM.INFO.shop-workers"),
        ("$JS.API.STREAM.LIST", "subject $JS.API.STREAM.LIST"),
    ];
    let world = World::start().await;
    for (n, (deny, condition)) in table.into_iter().enumerate() {
        world.refuse(&[deny], &[]).await;
        let event = json!({ "reject": true });
        world.mill.event(&format!("bad-{n}"), "order.created", event).await;
        let named = async || {
            let failed = world.worker.conditions().failed();
            let prefix = condition.rsplit_once('.').map_or(condition, |(prefix, _)| prefix);
            let found = failed.into_iter().find(|(name, _)| name.starts_with(prefix));
            found.and_then(|(_, condition)| condition.trouble)
        };
        let told = eventually(named).await;
        assert!(told.remedy.unwrap().starts_with("grant publish on"), "{deny}");
        // The other stage needs none of it to go on.
        world.other(&format!("o-{n}")).await;
        let what = format!("beside o-{n}");
        eventually(async || (world.calls.of(&what) > 0).then_some(())).await;
        world.grant().await;
        world.mill.messages("shop-dlq", n + 1).await;
        world.works(&format!("after-{n}")).await;
    }
    world.well().await;
    assert_eq!(world.mill.letters().await.len(), table.len(), "one each");
    world.close().await;
}

#[tokio::test]
async fn refused_keys_are_told_and_the_stages_work_on() {
    let world = World::start().await;
    world.refuse(&["$KV.shop-workers.>", "$KV.shop-state.>"], &[]).await;
    for bucket in ["shop-workers", "shop-state"] {
        let told = trouble(&world.worker, &format!("subject $KV.{bucket}.>")).await;
        assert!(told.remedy.unwrap().contains("to the user of [nats]"));
    }
    world.works("meanwhile").await;
    world.grant().await;
    world.well().await;
    world.works("after").await;
    world.close().await;
}

#[tokio::test]
async fn refused_answers_are_told_and_come_again_once_granted() {
    let world = World::start().await;
    world.refuse(&[], &["_INBOX.>"]).await;
    let told = trouble(&world.worker, "subject _INBOX.>").await;
    assert_eq!(told.remedy.unwrap(), "grant subscribe on \"_INBOX.>\" to the user of [nats]");
    // Long enough that what was asked before is over, and asked again in vain.
    tokio::time::sleep(Duration::from_secs(12)).await;
    assert!(trouble_now(&world.worker, "subject _INBOX.>").is_some());
    world.grant().await;
    world.works("after").await;
    world.well().await;
    world.close().await;
}

#[tokio::test]
async fn a_user_that_is_taken_away_is_let_in_again_by_itself() {
    let world = World::start().await;
    let gone = config(&[], &[]).replace("user: worker, password: w", "user: other, password: o");
    reload(&world.mill.server, &gone).await;
    let told = trouble(&world.worker, "credentials").await;
    assert!(told.why.contains("Authorization Violation"), "{}", told.why);
    assert!(told.remedy.unwrap().contains("[nats]"));
    world.grant().await;
    world.works("after").await;
    eventually(async || trouble_now(&world.worker, "credentials").is_none().then_some(())).await;
    world.close().await;
}

#[tokio::test]
async fn a_worker_that_is_refused_at_its_start_waits_for_the_grant() {
    let server = TestServer::configured(&config(&["$JS.API.INFO"], &[])).await;
    let calls = Calls::default();
    let mill = Mill::still(server, PIPELINE, calls.registry()).await;
    let nats = Nats { auth: Auth::User("worker".into(), "w".into()), ..mill.server.nats() };
    let told = Mutex::new(Vec::new());
    let note =
        |error: &millstream::broker::ConnectError| told.lock().unwrap().push(error.to_string());
    let connecting = Broker::connect_patiently(&nats, "worker", note);
    let granted = async {
        eventually(async || (!told.lock().unwrap().is_empty()).then_some(())).await;
        reload(&mill.server, &config(&[], &[])).await;
    };
    let (broker, ()) = tokio::join!(connecting, granted);
    assert!(told.lock().unwrap()[0].contains("publish on \"$JS.API.INFO\": grant it"));
    let options = Options { stages: None, registry: calls.registry() };
    let worker = Worker::start(broker.unwrap(), Arc::clone(&mill.pipeline), options).await.unwrap();
    World { mill, calls, worker }.close().await;
}

#[tokio::test]
async fn a_redrive_that_may_not_remove_letters_sends_none_and_ends_after_one_try() {
    for right in ["$JS.API.STREAM.MSG.DELETE.shop-dlq", "$JS.API.STREAM.PURGE.shop-dlq"] {
        let world = World::start().await;
        for n in 0..30 {
            world.mill.event(&format!("e-{n}"), "order.created", json!({ "reject": true })).await;
        }
        world.mill.messages("shop-dlq", 30).await;
        world.calls.1.store(true, Ordering::SeqCst);
        world.refuse(&[right], &[]).await;
        let runs = || world.calls.0.lock().unwrap().len();
        let before = runs();
        let jobs = Jobs::new(&world.mill.broker, &world.mill.names);
        let redrive = async || {
            let now = std::time::SystemTime::now();
            let last = world.mill.broker.stream_state("shop-dlq").await.unwrap().last_seq;
            let filter = LetterFilter { stage: Some("work".into()), ..LetterFilter::default() };
            let job = Job::new(job::new_id('r', now), Kind::Redrive, filter, last, "me", now);
            jobs.create(&job).await.unwrap().unwrap();
            let id = job.id;
            eventually(async || {
                jobs.get(&id).await.ok().map(|(job, _)| job).filter(|job| !job.is_open())
            })
            .await
        };
        // The server may not have read it yet: a redrive of nothing that is there tells.
        let denied = async || {
            let nats =
                Nats { auth: Auth::User("worker".into(), "w".into()), ..world.mill.server.nats() };
            let broker = Broker::connect(&nats, "test").await.unwrap();
            let purged = broker.purge_up_to("shop-dlq", "shop.dlq.-.>", 1).await.is_err();
            let deleted = broker.delete_message("shop-dlq", 0).await.is_err();
            (purged || deleted).then_some(())
        };
        eventually(denied).await;
        let ended = redrive().await;
        let why = ended.why.unwrap_or_default();
        assert_eq!(ended.state, State::Failed, "{why}");
        assert!(why.contains(&format!("publish on \"{right}\": grant it to the user")), "{why}");
        assert_eq!((runs(), world.mill.letters().await.len()), (before, 30), "{right}");
        world.grant().await;
        eventually(async || denied().await.is_none().then_some(())).await;
        let ended = redrive().await;
        assert_eq!((ended.state, ended.counts.redriven), (State::Done, 30));
        eventually(async || (runs() == before + 30).then_some(())).await;
        assert!(world.mill.letters().await.is_empty());
        world.close().await;
    }
}

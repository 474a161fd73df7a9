//! Upgrade: a store that an older Millstream left (see `make.py`), opened by this one.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::{
    crash::fleet::Fleet,
    support::{TestServer, eventually},
};

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/upgrade")
}

/// Calls of the service: event and attempt of each that was accepted, and notifications.
#[derive(Default)]
struct Calls {
    accepted: Mutex<Vec<(String, u32)>>,
    alerts: Mutex<Vec<String>>,
    /// True while the service refuses what it refused the older Millstream.
    refuses: AtomicBool,
}

impl Calls {
    /// Attempts at which an event was accepted.
    fn of(&self, id: &str) -> Vec<u32> {
        let accepted = self.accepted.lock().unwrap();
        accepted.iter().filter(|(event, _)| event == id).map(|(_, attempt)| *attempt).collect()
    }
}

async fn event(State(calls): State<Arc<Calls>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers[name].to_str().unwrap().to_owned();
    let body: Value = serde_json::from_slice(&body).unwrap();
    let note = body["eventData"]["note"].as_str().unwrap();
    if calls.refuses.load(Ordering::SeqCst) && ["refused", "broken"].contains(&note) {
        return StatusCode::UNPROCESSABLE_ENTITY;
    }
    let attempt = header("millstream-attempt").parse().unwrap();
    calls.accepted.lock().unwrap().push((header("millstream-event-id"), attempt));
    StatusCode::NO_CONTENT
}

async fn alert(State(calls): State<Arc<Calls>>, body: Bytes) -> StatusCode {
    calls.alerts.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
    StatusCode::NO_CONTENT
}

/// Older Millstream's store on a server, after `apply` by this one.
struct Old {
    ledger: Value,
    fleet: Fleet,
    calls: Arc<Calls>,
    service: JoinHandle<()>,
    server: TestServer,
}

impl Old {
    async fn open() -> Self {
        let data = TempDir::new().unwrap();
        let mut tar = Command::new("tar");
        tar.arg("xzf").arg(folder().join("store.tar.gz")).arg("-C").arg(data.path());
        assert!(tar.status().unwrap().success(), "tar could not unpack the store");
        let server = TestServer::on(data).await;

        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let at = format!("http://{}", listener.local_addr().unwrap());
        let calls = Arc::new(Calls::default());
        let routes = Router::new()
            .route("/orders", post(event))
            .route("/stock", post(event))
            .route("/alerts", post(alert))
            .with_state(Arc::clone(&calls));
        let service = tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() });

        let pipeline = fs::read_to_string(folder().join("pipeline.toml")).unwrap();
        let set = [
            ("nats.url", server.server.url().to_owned()),
            ("stage.orders.handler.http", format!("{at}/orders")),
            ("stage.stock.handler.http", format!("{at}/stock")),
            ("channel.hook.url", format!("{at}/alerts")),
        ];
        let fleet = Fleet::of(&pipeline, &set);
        let schemas = fleet.folder.path().join("schemas");
        fs::create_dir(&schemas).unwrap();
        for schema in fs::read_dir(folder().join("schemas")).unwrap() {
            let schema = schema.unwrap();
            fs::copy(schema.path(), schemas.join(schema.file_name())).unwrap();
        }
        let text = fs::read_to_string(folder().join("ledger.json")).unwrap();
        let ledger: Value = serde_json::from_str(&text).unwrap();
        let old = Self { ledger, fleet, calls, service, server };
        println!("left by {}", old.ledger["made_by"]);
        println!("{}", old.say("plan", &[], &[0, 1]));
        println!("{}", old.say("apply", &[], &[0]));
        let again = old.say("plan", &[], &[0]);
        println!("and then: {again}");
        old
    }

    fn work(&mut self) {
        self.fleet.start();
        self.fleet.start();
    }

    /// Output of a command that must end in one of these.
    fn say(&self, command: &str, args: &[&str], status: &[i32]) -> String {
        let (ended, said) = self.fleet.run(command, args);
        assert!(status.contains(&ended), "{command} {args:?} ended in {ended}: {said}");
        said
    }

    /// JSON lines of its output.
    fn lines(&self, command: &str, args: &[&str]) -> Vec<Value> {
        let said = self.say(command, args, &[0, 1]);
        said.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Stage, reason and event of every letter, by its number.
    fn letters(&self) -> BTreeMap<u64, Value> {
        let all = self.lines("dlq", &["export"]).into_iter().map(|line| line["letter"].clone());
        all.map(|letter| (letter["seq"].as_u64().unwrap(), short(&letter))).collect()
    }

    /// Count of each incident, by its id, those that are over included.
    fn incidents(&self) -> BTreeMap<String, u64> {
        let all = self.lines("incidents", &["ls", "--all", "--since", "87600h", "--json"]);
        let count = |one: &Value| one["count"].as_u64().unwrap();
        all.iter().map(|one| (text(&one["incidentId"]), count(one))).collect()
    }

    fn recorded(&self, what: &str) -> Vec<String> {
        self.ledger[what].as_array().unwrap().iter().map(text).collect()
    }

    /// Id of the incident of a code.
    fn incident(&self, code: &str) -> String {
        let all = self.ledger["incidents"].as_object().unwrap();
        all.iter().find(|(_, one)| one["code"] == code).unwrap().0.clone()
    }
}

impl Drop for Old {
    fn drop(&mut self) {
        self.service.abort();
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

fn short(letter: &Value) -> Value {
    json!([letter["stage"], letter["reason"], letter["eventId"]])
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_an_older_version_left_under_way_end_once() {
    let mut old = Old::open().await;
    let letters = old.letters();
    let ids = old.recorded("under_way");
    old.work();
    for id in &ids {
        eventually(async || (!old.calls.of(id).is_empty()).then_some(())).await;
    }
    // What is on record as failed is an attempt that was spent.
    for id in ids.iter().filter(|id| id.starts_with("parked") || id.starts_with("waiting")) {
        assert_eq!(old.calls.of(id), [2], "attempts of {id}");
    }
    let client = async_nats::connect(old.server.server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    eventually(async || {
        let retry = jetstream.get_stream("old-retry").await.unwrap();
        (retry.cached_info().state.messages == 0).then_some(())
    })
    .await;
    for id in ids.iter().chain(&old.recorded("done")) {
        let times = old.calls.of(id).len();
        assert!(times == usize::from(ids.contains(id)), "{id} was handled {times} times");
    }
    assert_eq!(old.letters(), letters, "letters before and after");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_an_older_version_are_listed_shown_edited_and_redriven() {
    let mut old = Old::open().await;
    let recorded = old.ledger["letters"].as_array().unwrap();
    let recorded: BTreeMap<u64, Value> =
        recorded.iter().map(|one| (one["seq"].as_u64().unwrap(), short(one))).collect();
    assert_eq!(old.letters(), recorded);

    let show = |letter: &str| -> Value {
        let said = old.say("dlq", &["show", letter, "--json"], &[0]);
        let json = &said[said.find('{').unwrap()..=said.rfind('}').unwrap()];
        serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {said}"))
    };
    let edited = show(&old.ledger["edited"].to_string());
    assert_eq!(edited["payload"]["eventData"]["amount"], 6);
    assert_eq!(edited["original"]["eventData"]["amount"], 5);
    let apart = show(&old.ledger["apart"].to_string());
    assert!(apart["payload"]["eventData"]["text"].as_str().unwrap().len() > 1_000_000);
    assert_eq!(apart["letter"]["apart"], true);
    let attempts = edited["history"]["attempts"].as_array().unwrap();
    assert!(!attempts.is_empty(), "its failures are not found: {edited:#}");

    let find = |id: &str| {
        let letters = old.letters();
        letters.iter().find(|(_, one)| one[2] == id).map(|(seq, _)| seq.to_string())
    };
    let set = ["--set", "eventData.note=fine"];
    let edit = ["edit", &find("refused-2").unwrap(), set[0], set[1]];
    let edit = old.fleet.run_plain("dlq", &edit);
    assert_eq!(edit.0, 0, "{}", edit.1);
    let now = show(&find("refused-2").unwrap());
    assert_eq!(now["payload"]["eventData"]["note"], "fine", "{now:#}");

    let of_orders: Vec<String> =
        old.letters().values().filter(|one| one[0] == "orders").map(|one| text(&one[2])).collect();
    let said = old.say("dlq", &["redrive", "--stage", "orders", "--yes"], &[0]);
    assert!(said.contains(&format!("redrove {} letters", of_orders.len())), "{said}");
    old.work();
    for id in &of_orders {
        eventually(async || (!old.calls.of(id).is_empty()).then_some(())).await;
    }
    eventually(async || (old.letters().len() == recorded.len() - of_orders.len()).then_some(()))
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn incidents_and_silences_of_an_older_version_go_on_without_counting_twice() {
    let mut old = Old::open().await;
    let recorded = old.ledger["incidents"].as_object().unwrap();
    let recorded: BTreeMap<String, u64> =
        recorded.iter().map(|(id, one)| (id.clone(), one["count"].as_u64().unwrap())).collect();
    assert_eq!(old.incidents(), recorded);
    old.work();
    let open = old.incident("OPEN");
    let client = async_nats::connect(old.server.server.url()).await.unwrap();
    let jetstream = async_nats::jetstream::new(client);
    let report = |code: &str, message: &str| {
        json!({ "errorCode": code, "serviceName": "till", "message": message }).to_string()
    };
    for body in [report("OPEN", "it is broken"), report("NEW", "it is broken, too")] {
        jetstream.publish("errors.till", body.into()).await.unwrap().await.unwrap();
    }
    let counted = || old.incidents().get(&open).copied();
    eventually(async || (counted() > Some(recorded[&open])).then_some(())).await;
    // Told of the new one, and not of the silenced one; by then both have been taken in.
    let told = |code: &str| old.calls.alerts.lock().unwrap().iter().any(|one| one.contains(code));
    eventually(async || told("\"NEW\"").then_some(())).await;
    assert!(!told("\"OPEN\""), "a silenced incident was told");
    let now = old.incidents();
    // Events that were waiting for a retry are accepted, so that nothing but the report is new.
    for (id, count) in recorded.iter().filter(|(id, _)| old.incident("OVER") != **id) {
        let more = u64::from(*id == open);
        assert_eq!(now.get(id), Some(&(count + more)), "errors of {id}: {now:?}");
    }
    let known = old.say("incidents", &["show", &old.incident("KNOWN")], &[0, 1]);
    assert!(known.contains("ada"), "{known}");
    let silences = old.lines("silence", &["ls", "--json"]);
    assert_eq!(
        silences.iter().map(|one| text(&one["id"])).collect::<Vec<_>>(),
        old.recorded("silences")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_of_an_older_version_are_known_and_can_be_resumed() {
    let mut old = Old::open().await;
    let states = || -> BTreeMap<String, String> {
        let all = old.lines("dlq", &["jobs", "ls", "--json"]);
        all.iter().map(|job| (text(&job["id"]), text(&job["state"]))).collect()
    };
    let recorded = old.ledger["jobs"].as_object().unwrap();
    let recorded: BTreeMap<String, String> =
        recorded.iter().map(|(id, state)| (id.clone(), text(state))).collect();
    assert_eq!(states(), recorded);
    let stopped = recorded.iter().find(|(_, state)| *state == "stopped").unwrap().0;
    let show = old.say("dlq", &["jobs", "show", stopped], &[0, 1]);
    assert!(show.contains("canary"), "{show}");

    old.say("dlq", &["jobs", "resume", stopped, "--detach"], &[0]);
    let letters = old.letters().len();
    old.work();
    let state = || {
        old.lines("dlq", &["jobs", "ls", "--json"])
            .into_iter()
            .find(|job| job["id"] == stopped.as_str())
            .map(|job| text(&job["state"]))
    };
    eventually(async || (state().as_deref() == Some("done")).then_some(())).await;
    // It goes on behind its canary.
    let rest = || (1..=3).any(|n| !old.calls.of(&format!("broken-{n}")).is_empty());
    eventually(async || rest().then_some(())).await;
    eventually(async || (old.letters().len() < letters).then_some(())).await;
}

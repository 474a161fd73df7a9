//! Alerting: the way from an error to a notification, with the built program, as a user goes about
//! it.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use axum::{Router, body::Bytes, extract::State, routing::post};
use expect_test::expect;
use millstream::{
    broker::{Broker, Outgoing},
    stages::incident::Incident,
    wire::Names,
};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    reaper::{Reaped, Start as _},
    shell::Shell,
    support::{Mill, TestServer, eventually, scanned},
};

/// Receiver of webhooks that keeps what it was sent.
struct Hook {
    address: String,
    seen: Arc<Mutex<Vec<Value>>>,
}

impl Hook {
    async fn start() -> Self {
        type Seen = Arc<Mutex<Vec<Value>>>;
        async fn take(State(seen): State<Seen>, body: Bytes) {
            seen.lock().unwrap().push(serde_json::from_slice(&body).unwrap());
        }
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, seen) = (listener.local_addr().unwrap().to_string(), Seen::default());
        let routes = Router::new().route("/hook", post(take)).with_state(Arc::clone(&seen));
        tokio::spawn(async move { axum::serve(listener, routes).await });
        Self { address, seen }
    }

    fn titles(&self) -> Vec<String> {
        self.seen
            .lock()
            .unwrap()
            .iter()
            .map(|sent| sent["title"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Bodies that it was sent, once there are `count`.
    async fn sent(&self, count: usize) -> Vec<String> {
        eventually(async || Some(self.titles()).filter(|titles| titles.len() >= count)).await
    }
}

fn shop(address: &str) -> String {
    format!(
        r#"
[pipeline]
name = "shop"

[source.errors]
subjects = ["errors.>"]
envelope = "error"

[stage.errors]
kind = "aggregate-errors"
inputs = ["source.errors"]
threshold = 100

[[stage.errors.rule]]
code = ["PAYMENT_*"]
severity = "critical"
threshold = 3
window = "10m"

[stage.alerts]
kind = "alert"
inputs = ["errors"]
channels = ["log"]
group_interval = "1s"

[[stage.alerts.route]]
matchers = ['severity="critical"']
channels = ["chat"]

[channel.chat]
kind = "webhook"
url = "http://{address}/hook"
allow_private = true
title = "{{{{ severity | upper }}}} {{% if incident %}}{{{{ incident.code }}}}{{% endif %}} {{{{ why }}}}"
"#
    )
}

async fn error(broker: &Broker, code: &str, message: &str) {
    let body = json!({
        "errorCode": code,
        "serviceName": "till",
        "message": message,
        "severity": "high",
        "userId": "u-1",
    });
    broker.publish(Outgoing::new("errors.till", body.to_string())).await.unwrap();
}

/// Line of a table without the times and ids that differ from run to run, columns one blank apart.
fn stable(shell: &Shell, line: &str) -> String {
    let is_id = |word: &str| word.len() == 8 && word.chars().all(|c| c.is_ascii_hexdigit());
    let words = line
        .split_whitespace()
        .map(|word| if is_id(word) { "…".to_owned() } else { shell.stable(word) });
    words.collect::<Vec<_>>().join(" ")
}

/// Worker that is killed when it is dropped.
fn worker(shell: &Shell) -> Reaped<Child> {
    shell.command("run --log info").start()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rule_and_a_channel_are_tried_simulated_and_seen_to_fire() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let shell = Shell::new(&shop(&hook.address), server.server.url());
    let broker = server.connect().await;
    assert_eq!(shell.run("apply").await.code, 0);

    // The channel, before anything is wrong.
    let test = shell.run("alert test chat").await;
    assert_eq!(test.code, 0, "{}{}", test.out, test.err);
    assert_eq!(hook.sent(1).await, ["HIGH MILLSTREAM_TEST test"]);
    shell
        .check(
            "alert route severity=critical code=PAYMENT_DOWN service=till",
            expect![[r#"
                exit 0
                out: stage "alerts"
                out:   ✓ root
                out:     ✓ route 0  severity="critical"  <- takes it
                out: route 0 sends it to
                out:   channels   chat
                out:   grouped    by fingerprint
                out:   told       first after 0s, news every 1s, again every 4h
            "#]],
        )
        .await;

    // No worker runs yet: what would be sent is known from what is stored.
    for n in 0..3 {
        error(&broker, "PAYMENT_DOWN", &format!("no answer from the gateway in {n} ms")).await;
    }
    let simulated = shell.run("alert simulate --since 1h --json").await;
    assert_eq!(simulated.code, 0, "{}", simulated.err);
    let told: Value = serde_json::from_str(simulated.out.trim()).unwrap();
    assert_eq!(
        (&told["channel"], &told["why"], &told["severity"]),
        (&json!("chat"), &json!("opened"), &json!("critical"))
    );
    assert_eq!(shell.run("incidents ls").await.out, "no incidents\n");
    assert_eq!(hook.titles().len(), 1, "a simulation sends nothing");

    // And it fires.
    let running = worker(&shell);
    assert_eq!(hook.sent(2).await[1], "CRITICAL PAYMENT_DOWN opened");
    let listed = eventually(async || {
        Some(shell.run("incidents ls --json").await).filter(|ran| ran.code == 1)
    })
    .await;
    let incident: Value = serde_json::from_str(listed.out.trim()).unwrap();
    assert_eq!(
        (&incident["count"], &incident["users"], &incident["services"]),
        (&json!(3), &json!(1), &json!(["till"]))
    );
    let id = incident["incidentId"].as_str().unwrap().to_owned();

    // Someone takes it on, and says when it is over.
    let acked = shell.run(&format!("incidents ack {} --by ada", &id[..8])).await;
    assert_eq!(
        (acked.code, acked.out),
        (0, format!("{}-1 acknowledged by ada\n", &id[..8])),
        "{}",
        acked.err
    );
    let shown = shell.run(&format!("incidents show {}", &id[..8])).await.out;
    for part in [
        "ack by ada",
        "opened",
        "acknowledged",
        "no answer from the gateway in <n>",
        "3, of 3 ever",
    ] {
        assert!(shown.contains(part), "no {part:?} in\n{shown}");
    }
    let resolved = shell.run(&format!("incidents resolve {id} --by ada --reason mended")).await;
    assert_eq!(resolved.code, 0, "{}", resolved.err);
    assert_eq!(hook.sent(3).await[2], "CRITICAL PAYMENT_DOWN resolved");
    assert_eq!(shell.run("incidents ls").await.out, "no incidents\n");
    let over = shell.run("incidents ls --all --json").await.out;
    assert_eq!(serde_json::from_str::<Value>(over.trim()).unwrap()["resolvedBy"]["by"], "ada");

    // It comes back, and is notified as that.
    for _ in 0..3 {
        error(&broker, "PAYMENT_DOWN", "no answer from the gateway in 1 ms").await;
    }
    assert_eq!(hook.sent(4).await[3], "CRITICAL PAYMENT_DOWN reopened");
    drop(running);
}

#[tokio::test]
async fn a_simulation_lists_what_would_be_held_back_and_why() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let shell = Shell::new(&shop(&hook.address), server.server.url());
    let broker = server.connect().await;
    assert_eq!(shell.run("apply").await.code, 0);
    let made =
        shell.run("silence add code=PAYMENT_DOWN --for 1h --reason deploy --by ada --json").await;
    assert_eq!(made.code, 0, "{}", made.err);
    let id = serde_json::from_str::<Value>(&made.out).unwrap()["silence"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for code in ["PAYMENT_SLOW", "PAYMENT_DOWN", "OTHER"] {
        for _ in 0..3 {
            error(&broker, code, "no answer").await;
        }
    }
    let told = shell.run("alert simulate --since 1h --held").await;
    assert_eq!((told.code, told.err.as_str()), (0, ""));
    let lines: Vec<String> =
        told.out.lines().map(|line| stable(&shell, line).replace(&id, "ID")).collect();
    expect![[r#"
        AT CHANNEL WHY TITLE
        … chat opened [critical] PAYMENT_SLOW opened: 3 errors in till

        AT CHANNEL HELD BACK INCIDENT EVENT CODE BECAUSE
        … chat silenced … opened PAYMENT_DOWN silence ID by ada: deploy

        … to … in pipeline "shop": 9 errors
        2 incidents began, 2 changes in all
        chat: 1 notification; held back: 1 silenced
    "#]]
    .assert_eq(&(lines.join("\n") + "\n"));
    let elsewhere = shell.run("alert simulate --since 1h --held --channel log").await.out;
    assert!(elsewhere.contains("nothing would have been sent"), "{elsewhere}");
    let before = shell.run("alert simulate --since 2h --until 1h --held").await.out;
    assert!(
        before.contains(": 0 errors\n") && before.contains("nothing would have been sent"),
        "{before}"
    );
    assert!(hook.titles().is_empty(), "a simulation sends nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_silence_holds_back_is_counted_and_told_when_it_ends() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let shell = Shell::new(&shop(&hook.address), server.server.url());
    let broker = server.connect().await;
    assert_eq!(shell.run("apply").await.code, 0);
    let made =
        shell.run("silence add code=~PAYMENT_.* --for 1h --reason deploy --by ada --json").await;
    assert_eq!(made.code, 0, "{}", made.err);
    let id = serde_json::from_str::<Value>(&made.out).unwrap()["silence"]["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let running = worker(&shell);
    for _ in 0..3 {
        error(&broker, "PAYMENT_DOWN", "no answer").await;
    }
    eventually(async || Some(shell.run("incidents ls").await).filter(|ran| ran.code == 1)).await;
    let held = eventually(async || {
        let status: Value = serde_json::from_str(&shell.run("status --json").await.out).ok()?;
        Some(status["alerting"].clone())
            .filter(|alerting| alerting["channels"]["chat"]["held"]["silenced"] == 1)
    })
    .await;
    assert_eq!((&held["open"]["critical"], &held["silences"]), (&json!(1), &json!(1)));
    assert!(hook.titles().is_empty());
    let listed = shell.run("silence ls").await;
    assert_eq!(listed.code, 1);
    assert!(
        listed.out.contains(&id)
            && listed.out.contains("code=~\"PAYMENT_.*\"")
            && listed.out.contains("deploy")
    );
    assert_eq!(shell.run(&format!("silence rm {id}")).await.code, 0);
    assert_eq!(shell.run("silence ls").await.code, 0);
    assert_eq!(hook.sent(1).await, ["CRITICAL PAYMENT_DOWN opened"]);
    drop(running);
}

#[tokio::test]
async fn what_is_said_while_no_worker_runs_holds_as_soon_as_one_does() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let shell = Shell::new(&shop(&hook.address), server.server.url());
    let broker = server.connect().await;
    assert_eq!(shell.run("apply").await.code, 0);
    let first = worker(&shell);
    for _ in 0..3 {
        error(&broker, "PAYMENT_DOWN", "no answer").await;
    }
    hook.sent(1).await;
    eventually(async || Some(shell.run("incidents ls").await).filter(|ran| ran.code == 1)).await;
    drop(first);
    let listed = shell.run("incidents ls --json").await.out;
    let id = serde_json::from_str::<Value>(&listed).unwrap()["incidentId"].clone();
    let said = shell.run(&format!("incidents ack {} --by ada", id.as_str().unwrap())).await;
    assert_eq!(said.code, 0, "{}", said.err);
    assert!(said.out.contains("none has taken it in yet"), "{}", said.out);
    let second = worker(&shell);
    eventually(async || {
        let line: Value = serde_json::from_str(&shell.run("incidents ls --json").await.out).ok()?;
        (line["acknowledged"]["by"] == "ada").then_some(())
    })
    .await;
    let wrong = shell.run("incidents ack ffffffff").await;
    assert_eq!(wrong.code, 2);
    assert!(wrong.err.contains("no incident that goes on is \"ffffffff\""), "{}", wrong.err);
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn when_the_worker_that_alerts_is_killed_another_goes_on_within_five_seconds() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let shell = Shell::new(&shop(&hook.address), server.server.url());
    let broker = server.connect().await;
    assert_eq!(shell.run("apply").await.code, 0);
    let (mut first, names) = (worker(&shell), Names::new("shop"));
    for _ in 0..3 {
        error(&broker, "PAYMENT_ONE", "no answer").await;
    }
    hook.sent(1).await;
    let second = worker(&shell);
    // Both are there before one goes.
    eventually(async || {
        let workers = broker.kv_entries(&names.workers_bucket(), "").await.ok()?;
        (workers.len() == 2).then_some(())
    })
    .await;
    first.kill().await.unwrap();
    let killed = Instant::now();
    for _ in 0..3 {
        error(&broker, "PAYMENT_TWO", "no answer").await;
    }
    assert_eq!(hook.sent(2).await[1], "CRITICAL PAYMENT_TWO opened");
    let took = killed.elapsed();
    println!("taken over in {took:?}");
    // Three stages change hands, one after another: errors, alerts, channels. Each waits for its
    // own lease, at the same time.
    assert!(took < Duration::from_secs(5), "{took:?}");
    drop(second);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_breaker_that_opens_is_a_finding_and_becomes_an_incident() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let nobody = listener.local_addr().unwrap();
    drop(listener);
    let mill = Mill::start(&format!(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = {{ http = "http://{nobody}/" }}
        breaker = {{ failures = 3, wait = "200ms", max_wait = "200ms" }}
        [stage.errors]
        kind = "aggregate-errors"
        inputs = ["monitor"]
        threshold = 1
        [stage.alerts]
        kind = "alert"
        inputs = ["errors"]
        "#
    ))
    .await;
    for n in 0..5 {
        mill.event(&format!("e{n}"), "order.created", json!({})).await;
    }
    let told = mill.messages(&mill.names.out_stream("errors"), 2).await;
    let incident: Incident = serde_json::from_slice(&told[0].body).unwrap();
    assert_eq!(
        (incident.code.as_str(), incident.services.as_slice()),
        ("BreakerOpened", &["shop/work".to_owned()][..])
    );
    assert_eq!(incident.labels.get("stage").map(String::as_str), Some("work"));
    // Probes that fail keep it alive.
    let last: Incident = serde_json::from_slice(&told[1].body).unwrap();
    assert_eq!((last.incident_id == incident.incident_id, last.count), (true, 2));
    let findings: Vec<_> = scanned(&mill.broker, &mill.names.failed_stream()).await;
    assert!(findings.iter().any(|message| message.subject == "shop.finding.BreakerOpened.work"));
}

#[tokio::test]
async fn a_malformed_error_is_a_dead_letter_and_the_next_one_is_counted() {
    let (server, hook) = (TestServer::start().await, Hook::start().await);
    let mill = Mill::still(server, &shop(&hook.address), Default::default()).await;
    mill.publish("errors.till", "not json").await;
    mill.publish("errors.till", r#"{"errorCode":"X","message":"no service"}"#).await;
    let mut mill = mill;
    mill.work().await;
    for _ in 0..3 {
        error(&mill.broker, "PAYMENT_DOWN", "no answer").await;
    }
    assert_eq!(hook.sent(1).await, ["CRITICAL PAYMENT_DOWN opened"]);
    let letters =
        eventually(async || Some(mill.letters().await).filter(|letters| letters.len() == 2)).await;
    let reasons: Vec<_> = letters
        .iter()
        .map(millstream::dead_letter::LetterRecord::of)
        .map(|l| (l.stage, l.reason))
        .collect();
    assert_eq!(reasons, vec![("errors".to_owned(), "undecodable".to_owned()); 2]);
}

#[tokio::test]
async fn every_channel_of_the_example_shows_what_it_would_send() {
    let path = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let example = path.join("pipeline.toml");
    let loaded = millstream::config::load(
        &example,
        &[],
        &[],
        &millstream::config::Catalogue::new(millstream::handlers::HandlerContext::default()),
    );
    let pipeline = loaded.pipeline.unwrap();
    assert!(pipeline.channels.len() >= 4);
    let shell = Shell::new("", "");
    for channel in &pipeline.channels {
        for about in ["firing", "resolved", "group", "digest", "test"] {
            let line = format!(
                "alert render {} --about {about} --config {}",
                channel.name,
                example.display()
            );
            let ran = shell.run(&line).await;
            assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{line}");
            assert!(ran.out.contains("MILLSTREAM_TEST"), "{line}:\n{}", ran.out);
        }
    }
    let unknown = shell.run(&format!("alert render emial --config {}", example.display())).await;
    assert_eq!(unknown.code, 2);
    assert!(
        unknown.err.contains("there is no channel \"emial\"")
            && unknown.err.contains("did you mean \"email\"")
    );
}

//! Clock: workers whose clock is minutes off, or jumps, beside a broker whose clock is right.

use std::{
    fs::{self, File},
    path::PathBuf,
    time::{Duration, SystemTime},
};

use millstream::{
    broker::{Broker, Outgoing, get},
    stages::headers,
};
use serde_json::{Value, json};
use tokio::process::Child;

use crate::{
    reaper::{Reaped, Start as _},
    shell::Shell,
    support::{Mill, TestServer, domain, eventually, python_package, scanned},
};

const PIPELINE: &str = r#"
[pipeline]
name = "shop"
[observe]
listen = "127.0.0.1:0"
[source.events]
subjects = ["events.>"]
[source.errors]
subjects = ["errors.>"]
envelope = "error"
[source.told]
subjects = ["told.>"]
[stage.orders]
kind = "handle"
inputs = ["source.events"]
handler = { http = "http://127.0.0.1:1" }
breaker = false
retry = "slow"
[retry.slow]
attempts = 3
backoff = { fixed = "2s" }
park_after = "500ms"
[stage.errors]
kind = "aggregate-errors"
inputs = ["source.errors"]
threshold = 1
quiet = "2m"
[stage.alerts]
kind = "alert"
inputs = ["errors"]
channels = ["subject"]
[channel.subject]
kind = "nats"
subject = "told.alerts"
"#;

/// Worker whose clock is what a file says.
struct Skewed {
    shell: Shell,
    /// Server, which outlives its worker.
    server: TestServer,
    broker: Broker,
    _worker: Reaped<Child>,
}

impl Skewed {
    /// Starts a worker whose clock is `offset` off, as `+10m`.
    async fn start(offset: &str) -> Self {
        let server = TestServer::start().await;
        let shell = Shell::new(PIPELINE, server.server.url());
        fs::write(shell.path().join("clock"), offset).unwrap();
        let log = File::create(shell.path().join("log")).unwrap();
        let mut command = shell.command("run --apply");
        command
            .env("LD_PRELOAD", libfaketime())
            .env("FAKETIME_TIMESTAMP_FILE", shell.path().join("clock"))
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("NO_COLOR", "1")
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        let worker = command.start();
        let broker = server.connect().await;
        let skewed = Self { shell, server, broker, _worker: worker };
        skewed.logged("working").await;
        skewed
    }

    /// Sets its clock while it runs.
    fn set(&self, offset: &str) {
        let clock = self.shell.path().join("clock");
        // As one: half of a file would be read as none.
        fs::write(clock.with_extension("new"), offset).unwrap();
        fs::rename(clock.with_extension("new"), clock).unwrap();
    }

    fn log(&self) -> String {
        fs::read_to_string(self.shell.path().join("log")).unwrap()
    }

    /// Line of its log with this text, once there is one.
    async fn logged(&self, text: &str) -> String {
        eventually(async || {
            let log = self.log();
            log.lines().find(|line| line.contains(text)).map(str::to_owned)
        })
        .await
    }

    async fn publish(&self, subject: &str, body: String) {
        self.broker.publish(Outgoing::new(subject, body)).await.unwrap();
    }

    async fn error(&self, code: &str) {
        let error = json!({
            "errorCode": code, "severity": "high", "serviceName": "till", "message": code,
        });
        self.publish("errors.till", error.to_string()).await;
    }

    /// Notifications so far: code and reason of each.
    async fn told(&self) -> Vec<(String, String)> {
        let told = scanned(&self.broker, "shop-in-told").await;
        let told = told.iter().map(|told| serde_json::from_slice::<Value>(&told.body).unwrap());
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        told.map(|told| (text(&told["incident"]["code"]), text(&told["why"]))).collect()
    }

    /// Failed attempts so far, by when the broker stored them.
    async fn attempts(&self) -> Vec<SystemTime> {
        let failed = scanned(&self.broker, "shop-failed").await;
        failed.iter().map(|failed| failed.stored_at).collect()
    }

    /// Answer of a path of its HTTP port.
    async fn get(&self, path: &str) -> (u16, String) {
        let line = self.logged("listening=").await;
        let address = line.split("listening=\"").nth(1).unwrap().split('"').next().unwrap();
        let answer = reqwest::get(format!("http://{address}{path}")).await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }
}

/// Library that shows a process another time than the host's: Debian's, or else Python's.
fn libfaketime() -> PathBuf {
    let debians = fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let mut debians = debians.map(|at| at.path().join("faketime/libfaketimeMT.so.1"));
    if let Some(library) = debians.find(|library| library.is_file()) {
        return library;
    }
    let package = python_package("libfaketime==3.0.1");
    let library = package.join("libfaketime/vendor/libfaketime/src/libfaketime.so.1");
    assert!(library.is_file(), "{} is not there: it is made for Linux", library.display());
    library
}

#[tokio::test]
async fn a_worker_whose_clock_is_behind_waits_as_long_as_was_asked() {
    waits_as_long_as_was_asked("-10m", "behind").await;
}

#[tokio::test]
async fn a_worker_whose_clock_is_ahead_waits_as_long_as_was_asked() {
    waits_as_long_as_was_asked("+10m", "ahead of").await;
}

async fn waits_as_long_as_was_asked(offset: &str, way: &str) {
    let skewed = Skewed::start(offset).await;
    skewed.publish("events.order", domain("e-1", "order", json!({}))).await;
    skewed.error("DB").await;
    let letters = eventually(async || {
        Some(scanned(&skewed.broker, "shop-dlq").await).filter(|letters| !letters.is_empty())
    })
    .await;
    let attempts = skewed.attempts().await;
    let waits: Vec<Duration> =
        attempts.windows(2).map(|two| two[1].duration_since(two[0]).unwrap()).collect();
    assert_eq!(waits.len(), 2, "{waits:?}");
    for wait in waits {
        assert!(wait >= Duration::from_millis(1900) && wait < Duration::from_secs(12), "{wait:?}");
    }
    // What is written for others to read goes by the broker's clock, too.
    let dead_at = get(&letters[0].headers, headers::DEAD_AT).unwrap();
    let dead_at = SystemTime::from(dead_at.parse::<jiff::Timestamp>().unwrap());
    let apart = letters[0].stored_at.duration_since(dead_at).unwrap_or_default();
    assert!(apart < Duration::from_secs(12) && dead_at < letters[0].stored_at + apart, "{apart:?}");
    assert_eq!(skewed.told().await, [("DB".to_owned(), "opened".to_owned())]);

    let said = skewed.logged(r#"condition="clock""#).await;
    assert!(said.contains(way) && said.contains("chrony"), "{said}");
    let (status, ready) = skewed.get("/readyz").await;
    let ready: Value = serde_json::from_str(&ready).unwrap();
    assert_eq!((status, &ready["missing"]), (200, &json!([])), "{ready}");
    assert_eq!(ready["harmless"][0]["what"], "clock", "{ready}");
    let (_, metrics) = skewed.get("/metrics").await;
    let skew = metrics.lines().find_map(|line| line.strip_prefix("millstream_clock_skew_seconds "));
    let skew: f64 = skew.unwrap().parse().unwrap();
    assert!((skew.abs() - 600.0).abs() < 2.0, "{skew}");
    drop(skewed.server);
}

#[tokio::test]
async fn a_clock_that_jumps_ahead_and_back_costs_no_attempt_and_holds_up_no_notification() {
    let skewed = Skewed::start("+0").await;
    skewed.error("FIRST").await;
    eventually(async || (skewed.told().await.len() == 1).then_some(())).await;
    skewed.publish("events.order", domain("e-1", "order", json!({}))).await;
    eventually(async || (skewed.attempts().await.len() == 1).then_some(())).await;
    skewed.set("+10m");
    skewed.logged("ahead of the broker's").await;
    skewed.error("AHEAD").await;
    eventually(async || (skewed.told().await.len() == 2).then_some(())).await;
    skewed.set("+0");
    skewed.logged("well again").await;
    skewed.error("BACK").await;
    eventually(async || (skewed.told().await.len() == 3).then_some(())).await;
    let told: Vec<String> = skewed.told().await.into_iter().map(|(code, _)| code).collect();
    assert_eq!(told, ["FIRST", "AHEAD", "BACK"]);
    let letters = eventually(async || {
        Some(scanned(&skewed.broker, "shop-dlq").await).filter(|letters| !letters.is_empty())
    })
    .await;
    assert_eq!(get(&letters[0].headers, headers::ATTEMPTS), Some("3"));
    let attempts = skewed.attempts().await;
    let spent = attempts[2].duration_since(attempts[0]).unwrap();
    assert!(spent >= Duration::from_millis(3800), "two waits took {spent:?}");
}

#[tokio::test]
async fn a_worker_knows_the_brokers_time_before_it_pulls_and_from_then_on() {
    let mill = Mill::start(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = { log = "info" }
        "#,
    )
    .await;
    let skew = mill.broker.clock().skew().expect("its own record was read back");
    assert!(skew.at_least().is_zero() || skew.by < Duration::from_millis(100), "{skew:?}");
    assert!(skew.error < Duration::from_secs(2), "{skew:?}");
    let other = mill.server.connect().await;
    assert!(other.clock().skew().is_none());
    let before = other.passed("KV_shop-state").await.unwrap();
    let stored = mill.publish("events.x", domain("e-1", "x", json!({}))).await;
    let message = other.message("shop-in-events", stored.seq).await.unwrap().unwrap();
    assert!(message.stored_at >= before, "what is stored later is later");
    assert!(other.passed("nowhere").await.is_ok(), "it is known, and fresh");
}

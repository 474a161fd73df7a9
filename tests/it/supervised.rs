//! Supervised: a panic in any task of a worker is counted and told, and its work goes on.

use std::time::{Duration, Instant};

use millstream::{
    handlers::{Registry, handler_fn},
    stages::Reply,
};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{Mill, eventually, trouble, trouble_now};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "work" }
    ack_wait = "2s"
    recover = { rate = "10/s", check = { tcp = "127.0.0.1:1", every = "1s" } }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["source.errors"]
    [[stage.errors.rule]]
    code = ["*"]
    severity = "critical"
    threshold = 1
    window = "5m"
    [stage.alerts]
    kind = "alert"
    inputs = ["errors"]
    channels = ["ops"]
    [channel.ops]
    kind = "websocket"
    listen = "127.0.0.1:0"
    token = "0123456789abcdef0123"
    [observe]
    listen = "127.0.0.1:0"
"#;

async fn mill() -> Mill {
    let work = handler_fn(|_, _| async { Ok(Reply::Pass) });
    Mill::with(PIPELINE, Registry::new().with("work", work)).await
}

/// Publishes an event and an error, and waits until both have gone through.
async fn works(mill: &Mill, n: usize) {
    mill.event(&format!("e-{n}"), "order.created", json!({})).await;
    let letter = char::from(b'a' + u8::try_from(n).unwrap());
    let report = json!({
        "errorCode": format!("DOWN_{letter}"), "severity": "critical", "message": "down",
        "serviceName": "till",
    });
    mill.publish("errors.till", report.to_string()).await;
    mill.idle("work").await;
    let notified = || {
        let all = mill.worker.as_ref().unwrap().metrics().snapshot();
        all.into_iter().find(|(name, _)| name == "notify-ops").map_or(0, |(_, stage)| stage.handled)
    };
    eventually(async || (notified() > n as u64).then_some(())).await;
}

#[tokio::test]
async fn each_task_that_panics_is_counted_and_told_and_everything_works_on() {
    let mut mill = mill().await;
    works(&mill, 0).await;
    let worker = mill.worker.as_ref().unwrap();
    let all = worker.conditions().all();
    let is_task = |name: &String| name.starts_with("task ") || name.starts_with("stage ");
    let tasks: Vec<String> = all.into_iter().map(|(name, _)| name).filter(is_task).collect();
    for task in [
        "stage alerts",
        "stage errors",
        "stage work",
        "task breakers",
        "task endpoint ops",
        "task hearing",
        "task heartbeat",
        "task keeper",
        "task lacks",
        "task notifications",
        "task observe",
        "task pulse",
        "task recovery",
        "task redrives",
        "task rights",
        "task router",
        "task sweep",
    ] {
        assert!(tasks.iter().any(|known| known == task), "no {task} in {tasks:?}");
    }
    for task in &tasks {
        assert!(worker.supervisor().want_panic(task));
        let told = trouble(worker, task).await;
        assert!(told.why.starts_with("it panicked: a test wanted this panic (at src/"), "{told:?}");
        assert!(told.remedy.unwrap().contains("report it"));
        let label = task.strip_prefix("task ").unwrap_or(task);
        let line = format!("millstream_task_panics_total{{task=\"{label}\"}} 1");
        assert!(worker.metrics().render().contains(&line), "{line}");
    }
    works(&mill, 1).await;
    let address = worker.listening.unwrap();
    let url = format!("http://{address}/readyz");
    let said = eventually(async || reqwest::get(&url).await.ok()?.text().await.ok()).await;
    assert!(said.contains("task router") && said.contains("a test wanted"), "{said}");
    // Each is well again after a while.
    for task in &tasks {
        eventually(async || trouble_now(worker, task).is_none().then_some(())).await;
    }
    // Who scrapes keeps the connection; that holds nothing up.
    let mut scraper = tokio::net::TcpStream::connect(address).await.unwrap();
    scraper.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
    assert!(scraper.read(&mut [0; 512]).await.unwrap() > 0);
    let told = Instant::now();
    mill.drain().await;
    assert!(told.elapsed() < Duration::from_secs(10), "{:?}", told.elapsed());
}

#[tokio::test]
async fn a_delivery_that_panics_is_told_holds_nothing_up_and_its_event_is_not_lost() {
    let mut mill = mill().await;
    works(&mill, 0).await;
    let worker = mill.worker.as_ref().unwrap();
    worker.supervisor().want_panic_in_work("stage work");
    mill.event("bad", "order.created", json!({})).await;
    trouble(worker, "stage work").await;
    for n in 1..100 {
        mill.event(&format!("good-{n}"), "order.created", json!({})).await;
    }
    mill.idle("work").await;
    let done = worker.metrics().snapshot().into_iter().find(|(name, _)| name == "work").unwrap().1;
    assert_eq!(done.handled, 101, "the one that panicked, too");
    assert!(mill.letters().await.is_empty());
    mill.drain().await;
}

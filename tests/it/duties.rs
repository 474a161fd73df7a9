//! Duties: done by whoever is there, whatever stages it runs, and told where nobody can.

use std::{fs, path::Path, sync::Arc, time::SystemTime};

use futures_util::StreamExt as _;
use millstream::{
    dead_letter::LetterFilter,
    handlers::{Registry, handler_fn},
    redrive::{
        job::{self, Job, Kind, State},
        store::Jobs,
    },
    stages::{Failure, Reply},
    worker::{Options, Worker},
};
use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};
use serde_json::json;

use crate::support::{Mill, TestServer, eventually, trouble, trouble_now};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [source.errors]
    subjects = ["errors.>"]
    envelope = "error"
    [retry.default]
    attempts = 1
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "work" }
    recover = { rate = "1000/s" }
    [stage.after]
    kind = "handle"
    inputs = ["work"]
    chain = true
    handler = { rust = "after" }
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
    kind = "nats"
    subject = "ops.alerts"
"#;

/// Handlers: `work` rejects an event the first time, where `eventData.reject` is set.
fn registry() -> Registry {
    let work = handler_fn(|event, _| async move {
        let is_new = event.json().unwrap()["eventData"]["reject"] == true;
        match is_new {
            true => Err(Failure::reject("Refused", "no")),
            false => Ok(Reply::Pass),
        }
    });
    let after = handler_fn(|_, _| async { Ok(Reply::Pass) });
    Registry::new().with("work", work).with("after", after)
}

async fn worker(mill: &Mill, stages: &[&str]) -> Worker {
    let stages = stages.iter().map(|stage| (*stage).to_owned()).collect();
    let options = Options { stages: Some(stages), registry: registry() };
    Worker::start(mill.broker.clone(), Arc::clone(&mill.pipeline), options).await.unwrap()
}

async fn error(mill: &Mill, code: &str) {
    let report = json!({
        "errorCode": code, "severity": "critical", "message": "down", "serviceName": "till",
    });
    mill.publish("errors.till", report.to_string()).await;
}

async fn listen(mill: &Mill) -> async_nats::Subscriber {
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let heard = client.subscribe("ops.alerts").await.unwrap();
    client.flush().await.unwrap();
    heard
}

async fn next(heard: &mut async_nats::Subscriber) -> String {
    let next = tokio::time::timeout(crate::support::DEADLINE, heard.next()).await;
    String::from_utf8(next.unwrap().unwrap().payload.to_vec()).unwrap()
}

#[tokio::test]
async fn workers_of_single_stages_send_notifications_redrive_and_recover() {
    let mill = Mill::still(TestServer::start().await, PIPELINE, registry()).await;
    let mut heard = listen(&mill).await;
    // A chained stage is run by asking for it, too: it runs in the one that it reads.
    let workers = [worker(&mill, &["after"]).await, worker(&mill, &["errors", "alerts"]).await];
    error(&mill, "DOWN").await;
    assert!(next(&mut heard).await.contains("DOWN"));

    mill.event("e-1", "order.created", json!({})).await;
    mill.idle("work").await;
    let chained = workers[0].metrics().snapshot().into_iter().find(|(name, _)| name == "after");
    assert_eq!(chained.unwrap().1.handled, 1);

    mill.event("e-2", "order.created", json!({ "reject": true })).await;
    mill.messages("shop-dlq", 1).await;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let now = SystemTime::now();
    let job = Job::new(
        job::new_id('r', now),
        Kind::Redrive,
        LetterFilter { stage: Some("work".into()), ..LetterFilter::default() },
        1,
        "me@here",
        now,
    );
    jobs.create(&job).await.unwrap();
    let ended = eventually(async || {
        jobs.get(&job.id).await.ok().map(|(job, _)| job).filter(|job| !job.is_open())
    })
    .await;
    assert_eq!((ended.state, ended.counts.redriven), (State::Done, 1));

    // It is rejected again, and its stage is up again after it was down.
    eventually(async || (mill.letters().await.len() == 1).then_some(())).await;
    for state in ["open", "closed"] {
        let value = json!({ "state": state, "reason": "503", "opens": 1 }).to_string();
        mill.broker.kv_put("shop-state", "breaker.work", value).await.unwrap();
        let key = "recovery.work.breaker";
        eventually(async || mill.broker.kv_get("shop-state", key).await.unwrap()).await;
    }
    eventually(async || {
        let jobs = jobs.list().await.unwrap();
        jobs.iter().any(|(job, _)| job.kind == Kind::Recover).then_some(())
    })
    .await;
    for worker in workers {
        worker.drain(std::future::pending()).await;
    }
}

/// Writes a certificate authority.
fn authority(path: &Path) {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    fs::write(path, params.self_signed(&key).unwrap().pem()).unwrap();
}

#[tokio::test]
async fn what_a_duty_lacks_on_one_host_is_left_to_others_and_told_where_nobody_has_it() {
    let folder = tempfile::TempDir::new().unwrap();
    let ca = folder.path().join("ca.pem");
    authority(&ca);
    let toml = format!(
        r#"{}
        [channel.mail]
        kind = "email"
        smtp = "127.0.0.1:1"
        allow_private = true
        ca = "{}"
        from = "a@example.com"
        to = ["b@example.com"]
        "#,
        PIPELINE.replace("channels = [\"ops\"]", "channels = [\"ops\", \"mail\"]"),
        ca.display()
    );
    let mill = Mill::still(TestServer::start().await, &toml, registry()).await;
    let mut heard = listen(&mill).await;
    let text = fs::read(&ca).unwrap();
    fs::remove_file(&ca).unwrap();
    let lacking = worker(&mill, &["work", "errors", "alerts"]).await;
    let told = trouble(&lacking, "duty notifications").await;
    assert!(told.why.contains("channel \"mail\": "), "{}", told.why);
    assert!(told.why.contains("ca.pem"), "{}", told.why);
    assert!(told.remedy.unwrap().contains("start a worker that has"));
    // What it can do, it does.
    error(&mill, "FIRST").await;
    assert!(next(&mut heard).await.contains("FIRST"));

    // Whoever has all of it is given the duty in time.
    fs::write(&ca, text).unwrap();
    let able = worker(&mill, &["work"]).await;
    lacking.supervisor().want_panic("task notifications");
    eventually(async || trouble_now(&lacking, "duty notifications").is_none().then_some(())).await;
    assert!(trouble_now(&able, "duty notifications").is_none());
    error(&mill, "SECOND").await;
    assert!(next(&mut heard).await.contains("SECOND"));
    let sent = able.metrics().snapshot().into_iter().find(|(name, _)| name == "notify-ops");
    assert_eq!(sent.unwrap().1.handled, 1);
    lacking.drain(std::future::ready(())).await;
    able.drain(std::future::ready(())).await;
}

//! Recovery: letters that go back by themselves when their stage is up again, or are marked
//! permanent.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use axum::{Router, http::StatusCode, routing::get};
use millstream::{
    dead_letter::LetterRecord,
    handlers::{Registry, handler_fn},
    redrive::{
        job::{Job, Kind, State},
        store::Jobs,
    },
    stages::{Failure, Reply},
};
use serde_json::json;

use crate::support::{Mill, TestServer, eventually};

fn pipeline(recover: &str) -> String {
    format!(
        r#"
        [pipeline]
        name = "shop"
        [source.events]
        subjects = ["events.>"]
        [retry.default]
        attempts = 1
        [stage.work]
        kind = "handle"
        inputs = ["source.events"]
        handler = {{ rust = "work" }}
        recover = {recover}
        "#
    )
}

/// Handler that fails with the class that the event asks for, until it is mended.
#[derive(Clone, Default)]
struct Service(Arc<AtomicBool>, Arc<Mutex<Vec<String>>>);

impl Service {
    fn registry(&self) -> Registry {
        let own = self.clone();
        let work = handler_fn(move |event, _| {
            let class = event.json().unwrap()["eventData"]["class"]
                .as_str()
                .unwrap_or("ConnectionError")
                .to_owned();
            let mended = own.0.load(Ordering::SeqCst);
            if mended {
                own.1.lock().unwrap().push(event.id.clone());
            }
            async move {
                if mended {
                    Ok(Reply::Pass)
                } else {
                    Err(Failure::reject(class, "the till is down"))
                }
            }
        });
        Registry::new().with("work", work)
    }

    fn mend(&self) {
        self.0.store(true, Ordering::SeqCst);
    }

    fn handled(&self) -> Vec<String> {
        let mut handled = self.1.lock().unwrap().clone();
        handled.sort();
        handled
    }
}

/// Writes the key of the breaker as the breaker does.
async fn breaker(mill: &Mill, state: &str) {
    let value = json!({ "state": state, "reason": "503 from the till", "opens": 1 }).to_string();
    mill.broker.kv_put("shop-state", "breaker.work", value).await.unwrap();
}

async fn recoveries(mill: &Mill) -> Vec<Job> {
    let jobs = Jobs::new(&mill.broker, &mill.names).list().await.unwrap();
    jobs.into_iter().map(|(job, _)| job).filter(|job| job.kind == Kind::Recover).collect()
}

async fn recovered(mill: &Mill, count: usize) -> Vec<Job> {
    eventually(async || {
        let jobs = recoveries(mill).await;
        (jobs.len() >= count && jobs.iter().all(|job| !job.is_open())).then_some(jobs)
    })
    .await
}

/// Letters as `<event>: <why it is permanent>`, sorted.
async fn letters(mill: &Mill) -> Vec<String> {
    let letters = mill.letters().await;
    let mut told: Vec<String> = letters
        .iter()
        .map(LetterRecord::of)
        .map(|letter| {
            format!("{}: {}", letter.event_id.unwrap(), letter.permanent.unwrap_or_default())
        })
        .collect();
    told.sort();
    told
}

#[tokio::test]
async fn a_breaker_that_closes_redrives_what_may_recover_and_marks_the_rest_once_over_the_fleet() {
    let service = Service::default();
    let toml = pipeline(r#"{ classes = ["Connection*"], rate = "1000/s" }"#);
    let mut mill = Mill::with(&toml, service.registry()).await;
    // A second worker of the fleet.
    let first = mill.worker.take().unwrap();
    mill.work().await;
    for (id, class) in
        [("a", "ConnectionError"), ("b", "ValidationError"), ("c", "ConnectionRefused")]
    {
        mill.event(id, "order.created", json!({ "class": class })).await;
    }
    mill.messages("shop-dlq", 3).await;
    // A breaker that is closed, and of which nobody knows that it was open, is no news.
    breaker(&mill, "closed").await;
    breaker(&mill, "open").await;
    eventually(async || mill.broker.kv_get("shop-state", "recovery.work.breaker").await.unwrap())
        .await;
    assert!(recoveries(&mill).await.is_empty());
    service.mend();
    breaker(&mill, "closed").await;
    let jobs = recovered(&mill, 1).await;
    assert_eq!((jobs.len(), jobs[0].state), (1, State::Done));
    assert_eq!((jobs[0].counts.redriven, jobs[0].counts.permanent), (2, 1));
    assert_eq!(jobs[0].created_by, "recovery of stage \"work\": its breaker closed");
    eventually(async || (service.handled() == ["a", "c"]).then_some(())).await;
    assert_eq!(letters(&mill).await, ["b: class ValidationError is not one that recovers"]);
    let text =
        [first.metrics().render(), mill.worker.as_ref().unwrap().metrics().render()].concat();
    for line in [
        r#"millstream_events_recovered_total{stage="work"} 2"#,
        r#"millstream_events_permanent_total{stage="work"} 1"#,
        r#"millstream_events_reprocessed_total{stage="work"} 2"#,
    ] {
        assert!(text.contains(line), "no {line} in {text}");
    }

    // Again: what is permanent is passed by, and a manual redrive may still send it.
    breaker(&mill, "open").await;
    let is_down = async || {
        let (value, _) =
            mill.broker.kv_get("shop-state", "recovery.work.breaker").await.unwrap()?;
        (!String::from_utf8(value.to_vec()).unwrap().contains("null")).then_some(())
    };
    eventually(is_down).await;
    breaker(&mill, "closed").await;
    let jobs = recovered(&mill, 2).await;
    assert_eq!((jobs.len(), jobs[1].counts.settled()), (2, 0));
    let letter = mill.letters().await.swap_remove(0);
    millstream::redrive::resend::redrive(&mill.broker, &mill.names, &letter).await.unwrap();
    eventually(async || (service.handled() == ["a", "b", "c"]).then_some(())).await;
    first.drain(std::future::pending()).await;
    mill.drain().await;
}

#[tokio::test]
async fn a_health_check_that_passes_again_redrives_even_if_the_worker_that_saw_it_fail_is_gone() {
    let up = Arc::new(AtomicBool::new(true));
    let (answer, listener) =
        (Arc::clone(&up), tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap());
    let address = listener.local_addr().unwrap();
    let health = move || {
        let up = answer.load(Ordering::SeqCst);
        async move { if up { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE } }
    };
    tokio::spawn(async move {
        axum::serve(listener, Router::new().route("/health", get(health))).await.unwrap()
    });
    let check = format!(
        r#"{{ rate = "1000/s", check = {{ http = "http://{address}/health", every = "100ms" }} }}"#
    );
    let service = Service::default();
    let mut mill = Mill::with(&pipeline(&check), service.registry()).await;
    mill.event("a", "order.created", json!({})).await;
    mill.next_dead_letter().await;
    // It passed all the time: there is nothing to recover from.
    eventually(async || mill.broker.kv_get("shop-state", "recovery.work.lease").await.unwrap())
        .await;
    assert!(mill.broker.kv_get("shop-state", "recovery.work.check").await.unwrap().is_none());
    up.store(false, Ordering::SeqCst);
    eventually(async || mill.broker.kv_get("shop-state", "recovery.work.check").await.unwrap())
        .await;
    mill.drain().await;
    assert!(recoveries(&mill).await.is_empty());
    service.mend();
    up.store(true, Ordering::SeqCst);
    mill.work().await;
    let jobs = recovered(&mill, 1).await;
    assert_eq!((jobs.len(), jobs[0].counts.redriven), (1, 1));
    assert_eq!(jobs[0].created_by, "recovery of stage \"work\": its health check passes");
    eventually(async || (service.handled() == ["a"]).then_some(())).await;
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn letters_of_tenants_that_are_not_active_or_too_old_or_redriven_too_often_become_permanent()
{
    let service = Service::default();
    let toml =
        pipeline(r#"{ rate = "1000/s", tenants = "tenants", max_age = "1h", max_redrives = 2 }"#);
    let mut mill = Mill::still(TestServer::start().await, &toml, service.registry()).await;
    mill.broker.create_stream(&crate::support::bucket("tenants")).await.unwrap();
    for (tenant, value) in
        [("on", "true"), ("json", r#"{"status":"active"}"#), ("off", r#"{"active":false}"#)]
    {
        mill.broker.kv_put("tenants", tenant, value).await.unwrap();
    }
    let now = millstream::wire::rfc3339(SystemTime::now());
    let old = millstream::wire::rfc3339(SystemTime::now() - Duration::from_secs(7200));
    for (n, (id, tenant, dead_at, redrives)) in [
        ("on", "on", &now, "0"),
        ("json", "json", &now, "1"),
        ("off", "off", &now, "0"),
        ("unknown", "nobody", &now, "0"),
        ("wild", "*", &now, "0"),
        ("none", "", &now, "0"),
        ("old", "on", &old, "0"),
        ("often", "on", &now, "2"),
    ]
    .into_iter()
    .enumerate()
    {
        let letter = millstream::broker::Outgoing::new(
            format!("shop.dlq.work.shop-in-events.{n}"),
            crate::support::domain(id, "order.created", json!({})),
        );
        let letter = letter
            .header("Millstream-Event-Id", id)
            .header("Millstream-Envelope", "domain")
            .header("Millstream-Event-Type", "order.created")
            .header("Millstream-Stage", "work")
            .header("Millstream-Dead-At", dead_at)
            .header("Millstream-Redrives", redrives);
        let letter =
            if tenant.is_empty() { letter } else { letter.header("Millstream-Tenant", tenant) };
        mill.broker.publish(letter).await.unwrap();
    }
    service.mend();
    breaker(&mill, "open").await;
    mill.work().await;
    eventually(async || mill.broker.kv_get("shop-state", "recovery.work.breaker").await.unwrap())
        .await;
    breaker(&mill, "closed").await;
    let jobs = recovered(&mill, 1).await;
    assert_eq!(
        (jobs[0].state, jobs[0].counts.redriven, jobs[0].counts.permanent),
        (State::Done, 3, 5),
        "{jobs:?}"
    );
    eventually(async || (service.handled() == ["json", "none", "on"]).then_some(())).await;
    mill.drain().await;
    expect_test::expect![[r#"
        off: tenant off is not active in bucket tenants
        often: redriven 2 times before
        old: older than 1h
        unknown: tenant nobody is not active in bucket tenants
        wild: tenant * is not active in bucket tenants"#]]
    .assert_eq(&letters(&mill).await.join("\n"));
}

#[tokio::test]
async fn a_missing_bucket_of_tenants_fails_the_job_and_touches_nothing() {
    let service = Service::default();
    let mut mill = Mill::with(&pipeline(r#"{ tenants = "tenants" }"#), service.registry()).await;
    mill.event("a", "order.created", json!({})).await;
    mill.next_dead_letter().await;
    breaker(&mill, "open").await;
    eventually(async || mill.broker.kv_get("shop-state", "recovery.work.breaker").await.unwrap())
        .await;
    breaker(&mill, "closed").await;
    let jobs = recovered(&mill, 1).await;
    assert_eq!(jobs[0].state, State::Failed);
    let why = "there is no key-value bucket \"tenants\" to look tenants up in; create it, \
               then resume the job";
    assert_eq!(jobs[0].why.as_deref(), Some(why));
    mill.drain().await;
    assert_eq!(letters(&mill).await, ["a: "]);
}

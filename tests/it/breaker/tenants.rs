//! Tenants: one that a service limits, while the others go on.

use std::time::Duration;

use millstream::{
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply, failure::class},
};
use serde_json::json;

use crate::support::{Mill, eventually};

const SHOP: &str = r#"
    [pipeline]
    name = "shop"
    [observe]
    listen = "127.0.0.1:0"
    [source.events]
    subjects = ["events.>"]
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "limits" }
    concurrency = 1
    retry = "few"
    [retry.few]
    attempts = 2
"#;

#[tokio::test]
async fn a_tenant_that_a_service_limits_is_held_back_and_the_others_go_on() {
    let registry = Registry::new().with(
        "limits",
        handler_fn(|event, _| async move {
            match event.tenant.as_deref() {
                Some("acme") => {
                    let limited = Failure::retry(class::RATE_LIMITED, "acme is over its quota");
                    Err(limited.after(Duration::from_secs(3600)))
                }
                _ => Ok(Reply::Pass),
            }
        }),
    );
    let mill = Mill::with(SHOP, registry).await;
    let publish = async |tenant: &str, n: usize| {
        let event = json!({
            "eventId": format!("{tenant}-{n}"), "eventType": "o", "tenantId": tenant,
            "eventData": {},
        });
        mill.publish("events.o", event.to_string()).await;
    };
    for n in 0..20 {
        publish("acme", n).await;
    }
    for n in 0..5 {
        publish("beta", n).await;
    }
    let listening = mill.worker.as_ref().unwrap().listening.unwrap();
    let counted = async |what: &str| {
        let text = reqwest::get(format!("http://{listening}/metrics")).await.ok()?;
        let text = text.text().await.ok()?;
        let line = text.lines().find(|line| line.starts_with(what))?.to_owned();
        line.rsplit(' ').next()?.parse::<f64>().ok()
    };
    let done = r#"millstream_events_handled_total{stage="work",event_type="o",status="done"}"#;
    eventually(async || (counted(done).await? == 5.0).then_some(())).await;
    mill.idle("work").await;
    // The first five spend an attempt each, and the rest none.
    let failed = mill.messages("shop-failed", 5).await;
    assert_eq!(failed.len(), 5);
    let waiting = mill.messages("shop-retry", 20).await;
    assert_eq!(waiting.len(), 20);
    assert!(mill.letters().await.is_empty());
}

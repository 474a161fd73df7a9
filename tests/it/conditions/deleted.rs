//! Deleted: streams, consumers and buckets that go away, or are paused, under a fleet at work.

use futures_util::TryStreamExt as _;
use millstream::handlers::Registry;
use serde_json::{Value, json};

use super::*;
use crate::support::Mill;

/// Asks the server's API.
async fn api(mill: &Mill, subject: &str, body: Value) {
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let subject = format!("$JS.API.{subject}");
    let answer = client.request(subject, body.to_string().into()).await.unwrap();
    let answer: Value = serde_json::from_slice(&answer.payload).unwrap();
    assert!(answer["error"].is_null(), "{answer}");
}

async fn delete_stream(mill: &Mill, stream: &str) {
    api(mill, &format!("STREAM.DELETE.{stream}"), json!({})).await;
}

/// Findings about a condition.
async fn findings(mill: &Mill, about: &str) -> Vec<Value> {
    let filter = mill.names.finding_filter();
    let all = mill.broker.scan(&mill.names.failed_stream(), &filter, 1);
    let all: Vec<_> = all.try_collect().await.unwrap_or_default();
    let all = all.iter().map(|message| serde_json::from_slice::<Value>(&message.body).unwrap());
    all.filter(|finding| finding["metadata"]["stage"] == about).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_deleted_or_paused_under_a_fleet_is_named_everywhere() {
    let mut mill = Mill::still(TestServer::start().await, SHOP, Registry::new()).await;
    let shell = Shell::new(SHOP, mill.server.server.url());
    mill.work().await;
    let other = worker(&mill, Some(&["first"])).await;
    let fleet = [mill.worker.as_ref().unwrap().listening.unwrap(), other.listening.unwrap()];
    for at in fleet {
        ready(at).await;
    }
    let well = eventually(async || {
        let said = shell.run("status").await;
        (said.code == 0).then_some(said.out)
    })
    .await;
    assert!(well.contains("all well: "), "{well}");

    // The dead-letter stream: every worker names it, and `status`, and a finding.
    delete_stream(&mill, "shop-dlq").await;
    for at in fleet {
        let told = missing(at, "stream shop-dlq").await;
        assert_eq!(told["why"], "it does not exist");
        assert_eq!(told["remedy"], "create it with `millstream apply`");
    }
    let told = status_names(&shell, "stream shop-dlq").await;
    assert!(told["since"].is_string() && told["remedy"].is_string(), "{told}");
    let finding = eventually(async || findings(&mill, "stream shop-dlq").await.pop()).await;
    assert_eq!(finding["errorCode"], "ConditionFailed");
    let text = "stream shop-dlq: it does not exist; create it with `millstream apply`";
    assert_eq!(finding["message"], text);
    assert_eq!(findings(&mill, "stream shop-dlq").await.len(), 1, "once while it lasts");

    // With the advisories, what the router reads goes as well.
    delete_stream(&mill, "shop-advisories").await;
    missing(fleet[1], "stream shop-advisories").await;
    mill.make().await;
    for at in fleet {
        ready(at).await;
    }

    // A consumer that an operator has paused.
    let until = json!({ "pause_until": "2999-01-01T00:00:00Z" });
    api(&mill, "CONSUMER.PAUSE.shop-out-first.shop-work", until).await;
    mill.event("e-1", "order.created", json!({})).await;
    let paused = "consumer shop-work on stream shop-out-first";
    let told = missing(fleet[1], paused).await;
    assert_eq!(told["remedy"], "`nats consumer resume shop-out-first shop-work`");
    status_names(&shell, paused).await;
    api(&mill, "CONSUMER.PAUSE.shop-out-first.shop-work", json!({})).await;
    ready(fleet[1]).await;

    // The stream of failures, which the reduce stage reads: where it is told as well.
    delete_stream(&mill, "shop-failed").await;
    missing(fleet[1], "stream shop-failed").await;
    let told = missing(fleet[0], "stage errors").await;
    assert!(told["why"].as_str().unwrap().starts_with("reading is interrupted"), "{told}");
    let told = status_names(&shell, "stage errors").await;
    assert_eq!(told["workers"].as_array().unwrap().len(), 1, "{told}");
    mill.make().await;
    for at in fleet {
        ready(at).await;
    }
    other.drain(std::future::pending()).await;
    mill.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bucket_that_is_deleted_is_named_by_every_worker() {
    let mut mill = Mill::still(TestServer::start().await, SHOP, Registry::new()).await;
    let shell = Shell::new(SHOP, mill.server.server.url());
    mill.work().await;
    let other = worker(&mill, None).await;
    let fleet = [mill.worker.as_ref().unwrap().listening.unwrap(), other.listening.unwrap()];
    for at in fleet {
        ready(at).await;
    }
    delete_stream(&mill, "KV_shop-state").await;
    for at in fleet {
        let told = missing(at, "bucket shop-state").await;
        assert_eq!(told["why"], "it does not exist");
        assert_eq!(told["remedy"], "create it with `millstream apply`");
    }
    status_names(&shell, "bucket shop-state").await;
    // Nobody can be elected: each looks for itself, and finds the rest.
    delete_stream(&mill, "shop-dlq").await;
    for at in fleet {
        missing(at, "stream shop-dlq").await;
    }
    delete_stream(&mill, "KV_shop-workers").await;
    for at in fleet {
        missing(at, "bucket shop-workers").await;
    }
    status_names(&shell, "bucket shop-workers").await;
    mill.make().await;
    for at in fleet {
        ready(at).await;
    }
    other.drain(std::future::pending()).await;
    mill.drain().await;
}

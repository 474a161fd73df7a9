//! Unread: what no worker of the fleet reads, runs or looks at.

use millstream::{broker::Lease, handlers::Registry};
use serde_json::json;

use super::*;
use crate::support::Mill;

#[tokio::test(flavor = "multi_thread")]
async fn what_no_worker_reads_is_named_with_the_stage_to_start() {
    let mill = Mill::still(TestServer::start().await, SHOP, Registry::new()).await;
    let shell = Shell::new(SHOP, mill.server.server.url());
    mill.event("e-1", "order.created", json!({})).await;
    // Nobody at all.
    let none = shell.run("status").await;
    assert_eq!(none.code, 1, "{}", none.out);
    for line in ["! workers: no worker is at work", "! backlog of first: 1 event waits"] {
        assert!(none.out.contains(line), "{}", none.out);
    }
    // Only some of the stages: what it has to do, it can; what others have to do, nobody does.
    let first = worker(&mill, Some(&["first"])).await;
    let at = first.listening.unwrap();
    let answer = eventually(async || {
        let (status, answer) = readyz(at).await?;
        named(&answer, "elsewhere", "lease errors")?;
        named(&answer, "elsewhere", "backlog of work")?;
        assert_eq!(status, 200, "{answer}");
        Some(answer)
    })
    .await;
    let told = named(&answer, "elsewhere", "backlog of work").unwrap();
    assert_eq!(told["why"], "1 event waits and no worker reads them");
    assert!(told["remedy"].as_str().unwrap().contains("run --stage work"), "{told}");
    let told = named(&answer, "elsewhere", "lease errors").unwrap();
    assert!(told["remedy"].as_str().unwrap().contains("run --stage errors"), "{told}");
    status_names(&shell, "backlog of work").await;
    status_names(&shell, "lease errors").await;
    let rest = worker(&mill, None).await;
    eventually(async || (shell.run("status").await.code == 0).then_some(())).await;
    eventually(async || ready(at).await["elsewhere"].is_null().then_some(())).await;
    rest.drain(std::future::pending()).await;
    first.drain(std::future::pending()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_critical_incident_is_not_all_well() {
    let source = "[source.reports]\nsubjects = [\"reports.>\"]\nenvelope = \"error\"";
    let toml = SHOP.replace("\"monitor\"]", "\"monitor\", \"source.reports\"]");
    let toml = toml.replace("[stage.first]", &format!("{source}\n[stage.first]"));
    let mill = Mill::start(&toml).await;
    let shell = Shell::new(&toml, mill.server.server.url());
    let report = json!({
        "errorCode": "DISK", "severity": "critical", "message": "no room", "serviceName": "db",
        "timestamp": "2026-01-01T00:00:00Z",
    });
    for _ in 0..10 {
        mill.publish("reports.db", report.to_string()).await;
    }
    let told = status_names(&shell, "incidents").await;
    assert_eq!(told["why"], "1 critical incident is open, the worst DISK: no room");
    assert!(told["remedy"].as_str().unwrap().contains("millstream incidents ls"), "{told}");
    assert!(told["since"].is_string(), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_hears_of_no_look_looks_itself_and_says_so() {
    let mut mill = Mill::still(TestServer::start().await, SHOP, Registry::new()).await;
    // As a worker of an older version has it, which does not look.
    let mut keeper = Lease::acquire(&mill.broker, "shop-state", "keeper", "held off").await;
    mill.work().await;
    let at = mill.worker.as_ref().unwrap().listening.unwrap();
    let alone = async {
        let answer = eventually(async || {
            let (status, answer) = readyz(at).await?;
            named(&answer, "elsewhere", "watcher")?;
            assert_eq!(status, 200, "it knows for itself: {answer}");
            Some(answer)
        })
        .await;
        let told = named(&answer, "elsewhere", "watcher").unwrap();
        assert!(told["why"].as_str().unwrap().contains("each looks for itself"), "{told}");
        let client = async_nats::connect(mill.server.server.url()).await.unwrap();
        client.request("$JS.API.STREAM.DELETE.shop-dlq", "".into()).await.unwrap();
        missing(at, "stream shop-dlq").await;
    };
    tokio::select! {
        () = keeper.keep() => panic!("another worker took the lease"),
        () = alone => {}
    }
    keeper.release().await;
    mill.make().await;
    let answer = eventually(async || {
        let answer = ready(at).await;
        answer["elsewhere"].is_null().then_some(answer)
    });
    answer.await;
    mill.drain().await;
}

//! Cut off: a worker without its server, before it ever answered and after it died.

use std::time::{Duration, Instant};

use super::*;
use crate::{
    reaper::Start as _,
    support::{DEADLINE, TestServer},
};

/// Address that was free a moment ago.
fn free() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_loses_its_server_is_not_ready_and_says_why() {
    let mut mill = Mill::start(SHOP).await;
    // One that only keeps state has no consumer of its own that would notice.
    let other = worker(&mill, Some(&["errors"])).await;
    let fleet = [mill.worker.as_ref().unwrap().listening.unwrap(), other.listening.unwrap()];
    for at in fleet {
        ready(at).await;
    }
    mill.server.server.kill_hard();
    let began = Instant::now();
    for at in fleet {
        let told = missing(at, "broker").await;
        let (why, remedy) = (told["why"].as_str().unwrap(), told["remedy"].as_str().unwrap());
        assert!(why.contains(mill.server.server.url()), "{why}");
        assert!(remedy.contains("start the server") && remedy.contains("[nats]"), "{remedy}");
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    mill.server.server.restart().await.unwrap();
    for at in fleet {
        ready(at).await;
    }
    other.drain(std::future::pending()).await;
    mill.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn before_its_server_answers_a_worker_is_alive_and_says_what_it_waits_for() {
    let mut server = TestServer::start().await;
    let shell = Shell::new(SHOP, server.server.url());
    server.server.kill_hard();
    let at = free();
    let _worker = shell.command(&format!("run --set observe.listen={at}")).start();
    let told = missing(at, "broker").await;
    let why = eventually(async || {
        let told = missing(at, "broker").await;
        told["remedy"].is_string().then(|| told["why"].as_str().unwrap().to_owned())
    });
    let why = why.await;
    assert!(why.contains(server.server.url()) && why.contains("refused"), "{why}");
    assert!(told["since"].is_string(), "{told}");
    assert_eq!(get(at, "/healthz").await.unwrap().0, 200);
    let (_, metrics) = get(at, "/metrics").await.unwrap();
    assert!(metrics.contains("millstream_broker_connected 0"), "{metrics}");

    // It is there, but nothing of the pipeline is.
    server.server.restart().await.unwrap();
    let told = missing(at, "stream shop-dlq").await;
    assert_eq!(told["remedy"], "create it with `millstream apply`");
    missing(at, "bucket shop-state").await;
    assert_eq!(shell.run("apply").await.code, 0);
    tokio::time::timeout(DEADLINE, ready(at)).await.unwrap();
}

//! Idle: what a fleet costs the server while nothing happens.

use std::{collections::BTreeMap, fmt::Write as _, time::Duration};

use futures_util::StreamExt as _;
use millstream::handlers::Registry;

use super::*;
use crate::support::Mill;

const STAGES: usize = 32;
const WORKERS: usize = 16;
/// Time over which requests are counted.
const SPAN: Duration = Duration::from_secs(10);
/// Requests of one worker in a second, at the most: it was 89.
const REQUESTS_MAX: usize = 20;

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_of_many_stages_beside_others_costs_few_requests() {
    let mut toml = SHOP.to_owned();
    for n in 3..STAGES {
        _ = writeln!(
            toml,
            "[stage.s{n}]\nkind = \"handle\"\ninputs = [\"first\"]\nhandler = {{ log = \"info\" }}"
        );
    }
    let mill = Mill::still(TestServer::start().await, &toml, Registry::new()).await;
    let mut fleet = Vec::new();
    for _ in 0..WORKERS {
        fleet.push(worker(&mill, None).await);
    }
    for worker in &fleet {
        ready(worker.listening.unwrap()).await;
    }
    let client = async_nats::connect(mill.server.server.url()).await.unwrap();
    let api = client.subscribe("$JS.API.>").await.unwrap();
    let keys = client.subscribe("$KV.>").await.unwrap();
    let counted = counted(futures_util::stream::select(api, keys)).await;
    let all: usize = counted.values().sum();
    let each = all / WORKERS / SPAN.as_secs() as usize;
    println!("{each} requests a second for each of {WORKERS} workers");
    assert!(each < REQUESTS_MAX, "{each} requests a second: {counted:#?}");
    for worker in fleet {
        worker.drain(std::future::ready(())).await;
    }
}

/// Requests within [`SPAN`], by kind.
async fn counted(
    mut requests: impl futures_util::Stream<Item = async_nats::Message> + Unpin,
) -> BTreeMap<String, usize> {
    let mut counted = BTreeMap::new();
    let until = tokio::time::sleep(SPAN);
    tokio::pin!(until);
    loop {
        let request = tokio::select! {
            () = &mut until => return counted,
            Some(request) = requests.next() => request,
        };
        let kind: Vec<&str> = request.subject.split('.').take(5).collect();
        *counted.entry(kind.join(".")).or_default() += 1;
    }
}

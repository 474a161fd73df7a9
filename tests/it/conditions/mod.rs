//! Conditions: what a worker and its fleet need is looked at, and named at `/readyz`, by `status`
//! and as a finding while it does not hold.

mod cut_off;
mod deleted;
mod full;
mod idle;
mod port;
mod unread;

use std::{net::SocketAddr, sync::Arc};

use millstream::worker::{Options, Worker};
use serde_json::Value;

use crate::{
    shell::Shell,
    support::{Mill, TestServer, eventually, pipeline},
};

/// Map stages one behind the other, a reduce stage, and a port.
const SHOP: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.first]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "info" }
    [stage.work]
    kind = "handle"
    inputs = ["first"]
    handler = { log = "info" }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["*.failed", "monitor"]
    [observe]
    listen = "127.0.0.1:0"
"#;

/// Answer of `/readyz`; `None`: nobody answers there.
async fn readyz(at: SocketAddr) -> Option<(u16, Value)> {
    let (status, text) = get(at, "/readyz").await?;
    Some((status, serde_json::from_str(&text).ok()?))
}

async fn get(at: SocketAddr, path: &str) -> Option<(u16, String)> {
    millstream::tls::install_provider();
    let response = reqwest::get(format!("http://{at}{path}")).await.ok()?;
    Some((response.status().as_u16(), response.text().await.ok()?))
}

/// Condition of this name in a list of an answer.
fn named<'a>(answer: &'a Value, list: &str, what: &str) -> Option<&'a Value> {
    answer[list].as_array()?.iter().find(|one| one["what"] == what)
}

/// Waits until a worker is not ready for want of this, and returns what it says of it.
#[track_caller]
fn missing(at: SocketAddr, what: &str) -> impl Future<Output = Value> {
    let what = what.to_owned();
    eventually(move || {
        let what = what.clone();
        async move {
            let (status, answer) = readyz(at).await?;
            let found = named(&answer, "missing", &what)?;
            assert!(status == 503 && answer["ready"] == false, "{answer}");
            Some(found.clone())
        }
    })
}

/// Waits until a worker is ready.
#[track_caller]
fn ready(at: SocketAddr) -> impl Future<Output = Value> {
    eventually(move || async move {
        let (status, answer) = readyz(at).await?;
        (status == 200).then_some(answer)
    })
}

/// A worker of these stages, on a connection of its own.
async fn worker(mill: &Mill, stages: Option<&[&str]>) -> Worker {
    let options = Options {
        stages: stages.map(|names| names.iter().map(|name| (*name).to_owned()).collect()),
        ..Options::default()
    };
    let broker = mill.server.connect().await;
    Worker::start(broker, Arc::clone(&mill.pipeline), options).await.unwrap()
}

/// What `status` finds wrong, once it finds this; its exit status is 1 then.
async fn status_names(shell: &Shell, what: &str) -> Value {
    eventually(async || {
        let ran = shell.run("status --json").await;
        let status: Value = serde_json::from_str(&ran.out).expect(&ran.err);
        let found = status["troubles"].as_array()?.iter().find(|one| one["what"] == what)?;
        assert!(ran.code == 1 && status["all_well"] == false, "{status}");
        Some(found.clone())
    })
    .await
}

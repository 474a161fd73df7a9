//! Alerting: time from an error to those who are notified of it, and the memory of the worker.

use std::{
    collections::BTreeMap,
    net::TcpListener as StdListener,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use async_nats::jetstream;
use futures_util::{SinkExt as _, StreamExt as _};
use millstream::handlers::Registry;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::TcpListener,
};
use tokio_tungstenite::tungstenite::{Message, client::IntoClientRequest as _};

use crate::{
    memory::{resident_mib, worker},
    shop::{Shop, quantile, until},
};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Errors, each of which opens an incident
    #[arg(long, default_value_t = 1000)]
    errors: u64,
    /// Errors a second
    #[arg(long, default_value_t = 20)]
    rate: u64,
}

fn toml(websocket: u16, smtp: u16) -> String {
    format!(
        r#"
[pipeline]
name = "bench"

[source.errors]
subjects = ["errors.>"]
envelope = "error"

[stage.errors]
kind      = "aggregate-errors"
inputs    = ["source.errors"]
threshold = 1

[stage.alerts]
kind     = "alert"
inputs   = ["errors"]
channels = ["browsers", "mail"]

[channel.browsers]
kind   = "websocket"
listen = "127.0.0.1:{websocket}"
token  = "bench-token-of-the-benchmark"
rate   = "1000/s"

[channel.mail]
kind          = "email"
smtp          = "127.0.0.1:{smtp}"
tls           = "none"
from          = "millstream@example.com"
to            = ["ops@example.com"]
allow_private = true
rate          = "1000/s"
"#
    )
}

/// Time at which each error was first seen, by its code.
type Examined = Arc<Mutex<BTreeMap<String, Instant>>>;

pub(crate) async fn run(args: &Args, program: Option<&Path>) -> Result<()> {
    let (incidents, sockets, mails) =
        (Examined::default(), Examined::default(), Examined::default());
    let port = StdListener::bind("127.0.0.1:0")?.local_addr()?.port();
    let smtp = sink(Arc::clone(&mails)).await?;
    let shop = Shop::open(program, &toml(port, smtp), Registry::new()).await?;
    let file = shop.folder.join("pipeline.toml");
    let mut child = worker(&file, shop.server.url(), &[])?;
    let pid = child.id().context("it runs")?;
    let watching = [
        tokio::spawn(hear(shop.server.url().to_owned(), Arc::clone(&incidents))),
        tokio::spawn(browse(port, Arc::clone(&sockets))),
    ];
    tokio::time::sleep(Duration::from_secs(4)).await;
    ensure!(
        !watching.iter().any(tokio::task::JoinHandle::is_finished),
        "a listener ended before the first error"
    );
    let rest = resident_mib(pid)?;
    let jetstream = jetstream::new(async_nats::connect(shop.server.url()).await?);
    let mut published = BTreeMap::new();
    let mut ticks = tokio::time::interval(Duration::from_secs_f64(1.0 / args.rate as f64));
    let mut most: f64 = rest;
    for n in 0..args.errors {
        ticks.tick().await;
        let code = format!("ERROR_{n}");
        let body = json!({
            "errorCode": code,
            "serviceName": "bench",
            "message": "it went wrong",
            "severity": "high",
        });
        published.insert(code, Instant::now());
        jetstream.publish("errors.bench", body.to_string().into()).await?.await?;
        most = most.max(resident_mib(pid)?);
    }
    for (what, seen) in [("incident", &incidents), ("WebSocket", &sockets), ("SMTP sink", &mails)] {
        until(what, async || Ok(all(seen).len() as u64 >= args.errors)).await?;
        let seen = all(seen);
        let took: Vec<f64> = seen
            .iter()
            .filter_map(|(code, at)| {
                Some(at.duration_since(*published.get(code)?).as_secs_f64() * 1000.0)
            })
            .collect();
        println!(
            "error published to {what:<10} {:>5} times   p50 {:>6.1} ms   p99 {:>6.1} ms",
            took.len(),
            quantile(&took, 0.5),
            quantile(&took, 0.99)
        );
    }
    println!("memory of the alerting worker: {rest:.1} MiB at rest, {most:.1} MiB at the most");
    watching.iter().for_each(tokio::task::JoinHandle::abort);
    child.kill().await?;
    shop.close().await
}

fn all(seen: &Examined) -> BTreeMap<String, Instant> {
    seen.lock().unwrap_or_else(PoisonError::into_inner).clone()
}

fn note(seen: &Examined, code: Option<&str>) {
    if let Some(code) = code {
        seen.lock()
            .unwrap_or_else(PoisonError::into_inner)
            .entry(code.to_owned())
            .or_insert_with(Instant::now);
    }
}

/// Listens for incidents on the broker.
async fn hear(url: String, seen: Examined) -> Result<()> {
    let client = async_nats::connect(url).await?;
    let mut incidents = client.subscribe("bench.out.errors.>").await?;
    while let Some(message) = incidents.next().await {
        let incident: Value = serde_json::from_slice(&message.payload)?;
        note(&seen, incident["code"].as_str());
    }
    Ok(())
}

/// Listens for notifications as a browser does.
async fn browse(port: u16, seen: Examined) -> Result<()> {
    let connect = async || {
        let mut request = format!("ws://127.0.0.1:{port}/live").into_client_request()?;
        request
            .headers_mut()
            .insert("authorization", "Bearer bench-token-of-the-benchmark".parse()?);
        anyhow::Ok(tokio_tungstenite::connect_async(request).await?.0)
    };
    let mut socket = loop {
        match connect().await {
            Ok(socket) => break socket,
            // The worker is about to listen.
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    };
    while let Some(message) = socket.next().await.transpose()? {
        match message {
            Message::Text(text) => {
                let message: Value = serde_json::from_str(&text)?;
                if message["type"] == "notification" {
                    note(&seen, message["notification"]["incident"]["code"].as_str());
                }
            }
            Message::Ping(data) => socket.send(Message::Pong(data)).await?,
            Message::Binary(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_) => {}
        }
    }
    Ok(())
}

/// Mail server that takes everything, and notes when it did; returns its port.
async fn sink(seen: Examined) -> Result<u16> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let port = listener.local_addr()?.port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let seen = Arc::clone(&seen);
            tokio::spawn(async move { converse(stream, &seen).await });
        }
    });
    Ok(port)
}

async fn converse(stream: tokio::net::TcpStream, seen: &Examined) -> Result<()> {
    let (read, mut write) = stream.into_split();
    let (mut lines, mut subject, mut data) = (BufReader::new(read).lines(), None, false);
    write.write_all(b"220 sink\r\n").await?;
    while let Some(line) = lines.next_line().await? {
        if data {
            if let Some(text) = line.strip_prefix("Subject: ") {
                subject = text
                    .split_whitespace()
                    .find(|word| word.starts_with("ERROR_"))
                    .map(str::to_owned);
            }
            if line != "." {
                continue;
            }
            data = false;
            note(seen, subject.take().as_deref());
        }
        let verb = line.split_whitespace().next().unwrap_or_default().to_ascii_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "DATA" => {
                data = true;
                b"354 go on\r\n"
            }
            "QUIT" => b"221 bye\r\n",
            _ => b"250 ok\r\n",
        };
        write.write_all(answer).await?;
    }
    Ok(())
}

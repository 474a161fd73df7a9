//! Bytes: large messages to many slow feeds and readers, without a slow consumer.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{StreamExt as _, stream};
use millstream::{
    broker::{Broker, Outgoing, Retention},
    handlers::{Registry, handler_fn},
    stages::Reply,
};
use serde_json::json;

use super::consumer;
use crate::support::{Mill, TestServer, eventually, stream as stream_spec};

const MIB: usize = 1 << 20;

async fn publish(broker: &Broker, count: usize, bytes: usize) {
    let body = bytes::Bytes::from(vec![b'x'; bytes]);
    stream::iter(0..count)
        .map(|_| broker.publish(Outgoing::new("s.x", body.clone())))
        .buffer_unordered(4)
        .for_each(|stored| async { drop(stored.unwrap()) })
        .await;
}

fn no_slow_consumer(server: &TestServer) {
    let log = std::fs::read_to_string(server.server.log_path()).unwrap();
    let slow: Vec<_> = log.lines().filter(|line| line.contains("Slow Consumer")).collect();
    assert!(slow.is_empty(), "{slow:?}");
}

#[tokio::test]
async fn thirty_two_slow_feeds_of_large_messages_share_what_may_be_on_its_way() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    publish(&broker, 60, 64 << 10).await;
    publish(&broker, 10, 900_000).await;
    publish(&broker, 30, 64 << 10).await;
    let mut pulls = Vec::new();
    for n in 0..32 {
        let name = format!("c{n}");
        broker.create_consumer(&consumer(&name)).await.unwrap();
        pulls.push((name.clone(), broker.pull("s", &name, 256).await.unwrap()));
    }
    let began = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let feeds = pulls.into_iter().map(|(name, mut pull)| {
        let broker = broker.clone();
        let began = began.clone();
        tokio::spawn(async move {
            // All take in one and none begins, until all have been asked for what they may.
            let mut first = Some(pull.next().await.unwrap().unwrap());
            began.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            eventually(async || {
                (began.load(std::sync::atomic::Ordering::SeqCst) == 32).then_some(())
            })
            .await;
            let state = broker.consumer_state("s", &name).await.unwrap();
            assert!(state.num_ack_pending <= 33, "{name}: {}", state.num_ack_pending);
            for _ in 0..100 {
                let delivered = match first.take() {
                    Some(delivered) => delivered,
                    None => loop {
                        if let Ok(delivered) = pull.next().await.unwrap() {
                            break delivered;
                        }
                    },
                };
                assert!(delivered.begin());
                delivered.ack().await;
            }
        })
    });
    for done in futures_util::future::join_all(feeds).await {
        done.unwrap();
    }
    no_slow_consumer(&server);
}

#[tokio::test]
async fn one_feed_is_not_given_more_than_the_budget_while_nothing_begins() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    publish(&broker, 100, 900_000).await;
    broker.create_consumer(&consumer("c")).await.unwrap();
    let mut pull = broker.pull("s", "c", 1000).await.unwrap();
    let mut held = vec![pull.next().await.unwrap().unwrap()];
    // It takes in what comes, and begins none of it.
    while let Ok(next) = tokio::time::timeout(Duration::from_secs(1), pull.next()).await {
        held.extend(next.unwrap());
    }
    let bytes: usize = held.iter().map(|delivered| delivered.body().len()).sum();
    assert!((24 * MIB..34 * MIB).contains(&bytes), "{bytes}");
    for delivered in held.drain(..) {
        delivered.begin();
        delivered.ack().await;
    }
    for _ in 0..100 - bytes / 900_000 {
        let delivered = loop {
            if let Ok(delivered) = pull.next().await.unwrap() {
                break delivered;
            }
        };
        delivered.ack().await;
    }
    eventually(async || {
        let state = broker.consumer_state("s", "c").await.unwrap();
        (state.num_pending == 0 && state.num_ack_pending == 0).then_some(())
    })
    .await;
    no_slow_consumer(&server);
}

#[tokio::test]
async fn a_pull_of_one_asks_for_the_next_when_the_one_before_has_come_and_not_twice() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    publish(&broker, 100, 10).await;
    broker.create_consumer(&consumer("c")).await.unwrap();
    let mut pull = broker.pull("s", "c", 1).await.unwrap();
    for n in 0..100_u64 {
        let delivered = pull.next().await.unwrap().unwrap();
        assert!(delivered.begin());
        // The end of the request before this one has come by now, and is to end no other. An ack
        // may take a moment.
        eventually(async || {
            let state = broker.consumer_state("s", "c").await.ok()?;
            assert!(state.delivered <= n + 1, "{} at message {n}", state.delivered);
            ((state.num_ack_pending, state.num_waiting) == (1, 0)).then_some(())
        })
        .await;
        delivered.ack().await;
    }
}

#[tokio::test]
async fn a_slow_reader_of_large_messages_reads_them_all() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    publish(&broker, 200, 900_000).await;
    let mut reading = std::pin::pin!(broker.scan("s", "", 1));
    let mut next = 1;
    while let Some(message) = reading.next().await {
        assert_eq!(message.unwrap().seq, next);
        next += 1;
        if next == 20 {
            // Longer than the server would wait for a client that does not read.
            tokio::time::sleep(Duration::from_secs(3)).await;
        }
    }
    assert_eq!(next, 201);
    let many = stream::iter(1..=200).map(|seq| broker.message("s", seq)).buffer_unordered(100);
    let found = many.filter(|found| std::future::ready(matches!(found, Ok(Some(_)))));
    assert_eq!(found.count().await, 200);
    no_slow_consumer(&server);
}

#[tokio::test]
async fn limits_that_the_server_sets_on_requests_are_kept_to() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    let client = async_nats::connect(server.server.url()).await.unwrap();
    let config = async_nats::jetstream::consumer::pull::Config {
        durable_name: Some("c".to_owned()),
        max_batch: 3,
        max_bytes: 5_000,
        max_expires: Duration::from_secs(2),
        ..Default::default()
    };
    let jetstream = async_nats::jetstream::new(client);
    jetstream.create_consumer_on_stream(config, "s").await.unwrap();
    publish(&broker, 200, 500).await;
    let mut pull = broker.pull("s", "c", 100).await.unwrap();
    for seq in 1..=200 {
        let delivered = pull.next().await.unwrap().unwrap();
        assert_eq!(delivered.seq, seq);
        delivered.ack().await;
    }
}

#[tokio::test]
async fn a_message_from_a_time_of_a_larger_max_payload_is_read_and_pulled() {
    let mut server = TestServer::configured("max_payload: 8MB").await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    broker.create_consumer(&consumer("c")).await.unwrap();
    publish(&broker, 1, 100).await;
    publish(&broker, 1, 5 * MIB).await;
    publish(&broker, 1, 100).await;
    drop(broker);
    let config = server.server.log_path().with_file_name("nats.conf");
    std::fs::write(config, "max_payload: 1MB").unwrap();
    server.server.restart().await.unwrap();
    let broker = server.connect().await;
    assert_eq!(broker.max_payload(), MIB);
    let mut pull = broker.pull("s", "c", 10).await.unwrap();
    let mut sizes = Vec::new();
    while sizes.len() < 3 {
        if let Ok(delivered) = pull.next().await.unwrap() {
            sizes.push(delivered.body().len());
            delivered.ack().await;
        }
    }
    assert_eq!(sizes, [100, 5 * MIB, 100]);
    let read: Vec<_> = broker.scan("s", "", 1).map(|m| m.unwrap().body.len()).collect().await;
    assert_eq!(read, sizes);
}

#[tokio::test]
async fn large_events_go_through_thirty_two_stages_once_each() {
    let calls = Arc::new(Mutex::new(BTreeMap::new()));
    let registry = Registry::new().with(
        "slow",
        handler_fn({
            let calls = Arc::clone(&calls);
            move |event, delivery| {
                let key = (delivery.stage.clone(), event.id.clone());
                *calls.lock().unwrap().entry(key).or_insert(0) += 1;
                async {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                    Ok(Reply::Pass)
                }
            }
        }),
    );
    let mut toml = "[pipeline]\nname = \"shop\"\n\
                    [source.events]\nsubjects = [\"events.>\"]\n"
        .to_owned();
    for n in 0..32 {
        write!(
            toml,
            "[stage.s{n}]\nkind = \"handle\"\ninputs = [\"source.events\"]\n\
             handler = {{ rust = \"slow\" }}\nconcurrency = 4\n"
        )
        .unwrap();
    }
    let mill = Mill::with(&toml, registry).await;
    for n in 0..50 {
        let bytes = if n % 10 == 0 { 900_000 } else { 64 << 10 };
        mill.event(&format!("e{n}"), "big", json!("x".repeat(bytes))).await;
    }
    eventually(async || (calls.lock().unwrap().len() >= 32 * 50).then_some(())).await;
    for n in 0..32 {
        mill.idle(&format!("s{n}")).await;
    }
    assert!(calls.lock().unwrap().values().all(|count| *count == 1));
    no_slow_consumer(&mill.server);
}

#[tokio::test]
async fn hundreds_of_large_publishes_at_once_are_all_stored() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream_spec("s", "s.>", Retention::Limits)).await.unwrap();
    let body = bytes::Bytes::from(vec![b'x'; 900_000]);
    let all = (0..256).map(|_| broker.publish(Outgoing::new("s.x", body.clone())));
    for stored in futures_util::future::join_all(all).await {
        stored.unwrap();
    }
    assert_eq!(broker.stream_state("s").await.unwrap().messages, 256);
    no_slow_consumer(&server);
}

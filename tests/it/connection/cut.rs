//! Cut: nothing is lost and nothing waits when the connection breaks with messages on their way.

use millstream::broker::{Broker, ConsumerSpec, KvHeard, Nats, Outgoing, Retention};
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};

use crate::{
    proxy::Proxy,
    support::{TestServer, eventually, scanned, stream},
};

/// Server, a proxy before it, a connection to the server, and one through the proxy.
async fn behind_a_proxy() -> (TestServer, Proxy, Broker, Broker) {
    let server = TestServer::start().await;
    let proxy = Proxy::before(server.server.url()).await;
    let direct = server.connect().await;
    let nats = Nats { url: vec![proxy.url()], ..Nats::default() };
    let through = Broker::connect(&nats, "through").await.unwrap();
    (server, proxy, direct, through)
}

fn numbered(n: usize, bytes: usize) -> Outgoing {
    Outgoing::new("s.x", format!("{n:<bytes$}"))
}

#[tokio::test]
async fn a_reader_without_acks_misses_nothing_of_a_connection_that_breaks() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            let mut following = std::pin::pin!(through.follow("s", &[], 1));
            while let Some(message) = following.next().await {
                if let Ok(message) = message {
                    seen.lock().unwrap().push(message.seq);
                }
            }
        }
    });
    let mut published = 0;
    for round in 0..8 {
        for _ in 0..40 {
            direct.publish(numbered(published, 20_000)).await.unwrap();
            published += 1;
        }
        // Some of them are on their way; after the cut nothing more comes that would show a gap.
        proxy.cut();
        let cut = Instant::now();
        eventually(async || (seen.lock().unwrap().len() >= published).then_some(())).await;
        assert!(cut.elapsed() < Duration::from_secs(20), "round {round}: {:?}", cut.elapsed());
    }
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen, (1..=320).collect::<Vec<u64>>());
}

#[tokio::test]
async fn what_follows_keys_sees_each_change_after_a_cut() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&crate::support::bucket("b")).await.unwrap();
    let last = Arc::new(Mutex::new(String::new()));
    tokio::spawn({
        let last = Arc::clone(&last);
        async move {
            let mut changes = std::pin::pin!(through.kv_follow("b", "k."));
            while let Some(change) = changes.next().await {
                if let Ok(KvHeard::Change(change)) = change {
                    let value = change.value.unwrap_or_default();
                    *last.lock().unwrap() = String::from_utf8_lossy(&value).into_owned();
                }
            }
        }
    });
    for n in 0..20 {
        let value = format!("v{n}");
        direct.kv_put("b", "k.1", value.clone()).await.unwrap();
        proxy.cut();
        eventually(async || (*last.lock().unwrap() == value).then_some(())).await;
    }
}

#[tokio::test]
async fn every_publish_is_stored_once_though_the_connection_breaks() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    let cutting = async {
        for _ in 0..10 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            proxy.cut();
        }
    };
    let publishing = stream::iter(0..2000)
        .map(|n| {
            let through = through.clone();
            async move { through.publish(numbered(n, 200).id(&format!("id-{n}"))).await }
        })
        .buffer_unordered(20)
        .for_each(|stored| async move {
            stored.unwrap();
            tokio::time::sleep(Duration::from_micros(300)).await;
        });
    tokio::join!(cutting, publishing);
    let bodies: Vec<_> = scanned(&direct, "s").await.into_iter().map(|m| m.body).collect();
    assert_eq!(bodies.len(), 2000);
    assert_eq!(bodies.into_iter().collect::<BTreeSet<_>>().len(), 2000);
}

#[tokio::test]
async fn a_pull_goes_on_at_once_after_a_cut_and_all_is_settled() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    let consumer = ConsumerSpec { ack_wait: Duration::from_secs(2), ..super::consumer("c") };
    direct.create_consumer(&consumer).await.unwrap();
    for n in 0..600 {
        direct.publish(numbered(n, 2000)).await.unwrap();
    }
    let seen = Arc::new(Mutex::new(BTreeSet::new()));
    let pulling = tokio::spawn({
        let seen = Arc::clone(&seen);
        async move {
            let mut pull = through.pull("s", "c", 20).await.unwrap();
            while let Some(next) = pull.next().await {
                let Ok(delivered) = next else { continue };
                if delivered.begin() {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    seen.lock().unwrap().insert(delivered.seq);
                    delivered.ack().await;
                }
            }
        }
    });
    for wanted in [100, 200, 300, 400, 500] {
        eventually(async || (seen.lock().unwrap().len() >= wanted).then_some(())).await;
        proxy.cut();
        let (cut, before) = (Instant::now(), seen.lock().unwrap().len());
        eventually(async || (seen.lock().unwrap().len() > before + 30).then_some(())).await;
        assert!(cut.elapsed() < Duration::from_secs(2), "{:?}", cut.elapsed());
    }
    eventually(async || {
        let state = direct.consumer_state("s", "c").await.ok()?;
        (state.num_pending == 0 && state.num_ack_pending == 0).then_some(())
    })
    .await;
    assert_eq!(seen.lock().unwrap().len(), 600);
    pulling.abort();
}

#[tokio::test]
async fn a_silent_server_is_noticed_and_a_new_connection_is_made() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    through.publish(numbered(1, 10)).await.unwrap();
    proxy.silence(true);
    let silent = Instant::now();
    eventually(async || (!through.is_connected()).then_some(())).await;
    assert!(silent.elapsed() < Duration::from_secs(12), "{:?}", silent.elapsed());
    proxy.silence(false);
    proxy.cut();
    through.publish(numbered(2, 10)).await.unwrap();
    eventually(async || through.is_connected().then_some(())).await;
}

#[tokio::test]
async fn where_one_server_is_gone_the_next_is_tried() {
    let server = TestServer::start().await;
    let (first, second) =
        (Proxy::before(server.server.url()).await, Proxy::before(server.server.url()).await);
    let nats = Nats { url: vec![first.url(), second.url()], ..Nats::default() };
    let broker = Broker::connect(&nats, "two").await.unwrap();
    broker.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    broker.publish(numbered(1, 10)).await.unwrap();
    drop(first);
    broker.publish(numbered(2, 10)).await.unwrap();
    second.cut();
    broker.publish(numbered(3, 10)).await.unwrap();
}

#[tokio::test]
async fn settlements_made_while_no_connection_stands_are_sent_on_the_next() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    direct.create_consumer(&super::consumer("c")).await.unwrap();
    direct.publish(numbered(1, 10)).await.unwrap();
    let mut pull = through.pull("s", "c", 10).await.unwrap();
    let delivered = pull.next().await.unwrap().unwrap();
    proxy.refuse(true);
    proxy.cut();
    eventually(async || (!through.is_connected()).then_some(())).await;
    delivered.ack().await;
    proxy.refuse(false);
    eventually(async || {
        let state = direct.consumer_state("s", "c").await.unwrap();
        (state.num_ack_pending == 0).then_some(())
    })
    .await;
}

#[tokio::test]
async fn what_waited_for_longer_than_its_ack_wait_is_not_begun() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    let spec = ConsumerSpec { ack_wait: Duration::from_secs(2), ..super::consumer("c") };
    direct.create_consumer(&spec).await.unwrap();
    for n in 1..=3 {
        direct.publish(numbered(n, 10)).await.unwrap();
    }
    let mut pull = through.pull("s", "c", 10).await.unwrap();
    let (fresh, kept, left) = (
        pull.next().await.unwrap().unwrap(),
        pull.next().await.unwrap().unwrap(),
        pull.next().await.unwrap().unwrap(),
    );
    assert!(fresh.begin());
    let came = Instant::now();
    while came.elapsed() < Duration::from_millis(2500) {
        kept.progress().await;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(kept.begin(), "it was kept alive");
    assert!(!left.begin(), "another may have it");
    proxy.cut();
    through.publish(numbered(4, 10)).await.unwrap();
    assert!(kept.begin(), "over a cut it is ours for a while");
    tokio::time::sleep(Duration::from_millis(700)).await;
    assert!(!kept.begin());
}

#[tokio::test]
async fn a_reading_to_the_end_and_single_reads_outlive_cuts() {
    let (_server, proxy, direct, through) = behind_a_proxy().await;
    direct.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    for n in 0..300 {
        direct.publish(numbered(n, 50_000)).await.unwrap();
    }
    let mut reading = std::pin::pin!(through.scan("s", "", 1));
    let mut next = 1;
    while let Some(message) = reading.next().await {
        assert_eq!(message.unwrap().seq, next);
        if next % 100 == 50 {
            proxy.cut();
        }
        next += 1;
    }
    assert_eq!(next, 301);
    for seq in 1..=50 {
        let (found, ()) = tokio::join!(through.message("s", seq), async {
            if seq % 10 == 0 {
                proxy.cut();
            }
        });
        assert!(found.unwrap().is_some());
    }
}

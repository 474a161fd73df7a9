//! Broker: reading by offset, commits, and single messages on a real server.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use millstream::broker::{CommitError, ConsumerSpec, Outgoing, Retention};

use crate::support::{TestServer, bucket, eventually, failure, stream};

fn change(key: &str, value: &'static str) -> (String, Option<Bytes>) {
    (key.to_owned(), Some(Bytes::from_static(value.as_bytes())))
}

#[tokio::test]
async fn a_commit_is_all_or_nothing_and_fences_who_comes_late() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&bucket("b")).await.unwrap();
    let first = broker.commit("b", "at", 0, vec![change("at", "1")]).await.unwrap();
    let changes = vec![change("k.1", "a"), change("at", "2"), change("k.2", "b")];
    let second = broker.commit("b", "at", first, changes).await.unwrap();
    assert_eq!(broker.kv_get("b", "at").await.unwrap(), Some((Bytes::from("2"), second)));

    let late = failure(
        broker.commit("b", "at", first, vec![change("at", "3"), change("k.1", "late")]).await,
    );
    assert!(matches!(late, CommitError::Fenced { .. }), "{late:?}");
    let entries = broker.kv_entries("b", "k.").await.unwrap();
    let entries: Vec<_> =
        entries.iter().map(|(key, value, _)| (key.as_str(), value.as_ref())).collect();
    assert_eq!(entries, [("k.1", &b"a"[..]), ("k.2", b"b")]);

    let changes = vec![change("at", "3"), ("k.1".to_owned(), None)];
    broker.commit("b", "at", second, changes).await.unwrap();
    assert_eq!(broker.kv_get("b", "k.1").await.unwrap(), None);
    assert_eq!(broker.kv_entries("b", "").await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_commit_of_a_thousand_keys_is_one_and_a_larger_one_is_refused() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&bucket("b")).await.unwrap();
    let keys = |count: usize| {
        let keys = (0..count - 1).map(|n| (format!("k.{n}"), Some(Bytes::from("v"))));
        keys.chain([change("at", "1")]).collect::<Vec<_>>()
    };
    let revision = broker.commit("b", "at", 0, keys(1000)).await.unwrap();
    assert_eq!(broker.kv_get("b", "at").await.unwrap().unwrap().1, revision);
    assert_eq!(broker.kv_entries("b", "k.").await.unwrap().len(), 999);
    assert!(matches!(
        broker.commit("b", "at", revision, keys(1001)).await,
        Err(CommitError::Failed { .. })
    ));
}

#[tokio::test]
async fn a_key_is_created_once_and_updated_only_at_its_revision() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&bucket("b")).await.unwrap();
    let revision = broker.kv_create("b", "k", "1").await.unwrap();
    assert!(matches!(broker.kv_create("b", "k", "2").await, Err(CommitError::Fenced { .. })));
    let updated = broker.kv_update("b", "k", "2", revision).await.unwrap();
    assert!(matches!(
        broker.kv_update("b", "k", "3", revision).await,
        Err(CommitError::Fenced { .. })
    ));
    assert_eq!(broker.kv_get("b", "k").await.unwrap(), Some((Bytes::from("2"), updated)));
    broker.kv_delete("b", "k").await.unwrap();
    assert_eq!(broker.kv_get("b", "k").await.unwrap(), None);
    broker.kv_create("b", "k", "again").await.unwrap();
}

#[tokio::test]
async fn a_scan_ends_at_what_was_last_when_it_began() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    for retention in [Retention::Limits, Retention::WorkQueue] {
        let name = format!("S{retention:?}");
        broker.create_stream(&stream(&name, &format!("{name}.>"), retention)).await.unwrap();
        let scan = |filter: &str, from| {
            broker.scan(&name, filter, from).map_ok(|m| m.seq).try_collect::<Vec<_>>()
        };
        assert_eq!(scan("", 1).await.unwrap(), [0; 0], "an empty stream ends at once");
        for n in 0..10 {
            broker.publish(Outgoing::new(format!("{name}.{}", n % 2), "x")).await.unwrap();
        }
        assert_eq!(scan(&format!("{name}.0"), 1).await.unwrap(), [1, 3, 5, 7, 9]);
        assert_eq!(scan("", 9).await.unwrap(), [9, 10]);
        assert_eq!(scan("", 11).await.unwrap(), [0; 0]);
        assert_eq!(scan(&format!("{name}.none"), 1).await.unwrap(), [0; 0]);
        assert!(broker.delete_message(&name, 3).await.unwrap());
        assert!(!broker.delete_message(&name, 3).await.unwrap());
        assert!(broker.message(&name, 3).await.unwrap().is_none());
        assert_eq!(broker.message(&name, 4).await.unwrap().unwrap().subject, format!("{name}.1"));
        assert_eq!(scan(&format!("{name}.0"), 1).await.unwrap(), [1, 5, 7, 9]);
        assert_eq!(broker.subjects_count(&name, &format!("{name}.0")).await.unwrap(), 4);
    }
}

#[tokio::test]
async fn following_a_stream_survives_a_restart_of_the_server() {
    let mut server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream("S", "s.>", Retention::Limits)).await.unwrap();
    let mut follow = Box::pin(broker.follow("S", &["s.a".to_owned(), "s.b".to_owned()], 1));
    let mut seen = Vec::new();
    for round in 0..3 {
        for n in 0..50 {
            broker.publish(Outgoing::new(["s.a", "s.b", "s.c"][n % 3], "x")).await.unwrap();
        }
        let until = 50 * (round + 1);
        while seen.last().is_none_or(|last| *last < until) {
            match tokio::time::timeout(crate::support::DEADLINE, follow.next())
                .await
                .unwrap()
                .unwrap()
            {
                Ok(message) => seen.push(message.seq),
                Err(error) => eprintln!("{error}"),
            }
        }
        server.server.kill_hard();
        server.server.restart().await.unwrap();
        eventually(async || broker.stream_state("S").await.ok()).await;
    }
    let expected: Vec<u64> = (1..=150).filter(|seq| (seq - 1) % 50 % 3 != 2).collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn an_exhausted_message_is_settled_on_behalf_of_its_consumer() {
    let mut server = TestServer::start().await;
    let broker = server.connect().await;
    let consumer = |stream: &str, name: &str, max_deliver| ConsumerSpec {
        stream: stream.to_owned(),
        name: name.to_owned(),
        pipeline: "test".to_owned(),
        filters: Vec::new(),
        ack_wait: std::time::Duration::from_secs(30),
        max_deliver: Some(max_deliver),
        max_ack_pending: 100,
    };
    let cases = [
        (Retention::Interest, 1),
        (Retention::Interest, 2),
        (Retention::WorkQueue, 1),
        (Retention::WorkQueue, 2),
    ];
    let name = |retention, max_deliver| format!("S{retention:?}{max_deliver}");
    for (retention, max_deliver) in cases {
        let name = name(retention, max_deliver);
        broker.create_stream(&stream(&name, &format!("{name}.>"), retention)).await.unwrap();
        broker.create_consumer(&consumer(&name, "c", max_deliver)).await.unwrap();
        for _ in 0..4 {
            broker.publish(Outgoing::new(format!("{name}.x"), "x")).await.unwrap();
        }
        let mut pull = broker.pull(&name, "c", 10).await.unwrap();
        for _ in 0..4 * max_deliver {
            pull.next().await.unwrap().unwrap().nak(std::time::Duration::ZERO).await;
        }
        // The server notices that a message is exhausted when it would hand it out once more, so
        // someone has to ask.
        tokio::select! {
            more = pull.next() => panic!("{more:?}"),
            () = eventually(async || {
                let state = broker.consumer_state(&name, "c").await.unwrap();
                (state.num_ack_pending == 0 && state.num_pending == 0).then_some(())
            }) => {}
        }
        assert_eq!(
            broker.stream_state(&name).await.unwrap().messages,
            4,
            "exhausted messages stay"
        );
        for seq in [2, 1] {
            broker.settle_for(&name, "c", seq).await.unwrap();
            assert!(
                broker.message(&name, seq).await.unwrap().is_none(),
                "{seq} of {name} is still there"
            );
        }
    }
    // Not kill -9: then the server may forget what it delivered last, and those messages are not
    // exhausted any more.
    server.server.stop().await;
    server.server.restart().await.unwrap();
    eventually(async || broker.stream_state("SInterest1").await.ok()).await;
    for (retention, max_deliver) in cases {
        let name = name(retention, max_deliver);
        for seq in [4, 3] {
            broker.settle_for(&name, "c", seq).await.unwrap();
            assert!(
                broker.message(&name, seq).await.unwrap().is_none(),
                "{seq} of {name} is still there"
            );
        }
        assert_eq!(broker.stream_state(&name).await.unwrap().messages, 0);
    }
}

#[tokio::test]
async fn settling_for_one_consumer_leaves_the_message_to_others_and_takes_it_from_its_worker() {
    let server = TestServer::start().await;
    let broker = server.connect().await;
    broker.create_stream(&stream("S", "s.>", Retention::Interest)).await.unwrap();
    for name in ["a", "b"] {
        let consumer = ConsumerSpec {
            stream: "S".to_owned(),
            name: name.to_owned(),
            pipeline: "test".to_owned(),
            filters: Vec::new(),
            ack_wait: std::time::Duration::from_secs(30),
            max_deliver: Some(1),
            max_ack_pending: 100,
        };
        broker.create_consumer(&consumer).await.unwrap();
    }
    broker.publish(Outgoing::new("s.x", "x")).await.unwrap();
    let mut pull = broker.pull("S", "a", 10).await.unwrap();
    pull.next().await.unwrap().unwrap().nak(std::time::Duration::ZERO).await;
    let undelivered = broker.settle_for("S", "b", 1).await;
    assert!(undelivered.is_err(), "what was not delivered cannot be settled");
    broker.settle_for("S", "a", 1).await.unwrap();
    assert!(broker.message("S", 1).await.unwrap().is_some());
    let mut pull = broker.pull("S", "b", 10).await.unwrap();
    let in_hand = pull.next().await.unwrap().unwrap();
    broker.settle_for("S", "b", in_hand.seq).await.unwrap();
    eventually(async || broker.message("S", 1).await.unwrap().is_none().then_some(())).await;
}

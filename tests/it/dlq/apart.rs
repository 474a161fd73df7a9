//! Apart: letters whose payload is too large for them, as an operator has them.

use std::time::Duration;

use millstream::{dead_letter::store, stages::headers};
use serde_json::{Value, json};

use super::{Shell, letter, publish, still};
use crate::support::{Mill, eventually, scanned};

/// Payloads of the dead-letter stream that are kept apart: name and length of each.
async fn kept_apart(mill: &Mill) -> Vec<(String, usize)> {
    let all = scanned(&mill.broker, &mill.names.dlq_stream()).await;
    all.iter()
        .filter(|message| !mill.names.is_dlq(&message.subject))
        .map(|message| {
            let beside = message.subject.strip_prefix("shop.dlq.work.shop-in-events.7").unwrap();
            let (name, _) = beside.split_once(".body.").unwrap_or((beside, ""));
            (if name.is_empty() { "edited" } else { name }.to_owned(), message.body.len())
        })
        .collect()
}

#[tokio::test]
async fn a_payload_that_is_kept_apart_is_shown_selected_edited_and_dropped_with_its_letter() {
    let mill = still().await;
    let shell = Shell::new(&mill);
    let payload = |n: i32, long: usize| {
        json!({ "eventId": "e-7", "eventType": "order.created", "n": n, "pad": "x".repeat(long) })
            .to_string()
    };
    let large = payload(1, (1 << 20) - 1000);
    let identity = [(headers::EVENT_ID, "e-7"), (headers::EVENT_TYPE, "order.created")];
    assert!(
        millstream::dead_letter::store::store(
            &mill.broker,
            &mill.names,
            letter(7, &identity, &large)
        )
        .await
        .unwrap()
    );
    publish(&mill, [letter(8, &identity, "{\"n\":9}")]).await;
    assert_eq!(kept_apart(&mill).await, [(".body".to_owned(), large.len())]);
    let listed = shell.run(&["ls", "--where", ".n == 1", "--json"]).await.out;
    let listed: Value = serde_json::from_str(listed.trim()).unwrap();
    assert_eq!(
        (&listed["seq"], &listed["apart"], &listed["bytes"]),
        (&json!(2), &json!(true), &json!(large.len()))
    );
    assert!(
        shell
            .run(&["show", "2"])
            .await
            .out
            .contains("payload, kept apart since it is too large for a letter (")
    );
    assert_eq!(
        shell.run(&["redrive", "--where", ".n == 1", "--dry-run"]).await.out.lines().last(),
        Some("would redrive 1 letter")
    );

    // Edited, and still too large; the original stays, and an edit of the edit leaves nothing
    // behind.
    for (letter, n) in [("2", "5"), ("6", "6")] {
        let ran = shell.run(&["edit", letter, "--no-check", "--set", &format!("n={n}")]).await;
        assert_eq!(ran.code, 0, "{}", ran.err);
    }
    let now = mill
        .broker
        .last_on_subject("shop-dlq", "shop.dlq.work.shop-in-events.7")
        .await
        .unwrap()
        .unwrap();
    let edited = millstream::dead_letter::stored::payload(&mill.broker, &mill.names, &now)
        .await
        .unwrap()
        .unwrap();
    assert!(edited == payload(6, (1 << 20) - 1000) && now.body.is_empty());
    let beside = kept_apart(&mill).await;
    assert_eq!(
        beside.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".body", ".original", "edited"]
    );
    let number = now.seq.to_string();
    let shown = shell.json(&["show", &number, "--json"]).await;
    assert_eq!(
        (&shown["payload"]["n"], &shown["original"]["n"], &shown["letter"]["apart"]),
        (&json!(6), &json!(1), &json!(true))
    );
    assert_eq!(
        shell.run(&["ls", "--where", ".n == 1"]).await.out,
        "no dead letters that these flags mean\n"
    );

    // It fits again.
    let small = payload(7, 10);
    assert_eq!(
        shell.run_with(&["edit", &number, "--no-check", "--file", "-"], &small, None).await.code,
        0
    );
    let now = mill
        .broker
        .last_on_subject("shop-dlq", "shop.dlq.work.shop-in-events.7")
        .await
        .unwrap()
        .unwrap();
    assert_eq!((now.body.as_ref(), now.headers.get("Millstream-Body")), (small.as_bytes(), None));
    let beside = kept_apart(&mill).await;
    assert_eq!(
        beside.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(),
        [".body", ".original"]
    );
    let shown = shell.json(&["show", &now.seq.to_string(), "--json"]).await;
    assert_eq!(
        (&shown["original"]["n"], &shown["letter"]["bytes"]),
        (&json!(1), &json!(small.len()))
    );
    assert_eq!(
        mill.broker.subjects_count("shop-dlq", &mill.names.dlq_not_letters()).await.unwrap(),
        2
    );

    // What is dropped is gone with all that was kept beside it.
    assert_eq!(shell.run(&["drop", &now.seq.to_string(), "--yes"]).await.out, "dropped 1 letter\n");
    assert_eq!((kept_apart(&mill).await, mill.letters().await.len()), (Vec::new(), 1));
}

#[tokio::test]
async fn the_gauge_counts_letters_and_nothing_that_is_kept_beside_them() {
    let mut mill = still().await;
    mill.work().await;
    let shown = async |wanted: u64| {
        let shows = format!("millstream_dead_letter_queue_size {wanted}");
        let worker = mill.worker.as_ref().unwrap();
        let seen = eventually(async || {
            let text = worker.metrics().render();
            text.lines().any(|line| line == shows).then_some(())
        });
        // Some looks of the worker, and far less than a minute.
        tokio::time::timeout(Duration::from_secs(20), seen).await
    };
    shown(0).await.unwrap();
    let large = "x".repeat((1 << 20) - 1000);
    for n in 1..4 {
        let written = letter(n, &[(headers::EVENT_ID, "e")], &large);
        store::store(&mill.broker, &mill.names, written).await.unwrap();
    }
    shown(3).await.unwrap();
    assert_eq!(scanned(&mill.broker, "shop-dlq").await.len(), 6);
    publish(&mill, [letter(9, &[(headers::EVENT_ID, "small")], "{}")]).await;
    shown(4).await.unwrap();
    mill.drain().await;
}

//! Claims: the subject of a letter, held against what it holds already.

use millstream::{
    broker::{Outgoing, StoredMessage},
    dead_letter::{LetterRecord, store::store, stored},
};
use serde_json::json;

use super::{Calls, PIPELINE, findings, given_up, header};
use crate::support::{Mill, TestServer, eventually};

/// Message that somebody put on the subject of a letter to come.
async fn claimed(mill: &Mill, subject: &str, of: &[(&'static str, &str)]) -> StoredMessage {
    let mut forged = Outgoing::new(subject, r#"{"forged":true}"#);
    for (name, value) in of {
        forged = forged.header(name, value);
    }
    mill.broker.publish(forged).await.unwrap();
    mill.broker.last_on_subject("shop-dlq", subject).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_letter_whose_subject_was_claimed_beforehand_is_stored_on_another_and_told_of() {
    let mut mill =
        Mill::still(TestServer::start().await, PIPELINE, Calls::default().registry()).await;
    let body = r#"{"eventId":"e-1","eventType":"order.created","eventData":{"reject":true}}"#;
    let edge = Outgoing::new("shop.out.first.order.created", body)
        .header("Millstream-Event-Id", "e-1")
        .header("Millstream-Event-Type", "order.created")
        .header("Millstream-Envelope", "domain")
        .header("Millstream-Source", "shop-in-events:7@1000");
    let stored = mill.broker.publish(edge).await.unwrap();
    let life = mill.place(&stored.stream, stored.seq).await;
    let subject = mill.names.dlq_subject("work", &life);
    // All that names the event is copied; only what it says is not.
    let copied = [
        ("Millstream-Stage", "work"),
        ("Millstream-Event-Id", "e-1"),
        ("Millstream-Source", "shop-in-events:7@1000"),
        ("Millstream-Life", &life.to_string()),
    ];
    let forged = claimed(&mill, &subject, &copied).await;
    mill.work().await;
    eventually(async || (mill.letters().await.len() == 2).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    let letters = mill.letters().await;
    assert_eq!((&letters[0].body, letters[0].seq), (&forged.body, forged.seq), "it is as it was");
    let letter = &letters[1];
    let payload = stored::payload(&mill.broker, &mill.names, letter).await.unwrap().unwrap();
    assert_eq!(payload, body.as_bytes());
    assert!(letter.subject.starts_with(&format!("{subject}-")), "{}", letter.subject);
    assert_eq!(LetterRecord::of(letter).reason, "rejected");
    let told = findings(&mill, "LetterSubjectClaimed").await;
    assert!(told.len() == 1 && told[0].contains(&subject), "{told:?}");
    // Whoever gives up on it once more finds its letter there.
    let again = Outgoing {
        headers: letter.headers.clone(),
        ..Outgoing::new(subject.clone(), payload.clone())
    };
    let again = Outgoing { expects: millstream::broker::Expects::Nothing, ..again };
    store(&mill.broker, &mill.names, again.clone()).await.unwrap();
    assert_eq!(mill.letters().await.len(), 2);
    // With that subject taken as well, one that nobody can foresee.
    stored::remove(&mill.broker, &mill.names, letter).await.unwrap();
    claimed(&mill, &letter.subject, &copied).await;
    assert!(store(&mill.broker, &mill.names, again).await.unwrap());
    let last = mill.letters().await.pop().unwrap();
    assert!(last.subject != letter.subject && last.body == payload, "{}", last.subject);
    assert_eq!(given_up(&mill).await, ["e-1", "e-1", "e-1"], "one of them is of the event");
}

#[tokio::test]
async fn an_edited_letter_is_still_known_by_whoever_gives_up_on_its_event_again() {
    let mut mill = Mill::with(PIPELINE, Calls::default().registry()).await;
    mill.event("e-1", "order.created", json!({ "reject": true })).await;
    let (_, letter) = mill.next_dead_letter().await;
    mill.idle("work").await;
    mill.drain().await;
    let headers = millstream::dead_letter::edit::edited(
        &letter,
        None,
        "me@here",
        std::time::SystemTime::now(),
    );
    let new = millstream::dead_letter::edit::put(
        &mill.broker,
        &mill.names,
        &letter,
        headers,
        r#"{"mended":true}"#.into(),
    );
    new.await.unwrap();
    let again = Outgoing {
        headers: letter.headers.clone(),
        expects: millstream::broker::Expects::Nothing,
        ..Outgoing::new(letter.subject.clone(), letter.body.clone())
    };
    store(&mill.broker, &mill.names, again).await.unwrap();
    let letters = mill.letters().await;
    assert_eq!(letters.len(), 1);
    assert!(!header(&letters[0], "Millstream-Edited-At").is_empty());
    assert!(findings(&mill, "LetterSubjectClaimed").await.is_empty());
}

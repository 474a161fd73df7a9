//! Signed: bodies of webhooks by their templates, signatures that the shipped example verifies,
//! wording, and NATS.

use std::{
    io::Write as _,
    process::{Command, Stdio},
    time::Duration,
};

use futures_util::StreamExt as _;
use millstream::{
    channels::{Deliver, Words, sample::SampleKind},
    stages::{Disposition, Envelope, Event, Map as _, event::Identity},
};
use serde_json::{Value, json};

use super::{
    built, channel, context, delivery, hostile, notification,
    peer::{Peer, Sent},
    send,
};
use crate::{reaper::Start as _, support::TestServer};

const SECRET: &str = "a-secret-of-enough-bytes";

/// True if the shipped example verifies the signature.
fn verified(sent: &Sent, body: &[u8]) -> bool {
    let header = |name| sent.headers[name].to_str().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/verify_webhook.py");
    let mut python = Command::new("python3")
        .args([script, SECRET, header("millstream-timestamp"), header("millstream-signature")])
        .stdin(Stdio::piped())
        .start();
    python.stdin.take().unwrap().write_all(body).unwrap();
    python.wait().unwrap().success()
}

#[tokio::test]
async fn a_webhook_is_signed_so_that_the_example_verifies_it_and_nothing_else() {
    let peer = Peer::start(204, "").await;
    let url = format!("http://{}/hook", peer.address);
    let body = r#"{"text": {{ title }}, "code": {{ incident.code if incident else "" }}}"#;
    let options = json!({ "url": url, "secret": SECRET, "body": body, "allow_private": true });
    let channel = channel("webhook", &options);
    let notification = hostile();
    send(&channel, &notification).await.unwrap();
    let sent = peer.sent().remove(0);
    assert!(verified(&sent, &sent.body));
    assert!(!verified(&sent, b"{\"text\": \"another\"}"));
    assert!(sent.headers["idempotency-key"].to_str().unwrap().starts_with("ops."));
    // The template is JSON whatever is in the values.
    let sent = sent.json();
    assert!(sent["text"].as_str().unwrap().contains("<script>"), "{sent:#}");
    assert_eq!(sent.as_object().unwrap().len(), 2);
}

#[tokio::test]
async fn a_channel_has_words_of_its_own() {
    let peer = Peer::start(200, "ok").await;
    let options = json!({ "url": format!("http://{}/hook", peer.address), "allow_private": true });
    let words = Words {
        title: Some(
            "{{ severity|upper }}: {{ incident.code if incident else 'digest' }}".to_owned(),
        ),
        text: Some(
            "{{ title }} {{ why }}{% for i in incidents %}\n- {{ i.count }}{% endfor %}".to_owned(),
        ),
    };
    let deliver = Deliver::build("slack", &options, &words, &context()).unwrap();
    send(&deliver, &notification(SampleKind::Firing)).await.unwrap();
    send(&deliver, &notification(SampleKind::Digest)).await.unwrap();
    let sent: Vec<Value> = peer.sent().iter().map(Sent::json).collect();
    assert_eq!(sent[0]["text"], "HIGH: REDIS_CONNECTION_FAILED");
    assert_eq!(sent[0]["attachments"][0]["text"], "HIGH: REDIS_CONNECTION_FAILED opened\n- 5");
    assert_eq!(sent[1]["text"], "HIGH: digest");
    let words = Words { title: Some("{{ incident.cdoe }}".to_owned()), text: None };
    let problems = Deliver::build("slack", &options, &words, &context()).unwrap_err();
    assert_eq!(problems[0].at, ["title"]);
}

#[tokio::test]
async fn notifications_are_delivered_on_a_subject_and_anything_else_is_rejected() {
    let server = TestServer::start().await;
    let listener = async_nats::connect(server.server.url()).await.unwrap();
    let mut heard = listener.subscribe("alerts.shop").await.unwrap();
    listener.flush().await.unwrap();
    let mut context = context();
    context.broker = Some(server.connect().await);
    let deliver = built("nats", &json!({ "subject": "alerts.shop" }), &context).unwrap();
    let event = |body: String| {
        let identity = Identity {
            id: "e".to_owned(),
            event_type: "ops".to_owned(),
            version: "1".to_owned(),
            tenant: None,
        };
        Event::new(identity, Envelope::Raw, body.into())
    };
    for about in SampleKind::ALL {
        let sent = serde_json::to_value(notification(about)).unwrap();
        assert_eq!(deliver.apply(&event(sent.to_string()), &delivery()).await.unwrap().len(), 0);
        let message =
            tokio::time::timeout(Duration::from_secs(5), heard.next()).await.unwrap().unwrap();
        assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap(), sent);
        let id = message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str().to_owned();
        assert_eq!(id, sent["notificationId"].as_str().unwrap());
    }
    let failure = deliver.apply(&event("{}".to_owned()), &delivery()).await.unwrap_err();
    assert_eq!((failure.class.as_ref(), failure.disposition), ("DecodeError", Disposition::Reject));
}

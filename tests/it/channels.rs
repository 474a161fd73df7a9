//! Channels: what a webhook sends to a real server, and what the server's answers mean.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, StatusCode},
    response::{IntoResponse as _, Response},
    routing::post,
};
use futures_util::StreamExt as _;
use millstream::{
    channels::{Channel, ChannelContext, Deliver, build},
    stages::{Delivery, Disposition, Envelope, Event, Failure, Map as _, event::Identity, notification::Notification},
};
use serde_json::{Value, json};

use crate::support::TestServer;

type Seen = Arc<Mutex<Vec<(HeaderMap, Value)>>>;

/// A server that answers as the last part of the path says.
async fn server() -> (u16, Seen) {
    let seen = Seen::default();
    let answer =
        async |Path((_, how)): Path<(String, String)>, State(seen): State<Seen>, headers: HeaderMap, body: String| {
            seen.lock().unwrap().push((headers, serde_json::from_str(&body).unwrap()));
            let header = |name: &'static str, value: &'static str| [(HeaderName::from_static(name), value)];
            match how.as_str() {
                "fine" => StatusCode::NO_CONTENT.into_response(),
                "busy" => (StatusCode::TOO_MANY_REQUESTS, header("retry-after", "7"), "slow down").into_response(),
                "down" => (StatusCode::BAD_GATEWAY, "no upstream").into_response(),
                "gone" => (StatusCode::GONE, "removed").into_response(),
                "moved" => (StatusCode::FOUND, header("location", "/hook/fine")).into_response(),
                _ => std::future::pending::<Response>().await,
            }
        };
    let app = Router::new().route("/{secret}/{how}", post(answer)).with_state(seen.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    (port, seen)
}

fn webhook(options: Value) -> Arc<dyn Channel> {
    build("webhook", &options, &ChannelContext { name: "ops".to_owned(), broker: None }).unwrap()
}

fn notification() -> Value {
    json!({
        "notificationId": "ops.0f00b179aa2b82aa-1.opened", "channel": "ops", "at": "2026-11-21T12:00:00Z",
        "title": "[high] REDIS_CONNECTION_FAILED opened: 5 errors in cart", "text": "connect <ip> refused\n",
        "severity": "high", "suppressed": 0, "kind": "digest", "digest": {
            "firstIncidentId": "0f00b179aa2b82aa-1", "since": "2026-11-21T12:00:00Z", "opened": 1, "updated": 0,
            "resolved": 0, "errors": 5, "severity": "high", "top": [], "suppressed": 0,
        },
    })
}

fn delivery() -> Delivery {
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    Delivery { stage: "notify-ops".to_owned(), attempt: 1, now: SystemTime::now(), traceparent }
}

async fn send(channel: &dyn Channel) -> Result<(), Failure> {
    let notification: Notification = serde_json::from_value(notification()).unwrap();
    channel.send(&notification, &delivery()).await
}

#[tokio::test]
async fn a_webhook_is_sent_the_notification_and_its_answer_is_understood() {
    let (port, seen) = server().await;
    let to = |how: &str| {
        webhook(json!({
            "url": format!("http://127.0.0.1:{port}/s3cret/{how}"), "allow_private": true, "timeout": "500ms",
            "headers": { "authorization": "Bearer t0ken" },
        }))
    };
    send(&*to("fine")).await.unwrap();
    let (headers, body) = seen.lock().unwrap().pop().unwrap();
    assert_eq!(headers["content-type"], "application/json");
    assert_eq!(headers["authorization"], "Bearer t0ken");
    assert_eq!(headers["idempotency-key"], "ops.0f00b179aa2b82aa-1.opened");
    assert!(headers.contains_key("traceparent"));
    assert_eq!(body["title"], "[high] REDIS_CONNECTION_FAILED opened: 5 errors in cart");

    let mut said = Vec::new();
    for how in ["busy", "down", "gone", "moved", "hang"] {
        let failure = send(&*to(how)).await.unwrap_err();
        said.push(format!("{how}: {failure} ({:?})", failure.disposition));
        if how == "busy" {
            assert_eq!(failure.disposition, Disposition::Retry { after: Some(Duration::from_secs(7)) });
        }
    }
    let said = said.join("\n");
    assert!(!said.contains("s3cret") && !said.contains("t0ken"), "{said}");
    expect_test::expect![[r#"
        busy: RateLimited: http 429: slow down (Retry { after: Some(7s) })
        down: HttpServerError: http 502: no upstream (Retry { after: None })
        gone: HttpClientError: http 410: removed (Reject)
        moved: HttpClientError: http 302 (redirects are not followed) (Reject)
        hang: TimeoutError: no answer on channel "ops" in 500ms (Retry { after: None })"#]]
    .assert_eq(&said);
    // The redirect was not followed: six requests came, and the first was taken out.
    assert_eq!(seen.lock().unwrap().len(), 5);
}

#[tokio::test]
async fn a_webhook_does_not_reach_private_addresses_by_name() {
    let (port, seen) = server().await;
    let url = format!("http://localhost:{port}/s3cret/fine");
    let failure = send(&*webhook(json!({ "url": url }))).await.unwrap_err();
    let said = failure.to_string();
    assert!(said.contains("private address") && !said.contains("s3cret"), "{said}");
    assert!(seen.lock().unwrap().is_empty());
    send(&*webhook(json!({ "url": url, "allow_private": true }))).await.unwrap();
}

#[tokio::test]
async fn a_webhook_that_cannot_be_reached_is_retried_and_not_shown() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/s3cret", listener.local_addr().unwrap());
    drop(listener);
    let failure = send(&*webhook(json!({ "url": url, "allow_private": true }))).await.unwrap_err();
    assert_eq!(failure.class, "ConnectionError");
    assert!(!failure.to_string().contains("s3cret"), "{failure}");
}

#[tokio::test]
async fn notifications_are_delivered_on_a_subject_and_anything_else_is_rejected() {
    let server = TestServer::start().await;
    let listener = async_nats::connect(server.server.url()).await.unwrap();
    let mut heard = listener.subscribe("alerts.shop").await.unwrap();
    listener.flush().await.unwrap();
    let context = ChannelContext { name: "ops".to_owned(), broker: Some(server.connect().await) };
    let deliver = Deliver::new(build("nats", &json!({ "subject": "alerts.shop" }), &context).unwrap());
    let event = |body: String| {
        let identity =
            Identity { id: "e".to_owned(), event_type: "ops".to_owned(), version: "1".to_owned(), tenant: None };
        Event::new(identity, Envelope::Raw, body.into())
    };
    assert_eq!(deliver.apply(&event(notification().to_string()), &delivery()).await.unwrap().len(), 0);
    let message = tokio::time::timeout(Duration::from_secs(5), heard.next()).await.unwrap().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&message.payload).unwrap(), notification());
    assert_eq!(message.headers.unwrap().get("Nats-Msg-Id").unwrap().as_str(), "ops.0f00b179aa2b82aa-1.opened");
    let failure = deliver.apply(&event("{}".to_owned()), &delivery()).await.unwrap_err();
    assert_eq!((failure.class.as_ref(), failure.disposition), ("DecodeError", Disposition::Reject));
}

//! HTTP: the `http` handler, against services that answer in every way, and in none.

use std::time::{Duration, Instant};

use axum::{
    Router,
    body::Body,
    http::{HeaderMap, Method, StatusCode, Uri},
    response::{IntoResponse as _, Response},
};
use expect_test::{Expect, expect};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::{build, call};

/// Service that does what the path of a request says.
async fn service() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move { axum::serve(listener, Router::new().fallback(answer)).await });
    origin
}

async fn answer(method: Method, uri: Uri, headers: HeaderMap, body: String) -> Response {
    let status = |code| StatusCode::from_u16(code).unwrap();
    match uri.path() {
        "/echo" => body.into_response(),
        "/told" => {
            let mut told: Vec<String> = headers
                .iter()
                .filter(|(name, _)| name.as_str() != "host")
                .map(|(name, value)| {
                    format!("{name}: {}", String::from_utf8_lossy(value.as_bytes()))
                })
                .collect();
            told.sort();
            told.push(format!("{method} {uri} {body}"));
            json!(told).to_string().into_response()
        }
        "/two" => " [{\"a\": 12345678901234567890123}, 2]\n".into_response(),
        "/none" => status(204).into_response(),
        "/text" => "done\r\nand dusted".into_response(),
        "/400" => (status(400), "amount\r\n is \x1b[31mnegative").into_response(),
        "/404" => status(404).into_response(),
        "/422" => (status(422), "no such product").into_response(),
        "/429" => (status(429), [("retry-after", "7")], "slow down").into_response(),
        "/429-soon" => (status(429), [("retry-after", "soon")]).into_response(),
        "/500" => (status(500), "x".repeat(10_000)).into_response(),
        "/503" => (status(503), [("retry-after", "120")]).into_response(),
        "/302" => (status(302), [("location", "http://169.254.169.254/")]).into_response(),
        "/huge" => Body::from("[1,".repeat(4 << 20)).into_response(),
        "/hang" => std::future::pending().await,
        other => panic!("no answer for {other}"),
    }
}

/// Calls a handler once and checks the outcome; `ORIGIN` stands for the address of the service.
async fn check(options: serde_json::Value, origin: &str, expect: &Expect) {
    let outcome = call(build(&options).as_ref(), r#"{"amount": 1.0}"#).await;
    expect.assert_eq(&outcome.replace(origin, "ORIGIN"));
}

#[tokio::test]
async fn the_status_of_an_answer_decides_what_becomes_of_the_event() {
    let origin = service().await;
    let at = |path: &str| json!({ "http": format!("{origin}{path}"), "timeout": "5s" });
    check(at("/echo"), &origin, &expect!["pass"]).await;
    check(at("/none"), &origin, &expect!["pass"]).await;
    check(at("/huge"), &origin, &expect!["pass"]).await;
    check(
        at("/302"),
        &origin,
        &expect!["reject: HttpClientError: http 302 (redirects are not followed)"],
    )
    .await;
    check(
        at("/400"),
        &origin,
        &expect!["reject: ValidationError: http 400: amount   is  [31mnegative"],
    )
    .await;
    check(at("/404"), &origin, &expect!["reject: HttpClientError: http 404"]).await;
    check(at("/422"), &origin, &expect!["reject: ValidationError: http 422: no such product"])
        .await;
    check(at("/429"), &origin, &expect!["retry after 7s: RateLimited: http 429: slow down"]).await;
    check(at("/429-soon"), &origin, &expect!["retry: RateLimited: http 429"]).await;
    check(
        at("/500"),
        &origin,
        &expect![
            "retry: HttpServerError: http 500: \
             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\
             xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx…"
        ],
    )
    .await;
    check(at("/503"), &origin, &expect!["retry after 120s: HttpServerError: http 503"]).await;
}

#[tokio::test]
async fn a_reply_passes_on_where_that_is_asked_for() {
    let origin = service().await;
    let at = |path: &str| json!({ "http": format!("{origin}{path}"), "output": "reply" });
    check(at("/echo"), &origin, &expect![[r#"replace ["{\"amount\": 1.0}"]"#]]).await;
    check(at("/two"), &origin, &expect![[r#"replace ["{\"a\": 12345678901234567890123}", "2"]"#]])
        .await;
    check(at("/none"), &origin, &expect!["replace []"]).await;
    check(
        at("/text"),
        &origin,
        &expect![
            "retry: HandlerError: the reply is not JSON (expected value at line 1 column 1): \
             done  and dusted"
        ],
    )
    .await;
    check(
        at("/huge"),
        &origin,
        &expect!["retry: HandlerError: the reply is longer than 8388608 bytes"],
    )
    .await;
}

#[tokio::test]
async fn the_service_is_told_which_event_it_is_given() {
    let origin = service().await;
    let options = json!({
        "http": format!("{}/told?key=s3cret", origin.replace("http://", "http://joe:s3cret@")),
        "method": "PUT",
        "headers": { "X-Team": "payments" },
        "output": "reply",
    });
    let expect = expect![[
        r#"replace ["\"accept: */*\"", "\"authorization: Basic am9lOnMzY3JldA==\"", "\"content-length: 15\"", "\"content-type: application/json\"", "\"idempotency-key: e1/orders\"", "\"millstream-attempt: 3\"", "\"millstream-event-id: e1\"", "\"millstream-event-type: order.created\"", "\"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"", "\"user-agent: millstream/0.1.0\"", "\"x-team: payments\"", "\"PUT /told?key=s3cret {\\\"amount\\\": 1.0}\""]"#
    ]];
    check(options, &origin, &expect).await;
}

#[tokio::test]
async fn a_service_that_is_not_there_or_does_not_answer_is_tried_again() {
    let origin = service().await;
    let slow = json!({ "http": format!("{origin}/hang"), "timeout": "200ms" });
    check(slow, &origin, &expect!["retry: TimeoutError: no answer from ORIGIN in 200ms"]).await;

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gone = format!("http://{}", listener.local_addr().unwrap());
    drop(listener);
    let secret = format!("{}/s3cret?key=s3cret", gone.replace("http://", "http://joe:s3cret@"));
    check(
        json!({ "http": secret }),
        &gone,
        &expect![
            "retry: ConnectionError: could not connect to ORIGIN: Connection refused (os error 111)"
        ],
    )
    .await;
    check(
        json!({ "http": "http://nowhere.invalid/" }),
        "http://nowhere.invalid",
        &expect![
            "retry: ConnectionError: could not connect to ORIGIN: \
             failed to lookup address information: Name or service not known"
        ],
    )
    .await;

    let half = hangs_up_after("HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{\"a\":").await;
    check(
        json!({ "http": &half, "output": "reply" }),
        &half,
        &expect![
            "retry: ConnectionError: lost the connection to ORIGIN: \
             end of file before message length reached"
        ],
    )
    .await;
    let garbage = hangs_up_after("220 mail.example.com ESMTP\r\n").await;
    check(
        json!({ "http": &garbage }),
        &garbage,
        &expect![
            "retry: ConnectionError: lost the connection to ORIGIN: invalid HTTP version parsed"
        ],
    )
    .await;
    let nothing = hangs_up_after("").await;
    check(
        json!({ "http": &nothing }),
        &nothing,
        &expect![
            "retry: ConnectionError: lost the connection to ORIGIN: \
             connection closed before message completed"
        ],
    )
    .await;
    let not_tls = nothing.replace("http:", "https:");
    check(
        json!({ "http": &not_tls }),
        &not_tls,
        &expect!["retry: ConnectionError: could not connect to ORIGIN: tls handshake eof"],
    )
    .await;
}

/// Server that says this to whoever connects, and hangs up.
async fn hangs_up_after(says: &'static str) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Reads what has come, so that hanging up is no reset.
            _ = stream.read(&mut [0; 4096]).await;
            _ = stream.write_all(says.as_bytes()).await;
        }
    });
    origin
}

#[tokio::test]
async fn a_connection_is_used_again_whatever_the_status() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let origin = format!("http://{}", listener.local_addr().unwrap());
    let accepted = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        for _ in 0..3 {
            let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
            while !seen.ends_with(b"}") {
                let read = stream.read(&mut buffer).await.unwrap();
                seen.extend_from_slice(&buffer[..read]);
            }
            let answer = "HTTP/1.1 500 Internal Server Error\r\ncontent-length: 3\r\n\r\nbad";
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let handler = build(&json!({ "http": origin, "timeout": "5s" }));
    for _ in 0..3 {
        assert_eq!(call(handler.as_ref(), "{}").await, "retry: HttpServerError: http 500: bad");
    }
    accepted.await.unwrap();
}

#[tokio::test]
async fn a_call_that_is_dropped_hangs_up() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let handler = build(&json!({ "http": format!("http://{}", listener.local_addr().unwrap()) }));
    let started = Instant::now();
    let (mut stream, mut seen) = tokio::select! {
        _ = call(handler.as_ref(), "{}") => panic!("nobody answered"),
        seen = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut seen = vec![0; 4096];
            assert!(stream.read(&mut seen).await.unwrap() > 0);
            (stream, seen)
        } => seen,
    };
    while stream.read(&mut seen).await.unwrap_or(0) > 0 {}
    assert!(started.elapsed() < Duration::from_secs(5), "the connection stayed open");
}

//! NATS: the `nats` handler, against a service on a real server.

use async_nats::HeaderMap;
use expect_test::{Expect, expect};
use futures_util::StreamExt as _;
use millstream::{
    broker::Broker,
    handlers::{self, HandlerContext},
};
use serde_json::{Value, json};

use super::call;
use crate::support::TestServer;

/// Service that does what the last token of a subject below `svc` says.
async fn serve(url: &str) {
    let client = async_nats::connect(url).await.unwrap();
    let mut requests = client.subscribe("svc.*").await.unwrap();
    client.flush().await.unwrap();
    tokio::spawn(async move {
        while let Some(request) = requests.next().await {
            let does = request.subject.rsplit('.').next().unwrap();
            let mut headers = HeaderMap::new();
            let mut fails = |code: &str, error: &str| {
                headers.insert("Nats-Service-Error-Code", code);
                headers.insert("Nats-Service-Error", error);
            };
            let body = match does {
                "echo" => request.payload,
                "told" => {
                    let told = request.headers.unwrap_or_default();
                    let mut lines: Vec<_> = told
                        .iter()
                        .map(|(name, values)| format!("{name}: {}", values[0]))
                        .collect();
                    lines.sort();
                    json!(lines).to_string().into()
                }
                "none" => "".into(),
                "text" => "thanks".into(),
                "400" => {
                    fails("400", "amount is negative");
                    "".into()
                }
                "429" => {
                    fails("429", "slow down");
                    "".into()
                }
                "500" => {
                    fails("500", "x");
                    "".into()
                }
                "own" => {
                    fails("E42", "out of paper");
                    "".into()
                }
                "hang" => continue,
                other => panic!("no answer for {other}"),
            };
            client.publish_with_headers(request.reply.unwrap(), headers, body).await.unwrap();
        }
    });
}

async fn check(broker: &Broker, options: Value, body: &str, expect: Expect) {
    let context = HandlerContext { broker: Some(broker.clone()), ..HandlerContext::default() };
    let handler = handlers::build(&options, &context).unwrap();
    expect.assert_eq(&call(handler.as_ref(), body).await);
}

#[tokio::test]
async fn the_answer_of_a_service_decides_what_becomes_of_the_event() {
    let server = TestServer::start().await;
    serve(server.server.url()).await;
    let broker = server.connect().await;
    let does = |name: &str| json!({ "nats": format!("svc.{name}"), "timeout": "5s" });
    check(&broker, does("echo"), "{}", expect!["pass"]).await;
    check(&broker, does("none"), "{}", expect!["pass"]).await;
    check(
        &broker,
        does("400"),
        "{}",
        expect!["reject: ValidationError: service error 400: amount is negative"],
    )
    .await;
    check(&broker, does("429"), "{}", expect!["retry: RateLimited: service error 429: slow down"])
        .await;
    check(&broker, does("500"), "{}", expect!["retry: HttpServerError: service error 500: x"])
        .await;
    check(
        &broker,
        does("own"),
        "{}",
        expect!["retry: HandlerError: service error E42: out of paper"],
    )
    .await;
    check(
        &broker,
        json!({ "nats": "svc.hang", "timeout": "200ms" }),
        "{}",
        expect![[r#"retry: TimeoutError: no answer from "svc.hang" in 200ms"#]],
    )
    .await;
    check(
        &broker,
        json!({ "nats": "nobody.home" }),
        "{}",
        expect![[r#"defer: ConnectionError: no service listens on "nobody.home""#]],
    )
    .await;
    let too_large = format!("\"{}\"", "x".repeat(1 << 20));
    check(
        &broker,
        does("echo"),
        &too_large,
        expect![[r#"reject: ValidationError: the request to "svc.echo" is larger than the server's max_payload"#]],
    )
    .await;

    let reply =
        |name: &str| json!({ "nats": format!("svc.{name}"), "timeout": "5s", "output": "reply" });
    check(
        &broker,
        reply("echo"),
        "[{\"a\": 1.0}, 2]",
        expect![[r#"replace ["{\"a\": 1.0}", "2"]"#]],
    )
    .await;
    check(&broker, reply("none"), "{}", expect!["replace []"]).await;
    check(
        &broker,
        reply("text"),
        "{}",
        expect![
            "retry: HandlerError: the reply is not JSON (expected ident at line 1 column 2): thanks"
        ],
    )
    .await;
    check(
        &broker,
        reply("told"),
        "{}",
        expect![[r#"replace ["\"Idempotency-Key: e1/orders\"", "\"Millstream-Attempt: 3\"", "\"Millstream-Envelope: domain\"", "\"Millstream-Event-Id: e1\"", "\"Millstream-Event-Type: order.created\"", "\"traceparent: 00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\""]"#]],
    )
    .await;
}

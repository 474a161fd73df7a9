//! Live: browsers at the websocket channel of a pipeline at work, notified of incidents and
//! notifications, kept out, left, taken over.

use std::time::{Duration, Instant};

use futures_util::{SinkExt as _, StreamExt as _};
use millstream::{broker::Outgoing, channels::sample::SampleKind, config::Pipeline};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream, connect_async,
    tungstenite::{
        Error, Message, client::IntoClientRequest as _, protocol::frame::coding::CloseCode,
    },
};

use super::{CODE, notification, peer::nobody, send};
use crate::support::{DEADLINE, Mill, eventually};

const TOKEN: &str = "0123456789abcdef0123";

type Browser = WebSocketStream<MaybeTlsStream<TcpStream>>;

fn shop(port: u16) -> String {
    format!(
        r#"
        [pipeline]
        name = "shop"
        [source.errors]
        subjects = ["errors.>"]
        envelope = "error"
        [stage.errors]
        kind = "aggregate-errors"
        inputs = ["source.errors"]
        [[stage.errors.rule]]
        code = ["*"]
        severity = "critical"
        threshold = 1
        window = "5m"
        [stage.alerts]
        kind = "alert"
        inputs = ["errors"]
        channels = ["ops"]
        [channel.ops]
        kind = "websocket"
        listen = "127.0.0.1:{port}"
        token = "{TOKEN}"
        origins = ["https://ops.example.com"]
        "#
    )
}

/// Connects as a browser does, or as what is none; the HTTP status if it is refused.
async fn connect(port: u16, headers: &[(&'static str, &str)]) -> Result<Browser, u16> {
    let mut request = format!("ws://127.0.0.1:{port}/live").into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    match connect_async(request).await {
        Ok((browser, response)) => {
            let offered = headers.iter().any(|(name, _)| *name == "sec-websocket-protocol");
            let chosen = response
                .headers()
                .get("sec-websocket-protocol")
                .map(|value| value.to_str().unwrap());
            assert_eq!(chosen, offered.then_some("millstream"));
            Ok(browser)
        }
        Err(Error::Http(response)) => Err(response.status().as_u16()),
        // Nobody listens yet.
        Err(_) => Err(0),
    }
}

/// Browser that was let in and greeted.
async fn page(port: u16) -> Browser {
    let protocols = format!("millstream, bearer.{TOKEN}");
    let headers =
        [("sec-websocket-protocol", protocols.as_str()), ("origin", "https://ops.example.com")];
    let mut browser = eventually(async || connect(port, &headers).await.ok()).await;
    let hello = received(&mut browser).await;
    assert_eq!((&hello["type"], &hello["pipeline"]), (&json!("hello"), &json!("shop")));
    assert!(hello["version"].is_string());
    browser
}

/// Next message to a browser.
async fn received(browser: &mut Browser) -> Value {
    loop {
        match tokio::time::timeout(DEADLINE, browser.next())
            .await
            .expect("a message comes")
            .unwrap()
            .unwrap()
        {
            Message::Text(text) => return serde_json::from_str(&text).unwrap(),
            Message::Ping(_) | Message::Pong(_) => {}
            other @ (Message::Binary(_) | Message::Close(_) | Message::Frame(_)) => {
                panic!("{other:?}")
            }
        }
    }
}

/// Code that a connection ends with.
async fn closed(browser: &mut Browser) -> CloseCode {
    loop {
        match tokio::time::timeout(DEADLINE, browser.next())
            .await
            .expect("it is closed")
            .unwrap()
            .unwrap()
        {
            Message::Close(Some(frame)) => return frame.code,
            Message::Close(None) => panic!("closed without a code"),
            Message::Text(_)
            | Message::Binary(_)
            | Message::Ping(_)
            | Message::Pong(_)
            | Message::Frame(_) => {}
        }
    }
}

/// Error report, as any service publishes it.
fn report(message: &str) -> String {
    json!({ "errorCode": CODE, "severity": "critical", "message": message, "serviceName": "till" })
        .to_string()
}

#[tokio::test]
async fn an_error_reaches_every_browser_as_an_incident_and_as_a_notification() {
    let port = nobody().port();
    let mut mill = Mill::start(&shop(port)).await;
    let (mut first, mut second) = (page(port).await, page(port).await);
    let began = Instant::now();
    mill.publish("errors.till", report("no connection\u{1b}[31m")).await;
    for browser in [&mut first, &mut second] {
        let incident = received(browser).await;
        assert_eq!(
            (&incident["type"], &incident["incident"]["code"]),
            (&json!("incident"), &json!(CODE)),
            "{incident:#}"
        );
        println!("error to websocket: {:?}", began.elapsed());
        assert!(!incident.to_string().contains("\\u001b"), "{incident}");
        let notification = received(browser).await;
        assert_eq!(notification["type"], "notification");
        assert_eq!(notification["notification"]["incident"]["code"], CODE, "{notification:#}");
    }
    // What a browser says means nothing; what is too long ends its connection, and nobody else's.
    first.send(Message::text("x".repeat(5000))).await.unwrap();
    assert!(matches!(
        tokio::time::timeout(DEADLINE, first.next()).await.unwrap(),
        None | Some(Err(_) | Ok(Message::Close(_)))
    ));
    mill.drain().await;
    assert_eq!(closed(&mut second).await, CloseCode::Away);
}

#[tokio::test]
async fn only_who_has_the_token_and_a_known_origin_is_let_in() {
    let port = nobody().port();
    let _mill = Mill::start(&shop(port)).await;
    page(port).await;
    let bearer = format!("Bearer {TOKEN}");
    assert!(
        connect(port, &[("authorization", &bearer)]).await.is_ok(),
        "what is no browser needs no origin"
    );
    assert_eq!(connect(port, &[]).await.unwrap_err(), 401);
    assert_eq!(
        connect(port, &[("authorization", "Bearer 0123456789abcdef0124")]).await.unwrap_err(),
        401
    );
    assert_eq!(connect(port, &[("sec-websocket-protocol", "millstream")]).await.unwrap_err(), 401);
    assert_eq!(
        connect(port, &[("authorization", &bearer), ("origin", "https://evil.example")])
            .await
            .unwrap_err(),
        403
    );
    let elsewhere = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    let status = async |path: &str| {
        elsewhere
            .get(format!("http://127.0.0.1:{port}{path}"))
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!((status("/").await, status("/live").await), (404, 401));
}

#[tokio::test]
async fn a_second_worker_takes_the_address_over_when_the_first_ends() {
    let port = nobody().port();
    let mut mill = Mill::start(&shop(port)).await;
    let mut browser = page(port).await;
    let first = mill.worker.take().unwrap();
    mill.work().await;
    first.drain(std::future::pending()).await;
    assert_eq!(closed(&mut browser).await, CloseCode::Away);
    let mut browser = page(port).await;
    mill.publish("errors.till", report("no connection")).await;
    assert_eq!(received(&mut browser).await["type"], "incident");
}

#[tokio::test]
async fn a_browser_that_does_not_read_is_left_and_the_others_are_told() {
    let port = nobody().port();
    let mill = Mill::start(&shop(port)).await;
    let (mut slow, mut quick) = (page(port).await, page(port).await);
    let ops = mill.pipeline.channels.iter().find(|channel| channel.name == "ops").unwrap();
    let deliver = Pipeline::deliver(&mill.pipeline, ops, Some(mill.broker.clone())).unwrap();
    let mut large = notification(SampleKind::Firing);
    large.text = "x".repeat(16_000);
    // A thousand times 16 kB is more than the system holds for a connection, and than waits in the
    // queue.
    for n in 0..1000 {
        large.notification_id = format!("ops.{n}");
        send(&deliver, &large).await.unwrap();
        assert_eq!(
            received(&mut quick).await["notification"]["notificationId"],
            large.notification_id.as_str()
        );
    }
    assert_eq!(closed(&mut slow).await, CloseCode::Again);
}

#[tokio::test]
async fn what_is_no_notification_is_told_to_nobody() {
    let port = nobody().port();
    let mill = Mill::start(&shop(port)).await;
    let mut browser = page(port).await;
    mill.broker.announce(Outgoing::new("shop.live.ops", "{\"type\":\"hello\"}")).await.unwrap();
    mill.publish("errors.till", report("no connection")).await;
    assert_eq!(received(&mut browser).await["type"], "incident");
    tokio::time::timeout(Duration::from_millis(1), browser.close(None)).await.ok();
}

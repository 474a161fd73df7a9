//! Table: kinds of channels that speak HTTP, with the duty of each for each answer, and the duties
//! of all kinds.

use std::{net::SocketAddr, time::Duration};

use expect_test::expect;
use millstream::{
    channels::{CHANNELS, sample::SampleKind},
    config::{Catalogue, schema::Schemas},
    handlers::HandlerContext,
};
use serde_json::{Value, json};

use super::{
    CODE, built, channel, context, hostile, notification, outcome,
    peer::{How, Peer, nobody, raw},
    send, texts,
};

/// Kind of channel that posts to a server.
struct Kind {
    name: &'static str,
    /// Keys of the channel, for a server at this address.
    options: fn(&str) -> Value,
    /// Answer of the provider when all is well.
    fine: (u16, &'static str),
    /// Places in the body where it says what happened.
    says: &'static [&'static str],
}

/// Beginning of everything in the keys of the table that must never be shown.
const SECRET: &str = "s3cr3t";

const KINDS: [Kind; 6] = [
    Kind {
        name: "webhook",
        options: |url| {
            json!({
                "url": format!("{url}/s3cr3t-path?key=s3cr3t-query"),
                "secret": "s3cr3t-to-sign-with",
                "headers": { "authorization": "Bearer s3cr3t-header" },
            })
        },
        fine: (204, ""),
        says: &["/title", "/text"],
    },
    Kind {
        name: "slack",
        options: |url| json!({ "url": format!("{url}/services/T0/s3cr3t-path") }),
        fine: (200, "ok"),
        says: &["/text", "/attachments/0/text"],
    },
    Kind {
        name: "pagerduty",
        options: |url| {
            json!({
                "url": format!("{url}/v2/enqueue"),
                "routing_key": "s3cr3t0123456789",
            })
        },
        fine: (202, r#"{"status":"success","message":"Event processed","dedup_key":"x"}"#),
        says: &["/payload/summary", "/payload/custom_details/text"],
    },
    Kind {
        name: "dingtalk",
        options: |url| {
            json!({
                "url": format!("{url}/robot/send?access_token=s3cr3t-query"),
                "secret": "s3cr3t-SEC",
                "at": ["13800000000"],
            })
        },
        fine: (200, r#"{"errcode":0,"errmsg":"ok"}"#),
        says: &["/markdown/title", "/markdown/text"],
    },
    Kind {
        name: "wecom",
        options: |url| json!({ "url": format!("{url}/cgi-bin/webhook/send?key=s3cr3t-query") }),
        fine: (200, r#"{"errcode":0,"errmsg":"ok"}"#),
        says: &["/markdown/content"],
    },
    Kind {
        name: "alertmanager",
        options: |url| {
            json!({
                "url": format!("{url}/s3cr3t-path/"),
                "user": "shop",
                "password": "s3cr3t-password",
            })
        },
        fine: (200, ""),
        says: &["/0/annotations/summary", "/0/annotations/description"],
    },
];

impl Kind {
    fn options_at(&self, address: SocketAddr) -> Value {
        let mut options = (self.options)(&format!("http://{address}"));
        options["allow_private"] = true.into();
        options["timeout"] = "400ms".into();
        options
    }

    async fn peer(&self) -> Peer {
        Peer::start(self.fine.0, self.fine.1).await
    }
}

#[tokio::test]
async fn every_kind_delivers_what_opens_what_is_over_groups_and_digests_as_it_says_it_would() {
    for kind in KINDS {
        let peer = kind.peer().await;
        let channel = channel(kind.name, &kind.options_at(peer.address));
        for about in SampleKind::ALL {
            let notification = notification(about);
            send(&channel, &notification)
                .await
                .unwrap_or_else(|failure| panic!("{} {about:?}: {failure}", kind.name));
            let sent = peer.sent();
            assert_eq!(sent.len(), 1, "{}", kind.name);
            assert_eq!(sent[0].headers["content-type"], "application/json", "{}", kind.name);
            assert!(sent[0].headers.contains_key("traceparent"), "{}", kind.name);
            let body = sent[0].json();
            let said: Vec<&str> =
                kind.says.iter().filter_map(|at| body.pointer(at)?.as_str()).collect();
            assert_eq!(said.len(), kind.says.len(), "{} {about:?}: {body:#}", kind.name);
            let all = texts(&body).join("\n");
            let word = if about == SampleKind::Digest { "opened" } else { CODE };
            assert!(all.contains(word), "{} {about:?}: {body:#}", kind.name);

            let preview: Value =
                serde_json::from_str(&channel.preview(&notification).unwrap()).unwrap();
            assert_eq!(steady(&preview), steady(&body), "{} {about:?}", kind.name);
        }
    }
}

/// Body without all that depends on when it is sent, and that a preview does not show.
fn steady(body: &Value) -> Value {
    let mut body = body.clone();
    for alert in body.as_array_mut().into_iter().flatten() {
        for moment in ["startsAt", "endsAt"] {
            assert!(alert[moment].take().is_string());
        }
    }
    if let Some(key) = body.get_mut("routing_key") {
        *key = Value::Null;
    }
    body
}

#[tokio::test]
async fn every_kind_knows_what_an_answer_means() {
    let mut lines = String::new();
    for kind in KINDS {
        let peer = kind.peer().await;
        let channel = channel(kind.name, &kind.options_at(peer.address));
        lines += &format!("{}\n", kind.name);
        for how in [How::Busy, How::Down, How::Gone, How::Moved, How::Garbage, How::Hang] {
            peer.answer(how);
            let answer = send(&channel, &notification(SampleKind::Firing)).await;
            lines +=
                &format!("  {how:?}: {}\n", outcome(&answer).replace(['\u{0}', '\u{1b}'], "?"));
            // Once: a redirect was not followed, and nothing is tried again here.
            assert_eq!(peer.sent().len(), 1, "{} {how:?}", kind.name);
        }
    }
    expect![[r#"
        webhook
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: delivered
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
        slack
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: <html>please log in  [31m</html>
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
        pagerduty
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: <html>please log in  [31m</html>
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
        dingtalk
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: <html>please log in  [31m</html>
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
        wecom
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: <html>please log in  [31m</html>
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
        alertmanager
          Busy: retry after 7s RateLimited: channel "ops": http 429: slow down
          Down: retry HttpServerError: channel "ops": http 503: no upstream
          Gone: reject HttpClientError: channel "ops": http 404: no_service
          Moved: reject HttpClientError: channel "ops": http 302 (redirects are not followed)
          Garbage: delivered
          Hang: retry TimeoutError: no answer on channel "ops" in 400ms
    "#]].assert_eq(&lines);
}

#[tokio::test]
async fn every_kind_retries_where_nobody_answers_or_no_http_is_spoken_and_reads_no_endless_answer()
{
    for kind in KINDS {
        let places = [
            ("nobody", nobody()),
            ("closed", raw(b"").await),
            ("no http", raw(b"220 mail.example ESMTP ready\r\n\x00\xff").await),
            ("half", raw(b"HTTP/1.1 200 OK\r\ncontent-le").await),
        ];
        for (what, address) in places {
            let answer = send(
                &channel(kind.name, &kind.options_at(address)),
                &notification(SampleKind::Firing),
            )
            .await;
            let said = outcome(&answer);
            assert!(
                said.starts_with("retry ConnectionError: could not reach channel \"ops\""),
                "{} {what}: {said}",
                kind.name
            );
            assert!(!said.contains(SECRET) && !said.contains(&address.to_string()), "{said}");
        }
        let peer = kind.peer().await;
        peer.answer(How::Endless);
        let (channel, notification) =
            (channel(kind.name, &kind.options_at(peer.address)), notification(SampleKind::Firing));
        let endless = send(&channel, &notification);
        let endless =
            tokio::time::timeout(Duration::from_secs(5), endless).await.expect("it stops reading");
        assert!(outcome(&endless).len() < 600, "{}: {}", kind.name, outcome(&endless));
    }
}

#[tokio::test]
async fn no_kind_shows_a_secret_even_if_it_is_repeated_to_it() {
    for kind in KINDS {
        let peer = kind.peer().await;
        let options = kind.options_at(peer.address);
        assert!(options.to_string().contains(SECRET), "{} has no secret in the table", kind.name);
        let channel = channel(kind.name, &options);
        peer.answer(How::Repeat);
        let failure = send(&channel, &notification(SampleKind::Firing)).await.unwrap_err();
        let preview = channel.preview(&notification(SampleKind::Firing)).unwrap();
        let shown = format!("{failure} {failure:?} {channel:?} {preview}");
        assert!(failure.message.contains("you sent"), "{}: it repeats: {failure}", kind.name);
        assert!(!shown.contains(SECRET), "{}: {shown}", kind.name);
        // "shop:s3cr3t-password", as it is sent.
        assert!(!shown.contains("c2hvcDpzM2NyM3QtcGFzc3dvcmQ="), "{}: {shown}", kind.name);
        assert!(failure.message.contains("channel \"ops\""), "{}: {failure}", kind.name);
    }
}

#[tokio::test]
async fn no_kind_reaches_a_private_address_unless_it_may() {
    for kind in KINDS {
        let peer = kind.peer().await;
        let port = peer.address.port();
        let literal = (kind.options)(&format!("http://127.0.0.1:{port}"));
        let problems = built(kind.name, &literal, &context()).unwrap_err();
        assert!(problems[0].message.contains("private address"), "{}: {problems:?}", kind.name);
        assert!(!format!("{problems:?}").contains(SECRET), "{}: {problems:?}", kind.name);

        let named = (kind.options)(&format!("http://localhost:{port}"));
        let said =
            outcome(&send(&channel(kind.name, &named), &notification(SampleKind::Firing)).await);
        assert!(
            said.contains("private address") && !said.contains(SECRET),
            "{}: {said}",
            kind.name
        );
        assert!(peer.sent().is_empty(), "{}", kind.name);
    }
}

#[tokio::test]
async fn hostile_text_stays_text_in_every_kind() {
    for kind in KINDS {
        let peer = kind.peer().await;
        let channel = channel(kind.name, &kind.options_at(peer.address));
        send(&channel, &hostile())
            .await
            .unwrap_or_else(|failure| panic!("{}: {failure}", kind.name));
        let sent = peer.sent();
        let body = sent[0].json();
        for text in texts(&body) {
            let harmless = |c: char| !c.is_control() || "\n\t".contains(c);
            assert!(
                text.chars().all(harmless) && !text.contains('\u{202e}'),
                "{}: {text:?}",
                kind.name
            );
        }
        for at in kind.says {
            let said = body.pointer(at).unwrap().as_str().unwrap();
            assert!(said.len() <= 20_000, "{}: {} bytes at {at}", kind.name, said.len());
            // What a chat would read as markup or as a call. The rest sends data, which is no
            // markup.
            let marks: &[&str] = match kind.name {
                "slack" => &["<", ">", "@here", "@all"],
                "dingtalk" => &["<", "](", "@here", "@all", "**", "\n# "],
                "wecom" => &["<!", "<@", "<script", "](", "@here", "@all", "**", "\n# "],
                _ => &[],
            };
            for mark in marks {
                assert!(!said.contains(mark), "{} has {mark} at {at}: {said}", kind.name);
            }
        }
        // None of it became a header.
        assert!(!sent[0].headers.contains_key("bcc"), "{}", kind.name);
    }
}

#[test]
fn every_kind_has_a_rate_that_the_schema_names_and_a_row_here_or_a_file_of_its_own() {
    let elsewhere = ["log", "email", "nats", "websocket"];
    let schemas = Schemas::new(&Catalogue::new(HandlerContext::default()));
    for kind in CHANNELS {
        assert!(
            KINDS.iter().any(|row| row.name == kind.name) || elsewhere.contains(&kind.name),
            "{}",
            kind.name
        );
        let rate = &schemas.channels[kind.name]["properties"]["rate"]["description"];
        let named = format!("Here: {}/min.", kind.per_minute);
        assert!(rate.as_str().unwrap().ends_with(&named), "{}: {rate}", kind.name);
    }
}

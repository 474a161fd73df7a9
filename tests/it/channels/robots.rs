//! Robots: codes in the answers of DingTalk and WeCom, signatures for DingTalk, and the events that
//! PagerDuty is sent.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use expect_test::expect;
use millstream::{channels::sample::SampleKind, stages::incident::Change};
use serde_json::json;

use super::{
    channel, notification, outcome,
    peer::{How, Peer},
    send,
};

#[tokio::test]
async fn a_robot_says_later_or_never_in_a_code() {
    let mut lines = String::new();
    let peer = Peer::start(200, "").await;
    let url = format!("http://{}/robot?key=s3cr3t", peer.address);
    for kind in ["dingtalk", "wecom"] {
        let channel = channel(kind, &json!({ "url": url, "allow_private": true }));
        for says in [
            r#"{"errcode":-1,"errmsg":"system busy"}"#,
            r#"{"errcode":130101,"errmsg":"send too fast, exceed 20 times per minute"}"#,
            r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#,
            r#"{"errcode":310000,"errmsg":"sign not match, s3cr3t"}"#,
            r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#,
            r#"{"errmsg":"no code"}"#,
            "[]",
        ] {
            peer.answer(How::Says(says));
            lines += &format!(
                "{kind}: {}\n",
                outcome(&send(&channel, &notification(SampleKind::Firing)).await)
            );
        }
    }
    expect![[r#"
        dingtalk: retry HttpServerError: channel "ops": errcode -1: system busy
        dingtalk: retry after 600s RateLimited: channel "ops": errcode 130101: send too fast, exceed 20 times per minute
        dingtalk: reject RefusedError: channel "ops": errcode 45009: api freq out of limit
        dingtalk: reject RefusedError: channel "ops": errcode 310000: sign not match, ***
        dingtalk: reject RefusedError: channel "ops": errcode 93000: invalid webhook url
        dingtalk: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: {"errmsg":"no code"}
        dingtalk: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: []
        wecom: retry HttpServerError: channel "ops": errcode -1: system busy
        wecom: reject RefusedError: channel "ops": errcode 130101: send too fast, exceed 20 times per minute
        wecom: retry after 60s RateLimited: channel "ops": errcode 45009: api freq out of limit
        wecom: reject RefusedError: channel "ops": errcode 310000: sign not match, ***
        wecom: reject RefusedError: channel "ops": errcode 93000: invalid webhook url
        wecom: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: {"errmsg":"no code"}
        wecom: retry UnexpectedAnswer: channel "ops": http 200 with an answer that is not the provider's: []
    "#]].assert_eq(&lines);
}

#[tokio::test]
async fn dingtalk_is_sent_a_signature_of_this_moment_and_mentions() {
    let peer = Peer::start(200, r#"{"errcode":0}"#).await;
    let url = format!("http://{}/robot/send?access_token=t", peer.address);
    let options =
        json!({ "url": url, "secret": "SEC0123", "at": ["13800000000"], "allow_private": true });
    send(&channel("dingtalk", &options), &notification(SampleKind::Firing)).await.unwrap();
    let sent = peer.sent().remove(0);
    let query = sent.query();
    let at = &query["timestamp"];
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"SEC0123");
    let signature = STANDARD.decode(&query["sign"]).unwrap();
    ring::hmac::verify(&key, format!("{at}\nSEC0123").as_bytes(), &signature).unwrap();
    assert_eq!((at.len(), query["access_token"].as_str()), (13, "t"));
    let body = sent.json();
    assert_eq!(body["at"], json!({ "atMobiles": ["13800000000"], "isAtAll": false }));
    assert!(body["markdown"]["text"].as_str().unwrap().ends_with(" @13800000000"), "{body:#}");
}

#[tokio::test]
async fn pagerduty_opens_acknowledges_and_resolves_one_incident_and_says_why_it_takes_no_event() {
    let peer = Peer::start(202, r#"{"status":"success"}"#).await;
    let url = format!("http://{}/v2/enqueue", peer.address);
    let channel = channel(
        "pagerduty",
        &json!({ "url": url, "routing_key": "k0123456789", "allow_private": true }),
    );
    let mut keys = Vec::new();
    let mut acknowledged = notification(SampleKind::Firing);
    if let millstream::stages::notification::About::Incident { incident } = &mut acknowledged.about
    {
        incident.event = Change::Acknowledged;
    }
    let sent = [
        notification(SampleKind::Firing),
        acknowledged,
        notification(SampleKind::Resolved),
        notification(SampleKind::Digest),
    ];
    for (notification, action) in sent.iter().zip(["trigger", "acknowledge", "resolve", "trigger"])
    {
        send(&channel, notification).await.unwrap();
        let body = peer.sent()[0].json();
        assert_eq!(
            (&body["event_action"], &body["payload"]["severity"]),
            (&json!(action), &json!("error")),
            "{body:#}"
        );
        assert_eq!(body["routing_key"], "k0123456789");
        keys.push(body["dedup_key"].as_str().unwrap().to_owned());
    }
    assert!(keys[0] == keys[1] && keys[1] == keys[2] && keys[2] != keys[3], "{keys:?}");
    assert_eq!(keys[3], "shop/ops/digest");

    peer.answer(How::Repeat);
    assert!(outcome(&send(&channel, &sent[0]).await).starts_with("reject ValidationError"));
    let refusing = Peer::start(
        400,
        concat!(
            r#"{"status":"invalid event","message":"Event object is invalid","#,
            r#""errors":["'payload.source' is missing"]}"#
        ),
    )
    .await;
    let url = format!("http://{}/v2/enqueue", refusing.address);
    let refused = super::channel(
        "pagerduty",
        &json!({ "url": url, "routing_key": "k0123456789", "allow_private": true }),
    );
    expect![[
        r#"reject ValidationError: channel "ops": PagerDuty does not take the event: Event object is invalid: 'payload.source' is missing"#
    ]]
    .assert_eq(&outcome(&send(&refused, &sent[0]).await));
}

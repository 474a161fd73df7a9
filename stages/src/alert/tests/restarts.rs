//! Tests of a takeover by another worker, with the same options or others, from now or from before.

use crate::{
    Reduce as _,
    alert::testing::{BEGIN, Channels, HOUR, MINUTE, Scene, channels, options},
    incident::{Change::*, Severity::*},
};
use expect_test::expect;
use serde_json::json;

#[test]
fn a_restart_changes_nothing_of_what_is_told() {
    let told = |restarts: bool| {
        let mut scene = Scene::new(options(json!({
            "channels": ["log", "slow"], "group_by": ["service"], "group_wait": "20s",
            "repeat_interval": "1h",
            "escalate": [{ "after": "15m", "channels": ["boss"] }],
            "inhibit": [{ "source": ["code=CODE_3"], "target": ["code=CODE_4"] }],
        })));
        scene.silence("s", "code=CODE_2", 0, 10 * MINUTE);
        for (at, n, event, severity) in [
            (0, 1, Opened, High),
            (5, 2, Opened, Critical),
            (60, 3, Opened, Low),
            (70, 4, Opened, High),
            (80, 1, Updated, High),
            (200, 1, Escalated, Critical),
            (2000, 3, Resolved, Low),
            (5000, 1, Resolved, Critical),
            (5001, 2, Resolved, Critical),
            (5002, 4, Resolved, Low),
        ] {
            if restarts {
                scene.restart();
            }
            scene.until(at).event(n, event, severity, 5 + at);
        }
        scene.until(2 * HOUR);
        scene.told
    };
    // A worker that takes over looks at once at what was in the way of news, so that only times may
    // differ.
    let lines = |restarts| {
        let line = |n: &crate::notification::Notification| {
            format!("{} {} {}", n.channel, n.why.as_str(), n.title)
        };
        told(restarts).iter().map(line).collect::<Vec<_>>()
    };
    assert!(lines(true).len() > 5);
    assert_eq!(lines(false), lines(true));
}

#[test]
fn a_replay_from_an_older_checkpoint_says_the_same_under_the_same_id_and_more_under_another() {
    let mut scene = Scene::new(options(json!({ "group_wait": "10s" })));
    scene.checkpoint();
    scene.event(1, Opened, High, 5).until(10);
    let first = scene.told.pop().unwrap();
    // The worker dies before it writes. The next reads the event again, at the time at which it is
    // stored.
    let replay = |later: bool| {
        let mut scene = Scene::new(options(json!({ "group_wait": "10s" })));
        scene.event(1, Opened, High, 5);
        if later {
            scene.event(1, Updated, High, 10);
        }
        scene.until(60).told.pop().unwrap()
    };
    assert_eq!(replay(false).notification_id, first.notification_id);
    assert_eq!(replay(true).group, first.group);
    assert_ne!(replay(true).notification_id, first.notification_id);
    assert_eq!(u64::try_from(first.at.as_millisecond()).unwrap(), BEGIN + 10_000);
}

#[test]
fn what_was_told_is_kept_when_the_routes_change_and_its_end_is_told() {
    let mut scene = Scene::new(options(
        json!({ "route": [{ "code": ["CODE_1", "CODE_2"], "channels": ["ops", "boss"] }] }),
    ));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5).event(3, Opened, High, 5).until(60);
    expect![[r#"
        0s boss opened [high] CODE_1 opened: 5 errors in cart
        0s ops opened [high] CODE_1 opened: 5 errors in cart
        0s boss opened [high] CODE_2 opened: 5 errors in cart
        0s ops opened [high] CODE_2 opened: 5 errors in cart
        0s log opened [high] CODE_3 opened: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    // The route is gone, and so is a channel.
    let mut fewer = channels();
    fewer.0.retain(|(name, ..)| *name != "boss");
    scene.restart_with(options(json!({ "group_by": ["code"] })), &fewer);
    scene.until(120).event(1, Updated, High, 10);
    scene
        .until(10 * MINUTE)
        .event(1, Resolved, High, 10)
        .event(2, Resolved, High, 10)
        .event(3, Resolved, High, 10);
    scene.until(HOUR);
    expect![[r#"
        5m log updated [high] CODE_1 updated: 10 errors in cart
        5m ops updated [high] CODE_1 updated: 10 errors in cart
        10m log resolved [high] CODE_1 resolved: 10 errors in cart
        10m ops resolved [high] CODE_1 resolved: 10 errors in cart
        10m log resolved [high] CODE_2 resolved: 10 errors in cart
        10m ops resolved [high] CODE_2 resolved: 10 errors in cart
        10m log resolved [high] CODE_3 resolved: 10 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    let lives: std::collections::BTreeSet<_> = scene.told.iter().map(|n| n.group.clone()).collect();
    assert_eq!(lives.len(), 3);
}

#[test]
fn a_group_that_was_told_together_is_not_told_again_when_the_routes_change() {
    let mut scene = Scene::new(options(json!({ "group_by": ["service"] })));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5).until(600);
    scene.restart_with(options(json!({ "group_by": ["code"] })), &channels());
    scene.until(700).event(1, Resolved, High, 5).event(2, Resolved, High, 5).until(HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        5m log opened [high] 2 incidents firing (service=cart): 10 errors
        11m40s log resolved [high] CODE_1 resolved: 5 errors in cart
        15m log resolved [high] CODE_2 resolved: 5 errors in cart
        15m log resolved [high] CODE_1 resolved: 5 errors in cart
        16m40s log resolved [high] CODE_2 resolved: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn what_an_earlier_version_stored_is_dropped_but_for_its_digest() {
    let world = Channels(vec![("log", 10, true)]);
    let mut scene = Scene::with(options(json!({})), &world);
    let digest = json!({
        "firstIncidentId": "a-1", "since": "2026-11-26T23:59:00Z", "opened": 3, "updated": 0,
        "resolved": 0, "errors": 9,
        "severity": "high", "top": [], "suppressed": 0,
    });
    let outbox =
        json!({ "ordinary": 5, "reserve": 6, "waiting": { "dueMs": BEGIN, "digest": digest } });
    for n in 0..250 {
        scene.stored.insert(
            format!("g.{n:016x}"),
            b"{\"channel\":\"log\",\"told\":{},\"held\":null}".to_vec(),
        );
    }
    scene.stored.insert("channel.log".to_owned(), outbox.to_string().into_bytes());
    scene.stored.insert(
        "channel.gone".to_owned(),
        b"{\"ordinary\":0,\"reserve\":0,\"waiting\":null}".to_vec(),
    );
    scene.takes_over(&world).until(60).checkpoint();
    expect![[r#"
        0s log digest [high] 3 incidents opened, 9 errors
    "#]]
    .assert_eq(&scene.shown());
    assert_eq!(scene.stored.keys().collect::<Vec<_>>(), ["channel.log", "tally"]);
    for (key, value) in [
        ("x", "{}"),
        ("g.slot.x", "{}"),
        ("g.slot.99999999", "{}"),
        ("tally", "3"),
        ("channel.log", "["),
    ] {
        let error = scene.alert.restore(key, value.as_bytes()).unwrap_err();
        assert!(error.contains(key), "{error}");
    }
}

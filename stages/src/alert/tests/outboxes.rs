//! Tests of the rate of a channel: digests, and urgent messages that pass them.

use crate::{
    alert::testing::{BEGIN, HOUR, Scene, options},
    incident::{Change::*, Severity::*},
    notification::{About, Why},
};
use expect_test::expect;
use serde_json::json;

#[test]
fn what_exceeds_the_rate_becomes_one_digest_and_the_critical_passes_it() {
    let mut scene = Scene::new(options(json!({ "channels": ["slow"] })));
    for n in 0..41 {
        scene.event(n, Opened, High, 300 + n);
    }
    scene.until(1).event(99, Opened, Critical, 5);
    scene.until(2).event(98, Opened, Critical, 5);
    scene.until(3).event(0, Updated, High, 1000);
    scene.until(HOUR);
    expect![[r#"
        0s slow opened [high] CODE_0 opened: 300 errors in cart
        0s slow opened [high] CODE_1 opened: 301 errors in cart
        0s slow opened [high] CODE_2 opened: 302 errors in cart
        0s slow opened [high] CODE_3 opened: 303 errors in cart
        1s slow opened [critical] CODE_99 opened: 5 errors in cart
        3s750ms slow digest [critical] 38 incidents opened, 38 errors
        5m slow updated [high] CODE_0 updated: 1000 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    let digest = scene.told.iter().find(|n| n.why == Why::Digest).unwrap();
    expect![[r#"
        38 incidents opened since 2026-11-27T00:00:00Z: more than the channel's rate allows one by one
        [critical] CODE_98 opened: 5 errors: connect <ip> refused
        [high] CODE_40 opened: 340 errors: connect <ip> refused
        [high] CODE_39 opened: 339 errors: connect <ip> refused
        [high] CODE_38 opened: 338 errors: connect <ip> refused
        [high] CODE_37 opened: 337 errors: connect <ip> refused
    "#]]
    .assert_eq(&digest.text);
    expect![[r#"
        {
            "slow digested": 38,
        }
    "#]]
    .assert_debug_eq(&scene.tally("notifications_held_total"));
    assert_eq!(
        (
            scene.tally("notifications_total")["slow"],
            scene.tally("notifications_digests_total")["slow"]
        ),
        (7, 1)
    );
}

#[test]
fn a_digest_that_waits_for_calm_goes_after_a_minute_all_the_same() {
    let mut scene = Scene::new(options(json!({ "channels": ["slow"] })));
    for n in 0..20 {
        scene.event(n, Opened, High, 5);
    }
    // Critical news takes every token before half of them are there again.
    for n in 100..160 {
        scene.until((n - 100) * 2).event(n, Opened, Critical, 5);
    }
    scene.until(HOUR);
    let waited: Vec<i64> = scene
        .told
        .iter()
        .filter_map(|n| match &n.about {
            About::Digest { digest } => Some(n.at.as_millisecond() - digest.since.as_millisecond()),
            About::Incident { .. } | About::Group { .. } => None,
        })
        .collect();
    assert!(!waited.is_empty() && waited.iter().all(|ms| *ms < 65_000), "{waited:?}");
}

#[test]
fn every_critical_incident_is_told_within_five_seconds_at_twenty_a_minute() {
    let mut scene = Scene::new(options(json!({ "channels": ["slow"] })));
    for n in 0..600 {
        scene.until(n / 10).event(n, Opened, if n % 50 == 49 { Critical } else { High }, 5);
    }
    scene.until(HOUR);
    for n in (49..600).step_by(50) {
        let opened = BEGIN + n / 10 * 1000;
        let id = format!("{n:016x}-1");
        let told = scene.told.iter().find(|told| match &told.about {
            About::Digest { digest } => digest.top.iter().any(|line| line.incident_id == id),
            About::Incident { .. } | About::Group { .. } => {
                told.incidents().iter().any(|incident| incident.incident_id == id)
            }
        });
        let at = u64::try_from(told.unwrap().at.as_millisecond()).unwrap();
        assert!(at - opened <= 5000, "{n} was told {} ms late", at - opened);
    }
}

#[test]
fn an_escalation_and_a_repeat_that_exceed_the_rate_are_in_the_digest_as_going_on() {
    let mut scene = Scene::new(options(json!({
        "channels": ["slow"], "repeat_interval": "1h",
        "escalate": [{ "after": "30m", "channels": ["boss", "slow"] }],
    })));
    for n in 0..8 {
        scene.event(n, Opened, High, 5);
    }
    scene.until(HOUR + 60);
    expect![[r#"
        0s slow opened [high] CODE_0 opened: 5 errors in cart
        0s slow opened [high] CODE_1 opened: 5 errors in cart
        0s slow opened [high] CODE_2 opened: 5 errors in cart
        0s slow opened [high] CODE_3 opened: 5 errors in cart
        15s slow digest [high] 4 incidents opened, 4 errors
        30m boss unacknowledged [high] CODE_0 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_5 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_4 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_2 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_7 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_6 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_3 unacknowledged: 5 errors in cart
        30m boss unacknowledged [high] CODE_1 unacknowledged: 5 errors in cart
        1h slow repeated [high] CODE_0 still going on: 5 errors in cart
        1h slow repeated [high] CODE_5 still going on: 5 errors in cart
        1h slow repeated [high] CODE_4 still going on: 5 errors in cart
        1h15s slow digest [high] 5 incidents still going on, 0 errors
    "#]]
    .assert_eq(&scene.shown());
}

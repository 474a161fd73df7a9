//! Tests of holds: inhibition, silences, muted times, acknowledgement; and of escalation.

use crate::{
    alert::testing::{HOUR, MINUTE, Scene, options},
    incident::{Change::*, Severity::*},
};
use expect_test::expect;
use serde_json::json;

#[test]
fn what_a_worse_incident_explains_is_told_when_that_is_over() {
    let mut scene = Scene::new(options(json!({
        "inhibit": [{
            "source": ["severity=critical"], "target": ["severity=~\"high|medium\""],
            "equal": ["service"],
        }],
    })));
    scene.event(1, Opened, Critical, 5);
    scene.until(10).event(2, Opened, High, 5);
    scene.until(20).event(3, Opened, High, 5);
    scene.until(60).event(2, Updated, High, 10);
    scene.until(2 * MINUTE).event(3, Resolved, High, 6);
    scene.until(12 * MINUTE).event(1, Resolved, Critical, 5);
    scene.until(40 * MINUTE).event(2, Resolved, High, 12).until(HOUR);
    expect![[r#"
        0s log opened [critical] CODE_1 opened: 5 errors in cart
        12m log resolved [critical] CODE_1 resolved: 5 errors in cart
        16m log opened [high] CODE_2 opened: 10 errors in cart, 2 inhibited
        40m log resolved [high] CODE_2 resolved: 12 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        10s log CODE_2 opened inhibited: incident 0000000000000001-1 explains it
        20s log CODE_3 opened inhibited: incident 0000000000000001-1 explains it
        1m log CODE_2 updated inhibited: incident 0000000000000001-1 explains it
        2m log CODE_3 resolved inhibited: incident 0000000000000001-1 explains it
    "#]]
    .assert_eq(&scene.explained());
}

#[test]
fn a_silence_that_was_made_before_begins_and_ends_by_itself() {
    let mut scene = Scene::new(options(json!({})));
    scene.silence("s1", "code=CODE_1", 10 * MINUTE, 30 * MINUTE);
    assert_eq!(scene.tally("silences_active")[""], 0);
    scene.event(1, Opened, High, 5);
    scene.until(11 * MINUTE).event(1, Updated, High, 10);
    assert_eq!(scene.tally("silences_active")[""], 1);
    scene.until(12 * MINUTE).event(2, Opened, High, 5);
    scene.until(32 * MINUTE).event(1, Updated, High, 20);
    scene.until(HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        12m log opened [high] CODE_2 opened: 5 errors in cart
        31m log updated [high] CODE_1 updated: 10 errors in cart, 1 silenced
        36m log updated [high] CODE_1 updated: 20 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        11m log CODE_1 updated silenced: silence s1 by ann: known
    "#]]
    .assert_eq(&scene.explained());
    assert_eq!(scene.tally("silences_active")[""], 0);
    scene.checkpoint();
    assert!(!scene.stored.contains_key("silence.s1"));
}

#[test]
fn what_opened_in_silence_is_told_after_it_and_the_end_of_what_was_told_waits_for_its_end() {
    let mut scene = Scene::new(options(json!({})));
    scene.event(2, Opened, High, 5);
    scene.until(10).silence("s1", "service=cart", 0, HOUR);
    scene.until(20).event(1, Opened, Critical, 5);
    scene.until(30).event(3, Opened, High, 5);
    scene.until(10 * MINUTE).event(1, Updated, Critical, 10).event(2, Updated, High, 10);
    scene.until(11 * MINUTE).event(2, Resolved, High, 11).event(3, Resolved, High, 11);
    // The silence is removed before its end.
    scene.until(20 * MINUTE).input(Some("silence.s1"), &bytes::Bytes::new());
    scene.until(HOUR);
    expect![[r#"
        0s log opened [high] CODE_2 opened: 5 errors in cart
        21m log resolved [high] CODE_2 resolved: 11 errors in cart, 1 silenced
        25m log opened [critical] CODE_1 opened: 10 errors in cart, 2 silenced
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        20s log CODE_1 opened silenced: silence s1 by ann: known
        30s log CODE_3 opened silenced: silence s1 by ann: known
        10m log CODE_1 updated silenced: silence s1 by ann: known
        10m log CODE_2 updated silenced: silence s1 by ann: known
        11m log CODE_3 resolved silenced: silence s1 by ann: known
    "#]]
    .assert_eq(&scene.explained());
}

#[test]
fn a_route_is_muted_at_night_and_active_by_day_in_its_own_zone() {
    // In Berlin the scene begins at one in the morning.
    let mut scene = Scene::new(options(json!({
        "time": [
            { "name": "night", "times": ["22:00-06:00"], "zone": "Europe/Berlin" },
            {
                "name": "office", "times": ["09:00-17:00"], "weekdays": ["mon-fri"],
                "zone": "Europe/Berlin",
            },
        ],
        "mute": ["night"],
        "route": [
            { "severity": ["critical"] },
            { "severity": ["low"], "active": ["office"], "channels": ["ops"] },
        ],
    })));
    scene.event(1, Opened, High, 5).event(2, Opened, Critical, 5).event(3, Opened, Low, 5);
    scene.until(HOUR).event(1, Updated, High, 10);
    scene
        .until(23 * HOUR)
        .event(3, Updated, Low, 20)
        .event(3, Resolved, Low, 20)
        .event(1, Resolved, High, 12);
    scene.until(90 * HOUR);
    expect![[r#"
        0s log opened [critical] CODE_2 opened: 5 errors in cart
        4h log repeated [critical] CODE_2 still going on: 5 errors in cart
        5h log opened [high] CODE_1 opened: 10 errors in cart, 2 muted
        8h ops opened [low] CODE_3 opened: 5 errors in cart, 1 muted
        8h log repeated [critical] CODE_2 still going on: 5 errors in cart
        9h log repeated [high] CODE_1 still going on: 10 errors in cart
        12h ops repeated [low] CODE_3 still going on: 5 errors in cart
        12h log repeated [critical] CODE_2 still going on: 5 errors in cart
        13h log repeated [high] CODE_1 still going on: 10 errors in cart
        16h log repeated [critical] CODE_2 still going on: 5 errors in cart
        17h log repeated [high] CODE_1 still going on: 10 errors in cart
        20h log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d4h log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d5h log resolved [high] CODE_1 resolved: 12 errors in cart
        1d8h log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d12h log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d16h log repeated [critical] CODE_2 still going on: 5 errors in cart
        1d20h log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d4h log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d8h log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d12h log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d16h log repeated [critical] CODE_2 still going on: 5 errors in cart
        2d20h log repeated [critical] CODE_2 still going on: 5 errors in cart
        3d log repeated [critical] CODE_2 still going on: 5 errors in cart
        3d4h log repeated [critical] CODE_2 still going on: 5 errors in cart
        3d8h ops resolved [low] CODE_3 resolved: 20 errors in cart, 1 muted
        3d8h log repeated [critical] CODE_2 still going on: 5 errors in cart
        3d12h log repeated [critical] CODE_2 still going on: 5 errors in cart
        3d16h log repeated [critical] CODE_2 still going on: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        0s log CODE_1 opened muted: the route is muted in "night"
        0s ops CODE_3 opened muted: the route is active only in "office"
        1h log CODE_1 updated muted: the route is muted in "night"
        23h ops CODE_3 updated muted: the route is active only in "office"
    "#]]
    .assert_eq(&scene.explained());
}

#[test]
fn what_someone_has_taken_on_is_quiet_until_it_is_worse_or_over() {
    let mut scene = Scene::new(options(json!({
        "repeat_interval": "1h", "escalate": [{ "after": "15m", "channels": ["boss"] }],
    })));
    scene.event(1, Opened, High, 5);
    scene.until(10 * MINUTE).acknowledge(1, High);
    scene.until(20 * MINUTE).event(1, Updated, High, 10);
    scene.until(3 * HOUR).event(1, Escalated, Critical, 20);
    scene.until(3 * HOUR + 10).event(1, Updated, Critical, 40);
    scene.until(3 * HOUR + 20 * MINUTE).event(1, Resolved, Critical, 41);
    scene.until(4 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        3h log escalated [critical] CODE_1 escalated: 20 errors in cart, 1 acknowledged
        3h5m log updated [critical] CODE_1 updated: 40 errors in cart
        3h15m boss unacknowledged [critical] CODE_1 unacknowledged: 40 errors in cart
        3h20m boss resolved [critical] CODE_1 resolved: 41 errors in cart
        3h20m log resolved [critical] CODE_1 resolved: 41 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        20m log CODE_1 updated acknowledged: someone has acknowledged it
    "#]]
    .assert_eq(&scene.explained());
}

#[test]
fn when_nobody_acknowledges_others_are_told_step_by_step_and_then_belong_to_it() {
    let mut scene = Scene::new(options(json!({
        "escalate": [
            { "after": "15m", "channels": ["ops"] },
            { "after": "30m", "channels": ["boss", "log"] },
        ],
    })));
    scene.event(1, Opened, High, 5);
    scene.until(10 * MINUTE).event(1, Updated, High, 10);
    scene.until(14 * MINUTE).event(1, Updated, High, 20);
    scene.until(20 * MINUTE).event(1, Updated, High, 40);
    scene.until(25 * MINUTE).silence("s", "code=CODE_1", 25 * MINUTE, 42 * MINUTE);
    scene.until(HOUR).event(1, Resolved, High, 41);
    scene.until(2 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        10m log updated [high] CODE_1 updated: 10 errors in cart
        15m log updated [high] CODE_1 updated: 20 errors in cart
        15m ops unacknowledged [high] CODE_1 unacknowledged: 20 errors in cart
        20m log updated [high] CODE_1 updated: 40 errors in cart
        20m ops updated [high] CODE_1 updated: 40 errors in cart
        45m boss unacknowledged [high] CODE_1 unacknowledged: 40 errors in cart
        1h boss resolved [high] CODE_1 resolved: 41 errors in cart
        1h log resolved [high] CODE_1 resolved: 41 errors in cart
        1h ops resolved [high] CODE_1 resolved: 41 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    let groups: std::collections::BTreeSet<_> =
        scene.told.iter().map(|n| n.group.clone()).collect();
    assert_eq!(groups.len(), 1);
}

//! Tests of what each channel was last told: what was missed, left out, repeated, gathered.

use crate::{
    alert::testing::{HOUR, MINUTE, Scene, channels, options},
    incident::{Change::*, Severity::*},
};
use expect_test::expect;
use serde_json::json;

#[test]
fn what_became_worse_under_a_silence_is_told_when_the_silence_ends() {
    let mut scene = Scene::new(options(json!({})));
    scene.event(1, Opened, High, 5);
    scene.until(10 * MINUTE).silence("s", "code=CODE_1", 10 * MINUTE, HOUR);
    scene.until(20 * MINUTE).event(1, Escalated, Critical, 50);
    scene.until(2 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        1h log escalated [critical] CODE_1 escalated: 50 errors in cart, 1 silenced
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn what_became_worse_while_muted_or_explained_by_another_is_told_afterwards() {
    let mut scene = Scene::new(options(json!({
        "mute": ["lunch"],
        "time": [{ "name": "lunch", "times": ["00:10-01:00"] }],
    })));
    scene.event(1, Opened, High, 5);
    scene.until(20 * MINUTE).event(1, Escalated, Critical, 50);
    // It grew, too: where it was critical already, that it escalated is told.
    scene.until(21 * MINUTE).event(1, Escalated, Critical, 500).restart();
    scene.until(2 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        1h1m log escalated [critical] CODE_1 escalated: 500 errors in cart, 2 muted
    "#]]
    .assert_eq(&scene.shown());
    let mut scene = Scene::new(options(json!({
        "inhibit": [{ "source": ["code=CODE_9"], "target": ["code=CODE_1"] }],
    })));
    scene.event(1, Opened, High, 5);
    scene.until(10 * MINUTE).event(9, Opened, High, 5);
    scene.until(20 * MINUTE).event(1, Updated, High, 10);
    scene.until(HOUR).event(9, Resolved, High, 5).until(2 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        10m log opened [high] CODE_9 opened: 5 errors in cart
        1h log resolved [high] CODE_9 resolved: 5 errors in cart
        1h5m log updated [high] CODE_1 updated: 10 errors in cart, 1 inhibited
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn what_a_later_message_left_out_is_told_again() {
    let mut scene = Scene::new(options(json!({ "group_by": ["service"], "group_wait": "30s" })));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 7);
    scene.until(10 * MINUTE).silence("s", "code=CODE_2", 10 * MINUTE, 30 * MINUTE);
    scene.until(20 * MINUTE).event(1, Resolved, High, 5).until(2 * HOUR);
    expect![[r#"
        30s log opened [high] 2 incidents firing (service=cart): 12 errors
        20m30s log resolved [high] CODE_1 resolved: 5 errors in cart
        30m30s log repeated [high] CODE_2 still going on: 7 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    let groups: std::collections::BTreeSet<_> =
        scene.told.iter().map(|n| n.group.clone()).collect();
    assert_eq!(groups.len(), 1, "the receiver knows it by the group that it took for over");
    // The end of one that was left out is told, too.
    scene.event(3, Opened, High, 5).until(2 * HOUR + 10 * MINUTE);
    scene.silence("t", "code=CODE_2", 2 * HOUR, 3 * HOUR).event(3, Resolved, High, 5);
    scene.until(2 * HOUR + 30 * MINUTE).event(2, Resolved, High, 7).until(5 * HOUR);
    expect![[r#"
        2h30s log opened [high] 2 incidents firing (service=cart): 12 errors
        2h10m30s log resolved [high] CODE_3 resolved: 5 errors in cart
        3h30s log resolved [high] CODE_2 resolved: 7 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn ends_that_a_channel_is_not_told_of_do_not_postpone_its_repeats() {
    let mut scene = Scene::new(json!({
        "channels": ["log", "quiet"], "group_by": ["service"], "repeat_interval": "1h",
    }));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5).event(3, Opened, High, 5);
    scene.until(30 * MINUTE).event(2, Resolved, High, 5);
    scene.until(50 * MINUTE).event(3, Resolved, High, 5);
    scene.until(2 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        0s quiet opened [high] CODE_1 opened: 5 errors in cart
        5m log opened [high] 3 incidents firing (service=cart): 15 errors
        5m quiet opened [high] 3 incidents firing (service=cart): 15 errors
        30m log updated [high] 2 incidents firing, 1 resolved (service=cart): 15 errors
        50m log updated [high] 1 incident firing, 1 resolved (service=cart): 10 errors
        1h5m quiet repeated [high] CODE_1 still going on: 5 errors in cart, 2 unwanted
        1h50m log repeated [high] CODE_1 still going on: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn after_a_pause_a_group_waits_for_more_again() {
    let mut scene = Scene::new(options(json!({ "group_by": ["service"], "group_wait": "30s" })));
    scene.event(1, Opened, High, 5);
    scene.until(HOUR).event(2, Opened, High, 5);
    scene.until(HOUR + 10).event(3, Opened, High, 5).restart();
    scene.until(HOUR + 20).event(4, Opened, High, 5);
    // What is worse than what was told does not wait.
    scene.until(2 * HOUR).event(5, Opened, Critical, 5).until(3 * HOUR);
    expect![[r#"
        30s log opened [high] CODE_1 opened: 5 errors in cart
        1h30s log opened [high] 4 incidents firing (service=cart): 20 errors
        2h log opened [critical] 5 incidents firing (service=cart): 25 errors
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn whom_an_escalation_adds_hears_later_of_what_was_silenced_then() {
    let mut scene = Scene::new(options(json!({
        "group_by": ["service"], "group_wait": "1s",
        "escalate": [{ "after": "15m", "channels": ["boss"] }],
    })));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5);
    scene.until(10 * MINUTE).silence("s", "code=CODE_2", 0, 20 * MINUTE).until(30 * MINUTE);
    expect![[r#"
        1s log opened [high] 2 incidents firing (service=cart): 10 errors
        15m1s boss unacknowledged [high] CODE_1 unacknowledged: 5 errors in cart
        20m1s boss opened [high] 2 incidents firing (service=cart): 10 errors
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn what_a_version_before_has_told_is_not_told_again_and_what_it_owed_is() {
    let mut scene = Scene::new(options(json!({ "channels": ["log", "quiet"] })));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5).until(60).shown();
    scene.event(2, Updated, High, 10).checkpoint();
    for (key, value) in &mut scene.stored {
        if key.starts_with("g.slot.") {
            let mut group: serde_json::Value = serde_json::from_slice(value).unwrap();
            let held = group["held"].as_object_mut().unwrap();
            let told_ms = held["log"]["log"]["atMs"].clone();
            assert!(told_ms.is_u64(), "{held:?}");
            held.retain(|key, _| !["log", "newsMs"].contains(&key.as_str()));
            held.insert("toldMs".to_owned(), told_ms);
            for member in held["members"].as_object_mut().unwrap().values_mut() {
                let member = member.as_object_mut().unwrap();
                member.retain(|key, _| !["toldTo", "changed"].contains(&key.as_str()));
            }
            *value = group.to_string().into_bytes();
        }
    }
    scene.takes_over(&channels()).until(HOUR);
    expect![[r#"
        5m log updated [high] CODE_2 updated: 10 errors in cart
        5m quiet updated [high] CODE_2 updated: 10 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

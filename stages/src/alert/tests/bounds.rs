//! Tests of the bounds: keys of a step, groups, incidents, members of a group; and of refused
//! inputs.

use bytes::Bytes;
use serde_json::json;

use crate::{
    Input, Reduce as _,
    alert::testing::{BEGIN, HOUR, MINUTE, Scene, options},
    incident::{Change::*, Severity::*},
};

#[test]
fn a_thousand_that_are_due_at_once_are_told_in_steps() {
    // The scene checks that no step changes more keys than it may.
    let mut scene = Scene::new(options(json!({ "group_wait": "30s" })));
    for n in 0..1000 {
        scene.event(n, Opened, High, 5);
        if n % 100 == 0 {
            scene.checkpoint();
        }
    }
    scene.until(MINUTE).checkpoint();
    assert_eq!(scene.tally("alert_groups")[""], 1000);
    for n in 0..1000 {
        scene.event(n, Resolved, High, 5);
    }
    scene.until(HOUR).checkpoint();
    assert_eq!(
        (scene.tally("alert_groups")[""], scene.stored.len()),
        (0, 2),
        "{:?}",
        scene.stored.keys()
    );
}

#[test]
fn a_group_that_is_too_large_is_two() {
    let mut scene = Scene::new(options(json!({ "group_by": ["service"], "group_wait": "30s" })));
    for n in 0..1500 {
        scene.event(n, Opened, High, 5);
    }
    scene.until(MINUTE);
    let shown = scene.shown();
    assert!(
        shown.contains("1000 incidents firing") && shown.contains("500 incidents firing"),
        "{shown}"
    );
    for n in 0..1500 {
        scene.event(n, Resolved, High, 5);
    }
    scene.until(HOUR).checkpoint();
    assert!(scene.shown().contains("1000 incidents resolved"));
    assert_eq!((scene.tally("alert_groups")[""], scene.stored.len()), (0, 2));
}

#[test]
fn past_the_bounds_the_oldest_is_forgotten_and_what_was_not_told_of_it_is_counted() {
    let mut scene = Scene::new(options(json!({ "group_wait": "30s" })));
    (scene.alert.groups_max, scene.alert.known_max) = (20, 10);
    for n in 0..100 {
        scene.until(n / 10).event(n, Opened, High, 5);
    }
    assert_eq!(
        (scene.tally("alert_groups")[""], scene.tally("alert_incidents_firing")[""]),
        (10, 10)
    );
    (scene.alert.groups_max, scene.alert.known_max) = (5, 100);
    for n in 100..120 {
        scene.event(n, Opened, High, 5);
    }
    scene.until(HOUR);
    assert_eq!(
        scene.told.len() as u64 + scene.tally("notifications_held_total")["log repeated"],
        120
    );
}

#[test]
fn what_is_no_incident_and_no_silence_is_refused_and_changes_nothing() {
    let mut scene = Scene::new(options(json!({})));
    for (key, body) in [
        (None, "{}"),
        (Some("silence.a"), "{}"),
        (Some("incident.a"), ""),
        (Some("silence.a.b"), "{}"),
    ] {
        let body = Bytes::from(body);
        let input = Input {
            stream: "s",
            seq: 1,
            subject: "x",
            key,
            at_ms: BEGIN,
            now_ms: BEGIN,
            envelope: None,
            headers: crate::HeaderLookup::none(),
            body: &body,
        };
        let failure = scene.alert.apply(&input, &mut Vec::new()).unwrap_err();
        assert_eq!(failure.disposition, crate::Disposition::Reject, "{failure}");
    }
    assert_eq!((scene.checkpoint(), scene.alert.next_timer_ms()), (0, None));
}

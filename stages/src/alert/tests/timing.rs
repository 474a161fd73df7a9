//! Tests of the times of a group: wait, interval, repeats, urgent news, ends.

use crate::{
    Reduce as _,
    alert::testing::{HOUR, MINUTE, Scene, incident, options},
    incident::{Change::*, Incident, Severity::*, timestamp},
};
use expect_test::expect;
use serde_json::json;

#[test]
fn news_is_told_at_most_every_interval_unless_it_is_worse() {
    let mut scene = Scene::new(options(json!({})));
    scene.event(1, Opened, High, 5);
    scene.until(30).event(1, Updated, High, 10);
    scene.until(60).event(1, Updated, High, 20);
    scene.until(4 * MINUTE).event(1, Escalated, Critical, 80);
    scene.until(5 * MINUTE).event(1, Updated, Critical, 160);
    scene.until(6 * MINUTE).event(1, Updated, Critical, 320);
    scene.until(20 * MINUTE).event(1, Updated, Critical, 640);
    scene.until(21 * MINUTE).event(1, Resolved, Critical, 641);
    scene.until(40 * MINUTE);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        4m log escalated [critical] CODE_1 escalated: 80 errors in cart, 2 repeated
        9m log updated [critical] CODE_1 updated: 320 errors in cart, 1 repeated
        20m log updated [critical] CODE_1 updated: 640 errors in cart
        25m log resolved [critical] CODE_1 resolved: 641 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        4m log CODE_1 updated repeated: it is told together with what came after it
        4m log CODE_1 updated repeated: it is told together with what came after it
        9m log CODE_1 updated repeated: it is told together with what came after it
    "#]]
    .assert_eq(&scene.explained());
    // When everything is told, nothing is remembered.
    scene.until(41 * MINUTE).checkpoint();
    assert_eq!(scene.alert.next_timer_ms(), None);
    assert_eq!(scene.stored.keys().collect::<Vec<_>>(), ["channel.log", "tally"]);
}

#[test]
fn a_new_group_waits_for_more_and_tells_it_together() {
    let mut scene = Scene::new(options(json!({ "group_by": ["service"], "group_wait": "30s" })));
    scene.event(1, Opened, High, 5);
    scene.until(10).event(2, Opened, Medium, 9);
    scene.until(20).event(3, Opened, Low, 1);
    scene.until(25).event(3, Resolved, Low, 1);
    // Of a group that was told, what is less bad waits for the interval, and what is worse does
    // not.
    scene.until(60).event(4, Opened, High, 7);
    scene.until(90).event(5, Opened, Critical, 7);
    scene.until(10 * MINUTE).event(1, Resolved, High, 5);
    scene.event(2, Resolved, Medium, 9).event(4, Resolved, High, 7);
    scene.until(11 * MINUTE).event(5, Resolved, Critical, 7);
    scene.until(HOUR);
    expect![[r#"
        30s log opened [high] 2 incidents firing (service=cart): 14 errors, 2 repeated
        1m30s log opened [critical] 4 incidents firing (service=cart): 28 errors
        10m30s log updated [critical] 1 incident firing, 3 resolved (service=cart): 28 errors
        15m30s log resolved [critical] CODE_5 resolved: 7 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        30s log CODE_3 opened repeated: it was over before it was told
        30s log CODE_3 resolved repeated: it was over before it was told
    "#]]
    .assert_eq(&scene.explained());
    let groups: std::collections::BTreeSet<_> =
        scene.told.iter().map(|n| n.group.clone()).collect();
    assert_eq!(groups.len(), 1, "one life, one group");
    // What comes after is another life of the group.
    scene.event(6, Opened, High, 7).until(2 * HOUR);
    assert!(!groups.contains(&scene.told.last().unwrap().group));
}

#[test]
fn what_goes_on_is_repeated() {
    let mut scene = Scene::new(options(json!({ "repeat_interval": "1h" })));
    scene.event(1, Opened, High, 5);
    scene.until(90 * MINUTE).event(1, Updated, High, 10);
    let quiet = |scene: &mut Scene| scene.checkpoint();
    assert!(quiet(&mut scene) > 0);
    scene.until(149 * MINUTE);
    assert_eq!(quiet(&mut scene), 0, "a look that tells nothing changes nothing");
    scene.until(4 * HOUR).event(1, Resolved, High, 10);
    scene.until(9 * HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        1h log repeated [high] CODE_1 still going on: 5 errors in cart
        1h30m log updated [high] CODE_1 updated: 10 errors in cart
        2h30m log repeated [high] CODE_1 still going on: 10 errors in cart
        3h30m log repeated [high] CODE_1 still going on: 10 errors in cart
        4h log resolved [high] CODE_1 resolved: 10 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn an_end_within_the_interval_is_told_after_it_and_a_beginning_and_end_within_the_wait_are_not() {
    let mut scene = Scene::new(options(json!({ "group_wait": "30s" })));
    scene.event(1, Opened, High, 5).until(20).event(1, Resolved, High, 5);
    scene.until(60).event(2, Opened, High, 5).until(100).event(2, Resolved, High, 5);
    scene.until(HOUR);
    expect![[r#"
        1m30s log opened [high] CODE_2 opened: 5 errors in cart
        6m30s log resolved [high] CODE_2 resolved: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        30s log CODE_1 opened repeated: it was over before it was told
        30s log CODE_1 resolved repeated: it was over before it was told
    "#]]
    .assert_eq(&scene.explained());
    assert_eq!(scene.tally("alert_groups")[""], 0);
}

#[test]
fn what_comes_back_is_told_as_new_and_a_channel_that_wants_no_ends_is_told_of_none() {
    let mut scene = Scene::new(json!({ "channels": ["quiet", "log"] }));
    let again = |generation: u64, event| Incident {
        incident_id: format!("{:016x}-{generation}", 1),
        generation,
        last_resolved_at: (generation > 1).then(|| timestamp(crate::alert::testing::BEGIN)),
        ..incident(1, event, High, 5)
    };
    scene.incident(&again(1, Opened)).until(10).incident(&again(1, Resolved));
    scene.until(20).incident(&again(2, Reopened)).until(30).incident(&again(2, Resolved));
    scene.until(HOUR);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        0s quiet opened [high] CODE_1 opened: 5 errors in cart
        5m log resolved [high] CODE_1 resolved: 5 errors in cart, 2 repeated
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        5m log CODE_1 reopened repeated: it was over before it was told
        5m quiet CODE_1 reopened repeated: it was over before it was told
        5m log CODE_1 resolved repeated: it was over before it was told
        5m quiet CODE_1 resolved repeated: it was over before it was told
        5m quiet CODE_1 resolved unwanted: the channel is not told of ends
    "#]]
    .assert_eq(&scene.explained());
}

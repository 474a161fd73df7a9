//! Tests of the life of an incident: opened, grown, worse, taken on, over, back.

use expect_test::{Expect, expect};

use super::*;

/// Compares the emissions, a line each.
#[track_caller]
fn check(told: &[Incident], expect: &Expect) {
    let line = |i: &Incident| {
        let [new, count, users] = [i.new_errors, i.count, i.users];
        format!(
            "{} {} count={count} (+{new}) users={users} {:?} at {}\n",
            i.event.as_str(),
            i.severity.as_str(),
            i.trend,
            i.last_seen
        )
    };
    expect.assert_eq(&told.iter().map(line).collect::<String>());
}

#[test]
fn an_incident_opens_grows_and_resolves() {
    let mut stage =
        stage(&json!({ "threshold": 2, "rule": [{ "code": ["REDIS_*"], "severity": "high" }] }));
    let (mut told, mut ids) = (Vec::new(), Vec::new());
    for n in 0..9_u64 {
        let mut body = error(&format!("connect 10.0.0.{n}:6379 refused"));
        body["userId"] = json!(n % 3);
        body["metadata"] = json!({ "eventId": format!("e{n}"), "traceId": 7 });
        let out = emitted(&mut stage, MINUTE + n * 1000, None, &body);
        ids.extend(out.iter().map(|emission| emission.id.clone()));
        told.extend(read(&out));
    }
    assert_eq!(tick(&mut stage, MINUTE + 8000 + 10 * MINUTE - 1), []);
    assert_eq!(stage.next_timer_ms(), Some(MINUTE + 8000 + 10 * MINUTE));
    let out = tick(&mut stage, 11 * MINUTE + 8000);
    ids.extend(out.iter().map(|emission| emission.id.clone()));
    told.extend(read(&out));
    assert_eq!(stage.next_timer_ms(), None);
    assert_eq!(
        told.iter().map(|incident| incident.new_errors).sum::<u64>(),
        told.last().unwrap().count
    );
    check(
        &told,
        &expect![[r#"
        opened high count=2 (+2) users=2 Rising at 1970-01-01T00:01:01Z
        updated high count=4 (+2) users=3 Rising at 1970-01-01T00:01:03Z
        updated high count=8 (+4) users=3 Rising at 1970-01-01T00:01:07Z
        resolved high count=9 (+1) users=3 Rising at 1970-01-01T00:01:08Z
    "#]],
    );
    expect![[r#"
        0f00b179aa2b82aa-1.61000.1.opened
        0f00b179aa2b82aa-1.61000.1.updated-4
        0f00b179aa2b82aa-1.61000.1.updated-8
        0f00b179aa2b82aa-1.61000.1.resolved"#]]
    .assert_eq(&ids.join("\n"));
    expect![[r#"
        {
          "incidentId": "0f00b179aa2b82aa-1",
          "event": "opened",
          "fingerprint": "0f00b179aa2b82aa",
          "generation": 1,
          "code": "REDIS_CONNECTION_FAILED",
          "severity": "high",
          "message": "connect <ip> refused",
          "services": [
            "cart"
          ],
          "labels": {
            "code": "REDIS_CONNECTION_FAILED",
            "fingerprint": "0f00b179aa2b82aa",
            "service": "cart",
            "severity": "high"
          },
          "threshold": 2,
          "windowMs": 300000,
          "count": 2,
          "newErrors": 2,
          "total": 2,
          "ratePerMinute": 2.0,
          "trend": "rising",
          "perMinute": [
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            0,
            2
          ],
          "firstSeen": "1970-01-01T00:01:00Z",
          "lastSeen": "1970-01-01T00:01:01Z",
          "openedAt": "1970-01-01T00:01:01Z",
          "users": 2,
          "samples": [
            {
              "at": "1970-01-01T00:01:00Z",
              "message": "connect 10.0.0.0:6379 refused",
              "eventId": "e0",
              "traceId": "7"
            },
            {
              "at": "1970-01-01T00:01:01Z",
              "message": "connect 10.0.0.1:6379 refused",
              "eventId": "e1",
              "traceId": "7"
            }
          ],
          "channels": []
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&told[0]).unwrap());
    let over = told.last().unwrap();
    assert_eq!(over.resolved_at.unwrap().as_millisecond(), 11 * 60_000 + 8000);
    assert_eq!(over.resolved_by, None);
}

#[test]
fn it_is_worse_at_multiples_and_by_a_worse_report() {
    let mut stage = stage(&json!({ "threshold": 2, "escalate": 3, "severity": "low" }));
    let mut told = Vec::new();
    for n in 0..20 {
        let mut body = error("x");
        if n == 9 {
            body["severity"] = json!("warning");
        }
        told.extend(apply(&mut stage, n, &body));
    }
    check(
        &told,
        &expect![[r#"
        opened low count=2 (+2) users=0 Rising at 1970-01-01T00:00:00.001Z
        updated low count=4 (+2) users=0 Rising at 1970-01-01T00:00:00.003Z
        escalated medium count=6 (+2) users=0 Rising at 1970-01-01T00:00:00.005Z
        updated medium count=8 (+2) users=0 Rising at 1970-01-01T00:00:00.007Z
        escalated high count=10 (+2) users=0 Rising at 1970-01-01T00:00:00.009Z
        updated high count=16 (+6) users=0 Rising at 1970-01-01T00:00:00.015Z
        escalated critical count=18 (+2) users=0 Rising at 1970-01-01T00:00:00.017Z
    "#]],
    );
}

#[test]
fn what_a_rule_sets_is_not_worse_by_what_errors_say_but_by_their_number() {
    let rule = json!({ "code": ["REDIS_*"], "severity": "medium", "escalate": 4 });
    let mut stage = stage(&json!({ "threshold": 1, "rule": [rule] }));
    let mut told = Vec::new();
    for n in 0..5 {
        let mut body = error("x");
        body["severity"] = json!("fatal");
        told.extend(apply(&mut stage, n, &body));
    }
    check(
        &told,
        &expect![[r#"
        opened medium count=1 (+1) users=0 Rising at 1970-01-01T00:00:00Z
        updated medium count=2 (+1) users=0 Rising at 1970-01-01T00:00:00.001Z
        escalated high count=4 (+2) users=0 Rising at 1970-01-01T00:00:00.003Z
    "#]],
    );
}

#[test]
fn what_comes_back_is_a_regression() {
    let mut stage = stage(&json!({ "threshold": 1, "quiet": "1m" }));
    let first = apply(&mut stage, 0, &error("x")).remove(0);
    assert_eq!((first.event, first.last_resolved_at), (Change::Opened, None));
    act(&mut stage, 1000, &first.incident_id, "acknowledge", "ann");
    let told = apply(&mut stage, 2 * MINUTE, &error("x"));
    let events: Vec<_> =
        told.iter().map(|i| (i.event, i.generation, i.count, i.acknowledged.is_some())).collect();
    assert_eq!(events, [(Change::Resolved, 1, 1, true), (Change::Reopened, 2, 1, false)]);
    assert_eq!(told[1].last_resolved_at.unwrap().as_millisecond(), 60_000);
    assert_eq!((told[1].total, told[1].first_seen.as_millisecond()), (2, 0));
    assert_eq!(tally(&stage, "incidents_total", "reopened"), 1);
}

#[test]
fn an_operator_takes_it_on_and_ends_it() {
    let mut stage = stage(&json!({ "threshold": 1 }));
    let id = apply(&mut stage, 1000, &error("x")).remove(0).incident_id;
    assert_eq!(act(&mut stage, 1001, "0000000000000000-1", "acknowledge", "ann"), []);
    assert_eq!(act(&mut stage, 1002, "what", "resolve", "ann"), []);
    let ann = act(&mut stage, 1003, &id, "acknowledge", "ann");
    assert_eq!(act(&mut stage, 1004, &id, "acknowledge", "ann"), []);
    let bob = act(&mut stage, 1005, &id, "acknowledge", "bob");
    assert_ne!(ann[0].id, bob[0].id);
    assert_eq!(read(&bob)[0].acknowledged.as_ref().unwrap().by, "bob");
    assert_eq!(stage.incidents()[0].event, Change::Acknowledged);
    apply(&mut stage, 1006, &error("x"));
    // A clock that is behind ends nothing before it began.
    let at = crate::incident::timestamp(5);
    let body = json!({ "incidentId": id, "action": "resolve", "by": "bob", "at": at });
    let over = read(&emitted(&mut stage, 1007, Some(&format!("incident.{id}")), &body)).remove(0);
    assert_eq!((over.event, over.count, over.new_errors), (Change::Resolved, 2, 0));
    assert_eq!(over.resolved_at.unwrap().as_millisecond(), 1000);
    assert_eq!(over.resolved_by.unwrap().by, "bob");
    assert_eq!(act(&mut stage, 1008, &id, "acknowledge", "ann"), []);
    assert_eq!((stage.incidents(), stage.next_timer_ms()), (Vec::new(), None));
    // Counted anew.
    let again = apply(&mut stage, 1009, &error("x")).remove(0);
    assert_eq!((again.event, again.count, again.total), (Change::Reopened, 1, 3));
}

#[test]
fn an_action_that_cannot_be_read_is_rejected_and_a_deleted_one_is_none() {
    let mut stage = stage(&json!({ "threshold": 1 }));
    let id = apply(&mut stage, 1, &error("x")).remove(0).incident_id;
    let key = format!("incident.{id}");
    let right =
        json!({ "incidentId": id, "action": "resolve", "by": "bob", "at": "2026-11-21T08:00:00Z" })
            .to_string();
    for (key, body) in [
        (key.as_str(), "{}"),
        (&key, "resolve"),
        (&key, &right.replace("resolve", "explode")),
        ("incident.other-1", &right),
        ("silence.x", &right),
    ] {
        let failure = stage
            .apply(&input(2, Some(key), &Bytes::from(body.to_owned())), &mut Vec::new())
            .unwrap_err();
        assert_eq!(failure.class, class::DECODE, "{key}: {body}");
    }
    stage.apply(&input(3, Some(&key), &Bytes::new()), &mut Vec::new()).unwrap();
    assert_eq!(stage.incidents().len(), 1);
}

#[test]
fn the_window_slides() {
    let mut stage = stage(&json!({ "threshold": 3, "window": "1m", "quiet": "2m" }));
    for (at, opens) in [(0, false), (59_000, false), (61_000, false), (119_000, true)] {
        assert_eq!(!apply(&mut stage, at, &error("x")).is_empty(), opens, "{at}");
    }
}

#[test]
fn minutes_and_trend_follow_the_clock() {
    let mut stage = stage(&json!({ "threshold": 1 }));
    let mut now = Vec::new();
    for (minute, errors) in [(0, 4_u64), (1, 4), (4, 4), (6, 1), (9, 2), (12, 7)] {
        for n in 0..errors {
            apply(&mut stage, minute * MINUTE + n, &error("x"));
        }
        let incident = &stage.incidents()[0];
        now.push(format!("{:?} {:?}", incident.per_minute, incident.trend));
    }
    // One that comes late is counted where it belongs, or not at all.
    apply(&mut stage, 6 * MINUTE, &error("x"));
    apply(&mut stage, 0, &error("x"));
    now.push(format!("{:?}", stage.incidents()[0].per_minute));
    expect![[r#"
        [0, 0, 0, 0, 0, 0, 0, 0, 0, 4] Rising
        [0, 0, 0, 0, 0, 0, 0, 0, 4, 4] Rising
        [0, 0, 0, 0, 0, 4, 4, 0, 0, 4] Rising
        [0, 0, 0, 4, 4, 0, 0, 4, 0, 1] Falling
        [4, 4, 0, 0, 4, 0, 1, 0, 0, 2] Falling
        [0, 4, 0, 1, 0, 0, 2, 0, 0, 7] Rising
        [0, 4, 0, 2, 0, 0, 2, 0, 0, 7]"#]]
    .assert_eq(&now.join("\n"));
}

#[test]
fn every_open_incident_is_shown_the_worst_first() {
    let mut stage = stage(&json!({ "threshold": 1 }));
    for (n, (name, severity)) in
        [("ant", "low"), ("bee", "high"), ("cow", "high"), ("bee", "low")].iter().enumerate()
    {
        let mut body = error(name);
        body["severity"] = json!(severity);
        apply(&mut stage, n as u64, &body);
    }
    let shown: Vec<_> =
        stage.incidents().iter().map(|i| format!("{} {}", i.message, i.count)).collect();
    assert_eq!(shown, ["bee 2", "cow 1", "ant 1"]);
    assert_eq!(tally(&stage, "incidents_open", "high"), 2);
    assert_eq!(tally(&stage, "incidents_open", "critical"), 0);
}

//! Tests of `aggregate-errors`: what it tells, and the counts against a naive model.

use std::collections::BTreeMap;

use bytes::Bytes;
use expect_test::expect;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::incident::Incident;

const MINUTE: u64 = 60_000;

fn stage(options: Value) -> AggregateErrors {
    AggregateErrors::new(serde_json::from_value(options).unwrap())
}

fn apply(stage: &mut AggregateErrors, at_ms: u64, body: &Value) -> Vec<Incident> {
    let mut out = Vec::new();
    stage.apply(&input(at_ms, &Bytes::from(body.to_string())), &mut out).unwrap();
    read(&out)
}

fn input(at_ms: u64, body: &Bytes) -> Input<'_> {
    Input { stream: "s", seq: 1, subject: "errors.x", at_ms, now_ms: at_ms, traceparent: None, body }
}

fn read(out: &[Emission]) -> Vec<Incident> {
    out.iter().map(|emission| serde_json::from_slice(&emission.body).unwrap()).collect()
}

fn error(message: &str) -> Value {
    json!({ "errorCode": "REDIS_CONNECTION_FAILED", "serviceName": "cart", "message": message })
}

#[test]
fn an_incident_opens_grows_and_resolves() {
    let mut stage = stage(json!({ "threshold": 2, "rule": [
        { "code": ["REDIS_*"], "severity": "high", "channels": ["ops"] }
    ]}));
    let mut told = Vec::new();
    for n in 0..9_u64 {
        let mut body = error(&format!("connect 10.0.0.{n}:6379 refused"));
        body["userId"] = json!(n % 3);
        body["metadata"] = json!({ "eventId": format!("e{n}"), "traceId": 7 });
        told.extend(apply(&mut stage, MINUTE + n * 1000, &body));
    }
    let mut out = Vec::new();
    stage.tick(MINUTE + 8000 + 10 * MINUTE - 1, &mut out);
    assert!(out.is_empty());
    assert_eq!(stage.next_timer_ms(), Some(MINUTE + 8000 + 10 * MINUTE));
    stage.tick(11 * MINUTE + 8000, &mut out);
    assert_eq!(out[0].id, format!("{}.1.resolved", told[0].fingerprint));
    assert_eq!(out[0].route, "resolved");
    told.extend(read(&out));
    assert_eq!(told.iter().map(|incident| incident.new_errors).sum::<u64>(), told.last().unwrap().count);
    let lines: Vec<String> =
        told.iter().map(|i| format!("{:?} count={} users={} at {}", i.event, i.count, i.users, i.last_seen)).collect();
    expect![[r#"
        Opened count=2 users=2 at 1970-01-01T00:01:01Z
        Updated count=4 users=3 at 1970-01-01T00:01:03Z
        Updated count=8 users=3 at 1970-01-01T00:01:07Z
        Resolved count=9 users=3 at 1970-01-01T00:01:08Z
    "#]]
    .assert_eq(&(lines.join("\n") + "\n"));
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
          "count": 2,
          "newErrors": 2,
          "total": 2,
          "ratePerMinute": 120.0,
          "firstSeen": "1970-01-01T00:01:00Z",
          "lastSeen": "1970-01-01T00:01:01Z",
          "openedAt": "1970-01-01T00:01:01Z",
          "users": 2,
          "samples": [
            {
              "at": "1970-01-01T00:01:00Z",
              "message": "connect 10.0.0.0:6379 refused",
              "eventId": "e0"
            },
            {
              "at": "1970-01-01T00:01:01Z",
              "message": "connect 10.0.0.1:6379 refused",
              "eventId": "e1"
            }
          ],
          "channels": [
            "ops"
          ]
        }"#]]
    .assert_eq(&serde_json::to_string_pretty(&told[0]).unwrap());
}

#[test]
fn what_is_not_an_error_event_is_rejected_and_changes_nothing() {
    let mut stage = stage(json!({}));
    for body in [
        "",
        "null",
        "[]",
        "{}",
        r#"{"errorCode":"A","message":"m"}"#,
        r#"{"errorCode":"","message":"m","serviceName":"s"}"#,
    ] {
        let failure = stage.apply(&input(1, &Bytes::from(body)), &mut Vec::new()).unwrap_err();
        assert_eq!(failure.class, class::DECODE, "{body}");
    }
    assert_eq!((stage.dirty_len(), stage.cells.len()), (0, 0));
    let odd = json!({ "errorCode": "A", "message": "m", "serviceName": "s", "severity": 5, "userId": {}, "metadata": "x", "more": [1] });
    apply(&mut stage, 1, &odd);
    assert_eq!(stage.cells.len(), 1);
}

#[test]
fn the_window_slides() {
    let mut stage = stage(json!({ "threshold": 3, "window": "1m" }));
    for (at, opens) in [(0, false), (59_000, false), (61_000, false), (119_000, true)] {
        assert_eq!(!apply(&mut stage, at, &error("x")).is_empty(), opens, "{at}");
    }
}

#[test]
fn severity_comes_from_the_rule_then_the_errors_then_the_stage() {
    let mut stage =
        stage(json!({ "threshold": 1, "severity": "low", "rule": [{ "code": ["RULED"], "severity": "high" }] }));
    for (code, said, severity) in [
        ("RULED", Some("fatal"), Severity::High),
        ("OTHER", Some("FATAL"), Severity::Critical),
        ("THIRD", Some("purple"), Severity::Low),
        ("FOURTH", None, Severity::Low),
    ] {
        let mut body = error("x");
        body["errorCode"] = json!(code);
        body["severity"] = json!(said);
        assert_eq!(apply(&mut stage, 1, &body)[0].severity, severity, "{code}");
    }
}

#[test]
fn the_longest_idle_is_forgotten_and_counted() {
    let mut stage = stage(json!({ "threshold": 2 }));
    stage.fingerprints_max = 2;
    for (at, name) in [(1, "ant"), (2, "bee"), (3, "ant"), (4, "cow"), (5, "dog")] {
        apply(&mut stage, at, &error(name));
    }
    // "bee" and "cow" were idle; "ant" has an open incident.
    assert_eq!(stage.forgotten, Forgotten { fingerprints: 2, errors: 2 });
    assert_eq!(stage.cells.values().map(|cell| cell.total).sum::<u64>(), 3);
    let told = apply(&mut stage, 6, &error("dog"));
    assert_eq!(told[0].event, Change::Opened);
    // Nobody is idle now: the one that is due first is resolved and forgotten.
    let told = apply(&mut stage, 7, &error("eel"));
    assert_eq!((told[0].event, told[0].count), (Change::Resolved, 2));
}

/// The same by brute force: every time of every fingerprint is kept, and every rule is looked up in them.
fn naive(times: &[u64], threshold: usize, window: u64, quiet: u64) -> Vec<(Change, u64)> {
    let (mut told, mut group, mut open) = (Vec::new(), Vec::<u64>::new(), None::<u64>);
    for at in times {
        if let (Some(count), Some(last)) = (open, group.last())
            && at - last >= quiet
        {
            told.push((Change::Resolved, count));
            (open, group) = (None, Vec::new());
        }
        group.push(*at);
        if let Some(count) = &mut open {
            *count += 1;
            if (1..60).any(|power| *count == (threshold as u64) << power) {
                told.push((Change::Updated, *count));
            }
        } else if group.len() >= threshold && at - group[group.len() - threshold] <= window {
            open = Some(threshold as u64);
            told.push((Change::Opened, threshold as u64));
        }
    }
    told.extend(open.map(|count| (Change::Resolved, count)));
    told
}

proptest! {
    #[test]
    fn it_tells_what_a_naive_model_tells(
        steps in prop::collection::vec((0..4_usize, prop_oneof![0..20_u64, 0..2000_u64, Just(31_536_000_000)]), 0..200),
        threshold in 1..6_usize,
        restart_every in 1..50_usize,
        tick_every in 1..20_usize,
    ) {
        let options = json!({ "threshold": threshold, "window": "100ms", "quiet": "1s" });
        let mut running = stage(options.clone());
        let (mut stored, mut told, mut times) = (BTreeMap::new(), Vec::new(), BTreeMap::<String, Vec<u64>>::new());
        let mut now = 1_700_000_000_000;
        for (n, (name, wait)) in steps.iter().enumerate() {
            now += wait;
            let name = ["ant", "bee", "cow", "dog"][*name];
            times.entry(name.to_owned()).or_default().push(now);
            told.extend(apply(&mut running, now, &error(name)));
            if n % tick_every == 0 {
                let mut out = Vec::new();
                running.tick(now, &mut out);
                told.extend(read(&out));
            }
            if n % restart_every == 0 {
                stored.extend(running.take_dirty());
                running = stage(options.clone());
                for (key, value) in &stored {
                    running.restore(key, value.as_ref().unwrap()).unwrap();
                }
                prop_assert_eq!(running.dirty_len(), 0);
            }
        }
        let mut out = Vec::new();
        running.tick(now + 1000, &mut out);
        told.extend(read(&out));
        prop_assert_eq!(running.next_timer_ms(), None);
        prop_assert_eq!(running.cells.values().map(|cell| cell.total).sum::<u64>(), steps.len() as u64);
        for (name, times) in times {
            let of: Vec<_> = told.iter().filter(|i| i.message == name).map(|i| (i.event, i.count)).collect();
            prop_assert_eq!(of, naive(&times, threshold, 100, 1000));
        }
        let mut ids: Vec<_> = told.iter().map(|i| (&i.incident_id, i.event, i.count)).collect();
        ids.sort();
        ids.dedup();
        prop_assert_eq!(ids.len(), told.len());
    }
}

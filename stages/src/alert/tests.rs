//! Tests of `alert`: what is sent, when, and that nothing is lost from the accounts.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use expect_test::expect;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{
    Handler,
    incident::timestamp,
    notification::{About, Notification},
};

const MINUTE: u64 = 60_000;

/// A world in which two channels are declared.
struct Two;

impl World for Two {
    fn folder(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Err("none".to_owned())
    }

    fn handler(&self, _: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>> {
        Err(Vec::new())
    }

    fn has_channel(&self, name: &str) -> bool {
        ["log", "ops"].contains(&name)
    }

    fn channel_rates(&self) -> Vec<(String, u32)> {
        vec![("log".to_owned(), 10), ("ops".to_owned(), 3)]
    }
}

fn stage(options: Value) -> Alert {
    Alert::new(Options::checked(&options, &Two).unwrap(), &Two.channel_rates())
}

fn incident(n: u64, event: Change, severity: Severity, count: u64) -> Incident {
    Incident {
        incident_id: format!("{n:016x}-1"),
        event,
        fingerprint: format!("{n:016x}"),
        generation: 1,
        code: format!("CODE_{n}"),
        severity,
        message: "connect <ip> refused".to_owned(),
        services: vec!["cart".to_owned()],
        count,
        new_errors: 5,
        total: count,
        rate_per_minute: 2.5,
        first_seen: timestamp(0),
        last_seen: timestamp(1000),
        opened_at: timestamp(500),
        resolved_at: None,
        users: 2,
        samples: Vec::new(),
        channels: Vec::new(),
    }
}

fn apply(stage: &mut Alert, now_ms: u64, incident: &Incident) -> Vec<Notification> {
    let body = Bytes::from(serde_json::to_vec(incident).unwrap());
    let input = Input { stream: "s", seq: 1, subject: "x", at_ms: now_ms, now_ms, traceparent: None, body: &body };
    let mut out = Vec::new();
    stage.apply(&input, &mut out).unwrap();
    read(&out)
}

fn tick(stage: &mut Alert, now_ms: u64) -> Vec<Notification> {
    let mut out = Vec::new();
    stage.tick(now_ms, &mut out);
    read(&out)
}

fn read(out: &[Emission]) -> Vec<Notification> {
    let read = |emission: &Emission| serde_json::from_slice::<Notification>(&emission.body).unwrap();
    assert!(out.iter().all(|emission| read(emission).notification_id == emission.id));
    out.iter().map(read).collect()
}

fn show(told: &[Notification]) -> String {
    let line = |n: &Notification| format!("{} {} (+{})\n", n.at, n.title, n.suppressed);
    told.iter().map(line).collect()
}

#[test]
fn the_options_of_both_kinds_are_one_schema_that_stands_alone() {
    for kind in [KIND, crate::aggregate_errors::KIND] {
        let schema = (kind.options)().to_value();
        assert!(schema.get("$defs").is_none(), "{schema}");
        assert!(schema["properties"].as_object().is_some_and(|keys| keys.len() >= 4), "{schema}");
    }
}

#[test]
fn the_same_news_is_held_back_unless_it_is_worse() {
    let (mut stage, mut told) = (stage(json!({})), Vec::new());
    for (at, event, severity, count) in [
        (0, Change::Opened, Severity::High, 5),
        (1, Change::Updated, Severity::High, 10),
        (2, Change::Updated, Severity::High, 20),
        (3, Change::Updated, Severity::High, 40),
        (4, Change::Updated, Severity::Critical, 80),
        (5, Change::Updated, Severity::Critical, 160),
        (6, Change::Updated, Severity::Critical, 320),
    ] {
        told.extend(apply(&mut stage, at * MINUTE / 2, &incident(1, event, severity, count)));
    }
    assert_eq!(stage.next_timer_ms(), Some(7 * MINUTE));
    told.extend(tick(&mut stage, 7 * MINUTE));
    told.extend(apply(&mut stage, 8 * MINUTE, &incident(1, Change::Resolved, Severity::Critical, 321)));
    expect![[r#"
        1970-01-01T00:00:00Z [high] CODE_1 opened: 5 errors in cart (+0)
        1970-01-01T00:00:30Z [high] CODE_1 updated: 10 errors in cart (+0)
        1970-01-01T00:02:00Z [critical] CODE_1 updated: 80 errors in cart (+2)
        1970-01-01T00:07:00Z [critical] CODE_1 updated: 320 errors in cart (+1)
        1970-01-01T00:08:00Z [critical] CODE_1 resolved: 321 errors in cart (+0)
    "#]]
    .assert_eq(&show(&told));
    assert_eq!(told.iter().map(|n| 1 + n.suppressed).sum::<u64>(), 8);
    // When its suppression is over, the group is forgotten.
    assert_eq!(tick(&mut stage, 13 * MINUTE).len(), 0);
    assert_eq!((stage.groups.len(), stage.next_timer_ms()), (0, None));
}

#[test]
fn the_rule_of_an_incident_goes_before_the_routes() {
    let mut stage = stage(json!({ "route": [
        { "severity": ["critical"], "code": ["CODE_*"], "channels": ["ops"] },
        { "code": ["CODE_3"], "channels": [] },
    ]}));
    let channels = |stage: &mut Alert, incident: &Incident| {
        apply(stage, incident.count * MINUTE, incident).into_iter().map(|n| n.channel).collect::<Vec<_>>().join(",")
    };
    assert_eq!(channels(&mut stage, &incident(1, Change::Opened, Severity::Critical, 1)), "ops");
    assert_eq!(channels(&mut stage, &incident(2, Change::Opened, Severity::High, 2)), "log");
    assert_eq!(channels(&mut stage, &incident(3, Change::Opened, Severity::High, 3)), "");
    let named = |n, names: &[&str]| Incident {
        channels: names.iter().map(|name| (*name).to_owned()).collect(),
        ..incident(n, Change::Opened, Severity::High, n)
    };
    assert_eq!(channels(&mut stage, &named(4, &["ops", "log", "ops"])), "log,ops");
    assert_eq!(channels(&mut stage, &named(5, &["gone"])), "log");
}

#[test]
fn a_channel_that_is_not_declared_is_a_problem() {
    let options = json!({ "channels": ["lgo"], "route": [{ "channels": ["ops", "pager"] }] });
    let problems = Options::checked(&options, &Two).unwrap_err();
    let shown: Vec<String> = problems.iter().map(|p| format!("{}: {}\n", p.at.join("."), p.message)).collect();
    expect![[r#"
        channels.0: channel "lgo" is not declared
        route.0.channels.1: channel "pager" is not declared
    "#]]
    .assert_eq(&shown.concat());
    let rule = json!({ "rule": [{ "channels": ["pager"] }] });
    let Build::Reduce(build) = crate::aggregate_errors::KIND.build else { panic!() };
    assert_eq!(build(&rule, &Two).err().unwrap()[0].at, ["rule", "0", "channels", "0"]);
}

#[test]
fn what_exceeds_the_rate_becomes_one_digest_and_the_critical_passes_it() {
    let (mut stage, mut told) = (stage(json!({})), Vec::new());
    for n in 0..41 {
        told.extend(apply(&mut stage, 1000 + n, &incident(n, Change::Opened, Severity::High, 300 + n)));
    }
    told.extend(apply(&mut stage, 2000, &incident(99, Change::Opened, Severity::Critical, 5)));
    assert_eq!(tick(&mut stage, 16_000).len(), 0);
    let at = stage.next_timer_ms().unwrap();
    told.extend(tick(&mut stage, at));
    expect![[r#"
        1970-01-01T00:00:01Z [high] CODE_0 opened: 300 errors in cart (+0)
        1970-01-01T00:00:01.001Z [high] CODE_1 opened: 301 errors in cart (+0)
        1970-01-01T00:00:02Z [critical] CODE_99 opened: 5 errors in cart (+0)
        1970-01-01T00:00:16.002Z [high] 39 incidents opened, 195 errors (+0)
    "#]]
    .assert_eq(&show(&told));
    expect![[r#"
        39 incidents opened since 1970-01-01T00:00:01.002Z
        [high] CODE_40 opened: 340 errors: connect <ip> refused
        [high] CODE_39 opened: 339 errors: connect <ip> refused
        [high] CODE_38 opened: 338 errors: connect <ip> refused
        [high] CODE_37 opened: 337 errors: connect <ip> refused
        [high] CODE_36 opened: 336 errors: connect <ip> refused
    "#]]
    .assert_eq(&told.last().unwrap().text);
    expect![[r#"
        connect <ip> refused
        300 errors, 2.5 a minute, in cart
        first seen 1970-01-01T00:00:00Z, last seen 1970-01-01T00:00:01Z
        users: 2
    "#]]
    .assert_eq(&told[0].text);
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![Just(Change::Opened), Just(Change::Updated), Just(Change::Resolved)]
}

fn severity() -> impl Strategy<Value = Severity> {
    prop_oneof![Just(Severity::Low), Just(Severity::High), Just(Severity::Critical)]
}

proptest! {
    #[test]
    fn no_minute_holds_more_than_the_limit_and_nothing_is_lost_from_the_accounts(
        steps in prop::collection::vec((0..12_u64, change(), severity(), prop_oneof![0..100_u64, 0..20_000_u64]), 1..250),
        restart_every in 1..60_usize,
    ) {
        let options = json!({ "channels": ["log", "ops"], "suppress": "30s" });
        let (mut running, mut stored, mut told) = (stage(options.clone()), BTreeMap::new(), Vec::new());
        let mut now = 1_700_000_000_000;
        for (n, (which, event, severity, wait)) in steps.iter().enumerate() {
            let until = now + wait;
            while let Some(due) = running.next_timer_ms() && due <= until {
                now = now.max(due);
                told.extend(tick(&mut running, now));
            }
            now = until;
            told.extend(apply(&mut running, now, &incident(*which, *event, *severity, n as u64)));
            if n % restart_every == 0 {
                for (key, value) in running.take_dirty() {
                    match value {
                        Some(value) => stored.insert(key, value),
                        None => stored.remove(&key),
                    };
                }
                running = stage(options.clone());
                for (key, value) in &stored {
                    running.restore(key, value).unwrap();
                }
            }
        }
        while let Some(due) = running.next_timer_ms() {
            now = now.max(due);
            told.extend(tick(&mut running, now));
        }
        for (channel, rate) in Two.channel_rates() {
            let sent: Vec<_> = told.iter().filter(|n| n.channel == channel).collect();
            let times: Vec<_> = sent.iter().map(|n| n.at.as_millisecond()).collect();
            for from in &times {
                let within = times.iter().filter(|at| (0..60_000).contains(&(*at - from))).count();
                prop_assert!(within <= rate as usize, "{} in a minute of {}", within, channel);
            }
            let events: u64 = sent.iter().map(|n| n.suppressed + match &n.about {
                About::Incident { .. } => 1,
                About::Digest { digest } => digest.events(),
            }).sum();
            prop_assert_eq!(events, steps.len() as u64);
        }
    }
}

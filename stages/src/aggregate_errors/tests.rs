//! Tests of `aggregate-errors`: accepted input, emissions, and stored state.

mod bounds;
mod incidents;
mod model;
mod rules;

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::json;

use super::*;

const MINUTE: u64 = 60_000;

/// Builds a stage with these options, which are right.
fn stage(options: &Value) -> AggregateErrors {
    let channels = crate::testing::Memory::default();
    AggregateErrors::build(options, &channels).unwrap()
}

fn error(message: &str) -> Value {
    json!({ "errorCode": "REDIS_CONNECTION_FAILED", "serviceName": "cart", "message": message })
}

/// Returns a failed attempt, as the engine reports it.
fn attempt(class: &str, message: &str) -> Value {
    json!({
        "errorCode": class, "serviceName": "shop/orders", "message": message, "severity": "low",
        "timestamp": "x",
        "metadata": {
            "eventId": "e1", "eventType": "order.created", "tenantId": "acme", "stage": "orders",
            "attempt": 1,
        },
    })
}

fn input<'a>(at_ms: u64, key: Option<&'a str>, body: &'a Bytes) -> Input<'a> {
    Input {
        stream: "s",
        seq: 1,
        subject: "errors.x",
        key,
        at_ms,
        now_ms: at_ms,
        envelope: None,
        headers: crate::HeaderLookup::none(),
        body,
    }
}

fn emitted(
    stage: &mut AggregateErrors,
    at_ms: u64,
    key: Option<&str>,
    body: &Value,
) -> Vec<Emission> {
    let mut out = Vec::new();
    stage.apply(&input(at_ms, key, &Bytes::from(body.to_string())), &mut out).unwrap();
    out
}

fn apply(stage: &mut AggregateErrors, at_ms: u64, body: &Value) -> Vec<Incident> {
    read(&emitted(stage, at_ms, None, body))
}

/// Applies an operator's action to an incident.
fn act(stage: &mut AggregateErrors, at_ms: u64, id: &str, action: &str, by: &str) -> Vec<Emission> {
    let at = crate::incident::timestamp(at_ms);
    let body =
        json!({ "incidentId": id, "action": action, "by": by, "at": at, "reason": "because" });
    emitted(stage, at_ms, Some(&format!("incident.{id}")), &body)
}

fn tick(stage: &mut AggregateErrors, now_ms: u64) -> Vec<Emission> {
    let mut out = Vec::new();
    stage.tick(now_ms, &mut out);
    out
}

fn read(out: &[Emission]) -> Vec<Incident> {
    let read = |emission: &Emission| {
        let incident: Incident = serde_json::from_slice(&emission.body).unwrap();
        assert_eq!(emission.route, incident.event.as_str());
        incident
    };
    out.iter().map(read).collect()
}

/// Stored keys of a stage.
type Bucket = BTreeMap<String, Vec<u8>>;

/// Writes the keys that changed.
fn commit(stage: &mut AggregateErrors, bucket: &mut Bucket) {
    let due = stage.dirty_len();
    let changes = stage.take_dirty();
    assert_eq!((changes.len(), stage.dirty_len() == 0 || !stage.legacy.is_empty()), (due, true));
    for (key, value) in changes {
        match value {
            Some(value) => bucket.insert(key, value),
            None => bucket.remove(&key),
        };
    }
}

/// Builds the stage as another worker takes it over.
fn restarted(options: &Value, bucket: &Bucket) -> AggregateErrors {
    let mut stage = stage(options);
    for (key, value) in bucket {
        stage.restore(key, value).unwrap();
    }
    stage
}

/// Returns a tally by its name and the value of its label.
fn tally(stage: &AggregateErrors, name: &str, label: &str) -> u64 {
    let is_it = |tally: &&Tally| {
        tally.name == name && tally.labels.first().map_or("", |(_, value)| value) == label
    };
    stage.tallies().iter().find(is_it).unwrap().value
}

/// Returns the problems of options, a line each.
fn problems(options: &Value) -> String {
    let problems = AggregateErrors::build(options, &crate::testing::Memory::default()).unwrap_err();
    let line = |problem: Problem| {
        let hint = problem.hint.map(|hint| format!("\n hint: {hint}")).unwrap_or_default();
        format!("{}: {}{hint}\n", problem.at.join("."), problem.message)
    };
    problems.into_iter().map(line).collect()
}

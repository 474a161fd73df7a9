//! Tests of `dedupe`: events passed on, stored keys, and no duplicate after a crash or another
//! order of the inputs.

use std::collections::BTreeMap;

use bytes::Bytes;
use expect_test::{Expect, expect};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::{Envelope, HeaderLookup, testing::Memory};

fn stage(options: Value) -> Box<dyn Reduce> {
    build(&options, &Memory::default()).unwrap_or_else(|problems| panic!("{problems:?}"))
}

/// An event on a stream, by id, order and time.
#[derive(Debug, Clone, Copy)]
struct Given {
    stream: &'static str,
    seq: u64,
    key: u8,
    at_ms: u64,
}

impl Given {
    fn apply(self, stage: &mut dyn Reduce, out: &mut Vec<Emission>) -> Result<(), Failure> {
        let Self { stream, seq, key, at_ms } = self;
        let body = json!({
            "eventId": format!("{stream}-{seq}"), "eventType": "order.created", "tenantId": "acme",
            "eventData": { "order": key },
        });
        let input = Input {
            stream,
            seq,
            subject: "orders.new",
            key: None,
            envelope: Some(Envelope::Domain),
            headers: HeaderLookup::none(),
            at_ms,
            now_ms: at_ms,
            body: &Bytes::from(body.to_string()),
        };
        stage.apply(&input, out)
    }
}

/// Applies keys at times and shows what each became.
#[track_caller]
fn check(options: Value, given: &[(u8, u64)], expect: Expect) {
    let mut stage = stage(options);
    let mut shown = String::new();
    for (seq, (key, at_ms)) in (1..).zip(given) {
        let mut out = Vec::new();
        let given = Given { stream: "in", seq, key: *key, at_ms: *at_ms };
        let applied = given.apply(&mut *stage, &mut out);
        let became = match (applied, out.as_slice()) {
            (Ok(()), []) => "dropped".to_owned(),
            (Ok(()), [one]) => {
                format!("passed as {} on {}", &one.id[one.id.len().saturating_sub(8)..], one.route)
            }
            (Ok(()), more) => format!("{} emissions", more.len()),
            (Err(failure), _) => failure.to_string(),
        };
        shown += &format!("{key} at {at_ms}: {became}\n");
    }
    let tallies =
        stage.tallies().into_iter().map(|tally| format!("{} {}", tally.name, tally.value));
    shown += &tallies.collect::<Vec<_>>().join(", ");
    expect.assert_eq(&shown);
}

#[test]
fn a_key_passes_once_a_window_from_its_first_event() {
    check(
        json!({ "key": ".eventData.order", "window": "1s" }),
        &[(1, 0), (2, 10), (1, 500), (1, 999), (1, 1000), (1, 1999), (2, 2000)],
        expect![[r#"
            1 at 0: passed as 6b.first on order.created
            2 at 10: passed as d4.first on order.created
            1 at 500: dropped
            1 at 999: dropped
            1 at 1000: passed as b2866b.0 on order.created
            1 at 1999: dropped
            2 at 2000: passed as e73d4.10 on order.created
            dedupe_passed_total 4, dedupe_duplicates_total 3, dedupe_keys 2, dedupe_keys_forgotten_total 0"#]],
    );
}

#[test]
fn a_duplicate_may_become_a_letter_and_no_key_passes() {
    check(
        json!({ "key": ".eventData.order", "on_duplicate": "letter" }),
        &[(1, 0), (1, 1)],
        expect![[r#"
            1 at 0: passed as 6b.first on order.created
            1 at 1: Duplicate: an event with key 1 was seen within 10m
            dedupe_passed_total 1, dedupe_duplicates_total 1, dedupe_keys 1, dedupe_keys_forgotten_total 0"#]],
    );
    check(
        json!({ "key": ".aggregateId" }),
        &[(1, 0), (1, 1)],
        expect![[r#"
            1 at 0: passed as in:1@0 on order.created
            1 at 1: passed as in:2@1 on order.created
            dedupe_passed_total 2, dedupe_duplicates_total 0, dedupe_keys 0, dedupe_keys_forgotten_total 0"#]],
    );
    check(
        json!({ "key": ".eventData.order.x" }),
        &[(1, 0)],
        expect![[r#"
            1 at 0: ConditionError: the key cannot be found: cannot index 1 with "x"
            dedupe_passed_total 0, dedupe_duplicates_total 0, dedupe_keys 0, dedupe_keys_forgotten_total 0"#]],
    );
}

#[test]
fn an_event_passes_whole_with_its_identity_and_origin() {
    let (mut stage, mut out) = (stage(json!({})), Vec::new());
    let given = Given { stream: "shop-in-orders", seq: 7, key: 1, at_ms: 5 };
    given.apply(&mut *stage, &mut out).unwrap();
    let Emission { envelope, headers, body, .. } = out.remove(0);
    let headers: Vec<String> =
        headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    expect![[r#"
        Millstream-Event-Id: shop-in-orders-7
        Millstream-Source: shop-in-orders:7@5
        Millstream-Source-Subject: orders.new
        Millstream-Tenant: acme"#]]
    .assert_eq(&headers.join("\n"));
    assert_eq!(envelope, Envelope::Domain);
    assert!(body.starts_with(br#"{"eventData":{"order":1}"#), "{body:?}");
}

#[test]
fn what_is_wrong_with_the_keys_is_told_at_once() {
    let wrong = json!({ "key": ".a |", "window": "0s", "keys_max": 0 });
    let problems = build(&wrong, &Memory::default()).err().unwrap();
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| format!("{}: {}", problem.at.join("."), problem.message))
        .collect();
    expect![[r#"
        window: a window of no time sees no duplicate
        keys_max: at least one key has to be remembered
        key: not a jq filter: expected a value, such as .key or 1, found the end (at character 5)"#]]
    .assert_eq(&lines.join("\n"));
}

#[test]
fn memory_and_stored_keys_stay_within_their_bound_and_are_given_back() {
    let mut stage = stage(json!({ "window": "1s", "keys_max": 1000 }));
    let mut stored: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for seq in 0..20_000 {
        let given = Given { stream: "in", seq, key: 0, at_ms: seq };
        given.apply(&mut *stage, &mut Vec::new()).unwrap();
        if seq % 100 == 0 {
            for (key, value) in stage.take_dirty() {
                match value {
                    Some(value) => stored.insert(key, value),
                    None => stored.remove(&key),
                };
            }
        }
        assert!(stage.dirty_len() <= crate::KEYS_PER_STEP_MAX);
    }
    let keys = stage.tallies().iter().find(|tally| tally.name == "dedupe_keys").unwrap().value;
    assert!(keys <= 1000, "{keys}");
    assert!(stored.len() <= 1000 / PAGE_KEYS + 3, "{}", stored.len());
    let mut now_ms = 20_000;
    while let Some(due_ms) = stage.next_timer_ms() {
        now_ms = now_ms.max(due_ms);
        stage.tick(now_ms, &mut Vec::new());
    }
    assert_eq!(stage.tallies()[2].value, 0);
}

/// Emissions as a stream keeps them: one for each message id.
type Kept = BTreeMap<String, String>;

proptest! {
    /// Two inputs, read in any order, with a crash anywhere after any checkpoint: of each key one
    /// event is kept for each window, and no event is neither kept nor counted.
    #[test]
    fn a_crash_and_another_order_let_no_duplicate_through(
        keys in prop::collection::vec((0_u8..4, any::<bool>()), 1..60),
        first_order in any::<u64>(),
        second_order in any::<u64>(),
        commit_at in 0_usize..60,
        crash_after in 0_usize..60,
    ) {
        let given: Vec<Given> = keys
            .iter()
            .enumerate()
            .map(|(n, (key, left))| {
                let stream = if *left { "left" } else { "right" };
                Given { stream, seq: n as u64 + 1, key: *key, at_ms: 10 * n as u64 }
            })
            .collect();
        // An order that keeps each stream's own.
        let order = |mut bits: u64, given: &[Given]| {
            let mut queues: Vec<Vec<Given>> = ["left", "right"]
                .map(|name| given.iter().copied().filter(|g| g.stream == name).rev().collect())
                .into();
            let mut all = Vec::new();
            while queues.iter().any(|queue| !queue.is_empty()) {
                bits = bits.rotate_left(1);
                let at = usize::from(bits & 1 == 1);
                let next = queues[at].pop().or_else(|| queues[1 - at].pop());
                all.extend(next);
            }
            all
        };
        let options = json!({ "key": ".eventData.order", "window": "1h" });
        let (mut kept, mut stored): (Kept, BTreeMap<String, Vec<u8>>) = Default::default();
        let keep = |kept: &mut Kept, key: u8, out: Vec<Emission>| {
            for emission in out {
                kept.entry(emission.id).or_insert_with(|| key.to_string());
            }
        };
        let mut stage = stage(options.clone());
        let first = order(first_order, &given);
        let committed = commit_at.min(first.len());
        let crash_at = (committed + crash_after).min(first.len());
        for (n, given) in first.iter().enumerate().take(crash_at) {
            if n == committed {
                commit(&mut *stage, &mut stored);
            }
            let mut out = Vec::new();
            given.apply(&mut *stage, &mut out).unwrap();
            keep(&mut kept, given.key, out);
        }
        if first.len() == committed || crash_after == 0 {
            commit(&mut *stage, &mut stored);
        }
        // The next leader: the checkpoint, then the rest in another order.
        let mut stage = self::stage(options);
        for (key, value) in &stored {
            stage.restore(key, value).unwrap();
        }
        let rest: Vec<Given> = first[committed..].to_vec();
        for given in order(second_order, &sorted(rest)) {
            let mut out = Vec::new();
            given.apply(&mut *stage, &mut out).unwrap();
            keep(&mut kept, given.key, out);
        }
        let distinct: std::collections::BTreeSet<String> =
            given.iter().map(|given| given.key.to_string()).collect();
        let mut all: Vec<String> = kept.values().cloned().collect();
        all.sort();
        prop_assert_eq!(all, distinct.into_iter().collect::<Vec<_>>());
        let tallies = stage.tallies();
        prop_assert_eq!(tallies[0].value + tallies[1].value, given.len() as u64);
    }
}

fn sorted(mut given: Vec<Given>) -> Vec<Given> {
    given.sort_by_key(|given| given.seq);
    given
}

/// Writes the checkpoint.
fn commit(stage: &mut dyn Reduce, stored: &mut BTreeMap<String, Vec<u8>>) {
    for (key, value) in stage.take_dirty() {
        match value {
            Some(value) => stored.insert(key, value),
            None => stored.remove(&key),
        };
    }
}

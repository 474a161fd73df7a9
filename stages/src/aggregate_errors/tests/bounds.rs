//! Tests of the state: its bounds, its keys, and the keys of an earlier version.

use expect_test::expect;

use super::*;

#[test]
fn the_longest_idle_is_forgotten_and_counted() {
    let mut stage = stage(&json!({ "threshold": 2 }));
    stage.fingerprints_max = 2;
    for (at, name) in [(1, "ant"), (2, "bee"), (3, "ant"), (4, "cow"), (5, "dog")] {
        apply(&mut stage, at, &error(name));
    }
    // "bee" and "cow" were idle; "ant" has an open incident.
    let forgotten = |stage: &AggregateErrors| {
        (
            tally(stage, "fingerprints_forgotten_total", ""),
            tally(stage, "errors_forgotten_total", ""),
        )
    };
    assert_eq!(forgotten(&stage), (2, 2));
    assert_eq!(stage.cells.values().map(|cell| cell.total).sum::<u64>(), 3);
    assert_eq!(apply(&mut stage, 6, &error("dog"))[0].event, Change::Opened);
    // Nobody is idle now: the one that is due first is resolved and forgotten.
    let told = apply(&mut stage, 7, &error("eel"));
    assert_eq!((told[0].event, told[0].count), (Change::Resolved, 2));
    assert_eq!((told[0].resolved_at.unwrap().as_millisecond(), forgotten(&stage)), (7, (3, 4)));
}

#[test]
fn an_incident_of_a_fingerprint_that_was_forgotten_is_other_news() {
    let mut stage = stage(&json!({ "threshold": 1 }));
    stage.fingerprints_max = 1;
    let mut ids: Vec<String> = Vec::new();
    for (at, name) in [(1, "ant"), (2, "bee"), (3, "ant")] {
        ids.extend(
            emitted(&mut stage, at, None, &error(name)).into_iter().map(|emission| emission.id),
        );
    }
    let all = ids.len();
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), all), (5, 5));
}

#[test]
fn a_million_fingerprints_take_the_room_of_a_few() {
    const FINGERPRINTS: u64 = 1_000_000;
    const MOST: usize = 200;
    let mut stage = stage(&json!({ "fingerprints_max": MOST, "fingerprint": ["code"] }));
    let mut bucket = Bucket::new();
    let mut keys = std::collections::BTreeSet::new();
    for n in 0..FINGERPRINTS {
        let body =
            Bytes::from(format!(r#"{{"errorCode":"C{n}","message":"m","serviceName":"s"}}"#));
        stage.apply(&input(n, None, &body), &mut Vec::new()).unwrap();
        assert!(stage.cells.len() <= MOST && stage.dirty_len() <= MOST + 1);
        if n % 7919 == 0 {
            commit(&mut stage, &mut bucket);
            keys.extend(bucket.keys().cloned());
        }
    }
    assert_eq!(keys.len(), MOST / 8 + 1, "every page, and the totals");
    let counts = [
        "errors_counted_total",
        "fingerprints",
        "fingerprints_forgotten_total",
        "errors_forgotten_total",
    ]
    .map(|name| tally(&stage, name, ""));
    let gone = FINGERPRINTS - MOST as u64;
    assert_eq!(counts, [FINGERPRINTS, MOST as u64, gone, gone]);
    assert_eq!((stage.order.idle.len(), stage.order.due.len()), (MOST, 0));
}

#[test]
fn one_step_changes_no_more_keys_than_a_commit_has_room_for() {
    let options = json!({ "threshold": 1, "quiet": "1s" });
    let mut running = stage(&options);
    let mut bucket = Bucket::new();
    for n in 0..300 {
        let mut body = error("x");
        body["errorCode"] = json!(format!("C{n}"));
        apply(&mut running, 1, &body);
    }
    commit(&mut running, &mut bucket);
    let (mut steps, mut resolved) = (0, 0);
    while running.next_timer_ms().is_some() {
        resolved += tick(&mut running, 5000).len();
        assert!(running.dirty_len() <= KEYS_PER_STEP_MAX);
        commit(&mut running, &mut bucket);
        steps += 1;
    }
    assert_eq!((steps, resolved), (4, 300));
    // A limit that was lowered is reached in a few steps.
    let mut lowered = restarted(&json!({ "fingerprints_max": 100 }), &bucket);
    for n in 0..3 {
        apply(&mut lowered, 6000, &error(["ant", "bee", "cow"][n]));
        assert!(lowered.dirty_len() <= KEYS_PER_STEP_MAX, "{}", lowered.dirty_len());
        commit(&mut lowered, &mut bucket);
    }
    // They stay in the pages that 300 took.
    assert_eq!((lowered.cells.len(), bucket.len()), (100, 300_usize.div_ceil(8) + 1));
}

#[test]
fn what_an_earlier_version_kept_is_deleted_and_what_is_unknown_refused() {
    let mut stage = stage(&json!({}));
    stage.restore("forgotten", b"{\"fingerprints\":1,\"errors\":2}").unwrap();
    for n in 0..1200 {
        stage.restore(&format!("fp.{n:016x}"), b"{}").unwrap();
    }
    let mut deleted = 0;
    while stage.dirty_len() > 0 {
        let taken = stage.take_dirty();
        assert!(taken.len() <= 500 && taken.iter().all(|(_, value)| value.is_none()));
        deleted += taken.len();
    }
    assert_eq!(deleted, 1201);
    for (key, value) in [
        ("page.x", "{}"),
        ("page.4294967295", "{}"),
        ("other", "{}"),
        ("page.1", "{}"),
        ("totals", "x"),
    ] {
        let error = stage.restore(key, value.as_bytes()).unwrap_err();
        assert!(error.contains(&format!("\"{key}\"")), "{error}");
    }
}

#[test]
fn a_cell_is_stored_in_few_bytes() {
    let mut stage =
        stage(&json!({ "threshold": 3, "fingerprint": ["code", "service", "message", "tenant"] }));
    let mut bucket = Bucket::new();
    for n in 0..2_u64 {
        let mut body = attempt("TimeoutError", &format!("no answer in {n}s"));
        body["userId"] = json!(n);
        apply(&mut stage, 1_800_000_000_000 + n, &body);
    }
    commit(&mut stage, &mut bucket);
    let text = |bucket: &Bucket, key: &str| String::from_utf8(bucket[key].clone()).unwrap();
    expect![[r#"[{"f":"da107ded30db281a","c":"TimeoutError","s":["shop/orders"],"p":"orders","l":{"tenant":"acme"},"m":"no answer in <n>","v":"low","n":2,"a":1800000000000,"z":1800000000001,"w":[1800000000000,1],"b":[2],"x":[{"t":1800000000000,"m":"no answer in 0s","e":"e1"},{"t":1800000000001,"m":"no answer in 1s","e":"e1"}],"u":"ac7257acd9fcd7ae","g":0}]"#]].assert_eq(&text(&bucket, "page.0"));
    for n in 0..200_u64 {
        let mut body = attempt("TimeoutError", &format!("no answer in {n}s"));
        body["userId"] = json!(n);
        apply(&mut stage, 1_800_000_100_000 + n, &body);
    }
    let id = stage.incidents()[0].incident_id.clone();
    act(&mut stage, 1_800_000_200_000, &id, "acknowledge", "ann");
    commit(&mut stage, &mut bucket);
    expect![[r#"[{"f":"da107ded30db281a","c":"TimeoutError","s":["shop/orders"],"p":"orders","l":{"tenant":"acme"},"m":"no answer in <n>","v":"low","n":202,"a":1800000000000,"z":1800000100199,"b":[200,2],"x":[{"t":1800000000000,"m":"no answer in 0s","e":"e1"},{"t":1800000000001,"m":"no answer in 1s","e":"e1"},{"t":1800000100000,"m":"no answer in 0s","e":"e1"}],"u":"*","g":1,"o":{"s":1800000000000,"o":1800000100000,"q":1,"c":202,"t":202,"n":384,"v":"medium","k":{"by":"ann","at":"2027-01-15T08:03:20Z","reason":"because"}}}]"#]].assert_eq(&text(&bucket, "page.0"));
    expect![[r#"{"n":202,"e":[1,0,6,1,1,0],"f":0,"x":0}"#]].assert_eq(&text(&bucket, "totals"));
}

//! Bounds: no filter and no event takes more steps, memory or stack than a run has.

#![expect(clippy::disallowed_methods, reason = "it times runs that must end, and stops one")]

use std::{
    thread,
    time::{Duration, Instant},
};

use super::*;

/// Runs a filter as an engine does: on a thread with room, in the widest bounds but for fewer
/// steps, so that a debug build is soon done.
#[track_caller]
fn ends(filter: &str, body: &str) -> Result<usize, Fault> {
    ends_in(1_000_000, filter, body)
}

#[track_caller]
fn ends_in(steps: u64, filter: &str, body: &str) -> Result<usize, Fault> {
    let (filter, body) = (filter.to_owned(), body.to_owned());
    let bounds = Bounds { steps, ..Bounds::FULL };
    let thread = thread::Builder::new().stack_size(Bounds::FULL_STACK_BYTES);
    let run = move || run(&filter, &body, &bounds).map(|outputs| outputs.len());
    thread.spawn(run).unwrap().join().unwrap()
}

const STEPS: Overrun = Overrun::Steps(1_000_000);
const MEMORY: Overrun = Overrun::Memory(Bounds::FULL.bytes);
const TEXT: Overrun = Overrun::Memory(text::TEXT_BYTES_MAX);

#[track_caller]
fn overruns(filters: &[&str], body: &str, bound: &[Overrun]) {
    let mut wrong = String::new();
    for filter in filters {
        let began = Instant::now();
        let ended = ends(filter, body);
        let took = began.elapsed();
        let is_bound = matches!(&ended, Err(Fault::Overrun(found)) if bound.contains(found));
        if !is_bound || took > Duration::from_secs(20) {
            wrong += &format!("{filter}: {ended:?} after {took:?}\n");
        }
    }
    assert_eq!(wrong, "");
}

#[test]
fn what_never_ends_takes_no_more_than_its_steps() {
    overruns(
        &[
            "def f: f; f",
            "def f: . | f; f",
            "def f: def g: f; g; f",
            "last(repeat(.))",
            "last(range(infinite))",
            "last(range(1e9))",
            "until(false; .)",
            "last(limit(1e18; repeat(1)))",
            "skip(1e18; repeat(1))",
            "reduce range(1e9) as $n (0; .)",
            "last(foreach range(1e9) as $n (0; . + 1))",
            "[range(1e9)] | length",
            "def f: f, f; last(f)",
            "first(repeat(empty))",
            "label $out | repeat(empty)",
            "try def f: f; f catch \"caught\"",
            "isempty(repeat(empty))",
            "last(path(repeat(.)))",
            "[. |= 1 | repeat(empty)]",
            "last(recurse(.))",
        ],
        "1",
        &[STEPS, MEMORY],
    );
}

#[test]
fn what_grows_without_end_takes_no_more_than_its_memory() {
    overruns(
        &[
            "\"-\" * 9007199254740993",
            "\"-\" * .",
            ". * \"-\"",
            "reduce range(100) as $n (\"a\"; . + .)",
            "reduce range(100) as $n (\"a\"; . * 2)",
            "reduce range(100) as $n ([1]; . + .)",
            "reduce range(100) as $n ([1]; . + .) | length",
            "[limit(1e9; repeat(\"a\" * 1000000))] | length",
            "[limit(1e9; repeat(\"-\" * 100000 | ascii_downcase))] | length",
            "def f: . as $x | (\"a\" * 1000000) as $y | [f, $y]; f",
            "reduce range(1e9) as $n ({}; .[$n | tostring] = \"a\" * 10000)",
            "reduce range(60) as $n (0; [., .]) | tojson",
            "reduce range(60) as $n (0; [., .]) | tostring",
            "reduce range(60) as $n (0; [., .]) | \"\\(.)\"",
            "reduce range(60) as $n (0; [., .]) | flatten",
            "reduce range(60) as $n ({a: 0}; {a: ., b: .}) | tojson",
            "[range(300000) | tostring | tostring + \"x\" * 1000]",
            "\"a\" * 8000000 | explode",
            "\"a,\" * 4000000 | split(\",\")",
            "\"1,\" * 4000000 | \"[\" + . + \"1]\" | fromjson | length",
            "\"[],\" * 2000000 | \"[\" + . + \"1]\" | fromjson | length",
            "\"<\" * 8000000 | @html",
            "[range(800000)] | sort_by(-.) | length",
        ],
        "1000000000",
        &[MEMORY, TEXT, STEPS],
    );
}

#[test]
fn what_is_shared_is_not_walked_through_for_ever() {
    overruns(
        &[
            "reduce range(60) as $n (0; [., .]) | . == (reduce range(60) as $n (0; [., .]))",
            "(reduce range(60) as $n (0; [., .])) as $x | [$x, $x] | sort | length",
            "(reduce range(60) as $n (0; [., .])) as $x | [$x] - [$x, $x] | length",
            "reduce range(60) as $n (0; [., .]) | contains(reduce range(60) as $n (0; [., .]))",
            "reduce range(60) as $n ({}; {a: ., b: .}) | . * . | length",
            "reduce range(60) as $n (0; [., .]) | [..] | length",
            "reduce range(60) as $n (0; [., .]) | walk(.) | length",
            "reduce range(60) as $n (0; [., .]) | [paths] | length",
            "(\"a\" * 100000) as $a | ($a * 20) | indices($a) | length",
        ],
        "1",
        &[MEMORY, STEPS],
    );
}

#[test]
fn what_calls_itself_too_deep_ends_before_the_stack_does() {
    overruns(
        &[
            "def f: 1 + f; f",
            "def f: [f]; f",
            "def f: {a: f}; f",
            "def f: f | f; f",
            "def f: -f; f",
            "def f: f as $x | 1; f",
            "def f: if f then 1 else 2 end; f",
            "def f: reduce f as $x (0; .); f",
            "def f: first(f); f",
            "def f: try error(f) catch .; f",
            "def f: try f catch f; f",
            "def f(g): f(g | .); f(.)",
            "def f(g): def h: f(g | g); h; f(.)",
            "def f(g; h): if . == null then f(h; g) else 1 end; f(.; .)",
            "def f(g): f([g]); f(1)",
            "def f: .[f]; f",
            "def f: .[f] = 1; f",
            "def f: \"\\(f)\"; f",
            "(reduce range(1000000) as $n (.; .)) |= 1",
        ],
        "null",
        &[Overrun::Stack, STEPS, MEMORY],
    );
}

#[test]
fn what_is_nested_deep_or_listed_long_is_freed_without_overflow() {
    overruns(
        &[
            "reduce range(1e6) as $n (0; [.])",
            "reduce range(1e6) as $n (0; {a: .})",
            "def f: .a | f; path(f)",
            "[limit(1; path(def f: .a | f; f))]",
            "[] | def f: .[0:] | f; path(f)",
            "reduce range(100000) as $n (.; [., $n]) | length",
        ],
        "null",
        &[Overrun::Nesting(256), STEPS, Overrun::Stack],
    );
}

#[test]
fn numbers_are_read_multiplied_and_printed_within_bounds() {
    let digits = "9".repeat(900_000);
    let refused = |filter, body: &str| match ends(filter, body) {
        Err(Fault::Error(message)) => message,
        other => panic!("{filter}: {other:?}"),
    };
    assert_eq!(refused(".", &digits), "the event has a number of more than 1000 digits");
    assert_eq!(
        refused("tonumber", &format!("\"{digits}\"")),
        "the text has a number of more than 1000 digits"
    );
    assert_eq!(
        refused("reduce range(60) as $n (3; . * .)", "1"),
        "an integer of more than 4096 bits is not calculated with"
    );
    assert_eq!(ends("[limit(1000; repeat(.))] | add", &"9".repeat(1000)), Ok(1));
    assert!(Filter::compile("jn(2000000000; 1)").is_err());
}

#[test]
fn a_regex_takes_bounded_time_whatever_the_text() {
    let began = Instant::now();
    let text = format!("\"{}\"", "a".repeat(100_000));
    for filter in [
        "test(\"(a*)*b\")",
        "test(\"(a|a)*(a|aa)+$b\")",
        "[match(\"a*?b|a\"; \"g\")] | length",
        "gsub(\"(?<x>a{1,50})\"; .x) | length",
        "[scan(\"\\\\w+$\")] | length",
    ] {
        drop(ends_in(200_000, filter, &text));
        assert!(began.elapsed() < Duration::from_secs(60), "{filter}: {:?}", began.elapsed());
    }
    let too_long = format!("\"{}\"", "a".repeat(300_000));
    let message = ends("test(\"b\")", &too_long).unwrap_err().to_string();
    assert_eq!(message, "a text of more than 131072 bytes is not searched by a regex");
    let message = ends("test(\"(\\\\w{900}){900}\")", "\"a\"").unwrap_err().to_string();
    assert!(message.starts_with("invalid regex"), "{message}");
}

#[test]
fn outputs_are_bounded_together() {
    let filter = "(\"a\" * 8000000) as $a | limit(10; repeat($a))";
    let error = run(filter, "1", &Bounds::FULL).unwrap_err();
    assert_eq!(error, Fault::Overrun(Overrun::Outputs(Bounds::FULL.bytes)));
}

#[test]
fn a_run_that_is_stopped_ends_at_once_and_its_thread_is_free() {
    let filter = Filter::compile("def f: f; f").unwrap();
    let (bounds, stop) = (Bounds { steps: u64::MAX, ..Bounds::FULL }, Stop::default());
    let stopping = stop.clone();
    let runs = thread::spawn(move || filter.truthy(&event("1"), &bounds, &stopping));
    thread::sleep(Duration::from_millis(50));
    let began = Instant::now();
    stop.stop();
    assert_eq!(runs.join().unwrap(), Err(Fault::Overrun(Overrun::Stopped)));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[test]
fn a_run_leaves_nothing_behind_that_the_next_would_pay_for() {
    let bounds = Bounds { steps: 2_000, bytes: 1 << 20, stack_bytes: 1 << 20 };
    for _ in 0..100 {
        assert!(run("[range(1e9)]", "1", &bounds).is_err());
        assert!(run("def f: 1 + f; f", "1", &bounds).is_err());
        assert_eq!(run("[range(50)] | add", "1", &bounds).unwrap(), ["1225"]);
    }
}

#[test]
fn the_same_event_ends_in_the_same_way_each_time() {
    let text = |n: u64| {
        let bounds = Bounds { steps: n, ..Bounds::SHORT };
        run(
            "[.[] | . * 2] | add | tostring | test(\"2\")",
            &format!("[{}1]", "1,".repeat(100)),
            &bounds,
        )
        .is_ok()
    };
    let least = (1..10_000).find(|n| text(*n)).unwrap();
    assert!((1..least).all(|n| !text(n)) && (least..least + 100).all(text));
}

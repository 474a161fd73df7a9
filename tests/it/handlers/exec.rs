//! Exec: the `exec` handler, with children that behave, die, lie, hang and shout.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use expect_test::{Expect, expect};
use millstream::stages::Handler;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{build, call, context, delivery, event, outcome};

/// Longest wait of a test for anything.
const DEADLINE: Duration = Duration::from_secs(20);

fn sh(script: &str) -> Value {
    json!({ "exec": ["sh", "-c", script] })
}

fn python(script: &str) -> Value {
    json!({ "exec": ["python3", "-uc", script] })
}

/// Calls one handler once per body, and checks the outcomes, a line each.
async fn check(options: Value, bodies: &[&str], expect: Expect) {
    let handler = build(&options);
    let mut outcomes = String::new();
    for body in bodies {
        outcomes += &call(handler.as_ref(), body).await;
        outcomes.push('\n');
    }
    expect.assert_eq(&outcomes);
}

#[tokio::test]
async fn the_example_in_python_handles_events() {
    let options = json!({ "exec": ["python3", "examples/exec_handler.py"] });
    let bodies = [
        "{\"eventData\":\r\n {\"amount\": 100}}",
        r#"{"eventData": {"amount": -1}}"#,
        r#"{"eventData": {}}"#,
        r#"{"eventData": {"amount": 2}}"#,
    ];
    check(
        options,
        &bodies,
        expect![[r#"
        replace ["{\"eventData\": {\"amount\": 100, \"amountWithTax\": 119.0}}"]
        reject: ValidationError: amount -1 is negative
        retry: HandlerError: KeyError('amount')
        replace ["{\"eventData\": {\"amount\": 2, \"amountWithTax\": 2.38}}"]
    "#]],
    )
    .await;
}

#[tokio::test]
async fn the_child_is_told_which_event_it_is_given() {
    let options = sh(r#"read -r line; echo "{\"ok\": true, \"outputs\": [$line]}""#);
    let body = "{\"big\":\n12345678901234567890123}";
    check(
        options,
        &[body],
        expect![[r#"
        replace ["{\"id\":\"e1\",\"type\":\"order.created\",\"version\":\"1\",\"tenant\":null,\"attempt\":3,\"event\":{\"big\": 12345678901234567890123}}"]
    "#]],
    )
    .await;
    check(
        sh("exit"),
        &["not json"],
        expect![[r#"
        reject: DecodeError: not JSON: expected ident at line 1 column 2
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_child_that_dies_is_started_again_and_the_event_is_tried_again() {
    let options = sh(r#"while read -r line; do case "$line" in
        *kill*) echo "about to go" >&2; kill -9 $$ ;;
        *exit*) exit 3 ;;
        *close*) exec >&-; sleep 60 ;;
        *) echo '{"ok": true}' ;;
    esac; done"#);
    let bodies = [r#""kill""#, r#""fine""#, r#""exit""#, r#""fine""#, r#""close""#, r#""fine""#];
    check(
        options,
        &bodies,
        expect![[r#"
        retry: HandlerError: the process was killed by signal 9 while it handled the event; its last words: about to go
        pass
        retry: HandlerError: the process exited with status 3 while it handled the event
        pass
        retry: HandlerError: the process closed its standard output while it handled the event
        pass
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_child_that_keeps_dying_is_not_started_all_the_time_and_costs_no_attempts() {
    check(sh("read -r line; echo no such module >&2; exit 1"), &["1", "2", "3", "4"], expect![[r#"
        retry: HandlerError: the process exited with status 1 while it handled the event; its last words: no such module
        retry: HandlerError: the process exited with status 1 while it handled the event; its last words: no such module
        defer: HandlerError: the process ended 2 times in a row without an answer; the last exited with status 1 while it handled the event; its last words: no such module
        defer: HandlerError: the process ended 2 times in a row without an answer; the last exited with status 1 while it handled the event; its last words: no such module
    "#]]).await;
    check(
        json!({ "exec": ["no-such-program"] }),
        &["1", "2"],
        expect![[r#"
        defer: HandlerError: could not start "no-such-program": No such file or directory (os error 2)
        defer: HandlerError: could not start "no-such-program": No such file or directory (os error 2)
    "#]],
    )
    .await;
}

/// Calls a handler with an event of this id; its outcome.
async fn call_as(handler: &dyn Handler, id: &str) -> String {
    let mut event = event("1");
    event.id = id.to_owned();
    outcome(handler.call(&event, &delivery()).await)
}

fn with_timeout(mut options: Value, timeout: &str) -> Value {
    options["timeout"] = json!(timeout);
    options
}

/// Python program that runs `body` for each event, with its `id`, and can `say` a line.
fn program(body: &str) -> Value {
    python(&format!(
        "import json, os, sys, time\n\
         say = lambda line: print(line if isinstance(line, str) else json.dumps(line))\n\
         last = None\n\
         for line in sys.stdin:\n  id = json.loads(line)['id']\n  {body}\n  last = id"
    ))
}

#[tokio::test]
async fn lines_of_a_log_are_waited_past_whatever_is_in_them() {
    for log in [
        r#"{"level": "warn", "msg": "cache miss", "error": "redis: nil"}"#,
        r#"{"level": "info", "ok": true}"#,
        r#"{"level": "error", "id": "e1", "error": {"message": "x", "retry": "reject"}}"#,
        r#"{"error": "redis: nil"}"#,
        r#"{"ok": false}"#,
        r#"{"id": "e0", "ok": true}"#,
        "{}",
        "[]",
        "",
        "Loading model… done",
        "\u{1b}[31mred",
    ] {
        // One log before the reply and one behind it, which stands there when the next event comes.
        let log = serde_json::to_string(log).unwrap();
        let body = format!(
            "say({log}); time.sleep(0.02); say({{'ok': True, 'outputs': [os.getpid()]}}); say({log})"
        );
        let handler = build(&program(&body));
        let first = call_as(handler.as_ref(), "e1").await;
        assert!(first.starts_with("replace"), "{log}: {first}");
        let replaced = log.contains("e0");
        tokio::time::sleep(Duration::from_millis(50)).await;
        let second = call_as(handler.as_ref(), "e2").await;
        assert!(second.starts_with("replace"), "{log}: {second}");
        assert!(replaced || first == second, "{log}: the process was replaced");
    }
}

#[tokio::test]
async fn each_event_has_its_own_answer_though_the_log_looks_like_one() {
    // As in trials: a warning with an error, then success; the others are refused for good.
    let handler = build(&program(
        "if id == 'slow': say({'level': 'warn', 'error': 'redis: nil'}); time.sleep(0.3); \
         say({'ok': True})\n  \
         else: say({'error': {'class': 'OutOfStock', 'message': 'none of ' + id, \
         'retry': 'reject'}})",
    ));
    assert_eq!(call_as(handler.as_ref(), "slow").await, "pass");
    for id in ["r-1", "r-2"] {
        let refused = call_as(handler.as_ref(), id).await;
        assert_eq!(refused, format!("reject: OutOfStock: none of {id}"));
    }
}

#[tokio::test]
async fn an_answer_to_another_event_never_counts() {
    // It answers the event before first, then, a little later, its own.
    let handler = build(&program(
        "say({'id': last or 'e0', 'ok': True, 'outputs': ['stale']}); time.sleep(0.05); \
         say({'id': id, 'ok': True, 'outputs': [id]})",
    ));
    for id in ["e1", "e2", "e3"] {
        let answer = call_as(handler.as_ref(), id).await;
        assert_eq!(answer, format!("replace [\"\\\"{id}\\\"\"]"));
    }
    // A late second answer comes while the next event is in hand.
    let handler = build(&program(
        "say({'id': id, 'ok': True, 'outputs': [id]}) if not last else None; \
         time.sleep(0.1); say({'ok': True, 'outputs': ['late']}); time.sleep(0.1); \
         say({'id': id, 'ok': True, 'outputs': [id]})",
    ));
    for id in ["e1", "e2"] {
        let answer = call_as(handler.as_ref(), id).await;
        assert_eq!(answer, format!("replace [\"\\\"{id}\\\"\"]"));
    }
}

#[tokio::test]
async fn who_gives_no_answer_is_told_what_it_wrote_instead_and_replaced() {
    let silent = "import sys\nfor line in sys.stdin: print('{\"ok\": true}')";
    let buffered = json!({ "PYTHONUNBUFFERED": "" });
    let unflushed = json!({ "exec": ["python3", "-c", silent], "env": buffered });
    let logs = program("say({'level': 'warn', 'error': 'redis: nil'})");
    let open = program("sys.stdout.write('{\"ok\": true}')");
    let other = program("say({'id': 'x', 'ok': True})");
    for (options, hint) in [
        (
            unflushed,
            "it wrote nothing to standard output: a reply is one line, and flushed (in Python, \
             print(…, flush=True))",
        ),
        (
            logs,
            "what it wrote to standard output is no reply (1 line; the last, a reply has no key \
             \"level\": {\"level\": \"warn\", \"error\": \"redis: nil\"}); logs belong on standard \
             error",
        ),
        (open, "it wrote a line that has no end: end a reply with a line break and flush it"),
        (
            other,
            "what it wrote to standard output is no reply (1 line; the last, its \"id\" is not that \
             of the event: {\"id\": \"x\", \"ok\": true}); logs belong on standard error",
        ),
    ] {
        let handler = build(&with_timeout(options, "1s"));
        let outcome = call(handler.as_ref(), "1").await;
        assert_eq!(outcome, format!("retry: TimeoutError: no answer in 1s; {hint}"));
    }
}

#[tokio::test]
async fn a_reply_that_names_the_event_and_cannot_be_read_is_a_failure_at_once() {
    check(
        program("say({'id': id, 'ok': 'yes'})"),
        &["1"],
        expect![[r#"
        retry: HandlerError: cannot read the handler's reply (neither "ok": true nor "error"): {"id": "e1", "ok": "yes"}
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_child_that_speaks_unasked_is_replaced_before_the_next_event() {
    // It answers twice: the second answer must not be taken for that to the next event.
    let twice = "import sys\nfor line in sys.stdin:\n  \
                 print('{\"ok\": true}\\n{\"ok\": true, \"outputs\": [\"stale\"]}')";
    let handler = build(&python(twice));
    for _ in 0..3 {
        assert_eq!(call(handler.as_ref(), "1").await, "pass");
    }
}

#[tokio::test]
async fn a_call_that_is_given_up_takes_its_process_along_with_what_that_started() {
    let folder = TempDir::new().unwrap();
    let pids = folder.path().join("pids");
    // The first event hangs in a grandchild; the next has a new process.
    let script = format!(
        "read -r line; case \"$line\" in *hang*) sleep 1000 & echo $$ $! > {}; wait ;; esac; \
         echo '{{\"ok\": true}}'",
        pids.display()
    );
    let handler = build(&sh(&script));
    let written =
        wait_until(|| std::fs::read_to_string(&pids).ok().filter(|text| text.ends_with('\n')));
    let written = tokio::select! {
        outcome = call(handler.as_ref(), r#""hang""#) => panic!("{outcome}"),
        written = written => written,
    };
    for pid in written.split_whitespace() {
        let stat = Path::new("/proc").join(pid).join("stat");
        // A process that is dead and not yet waited for is a zombie, "Z".
        let dead = || {
            std::fs::read_to_string(&stat).map_or(true, |stat| stat.contains(") Z ")).then_some(())
        };
        wait_until(dead).await;
    }
    assert_eq!(call(handler.as_ref(), "1").await, "pass");
}

async fn wait_until<T>(mut look: impl FnMut() -> Option<T>) -> T {
    let started = Instant::now();
    loop {
        if let Some(seen) = look() {
            return seen;
        }
        assert!(started.elapsed() < DEADLINE, "it did not happen in {DEADLINE:?}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_line_without_end_is_not_read_to_its_end() {
    let endless =
        "import sys\nfor line in sys.stdin:\n  sys.stdout.write('x' * 100_000_000 + '\\n')";
    check(
        python(endless),
        &["1"],
        expect![[r#"
        retry: HandlerError: the process wrote a reply of more than 8388608 bytes
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_child_that_floods_standard_error_is_not_held_up() {
    let flood = "import sys\nfor line in sys.stdin:\n  \
                 sys.stderr.write('y' * 5_000_000 + '\\n' + 'z\\n' * 100_000)\n  \
                 print('{\"ok\": true}')";
    check(
        python(flood),
        &["1", "2"],
        expect![[r#"
        pass
        pass
    "#]],
    )
    .await;
}

#[tokio::test]
async fn a_large_event_is_handed_over_while_the_child_already_answers() {
    // It writes more than a pipe holds before it reads, as do we.
    let script = "import sys\n\
                  sys.stdout.write('{\"ok\": true, \"outputs\": [\"' + 'a' * 300_000)\n\
                  sys.stdout.flush()\nline = sys.stdin.readline()\n\
                  print(len(line), '\"]}', sep='')";
    let body = format!("\"{}\"", "b".repeat(1 << 20));
    let outcome = call(build(&python(script)).as_ref(), &body).await;
    assert!(
        outcome.starts_with("replace") && outcome.len() > 300_000,
        "{}",
        &outcome[..200.min(outcome.len())]
    );
}

#[tokio::test]
async fn several_processes_work_side_by_side_and_no_more_than_asked_for() {
    let mut options =
        sh(r#"while read -r line; do sleep 0.3; echo "{\"ok\": true, \"outputs\": [$$]}"; done"#);
    options["processes"] = json!(3);
    let handler = build(&options);
    let calls: Vec<_> = (0..9).map(|_| call(handler.as_ref(), "1")).collect();
    let outcomes = futures_util::future::join_all(calls).await;
    let different: std::collections::BTreeSet<_> = outcomes.iter().collect();
    assert!(outcomes.iter().all(|outcome| outcome.starts_with("replace")), "{outcomes:?}");
    assert_eq!(different.len(), 3, "{outcomes:?}");
}

#[tokio::test]
async fn a_child_starts_in_the_pipelines_folder_with_its_environment_and_ends_with_its_handler() {
    let folder = TempDir::new().unwrap();
    std::fs::write(
        folder.path().join("run.sh"),
        "#!/bin/sh\nread -r l; \
         echo \"{\\\"ok\\\": true, \\\"outputs\\\": [\\\"$GREETING $PWD\\\", $$]}\"; read -r l",
    )
    .unwrap();
    std::os::unix::fs::symlink("/bin/sh", folder.path().join("shell")).unwrap();
    let options = json!({ "exec": ["./shell", "run.sh"], "env": { "GREETING": "hi" } });
    let mut context = context();
    context.base = folder.path().to_owned();
    let handler = millstream::handlers::build(&options, &context).unwrap();
    let outcome = call(handler.as_ref(), "1").await;
    let place = folder.path().canonicalize().unwrap();
    assert!(
        outcome.starts_with(&format!("replace [\"\\\"hi {}\\\"\", ", place.display())),
        "{outcome}"
    );
    let pid: String =
        outcome.rsplit("\", \"").next().unwrap().chars().filter(char::is_ascii_digit).collect();
    drop(handler);
    wait_until(|| (!Path::new("/proc").join(&pid).exists()).then_some(())).await;
}

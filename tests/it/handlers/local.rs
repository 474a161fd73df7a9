//! Local: handlers that call no service (`jq`, `log`, `rust`), and problems of a handler's table.

use std::time::{Duration, Instant};

use expect_test::{Expect, expect};
use millstream::{
    handlers::{self, HandlerContext, Registry, handler_fn},
    stages::{Delivery, Event, Failure, Reply},
};
use serde_json::{Value, json};

use super::{build, call, context};

#[tokio::test]
async fn a_jq_filter_gives_the_events_that_pass_on() {
    let filter = build(&json!({ "jq": ".items[] | select(.n > 1)" }));
    let body = r#"{"items": [{"n": 1}, {"n": 2, "big": 12345678901234567890123}, {"n": 3}]}"#;
    expect![[r#"replace ["{\"n\":2,\"big\":12345678901234567890123}", "{\"n\":3}"]"#]]
        .assert_eq(&call(filter.as_ref(), body).await);
    expect!["replace []"].assert_eq(&call(filter.as_ref(), r#"{"items": []}"#).await);
    expect!["reject: HandlerError: jq: cannot use 7 as iterable (array or object)"]
        .assert_eq(&call(filter.as_ref(), r#"{"items": 7}"#).await);
    expect!["reject: HandlerError: jq: the filter gives more than 1000 outputs"]
        .assert_eq(&call(build(&json!({ "jq": "range(infinite)" })).as_ref(), "1").await);
}

#[tokio::test]
async fn a_jq_filter_that_takes_long_does_not_hold_up_the_runtime() {
    // Some seconds of work in a debug build, on the test's one thread if it were not moved away.
    let filter = build(&json!({ "jq": "reduce range(3000000) as $n (0; . + $n)" }));
    let started = Instant::now();
    let given_up =
        tokio::time::timeout(Duration::from_millis(50), call(filter.as_ref(), "1")).await;
    assert!(given_up.is_err(), "the filter was too fast for this test: {given_up:?}");
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "the timeout came {:?} late",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_logged_event_passes_on() {
    assert_eq!(call(build(&json!({ "log": "info", "body": true })).as_ref(), "1").await, "pass");
}

async fn double(event: Event, delivery: Delivery) -> Result<Reply, Failure> {
    match event.json() {
        Ok(Value::Number(number)) if number.as_i64() == Some(0) => {
            panic!("attempt {}", delivery.attempt)
        }
        Ok(Value::Number(_)) => Ok(Reply::Replace(vec![event.body.clone(), event.body])),
        Ok(_) | Err(_) => Err(Failure::reject("NotANumber", "cannot double it")),
    }
}

#[tokio::test]
async fn a_handler_written_in_rust_is_called_by_its_name() {
    let registered = Registry::new().with("double", handler_fn(double));
    let context = HandlerContext { registered, ..context() };
    let handler = handlers::build(&json!({ "rust": "double" }), &context).unwrap();
    expect![[r#"replace ["2", "2"]"#]].assert_eq(&call(handler.as_ref(), "2").await);
    expect!["reject: NotANumber: cannot double it"].assert_eq(&call(handler.as_ref(), "{}").await);
    expect!["retry: HandlerError: the handler panicked: attempt 3"]
        .assert_eq(&call(handler.as_ref(), "0").await);
    problems(
        &json!({ "rust": "duoble" }),
        &context,
        &expect![[r#"rust: no handler is registered as "duoble" (did you mean "double"?)"#]],
    );
}

#[track_caller]
fn problems(options: &Value, context: &HandlerContext, expect: &Expect) {
    let Err(problems) = handlers::build(options, context) else {
        panic!("nothing is wrong with {options}")
    };
    let lines: Vec<String> = problems
        .iter()
        .map(|problem| {
            let hint = problem.hint.as_ref().map(|hint| format!(" ({hint})")).unwrap_or_default();
            format!("{}: {}{hint}", problem.at.join("."), problem.message)
        })
        .collect();
    expect.assert_eq(&lines.join("\n"));
}

#[test]
fn what_is_wrong_with_a_table_is_said_with_its_key() {
    let check = |options: Value, expect: &Expect| problems(&options, &context(), expect);
    check(
        json!("http://127.0.0.1"),
        &expect![[
            r#": a handler is a table, such as { http = "http://127.0.0.1:9000/orders" } (name one of: http, nats, exec, jq, log, rust)"#
        ]],
    );
    check(
        json!({}),
        &expect![
            ": the table does not say which handler it is \
             (name one of: http, nats, exec, jq, log, rust)"
        ],
    );
    check(
        json!({ "htpp": "http://127.0.0.1", "timeout": "5s" }),
        &expect![[r#"htpp: unknown handler "htpp" (did you mean "http"?)"#]],
    );
    check(
        json!({ "http": "http://127.0.0.1", "nats": "a" }),
        &expect![[
            r#"nats: a handler is one of "http" and "nats", not both (for both, declare a stage for each; `chain = true` runs the second in the first's worker)"#
        ]],
    );
    check(
        json!({ "http": "http://127.0.0.1", "timout": "5s", "banana": 1 }),
        &expect![[r#"
        banana: unknown key "banana" in a handler (this handler has: headers, http, method, output, timeout)
        timout: unknown key "timout" in a handler (did you mean "timeout"?)"#]],
    );
    check(
        json!({ "http": "http://127.0.0.1", "timeout": "5" }),
        &expect![[
            r#"timeout: expected a duration with its unit, such as "30s", "250ms" or "1h30m", got "5""#
        ]],
    );
    check(
        json!({ "http": "http://127.0.0.1", "method": "GET" }),
        &expect!["method: unknown variant `GET`, expected one of `POST`, `PUT`, `PATCH`"],
    );
    check(
        json!({ "http": "http://127.0.0.1", "headers": { "a": 1 } }),
        &expect!["headers.a: invalid type: integer `1`, expected a string"],
    );
    let headers =
        json!({ "Idempotency-Key": "s3cret", "a b": "s3cret", "authorization": "s3\ncret" });
    check(
        json!({ "http": "//s3cret", "headers": headers }),
        &expect![[r#"
        http: not a URL: relative URL without a base (write it like "http://127.0.0.1:9000/orders")
        headers.Idempotency-Key: header "idempotency-key" is set for every event
        headers.a b: "a b" is not the name of a header
        headers.authorization: the value of header "authorization" has control characters"#]],
    );
    check(
        json!({ "http": "ftp://127.0.0.1" }),
        &expect![[
            r#"http: "ftp" is not a scheme an event can be sent by (write it like "http://127.0.0.1:9000/orders")"#
        ]],
    );
    check(
        json!({ "nats": "orders.*" }),
        &expect![[
            r#"nats: "orders.*" is not a subject that a request can be sent to (write one without wildcards, such as "orders.enrich")"#
        ]],
    );
    check(
        json!({ "nats": "orders. x", "output": "replies" }),
        &expect!["output: unknown variant `replies`, expected `event` or `reply`"],
    );
    check(
        json!({ "nats": "orders. x" }),
        &expect![[
            r#"nats: "orders. x" is not a subject that a request can be sent to (write one without wildcards, such as "orders.enrich")"#
        ]],
    );
    check(
        json!({ "exec": "python3 x.py" }),
        &expect![[r#"exec: invalid type: string "python3 x.py", expected a sequence"#]],
    );
    check(
        json!({ "exec": [], "processes": 0 }),
        &expect![[r#"
        exec: no program to run (write it like ["python3", "handlers/orders.py"])
        processes: expected 1 to 256, got 0"#]],
    );
    check(
        json!({ "exec": ["handlers/none.py"], "env": { "A=B": "1" } }),
        &expect![[r#"
        exec.0: there is no file "handlers/none.py" beside pipeline.toml
        env.A=B: "A=B" is not the name of a variable"#]],
    );
    check(
        json!({ "jq": ".a | nope" }),
        &expect![[
            r#"jq: there is no function "nope" (write ".nope" for a key) (at byte 5 of the filter)"#
        ]],
    );
    check(
        json!({ "log": "loud" }),
        &expect![
            "log: unknown variant `loud`, expected one of `error`, `warn`, `info`, `debug`, `trace`"
        ],
    );
    check(
        json!({ "rust": "enrich" }),
        &expect![[
            r#"rust: no handler is registered as "enrich" (this program registers none: run the one that calls Millstream::handler)"#
        ]],
    );
}

#[test]
fn the_schema_of_a_handler_accepts_what_can_be_built_and_explains_every_option() {
    let schema = handlers::options_schema().to_value();
    let compiled = jsonschema::validator_for(&schema).unwrap();
    for good in [
        json!({
            "http": "http://127.0.0.1:9000/orders",
            "timeout": "5s",
            "headers": { "a": "b" },
            "output": "reply",
        }),
        json!({ "exec": ["python3", "x.py"], "processes": 2 }),
        json!({ "nats": "orders.enrich" }),
        json!({ "jq": "." }),
        json!({ "log": "debug" }),
        json!({ "rust": "enrich" }),
    ] {
        assert!(compiled.is_valid(&good), "{good}");
    }
    for bad in [
        json!({}),
        json!({ "http": "http://127.0.0.1", "jq": "." }),
        json!({ "http": "http://127.0.0.1", "timout": "5s" }),
        json!({ "exec": "python3" }),
        json!({ "log": "loud" }),
    ] {
        assert!(!compiled.is_valid(&bad), "{bad}");
    }
    for kind in handlers::HANDLERS {
        for (key, option) in (kind.options)().get("properties").unwrap().as_object().unwrap() {
            assert!(
                option.get("description").is_some(),
                "{}: \"{key}\" has no doc comment",
                kind.name
            );
        }
    }
}

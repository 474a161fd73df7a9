//! Command line: the built program, its exit status, and what people read.

use std::{path::Path, process::Stdio, time::Duration};

use expect_test::expect;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use crate::{
    shell::Shell,
    support::{DEADLINE, TestServer},
};

/// A pipeline whose one stage can do without anything else.
const PIPELINE: &str = r#"
[pipeline]
name = "shop"
[source.events]
subjects = ["events.>"]
[stage.work]
kind = "handle"
inputs = ["source.events"]
when = '.eventData.amount > 0'
handler = { jq = 'if .eventData.amount > 100 then error("too \u001b[31mmuch") else . end' }
[stage.errors]
kind = "aggregate-errors"
inputs = ["*.failed"]
[stage.alerts]
kind = "alert"
inputs = ["errors"]
channels = ["log"]
[channel.log]
kind = "log"
rate = "60/min"
[retry.default]
attempts = 2
backoff = { fixed = "50ms" }
"#;

#[tokio::test]
async fn the_help_of_every_command_has_examples() {
    let shell = Shell::new("", "");
    let mut without = Vec::new();
    for command in [
        "",
        "demo",
        "dev",
        "run",
        "init",
        "check",
        "schema",
        "graph",
        "plan",
        "apply",
        "publish",
        "status",
        "dlq",
        "dlq stats",
        "dlq groups",
        "dlq ls",
        "dlq show",
        "dlq edit",
        "dlq redrive",
        "dlq drop",
        "dlq export",
        "incidents",
        "incidents ls",
        "incidents show",
        "incidents ack",
        "incidents resolve",
        "silence",
        "silence add",
        "silence ls",
        "silence rm",
        "alert",
        "alert test",
        "alert route",
        "alert render",
        "alert simulate",
    ] {
        let help = shell.run(&format!("{command} --help")).await;
        assert_eq!(help.code, 0, "{command}");
        if !help.out.contains("Examples:\n  millstream") {
            without.push(command);
        }
    }
    assert!(without.is_empty(), "add examples to: {without:?}");
}

#[tokio::test]
async fn a_server_that_is_not_there_or_not_fit_is_one_clear_error() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    drop(listener);
    Shell::new(PIPELINE, &url)
        .check(
            "plan",
            expect![[r#"
        exit 2
        err: error: could not reach a NATS server at nats://SERVER
        err:  because: IO error: Connection refused (os error 111)
    "#]],
        )
        .await;
    Shell::new(PIPELINE, "").check("plan", expect![[r#"
        exit 2
        err: error: the configuration names no NATS server
        err:  hint: set nats.url in it, or MILLSTREAM_NATS__URL, or --set nats.url=nats://127.0.0.1:4222; `millstream dev` starts a server of its own
    "#]]).await;

    let plain = TestServer::launch(false, None).await;
    let shell = Shell::new(PIPELINE, plain.server.url());
    shell
        .check(
            "plan",
            expect![[r#"
        exit 2
        err: error: the NATS server at nats://SERVER has JetStream off: start it with -js, or enable it for this account
    "#]],
        )
        .await;
    let ran = shell.run("run").await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    assert!(ran.err.contains("has JetStream off"), "{}", ran.err);
}

#[tokio::test]
async fn a_refused_subject_is_named() {
    let config = r#"
        authorization {
            users = [{ user: u, password: p, permissions: { publish: { deny: "$JS.API.STREAM.CREATE.*" } } }]
        }
        no_auth_user: u
    "#;
    let server = TestServer::configured(config).await;
    let ran = Shell::new(PIPELINE, server.server.url()).run("apply").await;
    assert_eq!(ran.code, 2);
    assert!(ran.err.contains("$JS.API.STREAM.CREATE."), "{}", ran.err);
}

#[tokio::test]
async fn a_worker_that_is_refused_a_subject_ends_soon_and_names_it() {
    let config = r#"
        authorization {
            users = [{ user: u, password: p, permissions: { publish: { deny: "shop.dlq.>" } } }]
        }
        no_auth_user: u
    "#;
    let server = TestServer::configured(config).await;
    let shell = Shell::new(PIPELINE, server.server.url());
    assert_eq!(shell.run("apply").await.code, 0);
    assert_eq!(shell.run_with("publish", "not an event\n").await.code, 0);
    let began = std::time::Instant::now();
    let ran = shell.run("run --log error").await;
    assert_eq!(ran.code, 2, "{}", ran.err);
    let last = ran.err.lines().last().unwrap();
    expect![[r#"error: the NATS server refuses us publish on "shop.dlq.work.shop-in-events.1": grant it to the user of [nats]"#]]
        .assert_eq(last);
    // Less than a drain: what is in hand cannot be finished.
    assert!(began.elapsed() < Duration::from_secs(15), "{:?}", began.elapsed());
}

#[tokio::test]
async fn run_waits_for_its_server_and_says_so_then_works_and_drains_at_sigterm() {
    let mut server = TestServer::start().await;
    let shell = Shell::new(PIPELINE, server.server.url());
    server.server.kill_hard();
    let mut worker = shell.command("run --apply").spawn().unwrap();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let mut wait_for = async |text: &str| {
        let found = async {
            while let Some(line) = log.next_line().await.unwrap() {
                if line.contains(text) {
                    return line;
                }
            }
            panic!("it ended without saying \"{text}\"")
        };
        tokio::time::timeout(DEADLINE, found).await.expect(text)
    };
    let line = wait_for("no connection yet; trying again").await;
    assert!(line.contains(server.server.url()) && line.contains("refused"), "{line}");
    server.server.restart().await.unwrap();
    wait_for(" working").await;
    std::process::Command::new("kill")
        .args(["-TERM", &worker.id().unwrap().to_string()])
        .status()
        .unwrap();
    wait_for("stopped").await;
    let ended =
        tokio::time::timeout(Duration::from_secs(30), worker.wait()).await.unwrap().unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn from_plan_to_redrive() {
    let server = TestServer::start().await;
    let shell = Shell::new(PIPELINE, server.server.url());
    let plan = shell.run("plan").await;
    assert_eq!(plan.code, 1, "{}", plan.err);
    assert!(plan.out.contains("+ stream \"shop-in-events\"\n"), "{}", plan.out);
    shell
        .check(
            "status",
            expect![[r#"
                exit 1
                out: shop: 0 workers, ? dead letters, ? waiting for retry, ? failed attempts kept
                out:
                out: STAGE   RATE/S  ERRORS  P50  P95  P99  ACTIVE  PENDING  UNACKED  AGAIN
                out: work       0.0       -    -    -    -       0        0        0      0
                out: errors     0.0       -    -    -    -       0        0        0      0
                out: alerts     0.0       -    -    -    -       0        0        0      0
                out: ! work: stream "shop-in-events" does not exist; `millstream apply` creates it
                out: ! work: stream "shop-retry" does not exist; `millstream apply` creates it
            "#]],
        )
        .await;
    shell
        .check(
            "dlq ls",
            expect![[r#"
                exit 2
                err: error: stream "shop-dlq" does not exist
                err:  hint: `millstream apply` creates what the pipeline needs
            "#]],
        )
        .await;
    shell
        .check(
            "publish --file pipeline.toml",
            expect![[r#"
        exit 2
        err: error: stream "shop-in-events" does not exist
        err:  hint: `millstream apply` creates what the pipeline needs
    "#]],
        )
        .await;
    let applied = shell.run("apply").await;
    assert_eq!((applied.code, applied.out), (0, plan.out));
    assert!(applied.err.starts_with("applied: "), "{}", applied.err);
    shell
        .check(
            "plan",
            expect![[r#"
        exit 0
        out: nothing to do: the broker is what pipeline "shop" needs
    "#]],
        )
        .await;
    shell
        .check(
            "dlq ls",
            expect![[r#"
        exit 0
        out: no dead letters
    "#]],
        )
        .await;

    let event = |id: &str, amount: u32| {
        format!(
            "{{\"eventId\":\"{id}\",\"eventType\":\"order.created\",\"eventData\":{{\"amount\":{amount}}}}}\n"
        )
    };
    std::fs::write(
        shell.path().join("events.jsonl"),
        [event("a", 1), event("b", 2), event("b", 2)].concat(),
    )
    .unwrap();
    shell
        .check(
            "publish --file events.jsonl",
            expect![[r#"
        exit 0
        out: published 3 events to source "events", 1 of them were there already
    "#]],
        )
        .await;
    let rubbish =
        [event("c", 500).as_bytes(), b"rubbish\n\n\xff\xfe\x1b[31m\n", event("d", 0).as_bytes()]
            .concat();
    let published = shell.run_with("publish", rubbish).await;
    assert_eq!((published.code, published.err.as_str()), (0, ""));
    expect![[r#"
        published 4 events to source "events"
    "#]]
    .assert_eq(&published.out);
    shell
        .check(
            "publish --source nope",
            expect![[r#"
        exit 2
        err: error: there is no source "nope"; the sources are events
    "#]],
        )
        .await;
    shell
        .check(
            "publish --file nope.jsonl",
            expect![[r#"
        exit 2
        err: error: could not open "nope.jsonl"
        err:  because: No such file or directory (os error 2)
    "#]],
        )
        .await;
    let too_large = shell.run_with("publish", "x".repeat(2 << 20)).await;
    assert_eq!(too_large.code, 1);
    expect![[r#"
        error: line 1: the message for "events.unreadable" is larger than the server's max_payload
    "#]]
    .assert_eq(&too_large.err);

    let mut worker =
        shell.command("run").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let broker = server.connect().await;
    crate::support::eventually(async || {
        (broker.stream_state("shop-dlq").await.unwrap().messages == 3).then_some(())
    })
    .await;
    worker.kill().await.unwrap();
    let listed = shell.run("dlq ls --json").await;
    assert_eq!(listed.code, 1);
    let letters: Vec<Value> =
        listed.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(letters.len(), 3);
    let of_c =
        letters.iter().find(|letter| letter["eventId"] == "c").unwrap()["seq"].as_u64().unwrap();
    let table = shell.run("dlq ls").await;
    assert!(table.out.contains("undecodable") && table.out.contains("not UTF-8"), "{}", table.out);
    assert!(!table.out.contains('\u{1b}'), "{:?}", table.out);
    let shown = shell.run(&format!("dlq show {of_c}")).await;
    let shown = shown.out.replace(&format!("letter {of_c}:"), "letter N:");
    let shown = ["redrive", "edit"].iter().fold(shown, |shown, next| {
        shown.replace(&format!("{next} {of_c}\n"), &format!("{next} N\n"))
    });
    let shown: String = shown.lines().map(|line| shell.stable(line) + "\n").collect();
    expect![[r#"
        letter N: rejected at stage "work" after 1 attempt
          error        HandlerError: jq: too  [31mmuch
          event        c of type order.created
          dead at      …
          source       shop-in-events:3 on events.order.created, still stored
          trace        …
          fingerprint  …
          config       …

        what happened
          …  published, stored as shop-in-events:3
          …  attempt 1 at work: HandlerError; given up on: rejected
                                      jq: too  [31mmuch
          …  this letter was written: rejected

        payload (70 bytes)
        {
          "eventId": "c",
          "eventType": "order.created",
          "eventData": {
            "amount": 500
          }
        }

        mend the event: millstream dlq edit N
        mend what failed, then: millstream dlq redrive N
    "#]]
    .assert_eq(&shown);
    let shown = shell.run(&format!("dlq show {of_c} --json")).await;
    let shown: Value = serde_json::from_str(&shown.out).unwrap();
    assert_eq!(shown["payload"]["eventData"]["amount"], 500);
    shell
        .check(
            "dlq show 999",
            expect![[r#"
        exit 2
        err: error: there is no dead letter 999; `millstream dlq ls` lists them
    "#]],
        )
        .await;
    shell
        .check(
            "dlq redrive",
            expect![[r#"
                exit 2
                err: error: say which letters to redrive: their numbers, as `millstream dlq ls` prints them, or flags such as --stage; --all means every one
            "#]],
        )
        .await;
    let redriven = shell.run(&format!("dlq redrive {of_c}")).await;
    assert_eq!(
        (redriven.code, redriven.out),
        (
            0,
            "redrove 1 letter\nwhat fails again is a letter again: millstream dlq groups\n"
                .to_owned()
        )
    );
    shell
        .check(
            "dlq redrive --stage nope",
            expect![[r#"
                exit 2
                err: error: there is no stage "nope", and no letter of one; the stages are work, errors, alerts
            "#]],
        )
        .await;
    shell
        .check(
            "dlq redrive --stage work",
            expect![[r#"
                exit 0
                out: redrove 2 letters
                out: what fails again is a letter again: millstream dlq groups
            "#]],
        )
        .await;
    shell
        .check(
            "dlq ls",
            expect![[r#"
        exit 0
        out: no dead letters
    "#]],
        )
        .await;
    let status = shell.run("status").await;
    assert_eq!(status.err, "");
    assert!(status.out.contains("work"), "{}", status.out);
    let status: Value = serde_json::from_str(&shell.run("status --json").await.out).unwrap();
    assert_eq!(status["pipeline"], "shop");
}

#[tokio::test]
async fn a_broken_file_is_refused_by_every_command() {
    let broken = PIPELINE.replace("kind = \"handle\"", "kind = \"handel\"");
    let shell = Shell::new(&broken, "nats://127.0.0.1:1");
    shell
        .check(
            "check",
            expect![[r#"
        exit 2
        out: error: stage "work" is of an unknown kind, "handel"
        out:  --> pipeline.toml:7:8
        out:   |
        out: 7 | kind = "handel"
        out:   |        ^^^^^^^^
        out:   |
        out:   = help: did you mean "handle"?
        out:
        out: pipeline.toml: 1 error
    "#]],
        )
        .await;
    shell
        .check(
            "plan",
            expect![[r#"
        exit 2
        err: error: stage "work" is of an unknown kind, "handel"
        err:  --> pipeline.toml:7:8
        err:   |
        err: 7 | kind = "handel"
        err:   |        ^^^^^^^^
        err:   |
        err:   = help: did you mean "handle"?
        err: error: pipeline.toml has a problem
    "#]],
        )
        .await;
    shell
        .check(
            "run --config nope.toml",
            expect![[r#"
        exit 2
        err: error: could not read "nope.toml": there is no such file
        err: --> nope.toml
        err:  = help: `millstream init` writes one to start from
        err: error: nope.toml has a problem
    "#]],
        )
        .await;
}

#[tokio::test]
async fn what_init_writes_is_fine() {
    let shell = Shell::new("", "");
    shell
        .check(
            "init mine",
            expect![[r#"
        exit 0
        out: mine/pipeline.toml
        out: mine/schemas/order.created.1.json
        err: next: cd mine && millstream check, then millstream dev
    "#]],
        )
        .await;
    let ran = shell.run("check --config mine/pipeline.toml").await;
    assert_eq!((ran.code, ran.err.as_str()), (0, ""), "{}", ran.out);
    shell
        .check(
            "init mine",
            expect![[r#"
        exit 2
        err: error: "mine/pipeline.toml" is there already; --force writes over it
    "#]],
        )
        .await;
}

/// The processes that name a folder in their arguments: servers with their data there.
fn processes_of(folder: &Path) -> Vec<String> {
    let folder = folder.to_str().unwrap();
    let entries = std::fs::read_dir("/proc").unwrap().flatten();
    let lines = entries.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
    lines
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(folder))
        .collect()
}

#[tokio::test]
async fn the_demo_ends_well_its_totals_add_up_and_no_server_is_left_behind() {
    let shell = Shell::new("", "");
    let data = shell.path().join("data");
    let ran = shell.run(&format!("demo --events 300 --data {}", data.display())).await;
    assert_eq!(ran.code, 0, "{}\n{}", ran.out, ran.err);
    let totals = ran.out.lines().find(|line| line.contains(" done + ")).unwrap();
    let numbers: Vec<u64> =
        totals.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    let [published, done, dead, pending] = numbers.as_slice() else { panic!("{totals}") };
    assert_eq!((*published, *published), (300, done + dead + pending), "{totals}");
    assert!(*dead > 0, "{totals}");
    for heading in ["The pipeline", "Totals", "Try next"] {
        assert!(ran.out.contains(heading), "no {heading} in\n{}", ran.out);
    }
    if cfg!(target_os = "linux") {
        assert_eq!(processes_of(&data), Vec::<String>::new());
    }
}

//! Tour: every command on the way from `plan` to `redrive`, on one pipeline.

use std::process::Stdio;

use expect_test::expect;
use serde_json::Value;

use super::PIPELINE;
use crate::{reaper::Start as _, shell::Shell, support::TestServer};

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
                out: ! bucket shop-state: it does not exist
                out:     create it with `millstream apply`
                out: ! bucket shop-workers: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-advisories: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-dlq: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-failed: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-in-events: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-notify: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-out-errors: it does not exist
                out:     create it with `millstream apply`
                out: ! stream shop-retry: it does not exist
                out:     create it with `millstream apply`
                out: ! workers: no worker is at work
                out:     start one: `millstream run`
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
            "{{\"eventId\":\"{id}\",\"eventType\":\"order.created\",\
             \"eventData\":{{\"amount\":{amount}}}}}\n"
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
    let refused = shell.run_with("publish", "{}\n".repeat(12)).await;
    assert_eq!(refused.code, 1);
    let said: Vec<&str> = refused.err.lines().collect();
    assert_eq!((said[0], said.len()), ("error: line 1: eventId is missing", 11), "{}", refused.err);
    assert_eq!(said[10], "error: and 2 more");
    std::fs::write(shell.folder.path().join("array.json"), "[\n{\"eventId\": 1},\n7]").unwrap();
    shell.check("publish --file array.json", expect![[r#"
        exit 2
        err: error: 2 values in "array.json" are no event of source "events" (domain); nothing was published
        err:   line 2: eventId must be a string, got 1
        err:   line 3: not JSON: trailing characters at line 1 column 2
        err:  hint: mend them, or send each line as it is: --subject SUBJECT
    "#]]).await;
    let published = shell.run_with("publish --subject events.unreadable", rubbish).await;
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
    let too_large = shell.run_with("publish --subject events.big", "x".repeat(2 << 20)).await;
    assert_eq!(too_large.code, 1);
    expect![[r#"
        error: line 1: 2097152 bytes, where the server has room for 1046528
    "#]]
    .assert_eq(&too_large.err);

    let mut worker = shell.command("run").stdout(Stdio::null()).stderr(Stdio::null()).start();
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
    let shown: String =
        shown.lines().map(|line| crate::support::timeless(&shell.stable(line)) + "\n").collect();
    expect![[r#"
        letter N: rejected at stage "work" after 1 attempt
          error        HandlerError: jq: too  [31mmuch
          event        c of type order.created
          dead at      …
          source       shop-in-events:3 on events.unreadable, still stored
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

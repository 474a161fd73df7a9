//! Explain: what `incidents explain` says of one message and of two, without a server.

use expect_test::{Expect, expect};
use tokio::io::AsyncWriteExt as _;

use super::PIPELINE;
use crate::{
    reaper::Start as _,
    shell::{Ran, Shell},
    support::DEADLINE,
};

/// Runs `incidents explain` with these arguments.
async fn explain(shell: &Shell, args: &[&str], stdin: &str) -> Ran {
    let mut command = shell.command("incidents explain");
    let mut child = command.args(args).start();
    child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.ok();
    let output =
        tokio::time::timeout(DEADLINE, child.take().wait_with_output()).await.unwrap().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    Ran { code: output.status.code().unwrap(), out: text(output.stdout), err: text(output.stderr) }
}

async fn says(shell: &Shell, args: &[&str], stdin: &str, expect: Expect) {
    let Ran { code, out, err } = explain(shell, args, stdin).await;
    expect.assert_eq(&format!("exit {code}\n{out}{err}"));
}

/// Folder without a pipeline.
fn nowhere() -> Shell {
    let shell = Shell::new("", "");
    std::fs::remove_file(shell.path().join("pipeline.toml")).unwrap();
    shell
}

#[tokio::test]
async fn a_message_is_shown_with_what_each_rule_made_of_it() {
    let message = "connect to 10.0.0.7:5432 failed after 30 s: column \"price\", HTTP 502";
    says(
        &nowhere(),
        &[message],
        "",
        expect![[r#"
            exit 0
            fingerprint  7928bb130799fd46
            message      connect to <ip> failed after <n>: column "price", HTTP 502

              PART           BECOMES  RULE
              10.0.0.7:5432  <ip>     address
              30             <n>      number
              s              goes     unit
              price          stays    name
              502            stays    code

            Made of the message alone. The error has a code and a service, too:
            give --code and --service, or --class and --stage.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn two_messages_of_one_failure_end_with_zero() {
    says(
        &nowhere(),
        &["no order 17", "-"],
        "no order 9\n",
        expect![[r#"
            exit 0
            one failure: what differs varies

            fingerprint  ff9b3449ae3b14d6
            message      no order <n>

              PART  BECOMES  RULE
              17    <n>      number

            fingerprint  ff9b3449ae3b14d6
            message      no order <n>

              PART  BECOMES  RULE
              9     <n>      number

            Made of the message alone. The error has a code and a service, too:
            give --code and --service, or --class and --stage.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn two_failures_end_with_one_and_show_the_first_difference() {
    let args = ["KeyError: 'amount' of 17", "KeyError: 'currency' of 17"];
    says(
        &nowhere(),
        &args,
        "",
        expect![[r#"
            exit 1
            two failures: the first difference is 'amount' against 'currency'

            fingerprint  120ddea168f3b41f
            message      KeyError: 'amount' of <n>
                                   ^^^^^^^^

              PART    BECOMES  RULE
              amount  stays    name
              17      <n>      number

            fingerprint  9b97cddc1b8879a0
            message      KeyError: 'currency' of <n>
                                   ^^^^^^^^^^

              PART      BECOMES  RULE
              currency  stays    name
              17        <n>      number

            Made of the message alone. The error has a code and a service, too:
            give --code and --service, or --class and --stage.
        "#]],
    )
    .await;
}

#[tokio::test]
async fn class_and_stage_make_the_fingerprint_of_letters_and_incidents() {
    let shell = Shell::new(PIPELINE, "");
    let args = ["too much", "--class", "HandlerError", "--stage", "work"];
    says(
        &shell,
        &args,
        "",
        expect![[r#"
            exit 0
            fingerprint  64d62860b53f8ce0
            message      too much

            Made of code HandlerError, service shop/work and the message.
            Dead letters of this failure have the same.
        "#]],
    )
    .await;
    let alone = explain(&shell, &["too much"], "").await;
    let given = ["too much", "--code", "HandlerError", "--service", "shop/work", "--json"];
    let given = explain(&shell, &given, "").await;
    let staged = explain(&shell, &args, "").await;
    let value: serde_json::Value = serde_json::from_str(&given.out).unwrap();
    let fingerprint = value["messages"][0]["fingerprint"].as_str().unwrap();
    assert!(staged.out.contains(fingerprint) && !alone.out.contains(fingerprint));
    assert!(value["same"].is_null());
    let args = ["too much", "--stage", "wrok"];
    says(
        &shell,
        &args,
        "",
        expect![[r#"
            exit 2
            error: there is no stage "wrok"
             hint: did you mean "work"?
        "#]],
    )
    .await;
}

#[tokio::test]
async fn fingerprints_of_the_pipelines_own_are_named() {
    let own = "kind = \"aggregate-errors\"\nfingerprint = [\"code\", \"tenant\"]";
    let shell = Shell::new(&PIPELINE.replace("kind = \"aggregate-errors\"", own), "");
    let ran = explain(&shell, &["too much"], "").await;
    assert!(ran.out.contains("made of code, tenant"), "{}", ran.out);
}

#[tokio::test]
async fn a_message_can_neither_steer_the_terminal_nor_be_endless() {
    let ran = explain(&nowhere(), &["-"], "\u{1b}[2Jno\u{202e} order 17").await;
    assert_eq!(ran.code, 0, "{}", ran.err);
    assert!(!ran.out.contains(['\u{1b}', '\u{202e}']), "{:?}", ran.out);
    let ran = explain(&nowhere(), &["-"], &"x".repeat((1 << 20) + 1)).await;
    assert_eq!(ran.code, 2, "{}", ran.out);
    assert!(ran.err.contains("larger than 1 MiB"), "{}", ran.err);
}

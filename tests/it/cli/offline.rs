//! Offline: commands that need no server, and files that every command refuses.

use expect_test::expect;

use super::PIPELINE;
use crate::shell::Shell;

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
        "incidents explain",
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

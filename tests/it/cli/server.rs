//! Server: commands whose server is not there, not fit, refuses a subject, or comes later.

use std::time::Duration;

use expect_test::expect;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::PIPELINE;
use crate::{
    reaper::Start as _,
    shell::Shell,
    support::{DEADLINE, TestServer},
};

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
        err:  hint: set nats.url in it, or MILLSTREAM_NATS__URL, or --set nats.url=nats://127.0.0.1:4222; `millstream dev` starts a server of its own, which other commands in its folder find
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
async fn a_worker_that_is_refused_a_subject_names_it_and_lives_until_it_is_told() {
    let config = r#"
        authorization {
            users = [{ user: u, password: p, permissions: { publish: { deny: "shop.dlq.>" } } }]
        }
        no_auth_user: u
    "#;
    let server = TestServer::configured(config).await;
    let shell = Shell::new(PIPELINE, server.server.url());
    assert_eq!(shell.run("apply").await.code, 0);
    assert_eq!(shell.run_with("publish --subject events.no", "not an event\n").await.code, 0);
    let mut worker = shell.command("run").start();
    let mut log = BufReader::new(worker.stderr.take().unwrap()).lines();
    let told = async {
        loop {
            let line = log.next_line().await.unwrap().unwrap();
            if line.contains("condition=\"subject") {
                return line;
            }
        }
    };
    let told = tokio::time::timeout(DEADLINE, told).await.unwrap();
    for part in [
        r#"subject shop.dlq.work.>"#,
        r#"the NATS server refuses us publish on \"shop.dlq.work.>\""#,
        r#"grant publish on \"shop.dlq.work.>\" to the user of [nats]"#,
    ] {
        assert!(told.contains(part), "no {part} in {told}");
    }
    assert!(worker.try_wait().unwrap().is_none(), "it lives");
    let pid = rustix::process::Pid::from_raw(worker.id().unwrap().try_into().unwrap()).unwrap();
    for _ in 0..2 {
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let ended = tokio::time::timeout(DEADLINE, worker.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

#[tokio::test]
async fn run_waits_for_its_server_and_says_so_then_works_and_drains_at_sigterm() {
    let mut server = TestServer::start().await;
    let shell = Shell::new(PIPELINE, server.server.url());
    server.server.kill_hard();
    let mut worker = shell.command("run --apply").start();
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

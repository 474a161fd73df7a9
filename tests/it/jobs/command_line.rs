//! Command line: jobs that the built program runs, leaves behind, and reports.

use std::{
    path::Path,
    process::{Command, Output, Stdio},
};

use millstream::redrive::{job::State, store::Jobs};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{PIPELINE, broken, ended, plain};
use crate::{
    reaper::Start as _,
    support::{Mill, eventually},
};

/// The built program, in a folder of its own with the pipeline in it.
struct Program {
    folder: TempDir,
    url: String,
}

impl Program {
    fn on(mill: &Mill) -> Self {
        let folder = TempDir::new().unwrap();
        // The program has no Rust handlers; who handles what does not matter to it here.
        let toml = PIPELINE
            .replace("{ rust = \"work\" }", "\"log\"")
            .replace("{ rust = \"beside\" }", "\"log\"");
        std::fs::write(
            folder.path().join("pipeline.toml"),
            toml.replace("\"log\"", "{ log = \"info\" }"),
        )
        .unwrap();
        Self { folder, url: mill.server.server.url().to_owned() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command
            .args(args)
            .args(["--set", &format!("nats.url={}", self.url)])
            .env("USER", "me")
            .env("HOSTNAME", "here");
        command.current_dir::<&Path>(self.folder.path()).stdin(Stdio::null());
        command
    }

    async fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.command(args);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_it_would_do_does_it_and_keeps_the_record() {
    let (mut mill, service) =
        broken((0..6).map(|n| json!({ "class": if n < 4 { "A" } else { "B" } }))).await;
    let program = Program::on(&mill);
    let (status, text) =
        program.run(&["dlq", "redrive", "--all", "--dry-run", "--rate", "2/s"]).await;
    expect_test::expect![[r#"
        STAGE  CLASS  LETTERS
        work   A            4
        work   B            2

        would redrive 6 letters
        at this rate it takes 3s
    "#]]
    .assert_eq(&text);
    assert_eq!((status, mill.letters().await.len()), (0, 6));
    let (status, text) = program.run(&["dlq", "redrive"]).await;
    assert!(status == 2 && text.contains("say which letters to redrive"), "{text}");
    let (status, text) = program.run(&["dlq", "redrive", "--class", "Nope"]).await;
    assert_eq!((status, text.as_str()), (0, "no dead letters match: nothing to redrive\n"));
    let (status, text) = program.run(&["dlq", "redrive", "--class", "A"]).await;
    assert_eq!(
        (status, text.as_str()),
        (0, "redrove 4 letters\nwhat fails again is a letter again: millstream dlq groups\n")
    );
    let of_b = mill.letters().await[0].seq.to_string();
    let (status, text) = program.run(&["dlq", "redrive", &of_b, "--json"]).await;
    let job: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &job["state"], &job["counts"]["redriven"]), (0, &json!("done"), &json!(1)));
    let (status, text) = program.run(&["dlq", "redrive", &of_b]).await;
    assert!(status == 2 && text.contains(&format!("there is no dead letter {of_b}")), "{text}");
    let (status, text) = program.run(&["dlq", "redrive", "--all", "--max-redrives", "0"]).await;
    expect_test::expect![[r#"
        redrove 0 letters, 1 left by the guard
        left 1 letter that had been redriven 0 times or more and came back; to send them all the same: --max-redrives 1
    "#]]
    .assert_eq(&text);
    assert_eq!(status, 0);
    let (status, text) = program.run(&["dlq", "jobs", "ls"]).await;
    assert!(status == 0 && text.lines().count() == 4 && text.contains("--class A"), "{text}");
    let id = text.lines().nth(1).unwrap().split(' ').next().unwrap();
    let (status, text) = program.run(&["dlq", "jobs", "show", id]).await;
    assert!(
        status == 0 && text.contains("redrove 4 letters") && text.contains("by me@here"),
        "{text}"
    );
    let (status, text) = program.run(&["dlq", "jobs", "cancel", id]).await;
    assert!(status == 2 && text.contains("has ended already: it is done"), "{text}");
    let (status, text) = program.run(&["dlq", "jobs", "show", "nope"]).await;
    assert!(
        status == 2
            && text.contains("there is no job \"nope\"; `millstream dlq jobs ls` lists them"),
        "{text}"
    );
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_carries_on_where_a_killed_command_line_was() {
    let (mut mill, service) = broken(plain(60)).await;
    mill.drain().await;
    let program = Program::on(&mill);
    let mut killed = program.command(&["dlq", "redrive", "--stage", "work", "--rate", "20/s"]);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).start();
    eventually(async || (mill.letters().await.len() <= 45).then_some(())).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = mill.letters().await.len();
    assert!(left > 0, "it was killed in the middle");
    mill.work().await;
    let (job, _) = Jobs::new(&mill.broker, &mill.names).list().await.unwrap().swap_remove(0);
    let done = ended(&mill, &job.id).await;
    assert_eq!(done.state, State::Done);
    mill.idle("work").await;
    mill.drain().await;
    let mut calls = service.calls();
    let all = calls.len();
    calls.dedup();
    assert_eq!(
        (calls.len(), all),
        (60, 60),
        "each event once: what was under way is dropped by its id"
    );
    assert!(mill.letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_canary_on_the_command_line_is_exit_status_1_and_says_why() {
    let (mut mill, _) = broken((0..8).map(|_| json!({ "always": true }))).await;
    let program = Program::on(&mill);
    let (status, text) =
        program.run(&["dlq", "redrive", "--all", "--canary", "4", "--stop-above", "20%"]).await;
    assert_eq!(status, 1);
    assert!(text.contains("stopped by its canary, the rest is untouched\n  "), "{text}");
    assert!(
        text.contains(" of 4 failed") && text.contains(": HttpServerError: 503 from the shop\n"),
        "{text}"
    );
    assert!(
        text.contains("mended?  millstream dlq redrive --all --canary 4 --stop-above 20%\n"),
        "{text}"
    );
    assert!(text.contains("or only the untouched rest: millstream dlq jobs resume r-"), "{text}");
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 8);
}

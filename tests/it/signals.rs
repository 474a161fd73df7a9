//! Signals: SIGTERM at any moment of the life of a worker ends it, with status 0.

use std::{
    process::Output,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use tokio::io::AsyncReadExt as _;

use crate::{
    crash::Chance,
    reaper::Start as _,
    shell::Shell,
    support::{DEADLINE, TestServer, eventually},
};

/// Longest time from the signal to the end of the process.
const END_MAX: Duration = Duration::from_secs(30);

/// Pipeline with state, channels and a handler, so that every part of a start is there.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "info" }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["*.failed"]
    [stage.alerts]
    kind = "alert"
    inputs = ["errors"]
    channels = ["ops"]
    [channel.ops]
    kind = "log"
"#;

fn terminate(pid: Option<u32>) {
    let pid = Pid::from_raw(pid.unwrap().try_into().unwrap()).unwrap();
    // It fails for a process that has ended.
    kill_process(pid, Signal::TERM).ok();
}

/// Output of a command that is told to stop after `delay`, and the time that it took from then on.
async fn stopped(shell: &Shell, line: &str, delay: Duration) -> (Output, Duration) {
    let mut child = shell.command(line).start();
    let pid = child.id();
    tokio::time::sleep(delay).await;
    terminate(pid);
    let told = Instant::now();
    let output = tokio::time::timeout(DEADLINE, child.take().wait_with_output()).await;
    (output.expect(line).unwrap(), told.elapsed())
}

async fn ends_whenever_it_is_told(shell: &Shell, lines: &[&str], trials: usize) {
    let mut chance = Chance::new();
    let trials = (0..trials).map(|n| {
        // The beginning is the interesting part.
        let most = if n % 2 == 0 { 3000 } else { 300 };
        (lines[n % lines.len()], Duration::from_millis(30 + chance.below(most) as u64))
    });
    let trials: Vec<_> = trials.collect();
    // Two at a time: side by side with more, a start takes as long as there are of them.
    for pair in trials.chunks(2) {
        futures_util::future::join_all(pair.iter().map(async |(line, delay)| {
            let (output, took) = stopped(shell, line, *delay).await;
            let said = String::from_utf8_lossy(&output.stderr);
            // Before anything is listened for, nothing is started, and the system ends it.
            let unheard = output.status.code().is_none() && said.is_empty();
            assert!(
                output.status.success() || unheard,
                "{line} after {delay:?}: {} with\n{said}",
                output.status
            );
            assert!(took < END_MAX, "{line} after {delay:?} took {took:?}");
            assert!(!said.contains("panicked"), "{said}");
        }))
        .await;
    }
}

#[tokio::test]
async fn a_worker_that_is_told_to_stop_at_any_moment_ends_with_status_0() {
    let server = TestServer::start().await;
    let shell = Shell::new(PIPELINE, server.server.url());
    ends_whenever_it_is_told(&shell, &["run --apply", "run"], 16).await;
}

#[tokio::test]
async fn a_worker_that_waits_for_its_broker_ends_when_it_is_told() {
    let shell = Shell::new(PIPELINE, "nats://127.0.0.1:1");
    ends_whenever_it_is_told(&shell, &["run --apply", "run"], 8).await;
}

#[tokio::test]
async fn dev_ends_when_it_is_told_while_its_server_starts_and_later() {
    let shell = Shell::new(PIPELINE, "");
    // One folder is one server's: one trial at a time.
    let mut chance = Chance::new();
    for most in [200, 3000] {
        let delay = Duration::from_millis(30 + chance.below(most) as u64);
        let (output, took) = stopped(&shell, "dev", delay).await;
        let said = String::from_utf8_lossy(&output.stderr);
        let unheard = output.status.code().is_none() && said.is_empty();
        assert!(output.status.success() || unheard, "after {delay:?}: {}\n{said}", output.status);
        assert!(took < END_MAX, "after {delay:?} it took {took:?}");
    }
}

#[tokio::test]
async fn a_second_signal_gives_back_at_once_what_is_in_hand() {
    let server = TestServer::start().await;
    let toml = PIPELINE.replace(
        "handler = { log = \"info\" }",
        "handler = { exec = [\"sh\", \"-c\", \"read -r line; sleep 100\"], timeout = \"90s\" }",
    );
    let shell = Shell::new(&toml, server.server.url());
    let mut child = shell.command("run --apply").start();
    let pid = child.id();
    let broker = server.connect().await;
    eventually(async || broker.stream_state("shop-in-events").await.ok()).await;
    let event = crate::support::domain("e-1", "order.created", serde_json::json!({}));
    broker.publish(millstream::broker::Outgoing::new("events.x", event)).await.unwrap();
    eventually(async || {
        let state = broker.consumer_state("shop-in-events", "shop-work").await.ok()?;
        (state.num_ack_pending == 1).then_some(())
    })
    .await;
    terminate(pid);
    let mut said = String::new();
    let mut stderr = child.stderr.take().unwrap();
    while !said.contains("draining") {
        let mut some = [0; 1024];
        let count = stderr.read(&mut some).await.unwrap();
        assert!(count > 0, "it ended before it drained: {said}");
        said.push_str(&String::from_utf8_lossy(&some[..count]));
    }
    let told = Instant::now();
    terminate(pid);
    let output = tokio::time::timeout(DEADLINE, child.take().wait_with_output()).await;
    assert!(output.unwrap().unwrap().status.success());
    assert!(told.elapsed() < Duration::from_secs(15), "it took {:?}", told.elapsed());
}

//! Output: commands whose reader has gone, or whose device is full.

use std::{
    fs::File,
    process::{Command, Stdio},
};

use millstream::handlers::Registry;
use serde_json::json;

use crate::support::{Mill, TestServer};

const SHOP: &str = r#"
[pipeline]
name = "shop"
[source.events]
subjects = ["events.>"]
[stage.work]
kind = "handle"
inputs = ["source.events"]
handler = { log = "debug" }
"#;

/// Commands that print, or change something and say so.
const COMMANDS: &[&str] = &[
    "check",
    "check --json",
    "graph",
    "schema",
    "--help",
    "plan",
    "apply",
    "status",
    "status --json",
    "dlq ls",
    "dlq ls --json",
    "dlq groups",
    "dlq stats",
    "dlq export",
    "dlq jobs ls",
    "silence ls",
    "publish --subject events.a events.jsonl",
    "nonsense",
];

#[tokio::test]
async fn no_command_minds_that_its_reader_has_gone_and_each_says_that_its_device_is_full() {
    let mill = Mill::still(TestServer::start().await, SHOP, Registry::new()).await;
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("pipeline.toml"), SHOP).unwrap();
    let event = json!({ "eventId": "e-1", "eventType": "a", "eventData": {} });
    std::fs::write(folder.path().join("events.jsonl"), format!("{event}\n")).unwrap();
    let run = |line: &str, stdout: Stdio, stderr: Stdio| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(line.split(' ')).current_dir(folder.path()).stdin(Stdio::null());
        command.env("MILLSTREAM_NATS__URL", mill.server.server.url());
        let done = command.stdout(stdout).stderr(stderr).spawn().unwrap().wait_with_output();
        let done = done.unwrap();
        let said = String::from_utf8_lossy(&done.stderr).into_owned();
        (done.status.code(), !done.stdout.is_empty(), said)
    };
    let gone = || {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        Stdio::from(writer)
    };
    let full = || Stdio::from(File::options().write(true).open("/dev/full").unwrap());
    let mut printing = 0;
    for line in COMMANDS {
        let (open, prints, _) = run(line, Stdio::piped(), Stdio::piped());
        let (code, _, said) = run(line, gone(), Stdio::piped());
        assert_eq!(code, open, "{line}: {said}");
        let (code, ..) = run(line, gone(), gone());
        assert_eq!(code, open, "{line}, with nobody to hear of errors either");
        let (code, _, said) = run(line, full(), Stdio::piped());
        assert!(!said.contains("panicked"), "{line}: {said}");
        // What clap prints itself is not ours to report.
        if prints && *line != "--help" {
            printing += 1;
            assert!(code == Some(2) && said.contains("No space left"), "{line}: {code:?} {said}");
        }
    }
    assert!(printing > 8, "{printing} commands print");
}

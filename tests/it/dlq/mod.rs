//! Dead letters: the `dlq` commands of the built program, as an operator has them.

mod apart;
mod drop;
mod edit;
mod reading;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, SystemTime},
};

use expect_test::Expect;
use millstream::{
    broker::{Expects, Headers, Outgoing},
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply, headers},
    wire::rfc3339,
};
use serde_json::Value;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{
    reaper::Start as _,
    support::{DEADLINE, Mill, TestServer},
};

/// Pipeline of a source, a stage that checks, and one that does what its events say.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.validate]
    kind = "validate"
    inputs = ["source.events"]
    schemas = "schemas"
    unknown = "pass"
    [stage.work]
    kind = "handle"
    inputs = ["validate"]
    handler = { HANDLER }
    [retry.default]
    attempts = 2
    backoff = { fixed = "20ms" }
"#;

fn toml(handler: &str) -> String {
    PIPELINE.replace("HANDLER", handler)
}

/// Pipeline at work whose stage `work` fails every attempt with the message in `eventData.fail`.
async fn failing() -> Mill {
    let work = handler_fn(
        async |event: millstream::stages::Event, delivery: millstream::stages::Delivery| {
            let data = event.json().unwrap()["eventData"].clone();
            match data["fail"].as_str() {
                Some(fail) => {
                    Err(Failure::retry("Flaky", format!("attempt {}: {fail}", delivery.attempt)))
                }
                None => Ok(Reply::Pass),
            }
        },
    );
    Mill::with(&toml("rust = \"work\""), Registry::new().with("work", work)).await
}

/// Folder with the pipeline's file in it, where the built program runs.
struct Shell {
    folder: TempDir,
    url: String,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Shell {
    fn new(mill: &Mill) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("pipeline.toml"), toml("log = \"debug\"")).unwrap();
        fs::create_dir(folder.path().join("schemas")).unwrap();
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas")).unwrap().flatten()
        {
            fs::copy(file.path(), folder.path().join("schemas").join(file.file_name())).unwrap();
        }
        Self { folder, url: mill.server.server.url().to_owned() }
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "", None).await
    }

    async fn run_with(&self, args: &[&str], stdin: &str, editor: Option<&str>) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("dlq").args(args).current_dir(self.folder.path()).kill_on_drop(true);
        command.env("MILLSTREAM_NATS__URL", &self.url).env("TMPDIR", self.folder.path());
        command
            .env("USER", "ann")
            .env("HOSTNAME", "desk")
            .env_remove("VISUAL")
            .env_remove("EDITOR");
        if let Some(editor) = editor {
            let path = self.folder.path().join("editor.sh");
            fs::write(&path, format!("#!/bin/sh\n{editor}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            command.env("EDITOR", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.start();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.ok();
        let output =
            tokio::time::timeout(DEADLINE, child.take().wait_with_output()).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    async fn json(&self, args: &[&str]) -> Value {
        let Ran { out, err, .. } = self.run(args).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}\n{err}"))
    }

    async fn check(&self, args: &[&str], expect: Expect) {
        let Ran { code, out, err } = self.run(args).await;
        expect.assert_eq(&format!("exit {code}\n{out}{err}"));
    }

    /// Scratch files that an edit left behind.
    fn scratch(&self) -> Vec<std::path::PathBuf> {
        let all = fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("millstream-"))
            .collect()
    }
}

/// Letter by its headers, as the contract has them, over `life` of stage `work`.
fn letter(life: u64, more: &[(&'static str, &str)], body: &str) -> Outgoing {
    let mut all = Headers::new();
    let dead_at = rfc3339(SystemTime::now() - Duration::from_secs(60));
    let source = format!("shop-in-events:{life}");
    for (name, value) in [
        (headers::STAGE, "work"),
        (headers::REASON, "exhausted"),
        (headers::ERROR_CLASS, "TimeoutError"),
        (headers::ERROR_MESSAGE, "no answer"),
        (headers::FINGERPRINT, "abcd12340000"),
        (headers::DEAD_AT, &dead_at),
        (headers::SOURCE, &source),
        (headers::ENVELOPE, "domain"),
    ]
    .iter()
    .chain(more)
    {
        all.insert(*name, *value);
    }
    let subject = format!("shop.dlq.work.shop-in-events.{life}");
    Outgoing { subject, headers: all, body: body.to_owned().into(), expects: Expects::Nothing }
}

async fn still() -> Mill {
    Mill::still(TestServer::start().await, &toml("log = \"debug\""), Registry::new()).await
}

async fn publish(mill: &Mill, letters: impl IntoIterator<Item = Outgoing>) {
    let publishes = letters.into_iter().map(|letter| mill.broker.publish(letter));
    futures_util::future::try_join_all(publishes).await.unwrap();
}

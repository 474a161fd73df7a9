//! Shell: the built program in a folder with a pipeline, and its output.

use std::{fmt::Write as _, path::Path, process::Stdio};

use expect_test::Expect;
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::{reaper::Start as _, support::DEADLINE};

/// Exit status and output of a command.
pub(crate) struct Ran {
    pub(crate) code: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

/// Folder with a pipeline in it, where commands run.
pub(crate) struct Shell {
    pub(crate) folder: TempDir,
    /// URL of the server; it differs from run to run, so `stable` shows a word for it.
    pub(crate) url: String,
}

impl Shell {
    pub(crate) fn new(pipeline: &str, url: &str) -> Self {
        let folder = TempDir::new().unwrap();
        std::fs::write(folder.path().join("pipeline.toml"), pipeline).unwrap();
        Self { folder, url: url.to_owned() }
    }

    pub(crate) fn path(&self) -> &Path {
        self.folder.path()
    }

    pub(crate) fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(line.split_whitespace()).current_dir(self.path()).kill_on_drop(true);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("MILLSTREAM_") && name != "MILLSTREAM_NATS_SERVER" {
                command.env_remove(name);
            }
        }
        if !self.url.is_empty() {
            command.env("MILLSTREAM_NATS__URL", &self.url);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    pub(crate) async fn run(&self, line: &str) -> Ran {
        self.run_with(line, "").await
    }

    pub(crate) async fn run_with(&self, line: &str, stdin: impl AsRef<[u8]>) -> Ran {
        let mut child = self.command(line).start();
        child.stdin.take().unwrap().write_all(stdin.as_ref()).await.ok();
        let output = tokio::time::timeout(DEADLINE, child.take().wait_with_output())
            .await
            .expect(line)
            .unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    /// Runs a command and checks all its output, without what differs from run to run.
    pub(crate) async fn check(&self, line: &str, expect: Expect) {
        let Ran { code, out, err } = self.run(line).await;
        let mut text = format!("exit {code}\n");
        for (name, said) in [("out", out), ("err", err)] {
            for line in said.lines() {
                _ = writeln!(text, "{}", format!("{name}: {}", self.stable(line)).trim_end());
            }
        }
        expect.assert_eq(&text);
    }

    pub(crate) fn stable(&self, line: &str) -> String {
        let line = if self.url.is_empty() {
            line.to_owned()
        } else {
            line.replace(&self.url, "nats://SERVER")
        };
        // Times, ids of traces, and hashes.
        let mut words: Vec<String> = line.split(' ').map(ToOwned::to_owned).collect();
        for word in &mut words {
            let hexadecimal = word.len() >= 12 && word.chars().all(|c| c.is_ascii_hexdigit());
            if hexadecimal || word.parse::<jiff::Timestamp>().is_ok() {
                *word = "…".to_owned();
            }
        }
        words.join(" ")
    }
}

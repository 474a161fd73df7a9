//! Dev: the pipeline that `init` writes, run by `dev`, and what others in its folder find.

use std::{path::Path, process::Command};

use crate::{
    reaper::Start as _,
    shell::Shell,
    support::{TestServer, eventually},
};

/// Command in the comments of the file that `init` writes, after a mark.
fn commented(folder: &Path, mark: &str) -> String {
    let text = std::fs::read_to_string(folder.join("pipeline.toml")).unwrap();
    let mut lines = text.lines().skip_while(|line| !line.contains(mark)).skip(1);
    lines.next().unwrap().trim_start_matches(['#', ' ']).to_owned()
}

#[tokio::test]
async fn the_first_command_that_init_names_is_handled_by_the_dev_of_its_folder() {
    // A server program is there from here on: `dev` downloads none.
    let _server = TestServer::start().await;
    let shell = Shell::new("", "");
    std::fs::remove_file(shell.path().join("pipeline.toml")).unwrap();
    assert_eq!(shell.run("init").await.code, 0);
    let none = shell.run("status").await;
    assert!(none.code == 2 && none.err.contains("names no NATS server"), "{}", none.err);
    let _dev = shell.command("dev").start();
    let status = async || serde_json::from_str(&shell.run("status --json").await.out).ok();
    eventually(async || {
        let status: serde_json::Value = status().await?;
        (status["workers"].as_array()?.len() == 1).then_some(())
    })
    .await;

    let first = commented(shell.path(), "Try:");
    assert!(first.ends_with("| millstream publish"), "{first}");
    let program = Path::new(env!("CARGO_BIN_EXE_millstream")).parent().unwrap();
    let path = format!("{}:{}", program.display(), std::env::var("PATH").unwrap());
    let mut typed = Command::new("sh");
    typed.args(["-c", &first]).current_dir(shell.path()).env("PATH", path);
    let typed = typed.output().unwrap();
    assert_eq!(String::from_utf8_lossy(&typed.stdout), "published 1 event to source \"events\"\n");
    eventually(async || {
        let status: serde_json::Value = status().await?;
        let stages = status["stages"].as_array()?;
        let orders = stages.iter().find(|stage| stage["stage"] == "orders")?;
        (orders["per_second"].as_f64()? > 0.0).then_some(())
    })
    .await;
    assert_eq!(shell.run("dlq ls").await.out, "no dead letters\n");

    let second = shell.run("dev").await;
    assert!(
        second.code == 2
            && second.err.contains("already runs with its data in")
            && second.err.contains("--data DIR"),
        "{}",
        second.err
    );
}

//! Artefacts: completions, man pages and the version, as a packager takes them.

use std::process::{Command, Output};

fn run(args: &[&str]) -> Output {
    let output = Command::new(env!("CARGO_BIN_EXE_millstream")).args(args).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

#[test]
fn completions_are_what_the_shell_takes_and_know_commands_of_commands() {
    let script = run(&["completions", "bash"]).stdout;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("millstream");
    std::fs::write(&path, &script).unwrap();
    // What a shell offers after `millstream dlq re`.
    let asked = r#"source "$0"; COMP_WORDS=(millstream dlq re); COMP_CWORD=2
        _millstream millstream re dlq; echo "${COMPREPLY[@]}""#;
    let offered = Command::new("bash").args(["-c", asked]).arg(&path).output().unwrap();
    let offered = String::from_utf8_lossy(&offered.stdout).into_owned();
    assert!(offered.contains("redrive"), "{offered}");
    for shell in ["zsh", "fish"] {
        assert!(run(&["completions", shell]).stdout.len() > 10_000, "{shell}");
    }
}

#[test]
fn each_command_has_a_man_page_of_its_full_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");
    run(&["man", "--out", out.to_str().unwrap()]);
    for name in ["millstream", "millstream-run", "millstream-dlq-redrive"] {
        let page = std::fs::read_to_string(out.join(format!("{name}.1"))).unwrap();
        assert!(page.starts_with(".ie") && page.contains(".SH SYNOPSIS"), "{name}: {page}");
    }
    let one = String::from_utf8(run(&["man"]).stdout).unwrap();
    assert_eq!(one, std::fs::read_to_string(out.join("millstream.1")).unwrap());
}

#[test]
fn the_version_is_one_line_or_json() {
    let line = String::from_utf8(run(&["version"]).stdout).unwrap();
    let json: serde_json::Value =
        serde_json::from_slice(&run(&["version", "--json"]).stdout).unwrap();
    assert_eq!(line.trim(), format!("millstream {}", json["version"].as_str().unwrap()));
    assert_eq!(json["os"], std::env::consts::OS);
    assert!(json["natsServer"].as_str().unwrap().starts_with("2."));
}

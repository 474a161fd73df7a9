//! Tidy: the map is true, and the rooms keep their doors shut. Each message says what to do.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The longest file, in lines. Aim at 400.
const LINES_MAX: usize = 600;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Rust file of a folder, with its path from the root of the repository, and its text.
fn sources(folder: &str) -> Vec<(String, String)> {
    let (mut folders, mut found) = (vec![root().join(folder)], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let name = path.strip_prefix(root()).unwrap().to_str().unwrap().replace('\\', "/");
                found.push((name, fs::read_to_string(&path).unwrap()));
            }
        }
    }
    found.sort();
    assert!(!found.is_empty(), "no Rust files in {folder}");
    found
}

/// Fails with one line for each thing found.
#[track_caller]
fn none(found: Vec<String>) {
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

/// Lines of code that contain `what`: comments are left out.
fn mentions<'a>(text: &'a str, what: &'a str) -> impl Iterator<Item = usize> + 'a {
    let code = text.lines().enumerate().filter(|(_, line)| !line.trim_start().starts_with("//"));
    code.filter(move |(_, line)| line.contains(what)).map(|(at, _)| at + 1)
}

#[test]
fn every_source_file_is_on_the_map() {
    let map = fs::read_to_string(root().join("ARCHITECTURE.md")).unwrap_or_default();
    assert!(
        !map.is_empty(),
        "ARCHITECTURE.md is missing: it holds the map of the source files, one line for each"
    );
    let files: Vec<String> =
        ["src", "stages/src"].into_iter().flat_map(sources).map(|(path, _)| path).collect();
    // A path on the map: `src/map/settle.rs`, or `src/map/` for its `mod.rs`.
    let words = map.split(|c: char| !(c.is_ascii_alphanumeric() || "/._-".contains(c)));
    let named: Vec<&str> = words.map(|word| word.trim_end_matches('.')).collect();
    let mut found = Vec::new();
    for path in &files {
        let name = path.strip_suffix("mod.rs").unwrap_or(path);
        if !named.contains(&name) {
            found.push(format!(
                "{path} is not on the map: add a line for {name} to the code map of ARCHITECTURE.md"
            ));
        }
    }
    for name in named.into_iter().filter(|name| name.contains('/') && name.ends_with(".rs")) {
        if !root().join(name).is_file() {
            found.push(format!(
                "ARCHITECTURE.md names {name}, which is not there: correct or remove its line"
            ));
        }
    }
    none(found);
}

#[test]
fn only_the_broker_room_names_the_client() {
    let found = sources("src")
        .into_iter()
        .filter(|(path, _)| !path.starts_with("src/broker/"))
        .flat_map(|(path, text)| {
            let lines: Vec<_> = mentions(&text, "async_nats").collect();
            lines.into_iter().map(move |line| {
                format!("{path}:{line} names async_nats: put what it needs into src/broker/")
            })
        });
    none(found.collect());
}

#[test]
fn only_commands_print_and_use_anyhow() {
    let edge = |path: &str| {
        path.starts_with("src/commands/") || ["src/cli.rs", "src/main.rs"].contains(&path)
    };
    let mut found = Vec::new();
    for (path, text) in
        sources("src").into_iter().filter(|(path, _)| !edge(path)).chain(sources("stages/src"))
    {
        for what in ["println!", "eprintln!", "print!(", "anyhow"] {
            let lines = mentions(&text, what);
            found.extend(lines.map(|line| {
                format!("{path}:{line} has {what}: return it, or log it with tracing")
            }));
        }
    }
    none(found);
}

#[test]
fn no_file_is_too_long_and_each_says_what_it_is() {
    let mut found = Vec::new();
    for (path, text) in ["src", "stages/src", "bench/src", "tests"].into_iter().flat_map(sources) {
        let lines = text.lines().count();
        if lines > LINES_MAX {
            found.push(format!(
                "{path} has {lines} lines, more than {LINES_MAX}: split it by what it decides"
            ));
        }
        if !text.starts_with("//!") {
            found.push(format!("{path} does not begin with a //! sentence that says what it is"));
        }
    }
    none(found);
}

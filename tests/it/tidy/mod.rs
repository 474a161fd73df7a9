//! Tidy: rules of the source tree, such as rooms that use only those below them; each message says
//! what to do.

mod uses;

use std::{
    fs,
    path::{Path, PathBuf},
};

use uses::Uses;

/// Longest file, in lines; aim at 400.
const LINES_MAX: usize = 700;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Rust files of a folder: path from the root of the repository, and text of each.
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

/// Rooms of `src`, each above all that it uses: from the ground up.
const ROOMS: &[&str] = &[
    "limits",
    "bounded_file",
    "error_chain",
    "panics",
    "steady",
    "suggest",
    "tls",
    "descriptors",
    "shortage",
    "http_client",
    "http_server",
    "filters",
    "broker",
    "wire",
    "handlers",
    "channels",
    "config",
    "topology",
    "observe",
    "supervise",
    "dead_letter",
    "redrive",
    "exhausted",
    "incidents",
    "keeper",
    "map",
    "reduce",
    "worker",
    "commands",
    "cli",
];

#[test]
fn each_room_uses_only_what_is_below_it() {
    let uses = Uses::read("src", &sources("src"));
    let floor = |module: &uses::Module| ROOMS.iter().position(|room| *room == module[0]);
    let mut found = Vec::new();
    for (from, to) in uses.arrows().into_iter().filter(|(from, _)| !from.is_empty()) {
        match (floor(&from), floor(&to)) {
            (Some(above), Some(below)) if above >= below => {}
            (Some(_), Some(_)) => found.push(format!(
                "{} uses {}, which is above it: move what both need down (ROOMS in tests/it/tidy)",
                uses.file(&from),
                uses.file(&to)
            )),
            (None, _) => found.push(format!("{} is in no room of ROOMS", uses.file(&from))),
            (_, None) => found.push(format!("{} is in no room of ROOMS", uses.file(&to))),
        }
    }
    none(found);
}

#[test]
fn no_files_use_each_other_but_attempt_and_delivery() {
    let allowed = ["src/map/attempt.rs", "src/map/delivery.rs"];
    let mut found = Vec::new();
    for folder in ["src"] {
        let uses = Uses::read(folder, &sources(folder));
        for circle in uses.circles() {
            let files: Vec<&str> = circle.iter().map(|module| uses.file(module)).collect();
            if files != allowed {
                found.push(format!(
                    "these use each other: {}; split what they share",
                    files.join(", ")
                ));
            }
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

/// Columns of code and comments; raw strings, which are snapshots and files, may be wider.
const COLUMNS_MAX: usize = 100;

#[test]
fn code_and_comments_fit_their_columns() {
    let mut found = Vec::new();
    let folders =
        ["src", "stages/src", "stages/tests", "bench/src", "xtask/src", "tests", "examples"];
    for (path, text) in folders.into_iter().flat_map(sources) {
        let mut is_raw = false;
        for (at, line) in text.lines().enumerate() {
            let opens = line.contains("r#\"") || line.contains("r##\"");
            let is_text = is_raw || opens || is_literal(line);
            is_raw = if opens {
                !line.rsplit("r#").next().is_some_and(|rest| rest.contains("\"#"))
            } else {
                is_raw && !line.contains("\"#")
            };
            let columns = line.chars().count();
            if columns > COLUMNS_MAX && !is_text {
                found.push(format!("{path}:{} has {columns} columns: break it", at + 1));
            }
        }
    }
    none(found);
}

/// True for a line that is one literal, or a snapshot of one.
fn is_literal(line: &str) -> bool {
    line.trim_start().starts_with('"') || line.contains("expect![\"")
}

//! Dependencies: this crate decides and does no I/O, so it depends on nothing that could.

/// What decides, reads and describes. Nothing here has a socket, a runtime or a broker.
const ALLOWED: &[&str] = &[
    "backon",
    "bytes",
    "governor",
    "jaq-core",
    "jaq-json",
    "jaq-std",
    "jiff",
    "jsonschema",
    "sha2",
    "regex",
    "schemars",
    "serde",
    "serde_json",
    "thiserror",
];

#[test]
fn stages_depend_only_on_what_decides() {
    let manifest = include_str!("../Cargo.toml");
    let (_, rest) =
        manifest.split_once("\n[dependencies]\n").expect("the manifest has dependencies");
    let section = rest.split("\n[").next().unwrap_or(rest);
    let lines = section.lines().filter(|line| !line.trim().is_empty() && !line.starts_with('#'));
    let names: Vec<&str> =
        lines.map(|line| line.split([' ', '.', '=']).next().unwrap_or(line)).collect();
    assert!(names.len() > 5, "the section was not read: {names:?}");
    for name in names {
        assert!(
            ALLOWED.contains(&name),
            "stages/Cargo.toml depends on \"{name}\": put what does I/O into src/, or add a crate \
             that only decides to ALLOWED"
        );
    }
}

#[test]
fn what_would_bring_a_clock_or_the_network_is_switched_off() {
    let manifest = include_str!("../Cargo.toml");
    for name in ["jiff", "jsonschema", "governor", "backon"] {
        let line = manifest.lines().find(|line| line.starts_with(name)).expect("a line of its own");
        assert!(
            line.contains("default-features = false"),
            "stages/Cargo.toml: \"{name}\" needs default-features = false"
        );
    }
}

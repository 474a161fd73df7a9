//! Silences: those that `amtool silence query -o json` prints, as commands.

use std::fmt::Write as _;

use anyhow::Context as _;
use jiff::Timestamp;
use millstream_stages::units::Period;
use serde::Deserialize;

use super::{Import, routes};

/// Silence of Alertmanager's API.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Silence {
    id: String,
    #[serde(default)]
    comment: String,
    #[serde(default)]
    created_by: String,
    starts_at: Timestamp,
    ends_at: Timestamp,
    matchers: Vec<Matcher>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Matcher {
    name: String,
    value: String,
    #[serde(default)]
    is_regex: bool,
    #[serde(default = "yes")]
    is_equal: bool,
}

const fn yes() -> bool {
    true
}

/// Writes the silences that are not over at `now` as commands in comments.
///
/// # Errors
/// The text is not what `amtool` prints.
pub(super) fn write(import: &mut Import, json: &str, now: Timestamp) -> anyhow::Result<()> {
    let all: Vec<Silence> = serde_json::from_str(json)
        .context("could not read the silences: write them with `amtool silence query -o json`")?;
    let mut commands = String::new();
    for silence in all.iter().filter(|silence| silence.ends_at > now) {
        let Some(matchers) = matchers(import, silence) else { continue };
        let length = silence.ends_at.duration_since(silence.starts_at).try_into();
        let length = Period(length.unwrap_or_default());
        let reason =
            if silence.comment.trim().is_empty() { "imported" } else { silence.comment.as_str() };
        _ = write!(commands, "#   millstream silence add");
        for matcher in matchers {
            _ = write!(commands, " {}", shell(&matcher));
        }
        let from = silence.starts_at;
        _ = write!(commands, " --from {from} --for {length} --reason {}", shell(reason));
        if !silence.created_by.is_empty() {
            _ = write!(commands, " --by {}", shell(&silence.created_by));
        }
        commands.push('\n');
    }
    if !commands.is_empty() {
        _ = write!(import.out, "\n# Silences, to type once the pipeline runs:\n{commands}");
    }
    Ok(())
}

/// Matchers of a silence in our words; `None` where one has no counterpart.
fn matchers(import: &mut Import, silence: &Silence) -> Option<Vec<String>> {
    let mut read = Vec::new();
    for Matcher { name, value, is_regex, is_equal } in &silence.matchers {
        let op = match (is_equal, is_regex) {
            (true, false) => "=",
            (false, false) => "!=",
            (true, true) => "=~",
            (false, true) => "!~",
        };
        match routes::translated(&routes::written(name, op, value)) {
            Ok(texts) => read.extend(texts),
            Err(why) => {
                import.left_out(0, &format!("silence {}: {why}", silence.id));
                return None;
            }
        }
    }
    Some(read)
}

/// A text as a shell takes it, on one line.
fn shell(text: &str) -> String {
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let line: String = line.chars().filter(|c| !c.is_control()).collect();
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-.=@:/".contains(c);
    if !line.is_empty() && line.chars().all(plain) {
        line
    } else {
        format!("'{}'", line.replace('\'', r"'\''"))
    }
}

//! Layers: file, environment over it, flags over both; then `${VAR}` and `${file:PATH}` filled in.

use std::path::Path;

use figment::{
    Figment,
    providers::Serialized,
    value::{Dict, Value as Layer},
};
use serde_json::Value;

use super::{KeyPath, Severity, finder::Finder, secrets};
use crate::{bounded_file, limits::FILLED_BYTES_MAX};

/// Prefix of every variable of ours.
const PREFIX: &str = "MILLSTREAM_";

/// Variables of ours that are no part of the configuration.
pub const RESERVED: &[&str] = &[
    "MILLSTREAM_CACHE",
    "MILLSTREAM_CONFIG",
    "MILLSTREAM_LOG",
    "MILLSTREAM_LOG_FORMAT",
    "MILLSTREAM_NATS_SERVER",
    "MILLSTREAM_NO_COLOR",
];

/// Returns the file's values with the environment's and then the flags' over them.
///
/// A variable names its key with `__` between levels: `MILLSTREAM_STAGE__ORDERS__CONCURRENCY=8`.
pub fn merge(
    file: Value,
    env: &[(String, String)],
    flags: &[(String, String)],
    finder: &mut Finder,
) -> Value {
    let mut figment = Figment::from(Serialized::defaults(file));
    for (name, text) in env {
        let Some(rest) = name.strip_prefix(PREFIX).filter(|_| !RESERVED.contains(&name.as_str()))
        else {
            continue;
        };
        let place = format!("environment variable {name}");
        if !rest.contains("__") {
            finder.elsewhere(Severity::Warning, &place, format!("{name} sets nothing")).hint(
                "a key is named with its tables, \"__\" between them: \
                 MILLSTREAM_STAGE__ORDERS__CONCURRENCY",
            );
            continue;
        }
        let keys: Vec<String> = rest.to_lowercase().split("__").map(str::to_owned).collect();
        figment = over(figment, KeyPath::default().extend(keys), text, place, finder);
    }
    for (key, text) in flags {
        figment = over(figment, KeyPath::dotted(key), text, format!("--set {key}"), finder);
    }
    figment.extract().expect("a merge of trees is a tree")
}

fn over(
    figment: Figment,
    path: KeyPath,
    text: &str,
    place: String,
    finder: &mut Finder,
) -> Figment {
    if path.keys().iter().any(|key| key.is_empty()) {
        finder
            .elsewhere(Severity::Error, &place, "a level of the key is empty")
            .hint("write one \"__\" or \".\" between two names");
        return figment;
    }
    // A password of digits is still text.
    let Ok(value) = if secrets::is_secret(&path.keys()) {
        Ok(Layer::from(text))
    } else {
        text.parse::<Layer>()
    };
    let keys = path.keys();
    let (top, below) = keys.split_first().expect("a path has a key");
    let tree = below
        .iter()
        .rev()
        .fold(value, |tree, key| Layer::from(Dict::from([((*key).to_owned(), tree)])));
    finder.came_from(path.clone(), place);
    figment.merge(Serialized::default(top, tree))
}

/// Fills in `${VAR}` and `${file:PATH}` in every text; `$$` is a `$`.
///
/// Every filled-in text is kept as a secret. A relative path starts from `base`.
pub fn fill(
    value: &mut Value,
    at: &KeyPath,
    base: &Path,
    env: &[(String, String)],
    finder: &mut Finder,
) {
    match value {
        Value::Object(table) => {
            for (key, value) in table {
                fill(value, &at.join(key), base, env, finder);
            }
        }
        Value::Array(list) => {
            for (n, value) in list.iter_mut().enumerate() {
                fill(value, &at.join(n.to_string()), base, env, finder);
            }
        }
        Value::String(text) if text.contains('$') => match filled(text, base, env) {
            Ok((filled, secrets)) => {
                if !secrets.is_empty() {
                    finder.hide(at.clone(), secrets);
                }
                *text = filled;
            }
            Err((message, hint)) => {
                finder.error_at(at, message).hint(hint);
                finder.spoil(at.clone());
            }
        },
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Returns the text with its places filled, and the texts put into them; else message and hint.
fn filled(
    text: &str,
    base: &Path,
    env: &[(String, String)],
) -> Result<(String, Vec<String>), (String, String)> {
    let (mut out, mut secrets, mut rest) = (String::new(), Vec::new(), text);
    while let Some(at) = rest.find('$') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        if let Some(tail) = rest.strip_prefix('$') {
            out.push('$');
            rest = tail;
        } else if let Some(tail) = rest.strip_prefix('{') {
            let (name, tail) = tail.split_once('}').ok_or_else(|| {
                (
                    "\"${\" has no \"}\" after it".to_owned(),
                    "write \"$${\" for the two characters themselves".to_owned(),
                )
            })?;
            let value = match name.strip_prefix("file:") {
                Some(path) => file(&base.join(path), path)?,
                None => env
                    .iter()
                    .find(|(key, _)| key == name)
                    .map(|(_, value)| value.clone())
                    .ok_or_else(|| {
                        (
                            format!("environment variable \"{name}\" is not set"),
                            format!("set {name}, or write \"$${{\" for the characters themselves"),
                        )
                    })?,
            };
            out.push_str(&value);
            secrets.push(value);
            rest = tail;
        } else {
            // A lone `$` is itself: jq and regular expressions use it.
            out.push('$');
        }
    }
    out.push_str(rest);
    Ok((out, secrets))
}

fn file(path: &Path, name: &str) -> Result<String, (String, String)> {
    let wrong =
        |why: String, hint: &str| (format!("could not read \"{name}\": {why}"), hint.to_owned());
    let relative = "a relative path starts from the folder of pipeline.toml";
    let text = bounded_file::read_text(path, FILLED_BYTES_MAX)
        .map_err(|error| wrong(super::io_words(&error), relative))?;
    Ok(text.trim_end_matches(['\r', '\n']).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn env(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
        pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn places_are_filled_and_dollars_escaped() {
        let env = env(&[("HOST", "db")]);
        let fill = |text: &str| filled(text, Path::new("."), &env);
        assert_eq!(fill("http://${HOST}/$${HOST}").unwrap().0, "http://db/${HOST}");
        assert_eq!(fill("$x | test(\"a$\")").unwrap().0, "$x | test(\"a$\")");
        assert!(fill("${NONE}").unwrap_err().0.contains("\"NONE\" is not set"));
        assert!(fill("${HOST").is_err());
        assert!(fill("${file:none.txt}").unwrap_err().0.starts_with("could not read \"none.txt\""));
    }

    #[test]
    fn flags_win_over_the_environment_and_that_over_the_file() {
        let file =
            serde_json::json!({"stage": {"a": {"concurrency": 1, "retry": "x", "chain": true}}});
        let env = env(&[
            ("MILLSTREAM_STAGE__A__CONCURRENCY", "2"),
            ("MILLSTREAM_STAGE__A__RETRY", "y"),
            ("MILLSTREAM_LOG", "info"),
        ]);
        let flags = self::env(&[("stage.a.concurrency", "3")]);
        let mut finder = Finder::new("pipeline.toml", "");
        let merged = merge(file, &env, &flags, &mut finder);
        assert_eq!(
            merged,
            serde_json::json!({"stage": {"a": {"concurrency": 3, "retry": "y", "chain": true}}})
        );
    }
}

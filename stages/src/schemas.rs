//! Schemas: JSON Schemas of a folder, compiled, by event type and version.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use jsonschema::{
    PatternOptions, ReferencingError, Retrieve, Uri, ValidationError, Validator,
    error::ValidationErrorKind,
};
use serde_json::Value;

use crate::{Problem, text::excerpt};

/// Base URI of a folder's schemas, so that they can refer to each other by their paths.
const BASE: &str = "millstream:///schemas/";
/// Longest offending value that a message shows, in bytes.
const VALUE_BYTES_MAX: usize = 40;
/// Longest text of one violation, in bytes.
const VIOLATION_BYTES_MAX: usize = 200;

/// Compiled schemas of a folder.
pub(crate) struct Schemas {
    /// Folder, for messages.
    folder: String,
    /// Validators by `<event type>.<version>`, the name of the file.
    compiled: BTreeMap<String, Validator>,
}

impl Schemas {
    /// Compiles every file, so that each bad one is a problem of its own.
    ///
    /// `format` is checked. `pattern` matches in linear time. A file may refer to the others only.
    pub(crate) fn compile(folder: &str, files: &[(String, String)]) -> Result<Self, Vec<Problem>> {
        let wrong = |message: String| Problem::new(&["schemas"], message);
        let mut problems = Vec::new();
        let mut documents = Vec::new();
        for (path, text) in files {
            match serde_json::from_str::<Value>(text) {
                Ok(document) => documents.push((path, document)),
                Err(error) => {
                    problems.push(wrong(format!("schema \"{path}\" is not JSON: {error}")))
                }
            }
        }

        let shelf = Shelf::of(&documents, files);
        let mut compiled = BTreeMap::new();
        let mut places: HashMap<&str, &str> = HashMap::new();
        for (path, document) in &documents {
            let options = jsonschema::options()
                .with_base_uri(uri(path))
                .with_retriever(shelf.clone())
                .with_pattern_options(PatternOptions::regex())
                .should_validate_formats(true);
            let validator = match options.build(document) {
                Ok(validator) => validator,
                Err(error) => {
                    problems.push(bad_schema(path, &error));
                    continue;
                }
            };
            let Some(name) = versioned(path) else { continue };
            if let Some(other) = places.insert(name, path) {
                problems.push(wrong(format!(
                    "schemas \"{other}\" and \"{path}\" are for the same type and version"
                )));
            }
            compiled.insert(name.to_owned(), validator);
        }
        if compiled.is_empty() && problems.is_empty() {
            let problem = wrong(format!("folder \"{folder}\" holds no schema"));
            problems.push(
                problem.hint(
                    "name each file <event type>.<version>.json, such as order.created.1.json",
                ),
            );
        }
        if problems.is_empty() {
            Ok(Self { folder: folder.to_owned(), compiled })
        } else {
            Err(problems)
        }
    }

    /// Returns the schema of a type and version.
    pub(crate) fn get(&self, event_type: &str, version: &str) -> Option<&Validator> {
        self.compiled.get(&format!("{event_type}.{version}"))
    }

    /// Returns a message: no schema for a type and version, and the versions of the type that have
    /// one.
    pub(crate) fn lacking(&self, event_type: &str, version: &str) -> String {
        let prefix = format!("{event_type}.");
        let later = self.compiled.range(prefix.clone()..).map(|(name, _)| name);
        let versions = later.map_while(|name| name.strip_prefix(&prefix));
        // "order.created.1" is a version of "order.created", not of "order".
        let mut versions: Vec<&str> = versions.filter(|rest| !rest.contains('.')).collect();
        versions.sort_by_key(|version| (version.len(), *version));
        let there_are = match versions.as_slice() {
            [] => format!("there is none for the type in \"{}\"", self.folder),
            [version] => format!("there is version {version}"),
            versions => format!("there are versions {}", versions.join(", ")),
        };
        format!("no schema for {event_type} version {version} ({there_are})")
    }
}

/// Returns the message of a violation, with the value cut short.
pub(crate) fn violation(error: &ValidationError<'_>) -> String {
    let value = excerpt(&error.instance().to_string(), VALUE_BYTES_MAX);
    excerpt(&error.masked_with(value).to_string(), VIOLATION_BYTES_MAX)
}

/// Returns `<event type>.<version>` of a schema's file, in whatever folder; `None` for a file that
/// is only referred to.
fn versioned(path: &str) -> Option<&str> {
    let name = path.rsplit('/').next()?.strip_suffix(".json")?;
    name.contains('.').then_some(name)
}

/// Returns the URI of a schema's file.
fn uri(path: &str) -> String {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte);
    let encoded = path
        .bytes()
        .map(|byte| if fits(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") });
    format!("{BASE}{}", encoded.collect::<String>())
}

/// Returns the problem of a schema, with its place in it.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "jsonschema's enum: the rest are told alike, in its own words"
)]
fn bad_schema(path: &str, error: &ValidationError<'_>) -> Problem {
    let place = match error.instance_path().as_str() {
        "" => String::new(),
        pointer => format!(" at {pointer}"),
    };
    let (message, hint) = match error.kind() {
        ValidationErrorKind::Referencing(ReferencingError::Unretrievable { uri, source }) => {
            match uri.strip_prefix(BASE) {
                Some(file) => (format!("refers to \"{file}\", which {source}"), None),
                None => (
                    format!("refers to \"{uri}\", and nothing is fetched from elsewhere"),
                    Some("put a copy into the folder, with that address as its $id"),
                ),
            }
        }
        ValidationErrorKind::Format { format } if format == "regex" => (
            violation(error),
            Some("patterns match in linear time: look-around and back-references are not for them"),
        ),
        _ => (violation(error), None),
    };
    let problem =
        Problem::new(&["schemas"], format!("schema \"{path}\" is not valid{place}: {message}"));
    match hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// Schemas of the folder, by the addresses they may be referred to: their path, and their `$id`.
///
/// A relative `$ref` is resolved against the address its file was found by: in a file that others
/// refer to by its path although it has an `$id`, that is the path (jsonschema 0.60).
#[derive(Clone)]
struct Shelf(Arc<HashMap<String, Option<Value>>>);

impl Shelf {
    /// Puts every file on the shelf; one that is not JSON without a document.
    fn of(documents: &[(&String, Value)], files: &[(String, String)]) -> Self {
        let named = |document: &Value| {
            Some(document.get("$id")?.as_str()?.trim_end_matches('#').to_owned())
        };
        let by_id = documents
            .iter()
            .filter_map(|(_, document)| Some((named(document)?, Some(document.clone()))));
        let by_path = documents.iter().map(|(path, document)| (uri(path), Some(document.clone())));
        let unreadable = files.iter().map(|(path, _)| (uri(path), None));
        Self(Arc::new(unreadable.chain(by_id).chain(by_path).collect()))
    }
}

impl Retrieve for Shelf {
    fn retrieve(
        &self,
        uri: &Uri<String>,
    ) -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        match self.0.get(uri.as_str()) {
            Some(Some(document)) => Ok(document.clone()),
            Some(None) => Err("is not JSON".into()),
            None => Err("is not in the folder".into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::{Expect, expect};

    #[track_caller]
    fn check(files: &[(&str, &str)], expect: Expect) {
        let files: Vec<_> =
            files.iter().map(|(path, text)| ((*path).to_owned(), (*text).to_owned())).collect();
        let line = |problem: Problem| match problem.hint {
            Some(hint) => format!("{}\n hint: {hint}\n", problem.message),
            None => format!("{}\n", problem.message),
        };
        match Schemas::compile("schemas", &files) {
            Ok(_) => expect.assert_eq("fine"),
            Err(problems) => expect.assert_eq(&problems.into_iter().map(line).collect::<String>()),
        }
    }

    #[test]
    fn every_bad_schema_is_reported_with_its_file_and_place() {
        check(
            &[
                ("a.1.json", "{"),
                ("b.1.json", r#"{"type": "strnig"}"#),
                ("c.1.json", r#"{"properties": {"x": {"minimum": "three"}}}"#),
                ("d.1.json", r#"{"$ref": "common.json"}"#),
                ("e.1.json", r#"{"$ref": "https://example.com/e.json"}"#),
                ("f.1.json", r##"{"$ref": "#/$defs/missing"}"##),
                ("g.1.json", r#"{"pattern": "(?=look)"}"#),
                ("h.1.json", r#"{"$ref": "a.1.json"}"#),
                ("i.1.json", "true"),
                ("x/i.1.json", "true"),
                ("j.1.json", r#"{"$ref": "file:///etc/passwd"}"#),
                ("k.1.json", "7"),
            ],
            expect![[r#"
                schema "a.1.json" is not JSON: EOF while parsing an object at line 1 column 1
                schema "b.1.json" is not valid at /type: "strnig" is not valid under any of the schemas listed in the 'anyOf' keyword
                schema "c.1.json" is not valid at /properties/x/minimum: "three" is not of type "number"
                schema "d.1.json" is not valid: refers to "common.json", which is not in the folder
                schema "e.1.json" is not valid: refers to "https://example.com/e.json", and nothing is fetched from elsewhere
                 hint: put a copy into the folder, with that address as its $id
                schema "f.1.json" is not valid: Pointer '/$defs/missing' does not exist
                schema "g.1.json" is not valid at /pattern: "(?=look)" is not a "regex"
                 hint: patterns match in linear time: look-around and back-references are not for them
                schema "h.1.json" is not valid: refers to "a.1.json", which is not JSON
                schemas "i.1.json" and "x/i.1.json" are for the same type and version
                schema "j.1.json" is not valid: refers to "file:///etc/passwd", and nothing is fetched from elsewhere
                 hint: put a copy into the folder, with that address as its $id
                schema "k.1.json" is not valid: 7 is not of types "boolean", "object"
            "#]],
        );
        check(
            &[],
            expect![[r#"
                folder "schemas" holds no schema
                 hint: name each file <event type>.<version>.json, such as order.created.1.json
            "#]],
        );
        check(
            &[("common.json", "true")],
            expect![[r#"
                folder "schemas" holds no schema
                 hint: name each file <event type>.<version>.json, such as order.created.1.json
            "#]],
        );
    }

    #[test]
    fn schemas_refer_to_each_other_by_path_or_by_id_in_any_order() {
        check(
            &[
                (
                    "a b/tree.1.json",
                    r#"{"properties": {"kids": {"items": {"$ref": "tree.1.json"}}, "leaf": {"$ref": "../leaf.1.json"}}}"#,
                ),
                (
                    "leaf.1.json",
                    r#"{"$id": "https://example.com/leaf", "properties": {"x": {"$ref": "https://example.com/other"}}}"#,
                ),
                (
                    "other.1.json",
                    r#"{"$id": "https://example.com/other", "$schema": "http://json-schema.org/draft-07/schema#"}"#,
                ),
                ("z.1.json", r#"{"$ref": "a%20b/tree.1.json"}"#),
            ],
            expect!["fine"],
        );
    }
}

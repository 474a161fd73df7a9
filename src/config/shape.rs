//! Shape: every section held against its JSON Schema, every error reported in our words.

use jsonschema::{ValidationError, error::ValidationErrorKind as Kind};
use millstream_stages::{
    rate,
    units::{Period, Size},
};
use serde_json::Value;

use super::{
    Finder, KeyPath, names,
    schema::{NAMED, SECTIONS, Schemas},
    secrets,
};
use crate::suggest::{nearest, suggest};

/// Reports values of the wrong shape, and takes them out of `root`, so that the rest can be checked
/// further.
pub fn check(root: &mut Value, schemas: &Schemas, finder: &mut Finder) {
    let table = root.as_object().cloned().unwrap_or_default();
    for (section, why) in [
        ("pipeline", "add [pipeline] with name = \"…\""),
        ("source", "add [source.<name>] with the subjects that events are published on"),
        ("stage", "add [stage.<name>] with kind and inputs"),
    ] {
        let misspelt =
            |key: &String| !SECTIONS.contains(&key.as_str()) && nearest(key, [section]).is_some();
        if table.keys().any(misspelt) {
            finder.spoil(KeyPath::of(&[section]));
        } else if table.get(section).is_none_or(|value| {
            section != "pipeline" && value.as_object().is_some_and(|table| table.is_empty())
        }) {
            finder
                .error_on(&KeyPath::of(&[section]), format!("the file has no [{section}]"))
                .hint(why);
            finder.spoil(KeyPath::of(&[section]));
        }
    }
    for (section, value) in &table {
        let at = KeyPath::of(&[section]);
        if !SECTIONS.contains(&section.as_str()) {
            let hint = suggest(section, "the tables of the file", SECTIONS.iter().copied());
            finder.error_on(&at, format!("unknown table \"{section}\"")).hint(hint);
            finder.spoil(at);
        } else if let (true, Some(tables)) = (NAMED.contains(&section.as_str()), value.as_object())
        {
            for (name, value) in tables {
                entry(section, name, value, schemas, finder);
            }
        } else if NAMED.contains(&section.as_str()) {
            let shown = finder.show(&at, value);
            let hint = format!("each {section} is a table of its own: [{section}.<name>]");
            finder
                .error_at(&at, format!("\"{section}\" should hold tables, got {shown}"))
                .hint(hint);
            finder.spoil(at);
        } else {
            against(&schemas.plain[section.as_str()], value, &at, finder);
        }
    }
    for path in finder.spoilt().to_vec() {
        prune(root, &path.keys());
    }
}

/// Checks one named table: `[source.x]`, `[stage.x]`, `[retry.x]`, `[channel.x]`.
fn entry(section: &str, name: &str, value: &Value, schemas: &Schemas, finder: &mut Finder) {
    let at = KeyPath::of(&[section, name]);
    let Some(table) = value.as_object() else {
        let hint = format!(
            "give the {section} a name, as in [{section}.my-{section}], and put \"{name}\" there"
        );
        finder.error_on(&at, format!("\"{name}\" stands in [{section}] itself")).hint(hint);
        return finder.spoil(at);
    };
    names::check(if section == "retry" { "retry policy" } else { section }, name, &at, finder);
    let (kinds, common) = match section {
        "stage" => (&schemas.stages, &schemas.stage),
        "channel" => (&schemas.channels, &schemas.channel),
        _ => return against(&schemas.plain[section], value, &at, finder),
    };
    let kind = table.get("kind").and_then(Value::as_str);
    if let Some(schema) = kind.and_then(|kind| kinds.get(kind)) {
        let handler = table.get("handler").and_then(Value::as_object);
        let named =
            handler.into_iter().flatten().filter_map(|(key, _)| schemas.handlers.get(key.as_str()));
        if let [handler] = named.collect::<Vec<_>>().as_slice() {
            against(handler, &table["handler"], &at.join("handler"), finder);
        }
        return against(schema, value, &at, finder);
    }
    let mut open = common.clone();
    open["additionalProperties"] = true.into();
    if let Some(kind) = kind.filter(|_| !finder.is_spoilt(&at.join("kind"))) {
        let shown = finder.shown(&at.join("kind"), kind);
        let hint = suggest(kind, "the kinds are", kinds.keys().copied());
        finder
            .error_at(
                &at.join("kind"),
                format!("{section} \"{name}\" is of an unknown kind, {shown}"),
            )
            .hint(hint);
        finder.spoil(at.join("kind"));
    } else if !table.contains_key("kind") {
        let names: Vec<&str> = kinds.keys().copied().collect();
        let hint = format!("add kind = \"…\", one of: {}", names.join(", "));
        finder.error_on(&at, format!("{section} \"{name}\" has no \"kind\"")).hint(hint);
        finder.spoil(at.join("kind"));
    }
    against(&open, value, &at, finder);
}

/// Reports every place where `value` does not fit `schema`.
fn against(schema: &Value, value: &Value, at: &KeyPath, finder: &mut Finder) {
    let validator = match jsonschema::draft202012::new(schema) {
        Ok(validator) => validator,
        Err(error) => {
            let name = owner(at).0;
            finder.error_on(
                at,
                format!("the schema of {name} is broken, which is a fault of Millstream: {error}"),
            );
            return;
        }
    };
    for error in validator.iter_errors(value) {
        report_error(&error, schema, at, finder);
    }
}

/// Reports one error in our words.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "keywords that no option schema uses are told in the crate's words"
)]
fn report_error(error: &ValidationError<'_>, schema: &Value, base: &KeyPath, finder: &mut Finder) {
    let at = base.extend(pointer(error.instance_path().as_str()));
    if finder.is_spoilt(&at)
        && !matches!(error.kind(), Kind::AdditionalProperties { .. } | Kind::Required { .. })
    {
        return;
    }
    let what = what(&at);
    let shown = finder.show(&at, error.instance());
    let here = parent(schema, error.schema_path().as_str());
    match error.kind() {
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let known: Vec<&str> = properties(here).collect();
            for key in unexpected
                .iter()
                .filter(|key| !finder.is_spoilt(&at.join(key.as_str())))
                .collect::<Vec<_>>()
            {
                unknown(&at.join(key.as_str()), key, &known, finder);
            }
            return;
        }
        Kind::Required { property } => {
            let key = property.as_str().unwrap_or_default();
            if !finder.is_spoilt(&at.join(key)) {
                let about = here["properties"][key]["description"]
                    .as_str()
                    .map(|about| format!("{key} is {}", plain(about)));
                finder.error_on(&at, format!("{what} has no \"{key}\"")).maybe(about);
                finder.spoil(at.join(key));
            }
            return;
        }
        Kind::AnyOf { context } | Kind::OneOfNotValid { context } => {
            return choice(context, error, schema, base, finder);
        }
        Kind::Type { .. } => {
            let wanted = wanted(here);
            let hint =
                unit_hint(here, error.instance()).or_else(|| quotes_hint(here, error.instance()));
            let hint = hint.filter(|_| shown != secrets::MASK);
            finder.error_at(&at, format!("{what} should be {wanted}, got {shown}")).maybe(hint);
        }
        Kind::Pattern { pattern } => {
            let wanted = words(pattern).unwrap_or_else(|| format!("text that matches {pattern}"));
            let hint = unit_hint(here, error.instance()).filter(|_| shown != secrets::MASK);
            finder.error_at(&at, format!("{what} should be {wanted}, got {shown}")).maybe(hint);
        }
        Kind::Enum { options } => options_of(
            &at,
            &shown,
            error.instance(),
            options.as_array().map_or(&[], Vec::as_slice),
            finder,
        ),
        Kind::Constant { expected_value } => {
            options_of(
                &at,
                &shown,
                error.instance(),
                std::slice::from_ref(&**expected_value),
                finder,
            );
        }
        Kind::Minimum { limit } => {
            _ = finder
                .error_at(&at, format!("{what} should be at least {}, got {shown}", number(limit)))
        }
        Kind::Maximum { limit } => {
            _ = finder
                .error_at(&at, format!("{what} should be at most {}, got {shown}", number(limit)))
        }
        Kind::ExclusiveMinimum { limit } => {
            _ = finder
                .error_at(&at, format!("{what} should be more than {}, got {shown}", number(limit)))
        }
        Kind::ExclusiveMaximum { limit } => {
            _ = finder
                .error_at(&at, format!("{what} should be less than {}, got {shown}", number(limit)))
        }
        Kind::MinItems { limit: 1 }
        | Kind::MinLength { limit: 1 }
        | Kind::MinProperties { limit: 1 } => {
            _ = finder.error_at(&at, format!("{what} should not be empty"));
        }
        Kind::MinItems { limit } => {
            _ = finder.error_at(&at, format!("{what} should have at least {limit} items"))
        }
        Kind::MaxItems { limit } => {
            _ = finder.error_at(&at, format!("{what} should have at most {limit} items"))
        }
        Kind::MaxLength { limit } => {
            _ = finder.error_at(
                &at,
                format!("{what} should have at most {limit} characters, got {shown}"),
            )
        }
        Kind::MaxProperties { limit } => {
            _ = finder.error_at(&at, format!("{what} should have at most {limit} keys"))
        }
        Kind::UniqueItems => _ = finder.error_at(&at, format!("{what} has an item twice")),
        Kind::OneOfMultipleValid { .. } => {
            _ = finder.error_at(&at, format!("{what} has keys that exclude each other"))
        }
        _ => _ = finder.error_at(&at, format!("{what} is not as it should be: {}", error.masked())),
    }
    finder.spoil(at);
}

/// Reports that none of several forms fits, by the errors of the one that was most likely meant.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "only two keywords name the values that are meant"
)]
fn choice(
    context: &[Vec<ValidationError<'static>>],
    error: &ValidationError<'_>,
    schema: &Value,
    base: &KeyPath,
    finder: &mut Finder,
) {
    let here = error.instance_path().as_str();
    let at = base.extend(pointer(here));
    let on_it = |error: &&ValidationError<'_>| error.instance_path().as_str() == here;
    let constants: Vec<Value> = context
        .iter()
        .flatten()
        .filter(on_it)
        .filter_map(|error| match error.kind() {
            Kind::Constant { expected_value } => Some((**expected_value).clone()),
            Kind::Enum { options } => {
                options.as_array().and_then(|options| options.first()).cloned()
            }
            _ => None,
        })
        .collect();
    let is_text = error.instance().is_string();
    // Forms of another type were not meant, unless there are only such.
    let meant = context.iter().filter(|form| {
        !form.iter().filter(on_it).any(|error| matches!(error.kind(), Kind::Type { .. }))
    });
    if !constants.is_empty() {
        let shown = finder.show(&at, error.instance());
        options_of(&at, &shown, error.instance(), &constants, finder);
        finder.spoil(at);
    } else if let Some(form) =
        meant.min_by_key(|form| form.len()).filter(|_| !is_text || context.len() > 1)
    {
        form.iter().for_each(|error| report_error(error, schema, base, finder));
    } else {
        let forms: Vec<String> = context
            .iter()
            .flatten()
            .filter(on_it)
            .map(|error| wanted(parent(schema, error.schema_path().as_str())))
            .collect();
        let (what, shown) = (what(&at), finder.show(&at, error.instance()));
        finder.error_at(&at, format!("{what} should be {}, got {shown}", forms.join(" or ")));
        finder.spoil(at);
    }
}

fn unknown(at: &KeyPath, key: &str, known: &[&str], finder: &mut Finder) {
    let (owner, depth) = owner(at);
    let inside = KeyPath::of(&at.keys()[depth.min(at.keys().len() - 1)..]);
    let hint = match nearest(key, known.iter().copied()) {
        Some(name) => format!("did you mean \"{name}\"?"),
        None => format!("the keys here are: {}", known.join(", ")),
    };
    finder.error_on(at, format!("unknown key \"{inside}\" in {owner}")).hint(hint);
    finder.spoil(at.clone());
}

fn options_of(at: &KeyPath, shown: &str, value: &Value, options: &[Value], finder: &mut Finder) {
    let names: Vec<&str> = options.iter().filter_map(Value::as_str).collect();
    let list: Vec<String> = options.iter().map(Value::to_string).collect();
    let near = value
        .as_str()
        .and_then(|text| nearest(text, names))
        .map(|name| format!("did you mean \"{name}\"?"));
    let one_of = if list.len() == 1 { "" } else { "one of " };
    let what = what(at);
    finder
        .error_at(at, format!("{what} should be {one_of}{}, got {shown}", list.join(", ")))
        .maybe(near);
}

/// Owner of a path, such as `stage "orders"` or `[nats]`, and the number of keys that name it.
pub fn owner(at: &KeyPath) -> (String, usize) {
    match at.keys().as_slice() {
        [section, name, ..] if NAMED.contains(section) => {
            let section = if *section == "retry" { "retry policy" } else { section };
            (format!("{section} \"{name}\""), 2)
        }
        [section, ..] => (format!("[{section}]"), 1),
        [] => ("the file".to_owned(), 0),
    }
}

/// Name of a value in a sentence: `"ack_wait" of stage "orders"`.
pub fn what(at: &KeyPath) -> String {
    let (owner, depth) = owner(at);
    match &at.keys()[depth.min(at.keys().len())..] {
        [] => owner,
        inside => format!("\"{}\" of {owner}", KeyPath::of(inside)),
    }
}

/// Type or pattern that a schema wants, in words.
fn wanted(schema: &Value) -> String {
    if let Some(words) = schema["pattern"].as_str().and_then(words) {
        return words;
    }
    let word = |name: &str| match name {
        "string" => "text".to_owned(),
        "integer" => "a whole number".to_owned(),
        "number" => "a number".to_owned(),
        "boolean" => "true or false".to_owned(),
        "array" => "a list".to_owned(),
        "object" => "a table".to_owned(),
        other => other.to_owned(),
    };
    match &schema["type"] {
        Value::Array(names) => {
            names.iter().filter_map(Value::as_str).map(word).collect::<Vec<_>>().join(" or ")
        }
        Value::String(name) => word(name),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
            "something else".to_owned()
        }
    }
}

/// Meaning of a pattern of ours, in words.
fn words(pattern: &str) -> Option<String> {
    let of = |schema: schemars::Schema| {
        let text = |key: &str| schema.get(key).and_then(Value::as_str).map(str::to_owned);
        (text("pattern"), text("description"))
    };
    let units = [of(schemars::schema_for!(Period)), of(schemars::schema_for!(Size))];
    let rate = (Some(rate::PATTERN.to_owned()), Some(rate::WORDS.to_owned()));
    units
        .into_iter()
        .chain([rate])
        .find(|(known, _)| known.as_deref() == Some(pattern))
        .and_then(|(_, words)| words)
}

/// Hint for a number that lacks its unit: forms that may have been meant.
fn unit_hint(schema: &Value, value: &Value) -> Option<String> {
    let words = words(schema["pattern"].as_str()?)?;
    let digits = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
    if digits.is_empty() || !digits.chars().all(|c| c.is_ascii_digit()) {
        return None;
    }
    Some(match words {
        words if words.contains("duration") => {
            format!("\"{digits}s\" is {digits} seconds, \"{digits}ms\" milliseconds")
        }
        words if words.contains("size") => {
            format!("\"{digits}B\" is {digits} bytes, \"{digits}MiB\" mebibytes")
        }
        _ => format!("\"{digits}/min\" is {digits} a minute"),
    })
}

/// Hint for text where something else is wanted: the form that may have been meant.
fn quotes_hint(schema: &Value, value: &Value) -> Option<String> {
    let text = value.as_str()?;
    match schema["type"].as_str()? {
        "array" if text.chars().count() <= 60 => {
            Some(format!("a list of one is written [\"{text}\"]"))
        }
        "integer" | "number" if text.parse::<f64>().is_ok() => {
            Some(format!("write {text} without quotes"))
        }
        "boolean" if text == "true" || text == "false" => {
            Some(format!("write {text} without quotes"))
        }
        _ => None,
    }
}

/// The schema that the keyword at `path` stands in.
fn parent<'a>(schema: &'a Value, path: &str) -> &'a Value {
    path.rsplit_once('/').and_then(|(parent, _)| schema.pointer(parent)).unwrap_or(&Value::Null)
}

fn properties(schema: &Value) -> impl Iterator<Item = &str> {
    schema["properties"].as_object().into_iter().flatten().map(|(key, _)| key.as_str())
}

/// The keys of a JSON pointer.
fn pointer(text: &str) -> Vec<String> {
    text.split('/').skip(1).map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
}

/// Text of a limit, without a `.0` that means nothing.
fn number(limit: &Value) -> String {
    limit.to_string().trim_end_matches(".0").to_owned()
}

/// First sentence of a doc comment, as part of a sentence of ours.
fn plain(about: &str) -> String {
    let about = about.lines().next().unwrap_or_default().replace('`', "\"");
    let about = about.split(". ").next().unwrap_or_default();
    let mut rest = about.trim_end_matches('.').chars();
    rest.next().map(|first| first.to_lowercase().chain(rest).collect()).unwrap_or_default()
}

/// Takes out the value at `keys`; an item of a list takes the list with it.
fn prune(value: &mut Value, keys: &[&str]) {
    let [key, rest @ ..] = keys else { return };
    let Some(table) = value.as_object_mut() else { return };
    match table.get_mut(*key) {
        Some(inner) if !rest.is_empty() && inner.is_object() => prune(inner, rest),
        Some(_) => _ = table.remove(*key),
        None => {}
    }
}

//! Splice: one value of a JSON text replaced; every other byte of it stays as it is.

use std::{borrow::Cow, collections::BTreeMap};

use serde_json::value::RawValue;

/// Reason why a value was not replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SpliceError {
    /// The text is not JSON.
    #[error("the payload is not JSON ({0}), so that it has no paths")]
    NotJson(String),
    /// The path leads into nothing.
    #[error("there is no \"{at}\" in the payload, so \"{path}\" cannot be set")]
    Nothing {
        /// The whole path.
        path: String,
        /// The part of it that is not there.
        at: String,
    },
    /// The path goes through a value that has no parts.
    #[error("\"{at}\" is neither an object nor an array, so \"{path}\" cannot be set")]
    NoParts {
        /// The whole path.
        path: String,
        /// The part of it whose value has none.
        at: String,
    },
    /// The path names no element of an array.
    #[error(
        "\"{at}\" is an array of {count}: name its elements by 0 to {count}, the last of which \
         adds one"
    )]
    NoIndex {
        /// The array.
        at: String,
        /// Number of its elements.
        count: usize,
    },
    /// The path is empty.
    #[error("a path is needed before the =, such as eventData.amount=5")]
    NoPath,
}

/// Replaces the value at `path` in `text` by `value`: the JSON that it is, or else the string.
///
/// A path is keys and indices joined by dots, `eventData.items.0.sku`; one that begins with `/` is
/// a JSON pointer (RFC 6901), for keys with dots. The last key may be new, and so may an index one
/// past the end.
///
/// # Errors
/// [`SpliceError`].
pub fn splice(text: &str, path: &str, value: &str) -> Result<String, SpliceError> {
    let keys = keys(path);
    if keys.is_empty() {
        return Err(SpliceError::NoPath);
    }
    let whole: &RawValue =
        serde_json::from_str(text).map_err(|error| SpliceError::NotJson(error.to_string()))?;
    let value = match serde_json::from_str::<&RawValue>(value) {
        Ok(json) => json.get().to_owned(),
        Err(_) => serde_json::Value::from(value).to_string(),
    };
    let mut here = whole;
    for (depth, key) in keys.iter().enumerate() {
        let last = depth + 1 == keys.len();
        let at = if depth == 0 { "the payload".to_owned() } else { keys[..depth].join(".") };
        let next = match first(here) {
            b'{' => {
                let object: BTreeMap<Cow<'_, str>, &RawValue> = parsed(here)?;
                let found = object.get(key.as_str()).copied();
                if found.is_none() && last {
                    let key = serde_json::Value::from(key.as_str());
                    return Ok(insert(text, here, object.is_empty(), &format!("{key}:{value}")));
                }
                found
            }
            b'[' => {
                let array: Vec<&RawValue> = parsed(here)?;
                let index = key.parse::<usize>().ok().filter(|index| *index <= array.len());
                let Some(index) = index else {
                    return Err(SpliceError::NoIndex { at, count: array.len() });
                };
                if index == array.len() && last {
                    return Ok(insert(text, here, array.is_empty(), &value));
                }
                array.get(index).copied()
            }
            _ => return Err(SpliceError::NoParts { path: path.to_owned(), at }),
        };
        here = next.ok_or_else(|| SpliceError::Nothing {
            path: path.to_owned(),
            at: keys[..=depth].join("."),
        })?;
    }
    let from = offset(text, here);
    Ok(format!("{}{value}{}", &text[..from], &text[from + here.get().len()..]))
}

fn keys(path: &str) -> Vec<String> {
    match path.strip_prefix('/') {
        Some(pointer) => {
            pointer.split('/').map(|key| key.replace("~1", "/").replace("~0", "~")).collect()
        }
        None => {
            let path = path.strip_prefix('.').unwrap_or(path);
            path.split('.').filter(|_| !path.is_empty()).map(ToOwned::to_owned).collect()
        }
    }
}

fn parsed<'a, T: serde::Deserialize<'a>>(raw: &'a RawValue) -> Result<T, SpliceError> {
    serde_json::from_str(raw.get()).map_err(|error| SpliceError::NotJson(error.to_string()))
}

fn first(raw: &RawValue) -> u8 {
    raw.get().as_bytes().first().copied().unwrap_or_default()
}

/// Offset in `text` of a part of it.
fn offset(text: &str, part: &RawValue) -> usize {
    part.get().as_ptr() as usize - text.as_ptr() as usize
}

/// Adds a member to the end of an object or array of `text`.
fn insert(text: &str, to: &RawValue, is_empty: bool, member: &str) -> String {
    let inside = to.get()[..to.get().len() - 1].trim_end();
    let at = offset(text, to) + inside.len();
    format!("{}{}{member}{}", &text[..at], if is_empty { "" } else { "," }, &text[at..])
}

/// JSON text with its tokens as they are and white space of ours: indented, or none at all. `None`
/// if it is not JSON.
pub fn respaced(text: &str, indented: bool) -> Option<String> {
    serde_json::from_str::<&RawValue>(text).ok()?;
    let mut out = String::with_capacity(text.len() + text.len() / 2);
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    let line = |out: &mut String, depth: usize| {
        if indented {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", depth));
        }
    };
    let mut characters = text
        .chars()
        .filter({
            let (mut in_string, mut escaped) = (false, false);
            move |c| {
                let is_space = !in_string && c.is_ascii_whitespace();
                in_string ^= *c == '"' && !escaped;
                escaped = in_string && *c == '\\' && !escaped;
                !is_space
            }
        })
        .peekable();
    while let Some(character) = characters.next() {
        if in_string {
            out.push(character);
            in_string = character != '"' || escaped;
            escaped = character == '\\' && !escaped;
            continue;
        }
        match character {
            '{' | '[' => {
                out.push(character);
                if let Some(close) = characters.next_if(|next| ['}', ']'].contains(next)) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(character);
            }
            ',' => {
                out.push(',');
                line(&mut out, depth);
            }
            ':' => out.push_str(if indented { ": " } else { ":" }),
            character => {
                in_string = character == '"';
                escaped = false;
                out.push(character);
            }
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TEXT: &str = "{ \"z\": 1.10, \"data\" : {\"amount\": 12345678901234567890123, \
                        \"a.b\":[1, {}] },\n \"e\":{ } }";

    #[test]
    fn only_the_value_at_the_path_changes() {
        let told = |path: &str, value: &str| {
            splice(TEXT, path, value).unwrap_or_else(|error| error.to_string())
        };
        let all = [
            told("data.amount", "5"),
            told(".data.amount", "five"),
            told("data.new", "{\"a\": 1.0}"),
            told("e.x", "true"),
            told("/data/a.b/0", "null"),
            told("/data/a.b/2", "\"2\""),
            told("/data/a.b/7", "1"),
            told("data.amount.x", "1"),
            told("nope.x", "1"),
            told("", "1"),
            splice("rubbish", "a", "1").unwrap_or_else(|error| error.to_string()),
        ];
        expect_test::expect![[r#"
            { "z": 1.10, "data" : {"amount": 5, "a.b":[1, {}] },
             "e":{ } }
            { "z": 1.10, "data" : {"amount": "five", "a.b":[1, {}] },
             "e":{ } }
            { "z": 1.10, "data" : {"amount": 12345678901234567890123, "a.b":[1, {}],"new":{"a": 1.0} },
             "e":{ } }
            { "z": 1.10, "data" : {"amount": 12345678901234567890123, "a.b":[1, {}] },
             "e":{"x":true } }
            { "z": 1.10, "data" : {"amount": 12345678901234567890123, "a.b":[null, {}] },
             "e":{ } }
            { "z": 1.10, "data" : {"amount": 12345678901234567890123, "a.b":[1, {},"2"] },
             "e":{ } }
            "data.a.b" is an array of 2: name its elements by 0 to 2, the last of which adds one
            "data.amount" is neither an object nor an array, so "data.amount.x" cannot be set
            there is no "nope" in the payload, so "nope.x" cannot be set
            a path is needed before the =, such as eventData.amount=5
            the payload is not JSON (expected value at line 1 column 1), so that it has no paths"#]]
        .assert_eq(&all.join("\n"));
    }

    #[test]
    fn white_space_changes_and_nothing_else() {
        let pretty = respaced(TEXT, true).unwrap();
        expect_test::expect![[r#"
            {
              "z": 1.10,
              "data": {
                "amount": 12345678901234567890123,
                "a.b": [
                  1,
                  {}
                ]
              },
              "e": {}
            }"#]]
        .assert_eq(&pretty);
        assert_eq!(respaced(&pretty, false), respaced(TEXT, false));
        assert_eq!(respaced(r#"{"a" : "b \" , {"}"#, false).unwrap(), r#"{"a":"b \" , {"}"#);
        assert_eq!(respaced("not json", true), None);
    }

    fn json() -> impl Strategy<Value = serde_json::Value> {
        use serde_json::Value;
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(4, 32, 5, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
                prop::collection::btree_map(".{0,4}", inner, 0..5)
                    .prop_map(|map| Value::Object(map.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn respacing_keeps_the_value(value in json()) {
            for text in [value.to_string(), serde_json::to_string_pretty(&value).unwrap()] {
                let compact = respaced(&text, false).unwrap();
                prop_assert_eq!(&compact, &value.to_string());
                let pretty = serde_json::to_string_pretty(&value).unwrap();
                prop_assert_eq!(&respaced(&text, true).unwrap(), &pretty);
            }
        }

        #[test]
        fn splicing_sets_what_a_pointer_names(mut value in json(), new in json()) {
            if let Some((key, _)) = value.as_object().and_then(|object| object.iter().next()) {
                let key = key.clone();
                let pointer = format!("/{}", key.replace('~', "~0").replace('/', "~1"));
                let spliced = splice(&value.to_string(), &pointer, &new.to_string()).unwrap();
                value[&key] = new;
                let found: serde_json::Value = serde_json::from_str(&spliced).unwrap();
                prop_assert_eq!(found, value);
            }
        }
    }
}

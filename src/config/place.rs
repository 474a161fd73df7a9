//! Place: `pipeline.toml` parsed, with the place of every key and value.

use std::{collections::BTreeMap, fmt, ops::Range};

use serde_json::{Map, Number, Value};
use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

/// The keys from the root of the file down to a value; positions in a list are numbers from 0.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct KeyPath(Vec<String>);

/// Places of a key and its value in the file, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Spot {
    /// The key; for an item of a list, the item.
    pub key: Range<usize>,
    /// The value; for a table with a header of its own, the header.
    pub value: Range<usize>,
}

/// A file that was parsed.
#[derive(Debug, Default)]
pub struct Document {
    /// Values of the file.
    pub root: Map<String, Value>,
    /// Places of keys and values.
    pub spots: BTreeMap<KeyPath, Spot>,
    /// Syntax problems: place, message and hint.
    pub problems: Vec<(Range<usize>, String, Option<String>)>,
    /// Values to pass over, since their fault is among the problems.
    pub odd: Vec<KeyPath>,
    /// True if the values are worth checking further.
    pub whole: bool,
}

impl KeyPath {
    /// The path of these keys.
    pub fn of(keys: &[&str]) -> Self {
        Self(keys.iter().map(|key| (*key).to_owned()).collect())
    }

    /// The path written with dots, as in `stage.orders.concurrency`.
    pub fn dotted(text: &str) -> Self {
        Self(text.split('.').map(str::to_owned).collect())
    }

    /// The path one key further down.
    #[must_use]
    pub fn join(&self, key: impl Into<String>) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.into());
        Self(keys)
    }

    /// The path with these keys after it.
    #[must_use]
    pub fn extend(&self, keys: impl IntoIterator<Item = String>) -> Self {
        Self(self.0.iter().cloned().chain(keys).collect())
    }

    /// The path one key further up.
    pub fn parent(&self) -> Option<Self> {
        let (_, keys) = self.0.split_last()?;
        Some(Self(keys.to_vec()))
    }

    /// The keys of the path.
    pub fn keys(&self) -> Vec<&str> {
        self.0.iter().map(String::as_str).collect()
    }

    /// True if `other` is this path or below it.
    pub fn holds(&self, other: &Self) -> bool {
        other.0.starts_with(&self.0)
    }

    /// The value in `value` that the path leads to.
    pub fn find<'a>(&self, value: &'a Value) -> Option<&'a Value> {
        self.0.iter().try_fold(value, |value, key| match value {
            Value::Object(table) => table.get(key),
            Value::Array(list) => list.get(key.parse::<usize>().ok()?),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => None,
        })
    }
}

impl fmt::Display for KeyPath {
    /// `backoff.max`, `rule[0].attempts`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, key) in self.0.iter().enumerate() {
            match key.parse::<usize>() {
                Ok(index) if n > 0 => write!(f, "[{index}]")?,
                _ if n > 0 => write!(f, ".{key}")?,
                _ => f.write_str(key)?,
            }
        }
        Ok(())
    }
}

impl Document {
    /// Parses a file. Syntax problems are in [`Document::problems`], one per line.
    pub fn parse(text: &str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let mut document = Self { whole: true, ..Self::default() };
        document.root = document.table(table.get_ref(), &KeyPath::default());
        let mut lines = Vec::new();
        let mut repeated: Vec<Range<usize>> = Vec::new();
        for error in errors {
            let span = error.span().unwrap_or(0..0);
            if repeated.iter().any(|body| body.contains(&span.start)) {
                continue;
            }
            let header = text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            if error.message() == DUPLICATE && text[header..].starts_with('[') {
                // The keys of the second of two tables are not the first one's: they are passed
                // over.
                let body = text[span.end..].find("\n[").map_or(text.len(), |at| span.end + at);
                repeated.push(span.end..body);
            }
            let line = text[..span.start.min(text.len())].matches('\n').count();
            let (message, hint) =
                syntax(error.message(), text.get(span.clone()).unwrap_or_default());
            // A repeated key leaves the rest readable; after any other slip the parser guesses.
            document.whole &= error.message() == DUPLICATE;
            if !lines.contains(&line) {
                lines.push(line);
                document.problems.push((span, message, hint));
            }
        }
        let inside = |spot: &Spot| repeated.iter().any(|body| body.contains(&spot.key.start));
        document.odd.extend(
            document.spots.iter().filter(|(_, spot)| inside(spot)).map(|(path, _)| path.clone()),
        );
        document
    }

    fn table(&mut self, table: &DeTable<'_>, at: &KeyPath) -> Map<String, Value> {
        let mut out = Map::new();
        for (key, value) in table {
            let at = at.join(key.get_ref().as_ref());
            self.spots.insert(at.clone(), Spot { key: key.span(), value: value.span() });
            out.insert(key.get_ref().to_string(), self.value(value, &at));
        }
        out
    }

    fn value(&mut self, value: &Spanned<DeValue<'_>>, at: &KeyPath) -> Value {
        match value.get_ref() {
            DeValue::String(text) => Value::String(text.to_string()),
            DeValue::Boolean(is) => Value::Bool(*is),
            DeValue::Datetime(time) => Value::String(time.to_string()),
            DeValue::Table(table) => Value::Object(self.table(table, at)),
            DeValue::Array(list) => {
                let mut out = Vec::new();
                for (n, item) in list.iter().enumerate() {
                    let at = at.join(n.to_string());
                    self.spots.insert(at.clone(), Spot { key: item.span(), value: item.span() });
                    out.push(self.value(item, &at));
                }
                Value::Array(out)
            }
            DeValue::Integer(number) => {
                match i64::from_str_radix(number.as_str(), number.radix()) {
                    Ok(number) => number.into(),
                    Err(_) => self.odd(at, value.span(), "the number does not fit 64 bits"),
                }
            }
            DeValue::Float(number) => match number.as_str().parse().ok().and_then(Number::from_f64)
            {
                Some(number) => Value::Number(number),
                None => self.odd(at, value.span(), "the number is not finite"),
            },
        }
    }

    fn odd(&mut self, at: &KeyPath, span: Range<usize>, message: &str) -> Value {
        self.problems.push((span, message.to_owned(), None));
        self.odd.push(at.clone());
        Value::Null
    }
}

const DUPLICATE: &str = "duplicate key";

/// Message and hint for a syntax error, from the parser's message.
fn syntax(message: &str, found: &str) -> (String, Option<String>) {
    if message == DUPLICATE {
        let name = found.trim().trim_matches(['"', '\'']);
        let hint = "each key and each table stands once; rename or remove one of the two";
        return (format!("\"{name}\" is written twice"), Some(hint.to_owned()));
    }
    if message.starts_with("string values must be quoted") {
        return (
            "this is not TOML: text needs quotes".to_owned(),
            Some("put it between double quotes".to_owned()),
        );
    }
    (format!("this is not TOML: {}", message.lines().collect::<Vec<_>>().join(", ")), None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_value_has_its_place() {
        let text = "[stage.orders]\ninputs = [\"a\", \"b\"]\nhandler = { http = \"x\" }\n";
        let document = Document::parse(text);
        let spot = |path: &str| document.spots[&KeyPath::dotted(path)].clone();
        assert_eq!(&text[spot("stage.orders").key], "orders");
        assert_eq!(&text[spot("stage.orders.inputs.1").value], "\"b\"");
        assert_eq!(&text[spot("stage.orders.handler.http").key], "http");
        assert!(document.problems.is_empty() && document.whole);
        assert_eq!(KeyPath::dotted("rule.0.attempts").to_string(), "rule[0].attempts");
    }

    #[test]
    fn a_repeated_key_leaves_the_rest_readable() {
        let document =
            Document::parse("[pipeline]\nname = \"a\"\nname = \"b\"\n[stage.x]\nkind = \"y\"\n");
        assert_eq!(document.problems.len(), 1);
        assert_eq!(document.problems[0].1, "\"name\" is written twice");
        assert!(document.whole && document.root.contains_key("stage"));
        assert!(!Document::parse("a = = 1").whole);
    }
}

//! Matcher: conditions on the labels of an incident, in Alertmanager's syntax: `code="X"`,
//! `severity!=low`, `code=~"PAY.*"`.

use std::{collections::BTreeMap, fmt, str::FromStr};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Longest matcher, in bytes.
const MATCHER_BYTES_MAX: usize = 1024;
/// Largest compiled regular expression, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// One condition on one label. A label that is absent has the empty text as its value, as in
/// Alertmanager.
#[derive(Debug, Clone)]
pub struct Matcher {
    /// Label.
    pub label: String,
    op: Op,
    value: String,
    /// Anchored at both ends, as in Alertmanager.
    regex: Option<Regex>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Op {
    Equal,
    NotEqual,
    Fits,
    FitsNot,
}

impl Op {
    /// Longer ones first, so that `=~` is not read as `=`.
    const ALL: [Self; 4] = [Self::Fits, Self::FitsNot, Self::NotEqual, Self::Equal];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Fits => "=~",
            Self::FitsNot => "!~",
        }
    }
}

/// True if this can be the name of a label.
pub(crate) fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_ascii_alphanumeric() || "_.-".contains(c))
}

/// Conditions that must all hold; without any, everything matches.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Matchers(pub Vec<Matcher>);

impl Matcher {
    /// Returns the condition that a label fits one of some regular expressions.
    pub(crate) fn any_of(label: &str, any: &[String]) -> Result<Self, String> {
        let value = any.join("|");
        let regex = Some(compiled(&value)?);
        Ok(Self { label: label.to_owned(), op: Op::Fits, value, regex })
    }

    /// True if a label set fits.
    pub fn matches(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.label).map_or("", String::as_str);
        let fits = || self.regex.as_ref().is_some_and(|regex| regex.is_match(value));
        match self.op {
            Op::Equal => value == self.value,
            Op::NotEqual => value != self.value,
            Op::Fits => fits(),
            Op::FitsNot => !fits(),
        }
    }
}

impl Matchers {
    /// True if a label set fits every one.
    pub fn match_all(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|matcher| matcher.matches(labels))
    }
}

impl FromStr for Matcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!(
                "\"{text}\" is no matcher: {why}; write it like code=X, severity!=low or \
                 'code=~PAY.*'"
            )
        };
        if text.len() > MATCHER_BYTES_MAX {
            return Err(format!("a matcher may have {MATCHER_BYTES_MAX} bytes"));
        }
        let at = text.find(['=', '!']).ok_or_else(|| wrong("it has no =, !=, =~ or !~"))?;
        let (label, rest) = (text[..at].trim(), &text[at..]);
        let op = Op::ALL.into_iter().find(|op| rest.starts_with(op.as_str()));
        let op = op.ok_or_else(|| wrong("it has no =, !=, =~ or !~"))?;
        if !is_label(label) {
            return Err(wrong("what stands before the sign is not the name of a label"));
        }
        let value = rest[op.as_str().len()..].trim();
        let value = unquoted(value).ok_or_else(|| wrong("its quotes do not match"))?;
        let regex = match op {
            Op::Fits | Op::FitsNot => Some(compiled(&value).map_err(|why| wrong(&why))?),
            Op::Equal | Op::NotEqual => None,
        };
        Ok(Self { label: label.to_owned(), op, value, regex })
    }
}

/// Compiles an expression that must fit the whole value.
fn compiled(value: &str) -> Result<Regex, String> {
    let built =
        regex::RegexBuilder::new(&format!("^(?:{value})$")).size_limit(REGEX_BYTES_MAX).build();
    built.map_err(|error| match error {
        regex::Error::CompiledTooBig(_) => "its regular expression is too large".to_owned(),
        error @ (regex::Error::Syntax(_) | _) => {
            let text = error.to_string();
            let last = text.lines().last().unwrap_or_default();
            format!(
                "its regular expression cannot be read ({})",
                last.trim_start_matches("error: ")
            )
        }
    })
}

/// Returns a value without its double quotes, `\"` and `\\` read as they are meant; `None` where a
/// quote does not close.
fn unquoted(value: &str) -> Option<String> {
    let Some(inside) = value.strip_prefix('"') else {
        return (!value.contains('"')).then(|| value.to_owned());
    };
    let (mut out, mut chars) = (String::new(), inside.chars());
    loop {
        match chars.next()? {
            '"' => return chars.as_str().is_empty().then_some(out),
            '\\' => match chars.next()? {
                'n' => out.push('\n'),
                escaped @ ('"' | '\\') => out.push(escaped),
                // In a regular expression `\.` keeps its backslash.
                other => out.extend(['\\', other]),
            },
            other => out.push(other),
        }
    }
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = self.value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        write!(f, "{}{}\"{value}\"", self.label, self.op.as_str())
    }
}

impl fmt::Display for Matchers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all: Vec<String> = self.0.iter().map(Matcher::to_string).collect();
        f.write_str(&all.join(" "))
    }
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        (&self.label, self.op, &self.value) == (&other.label, other.op, &other.value)
    }
}

impl Eq for Matcher {}

impl Serialize for Matcher {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Matcher {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

impl JsonSchema for Matcher {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Matcher".into()
    }

    fn inline_schema() -> bool {
        true
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({
            "type": "string",
            "description": "A condition on a label: code=X, severity!=low, code=~\"PAY.*\" or \
                            stage!~\"test.*\"",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels() -> BTreeMap<String, String> {
        let pairs = [("code", "PAY_1"), ("severity", "high"), ("note", "a \"b\" c")];
        pairs.iter().map(|(label, value)| ((*label).to_owned(), (*value).to_owned())).collect()
    }

    #[test]
    fn a_matcher_means_what_alertmanager_means() {
        for (text, fits) in [
            ("code=PAY_1", true),
            ("code = \"PAY_1\"", true),
            ("code=PAY", false),
            ("code!=PAY", true),
            ("code=~PAY.*", true),
            ("code=~PAY", false),
            ("code=~\"PAY|PAY_1\"", true),
            ("code!~PAY.*", false),
            (r#"code=~"PAY_\d""#, true),
            ("absent=", true),
            ("absent=~.*", true),
            ("absent!=x", true),
            (r#"note="a \"b\" c""#, true),
        ] {
            let matcher: Matcher = text.parse().unwrap();
            assert_eq!(matcher.matches(&labels()), fits, "{text}");
            assert_eq!(matcher.to_string().parse::<Matcher>().unwrap(), matcher, "{text}");
        }
    }

    #[test]
    fn what_is_no_matcher_says_so() {
        for text in [
            "code",
            "=x",
            "1a=x",
            "code=\"x",
            "code=x\"",
            "code=~(",
            "code!x",
            "code=~(a{1000}){1000}",
        ] {
            let error = text.parse::<Matcher>().unwrap_err();
            assert!(error.contains("is no matcher"), "{text}: {error}");
        }
    }
}

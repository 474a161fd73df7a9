//! Matcher: conditions on the labels of an incident, in Alertmanager's syntax: `code="X"`,
//! `severity!=low`, `code=~"PAY.*"`.

mod parse;
mod re2;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    str::FromStr,
};

use regex::Regex;
use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::incident::Severity;

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

/// True if this can be the name of a label without quotes.
pub(crate) fn is_label(text: &str) -> bool {
    text.starts_with(|c: char| c.is_alphabetic() || c == '_')
        && text.chars().all(|c| c.is_alphanumeric() || "_.-:/".contains(c))
}

/// Labels that incidents have, whatever their fingerprint is made of.
pub const LABELS: [&str; 5] = ["code", "severity", "service", "fingerprint", "stage"];

/// Returns the hint for a name that is no label of any incident.
pub fn labels_hint(known: &BTreeSet<String>) -> String {
    let known: Vec<&str> = known.iter().map(String::as_str).collect();
    format!(
        "incidents have {}; what the fingerprint of aggregate-errors names becomes one",
        known.join(", ")
    )
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

    /// Returns the name of a severity that there is none of, where the condition names one.
    fn unknown_severity(&self) -> Option<&str> {
        let literal = matches!(self.op, Op::Equal | Op::NotEqual) && self.label == "severity";
        let known = Severity::ALL.iter().any(|severity| severity.as_str() == self.value);
        (literal && !known).then_some(self.value.as_str())
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
    /// Returns why no incident can ever fit, with a hint; `None` where one can.
    pub fn never(&self) -> Option<(String, String)> {
        let known = Severity::ALL.map(Severity::as_str);
        let hint = || format!("severities are {}", known.join(", "));
        if let Some(unknown) = self.0.iter().find_map(Matcher::unknown_severity) {
            let meant = Severity::meant_by(unknown)
                .map_or_else(hint, |meant| format!("{}; you may mean {}", hint(), meant.as_str()));
            return Some((format!("there is no severity \"{unknown}\""), meant));
        }
        let severity = |text: &str| BTreeMap::from([("severity".to_owned(), text.to_owned())]);
        let fits = |text: &str| {
            let of_severity = self.0.iter().filter(|matcher| matcher.label == "severity");
            of_severity.into_iter().all(|matcher| matcher.matches(&severity(text)))
        };
        (!known.into_iter().any(fits)).then(|| (format!("no severity fits {self}"), hint()))
    }

    /// Returns the labels that conditions name and no incident has.
    pub fn unknown<'a>(&'a self, known: &BTreeSet<String>) -> Vec<&'a str> {
        let labels = self.0.iter().map(|matcher| matcher.label.as_str());
        labels.filter(|label| !known.contains(*label)).collect()
    }

    /// True if a label set fits every one.
    pub fn match_all(&self, labels: &BTreeMap<String, String>) -> bool {
        self.0.iter().all(|matcher| matcher.matches(labels))
    }
}

impl FromStr for Matcher {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut all = parse::all(text)?;
        let first = all.pop().filter(|_| all.is_empty());
        first.ok_or_else(|| format!("\"{text}\" is more than one matcher: write each by itself"))
    }
}

impl FromStr for Matchers {
    type Err = String;

    /// Reads one matcher or several, as Alertmanager does: `{code="X", severity!=low}`.
    fn from_str(text: &str) -> Result<Self, String> {
        parse::all(text).map(Self)
    }
}

/// Compiles an expression that must fit the whole value.
fn compiled(value: &str) -> Result<Regex, String> {
    let value = re2::rewritten(value);
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

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let escaped =
            |text: &str| text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
        let (op, value) = (self.op.as_str(), escaped(&self.value));
        if is_label(&self.label) {
            write!(f, "{}{op}\"{value}\"", self.label)
        } else {
            write!(f, "\"{}\"{op}\"{value}\"", escaped(&self.label))
        }
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
            (r#"note=a \"b\" c"#, true),
            (r#"{code="PAY_1"}"#, true),
            (r#""code"="PAY_1""#, true),
            (r#"code=~PAY_\d{1}"#, true),
            (r"code=~PAY_\\d", true),
            (r#""größe 1"="""#, true),
            ("größe!=3", true),
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
            "code=a}",
            "{code=a",
            "code=X,PAY",
            "code=X severity=low",
            r#"""=x"#,
            r#""code=x"#,
        ] {
            let error = text.parse::<Matcher>().unwrap_err();
            assert!(error.contains("is no matcher"), "{text}: {error}");
        }
    }

    #[test]
    fn several_matchers_in_one_text_all_hold() {
        let read = |text: &str| text.parse::<Matchers>().map(|all| all.to_string());
        for (text, wanted) in [
            ("code=X,severity=low", r#"code="X" severity="low""#),
            (r#"{code="X", severity=~"low|high",}"#, r#"code="X" severity=~"low|high""#),
            (r#" { "my label" != "a,b" } "#, r#""my label"!="a,b""#),
            (r#"code=~"a{1,3}""#, r#"code=~"a{1,3}""#),
        ] {
            assert_eq!(read(text).as_deref(), Ok(wanted), "{text}");
        }
        let error = read("code=~a{1,3}").unwrap_err();
        assert!(error.contains("double quotes"), "{error}");
        assert!("code=X,severity=low".parse::<Matcher>().unwrap_err().contains("more than one"));
    }

    #[test]
    fn what_can_never_fit_is_found() {
        for (text, wanted) in [
            ("severity=high", None),
            ("severity=~hi.*", None),
            ("severity!=low", None),
            ("service=warning", None),
            ("severity=warning", Some("there is no severity \"warning\"")),
            ("severity!=page", Some("there is no severity \"page\"")),
            ("severity=~warn.*|page", Some("no severity fits severity=~\"warn.*|page\"")),
            ("severity=high,severity=low", Some("no severity fits severity=\"high\" severity")),
            ("severity!~.*", Some("no severity fits")),
        ] {
            let never = text.parse::<Matchers>().unwrap().never().map(|(why, _)| why);
            assert_eq!(never.is_some(), wanted.is_some(), "{text}: {never:?}");
            assert!(never.unwrap_or_default().starts_with(wanted.unwrap_or_default()), "{text}");
        }
        let known = LABELS.map(str::to_owned).into();
        let all: Matchers = "alertname=X,code=Y,zone!=a".parse().unwrap();
        assert_eq!(all.unknown(&known), ["alertname", "zone"]);
        assert!(labels_hint(&known).contains("code, fingerprint"));
    }
}

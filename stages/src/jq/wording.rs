//! Wording: messages, in plain words, about a text that is not a jq filter.

use jaq_core::{compile, load};

use super::{JqError, MADE_FROM_OUTSIDE, OUTSIDE};
use crate::text::excerpt;

/// Names that a filter written for the `jq` command may use and that do not exist here.
const MISSING: &[&str] =
    &["input", "inputs", "input_filename", "input_line_number", "$ENV", "$__prog_args"];

/// Returns the error that stands first in the text.
pub(super) fn first(text: &str, errors: impl Iterator<Item = JqError>) -> JqError {
    let unknown = || JqError { message: "not a jq filter".to_owned(), offset: text.len() };
    errors.min_by_key(|error| error.offset).unwrap_or_else(unknown)
}

/// Returns the error of a text that cannot be read as jq.
pub(super) fn loading(text: &str, error: &load::Error<&str>) -> JqError {
    let at =
        |found: &str, message: String| JqError { message, offset: load::span(text, found).start };
    match error {
        load::Error::Io(errors) => {
            let message = || "a filter may not include or import a file".to_owned();
            first(text, errors.iter().map(|(found, _)| at(found, message())))
        }
        load::Error::Lex(errors) => {
            first(text, errors.iter().map(|(expected, found)| at(found, lexing(expected, found))))
        }
        load::Error::Parse(errors) => {
            first(text, errors.iter().map(|(expected, found)| at(found, parsing(expected, found))))
        }
    }
}

/// Returns the message about characters that make no token.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "jaq's enum: the rest are told alike, in its own words"
)]
fn lexing(expected: &load::lex::Expect<&str>, found: &str) -> String {
    match expected {
        load::lex::Expect::Delim("\"") => "a text in quotes is never closed".to_owned(),
        load::lex::Expect::Delim(open) => format!("\"{}\" is never closed", excerpt(open, 1)),
        load::lex::Expect::Token if found.starts_with("&&") => {
            "jq writes \"and\" for \"&&\"".to_owned()
        }
        load::lex::Expect::Token if found.starts_with('\'') => {
            "jq writes text in double quotes".to_owned()
        }
        load::lex::Expect::Token => format!("{} does not belong here", named(found)),
        _ => format!("expected a {}, found {}", expected.as_str(), named(found)),
    }
}

/// Returns the message about a token that is out of place.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "jaq's enum: the rest are told alike, in its own words"
)]
fn parsing(expected: &load::parse::Expect<&str>, found: &str) -> String {
    let expected = match expected {
        load::parse::Expect::Just(token) => format!("\"{token}\""),
        load::parse::Expect::Nothing => "the filter to end".to_owned(),
        load::parse::Expect::Term => "a value, such as .key or 1".to_owned(),
        load::parse::Expect::ElseOrEnd => "\"else\" or \"end\"".to_owned(),
        _ => format!("a {}", expected.as_str()),
    };
    format!("expected {expected}, found {}", named(found))
}

/// Quotes the text that was found.
fn named(found: &str) -> String {
    match excerpt(found, 20) {
        found if found.is_empty() => "the end".to_owned(),
        found => format!("\"{found}\""),
    }
}

/// Returns the error of a name that means nothing.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "jaq's enum: the rest are told alike, in its own words"
)]
pub(super) fn undefined(text: &str, (name, what): compile::Error<&str>) -> JqError {
    let outside =
        || [OUTSIDE, MADE_FROM_OUTSIDE, MISSING].iter().any(|names| names.contains(&name));
    let message = match what {
        _ if outside() => {
            format!("\"{name}\" is not available: a filter sees its event and nothing else")
        }
        compile::Undefined::Filter(0) => {
            format!("there is no function \"{name}\" (write \".{name}\" for a key)")
        }
        compile::Undefined::Filter(1) => {
            format!("there is no function \"{name}\" with one argument")
        }
        compile::Undefined::Filter(arguments) => {
            format!("there is no function \"{name}\" with {arguments} arguments")
        }
        what => format!("there is no {} \"{name}\"", what.as_str()),
    };
    JqError { message, offset: load::span(text, name).start }
}

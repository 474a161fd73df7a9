//! Parse: matchers as people write them, one or several in a text, in braces or not.
//!
//! Source: `matchers/parse` and `pkg/labels/parse.go` of Alertmanager 0.28: where its two parsers
//! differ, what either takes is taken, unless it could never be meant.

use super::{MATCHER_BYTES_MAX, Matcher, Op, compiled, is_label};

/// Texts that show the right forms.
pub(super) const FORMS: &str = "write it like code=X, severity!=low or 'code=~PAY.*'";

/// Reads the matchers of a text: at least one.
///
/// # Errors
/// What is wrong, with the right form.
pub(super) fn all(text: &str) -> Result<Vec<Matcher>, String> {
    let wrong = |why: &str| format!("\"{text}\" is no matcher: {why}; {FORMS}");
    if text.len() > MATCHER_BYTES_MAX {
        return Err(format!("a matcher may have {MATCHER_BYTES_MAX} bytes"));
    }
    let trimmed = text.trim();
    let inside = match trimmed.strip_prefix('{') {
        None => trimmed,
        Some(rest) => rest.strip_suffix('}').ok_or_else(|| wrong("its brace does not close"))?,
    };
    let mut parts = split(inside).ok_or_else(|| wrong("its quotes do not match"))?;
    if parts.len() > 1 && parts.last().is_some_and(|part| part.trim().is_empty()) {
        parts.pop();
    }
    let several = parts.len() > 1;
    let read = parts.into_iter().map(|part| {
        one(part.trim()).map_err(|why| {
            let comma = if several && !part.contains(['=', '!']) {
                " (a comma separates matchers: put a value that has one into double quotes)"
            } else {
                ""
            };
            wrong(&format!("{why}{comma}"))
        })
    });
    read.collect()
}

/// Splits a text at commas outside of quotes; `None` where a quote does not close.
fn split(text: &str) -> Option<Vec<&str>> {
    let (mut parts, mut from, mut quoted, mut escaped) = (Vec::new(), 0, false, false);
    for (at, c) in text.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => quoted = !quoted,
            ',' if !quoted => {
                parts.push(&text[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[from..]);
    (!quoted).then_some(parts)
}

/// Reads one matcher without blanks around it.
fn one(text: &str) -> Result<Matcher, String> {
    let no_sign = || "it has no =, !=, =~ or !~".to_owned();
    let (label, rest) = if text.starts_with('"') {
        let end = closing(text).ok_or("its quotes do not match")?;
        (unescaped(&text[1..end]), text[end + 1..].trim_start())
    } else {
        let at = text.find(['=', '!']).ok_or_else(no_sign)?;
        let label = text[..at].trim();
        if !is_label(label) {
            let quote = "what stands before the sign is not the name of a label (one with other \
                         characters goes into double quotes)";
            return Err(quote.to_owned());
        }
        (label.to_owned(), &text[at..])
    };
    if label.is_empty() {
        return Err("the name of its label is empty".to_owned());
    }
    let op = Op::ALL.into_iter().find(|op| rest.starts_with(op.as_str())).ok_or_else(no_sign)?;
    let value = value(rest[op.as_str().len()..].trim(), op)?;
    let regex = match op {
        Op::Fits | Op::FitsNot => Some(compiled(&value)?),
        Op::Equal | Op::NotEqual => None,
    };
    Ok(Matcher { label, op, value, regex })
}

/// Reads a value, in double quotes or not.
fn value(text: &str, op: Op) -> Result<String, String> {
    if text.starts_with('"') {
        let end = closing(text).filter(|end| end + 1 == text.len());
        return Ok(unescaped(&text[1..end.ok_or("its quotes do not match")?]));
    }
    if text.replace("\\\"", "").contains('"') {
        return Err("its quotes do not match".to_owned());
    }
    let braces = |c| text.matches(c).count();
    let is_regex = matches!(op, Op::Fits | Op::FitsNot);
    if text.contains(['{', '}']) && !(is_regex && braces('{') == braces('}')) {
        return Err("a value with a brace goes into double quotes".to_owned());
    }
    if !is_regex && text.contains(['=', '!', '~']) && text.contains(char::is_whitespace) {
        return Err("a comma separates matchers, and a value with blanks and signs goes into \
                    double quotes"
            .to_owned());
    }
    Ok(unescaped(text))
}

/// Place of the quote that closes the one a text begins with.
fn closing(text: &str) -> Option<usize> {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return Some(at),
            _ => {}
        }
    }
    None
}

/// Reads `\"`, `\\` and `\n` as they are meant. Any other keeps its backslash, so that a regular
/// expression needs no second one.
fn unescaped(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('n') => out.push('\n'),
                Some(escaped @ ('"' | '\\')) => out.push(escaped),
                other => out.extend(std::iter::once('\\').chain(other)),
            },
            other => out.push(other),
        }
    }
    out
}

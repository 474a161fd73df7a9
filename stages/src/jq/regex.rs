//! Regex: `test`, `match`, `capture`, `scan`, `split` and `sub`, each search in linear time.
//!
//! A search cannot be interrupted, so its cost is bounded beforehand: that of a pattern's program
//! times that of the text. Programs are kept, since most filters use the same few for every event.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::cell::RefCell;

use jaq_core::Cv;
use regex::bytes::{Captures, Regex, RegexBuilder};

use super::{
    meter::{self, Metered},
    text::{self, Text},
    value::{Error, Object, ValR, Value},
};

/// Longest text that is searched, in bytes.
const TEXT_BYTES_MAX: usize = 256 << 10;

/// Longest text that is searched for large patterns, in bytes.
const SHORT_TEXT_BYTES: usize = 16 << 10;

/// Largest program of a pattern for a long text and for a short one, in bytes.
const PROGRAM_BYTES_MAX: usize = 64 << 10;
/// See [`PROGRAM_BYTES_MAX`].
const SHORT_TEXT_PROGRAM_BYTES_MAX: usize = 1 << 20;

/// Longest pattern, in bytes.
const PATTERN_BYTES_MAX: usize = 4 << 10;

/// Programs that a thread keeps.
const KEPT_MAX: usize = 32;

/// Parts of a text that are asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parts {
    /// Matches.
    Matches,
    /// What is between them.
    Between,
    /// Both, in order.
    Both,
}

/// Program and what it was made from: the pattern, its flags, and if it may be large.
struct Kept {
    pattern: String,
    flags: String,
    is_large: bool,
    regex: Regex,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
}

/// Runs a regex over the input; the pattern and the flags are arguments.
pub(super) fn run(mut cv: Cv<'_, Metered>, parts: Parts) -> ValR {
    let (flags, pattern) = (cv.0.pop_var(), cv.0.pop_var());
    let (flags, pattern) = (text_of(&flags)?, text_of(&pattern)?);
    let text = text_of(&cv.1)?;
    let bytes = text.bytes();
    if bytes.len() > TEXT_BYTES_MAX {
        return Err(Error::str(format_args!(
            "a text of more than {TEXT_BYTES_MAX} bytes is not searched by a regex"
        )));
    }
    let regex = program(utf8(pattern)?, utf8(flags)?, bytes.len() <= SHORT_TEXT_BYTES)?;
    meter::moved(bytes.len());
    let (global, skip_empty) = (flags.bytes().contains(&b'g'), flags.bytes().contains(&b'n'));

    let mut out = Vec::new();
    let mut between = 0;
    let mut characters = Characters::new(bytes);
    for found in regex.captures_iter(bytes) {
        // Each search may read on to the end of the text; few do. So a part of that is counted, and
        // the stop is looked at in between.
        let Some(whole) = found.get(0) else { continue };
        meter::moved(whole.len() + (bytes.len() - whole.end()) / 16);
        if skip_empty && whole.is_empty() {
            continue;
        }
        if parts != Parts::Matches {
            out.push(Value::Text(text.part(between, whole.start())));
            between = whole.end();
        }
        if parts != Parts::Between {
            out.push(groups(&regex, &found, text, &mut characters));
        }
        if !global {
            break;
        }
    }
    if parts != Parts::Matches {
        out.push(Value::Text(text.part(between, bytes.len())));
    }
    Ok(out.into_iter().collect())
}

/// Groups of one match, the whole first.
fn groups(
    regex: &Regex,
    found: &Captures<'_>,
    text: &Text,
    characters: &mut Characters<'_>,
) -> Value {
    let named = found.iter().zip(regex.capture_names());
    named
        .filter_map(|(group, name)| Some((group?, name)))
        .map(|(group, name)| {
            let mut object = Object::default();
            let part = text.part(group.start(), group.end());
            object.insert("offset".into(), Value::from(characters.before(group.start())));
            object.insert("length".into(), Value::from(part.characters()));
            object.insert("string".into(), Value::Text(part));
            if let Some(name) = name {
                object.insert("name".into(), Value::Text(name.into()));
            }
            Value::object(object)
        })
        .collect()
}

/// Numbers of characters before offsets, which mostly grow.
struct Characters<'a> {
    text: &'a [u8],
    offset: usize,
    before: usize,
}

impl<'a> Characters<'a> {
    fn new(text: &'a [u8]) -> Self {
        Self { text, offset: 0, before: 0 }
    }

    fn before(&mut self, offset: usize) -> usize {
        if offset < self.offset {
            (self.offset, self.before) = (0, 0);
        }
        meter::moved(offset - self.offset);
        self.before += text::boundaries(&self.text[self.offset..offset]).count();
        self.offset = offset;
        self.before
    }
}

fn text_of(value: &Value) -> Result<&Text, Error> {
    match value {
        Value::Text(text) => Ok(text),
        other => Err(Error::typ(other.clone(), "string")),
    }
}

fn utf8(text: &Text) -> Result<&str, Error> {
    str::from_utf8(text.bytes()).map_err(Error::str)
}

/// Program of a pattern, kept or made.
fn program(pattern: &str, flags: &str, is_large: bool) -> Result<Regex, Error> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(Error::str(format_args!(
            "a regex of more than {PATTERN_BYTES_MAX} bytes is not taken"
        )));
    }
    let is_it =
        |kept: &Kept| kept.pattern == pattern && kept.flags == flags && kept.is_large == is_large;
    let kept =
        KEPT.with_borrow(|kept| kept.iter().find(|kept| is_it(kept)).map(|k| k.regex.clone()));
    if let Some(regex) = kept {
        return Ok(regex);
    }
    // Its making costs about as much.
    meter::step(1000);
    let regex = made(pattern, flags, is_large)?;
    KEPT.with_borrow_mut(|kept| {
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        let (pattern, flags) = (pattern.to_owned(), flags.to_owned());
        kept.push(Kept { pattern, flags, is_large, regex: regex.clone() });
    });
    Ok(regex)
}

fn made(pattern: &str, flags: &str, is_large: bool) -> Result<Regex, Error> {
    let bytes = if is_large { SHORT_TEXT_PROGRAM_BYTES_MAX } else { PROGRAM_BYTES_MAX };
    let mut builder = RegexBuilder::new(pattern);
    builder.size_limit(bytes).dfa_size_limit(bytes);
    for flag in flags.chars() {
        match flag {
            'g' | 'n' => &mut builder,
            'i' => builder.case_insensitive(true),
            'm' => builder.multi_line(true),
            's' => builder.dot_matches_new_line(true),
            'l' => builder.swap_greed(true),
            'x' => builder.ignore_whitespace(true),
            'p' => builder.multi_line(true).dot_matches_new_line(true),
            other => return Err(Error::str(format_args!("invalid regex flag: {other}"))),
        };
    }
    builder.build().map_err(|error| Error::str(format_args!("invalid regex: {error}")))
}

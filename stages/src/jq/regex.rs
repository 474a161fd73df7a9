//! Regex: `test`, `match`, `capture`, `scan`, `split` and `sub`, each search in linear time.
//!
//! A search cannot be interrupted, so its cost is bounded beforehand: that of a pattern's program
//! times that of the text. Programs are kept, since most filters use the same few for every event.

#![expect(
    clippy::wildcard_enum_match_arm,
    reason = "a value of any other kind is an error, or takes part alike"
)]

use std::{
    cell::RefCell,
    hash::{Hash as _, Hasher as _},
};

use jaq_core::Cv;
use regex::bytes::{Captures, Regex, RegexBuilder};

use super::{
    meter::{self, Metered},
    text::{self, Text},
    value::{Error, Object, ValR, Value},
};

/// Longest text that is searched, in bytes.
const TEXT_BYTES_MAX: usize = 128 << 10;

/// Longest text that is searched for a pattern with a large program, in bytes.
const SHORT_TEXT_BYTES_MAX: usize = 16 << 10;

/// Largest program of a pattern that is not large, in bytes: some 2 000 states, which a search may
/// have to follow all at once.
const PROGRAM_BYTES: usize = 64 << 10;
/// Largest program of a pattern, in bytes.
const PROGRAM_BYTES_MAX: usize = 1 << 20;

/// Steps for each byte of a text that is searched for a pattern with a large program.
const LARGE_STEPS: u64 = 30;

/// Steps of the first use of a pattern in a run: making its program costs about as much. They are
/// taken though it was kept, so that the same event ends in the same way each time.
const FIRST_USE_STEPS: u64 = 1000;

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

/// Program, and what it was made from.
struct Kept {
    pattern: String,
    flags: String,
    program: Program,
}

/// Program of a pattern.
#[derive(Clone)]
struct Program {
    regex: Regex,
    is_large: bool,
}

thread_local! {
    static KEPT: RefCell<Vec<Kept>> = const { RefCell::new(Vec::new()) };
    /// The run, and hashes of the patterns that it has used.
    static USED: RefCell<(u64, Vec<u64>)> = const { RefCell::new((0, Vec::new())) };
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
    let Program { regex, is_large } = program(utf8(pattern)?, utf8(flags)?)?;
    if is_large && bytes.len() > SHORT_TEXT_BYTES_MAX {
        return Err(Error::str(format_args!(
            "a text of more than {SHORT_TEXT_BYTES_MAX} bytes is not searched by so large a regex"
        )));
    }
    meter::step(10 + bytes.len() as u64 * if is_large { LARGE_STEPS } else { 1 });
    let (global, skip_empty) = (flags.bytes().contains(&b'g'), flags.bytes().contains(&b'n'));

    let mut out = Vec::new();
    let mut between = 0;
    let mut characters = Characters::new(bytes);
    for found in regex.captures_iter(bytes) {
        // Each search may read on to the end of the text; few do. So a part of that is counted, and
        // the stop is looked at in between.
        let Some(whole) = found.get(0) else { continue };
        meter::moved(whole.len() + (bytes.len() - whole.end()) / 4);
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
fn program(pattern: &str, flags: &str) -> Result<Program, Error> {
    if pattern.len() > PATTERN_BYTES_MAX {
        return Err(Error::str(format_args!(
            "a regex of more than {PATTERN_BYTES_MAX} bytes is not taken"
        )));
    }
    first_use(pattern, flags);
    let is_it = |kept: &&Kept| kept.pattern == pattern && kept.flags == flags;
    if let Some(program) =
        KEPT.with_borrow(|kept| kept.iter().find(is_it).map(|kept| kept.program.clone()))
    {
        return Ok(program);
    }
    let program = match made(pattern, flags, PROGRAM_BYTES)? {
        Ok(regex) => Program { regex, is_large: false },
        Err(regex::Error::CompiledTooBig(_)) => {
            let regex = made(pattern, flags, PROGRAM_BYTES_MAX)?.map_err(invalid)?;
            Program { regex, is_large: true }
        }
        Err(error) => return Err(invalid(error)),
    };
    KEPT.with_borrow_mut(|kept| {
        if kept.len() == KEPT_MAX {
            kept.remove(0);
        }
        let (pattern, flags) = (pattern.to_owned(), flags.to_owned());
        kept.push(Kept { pattern, flags, program: program.clone() });
    });
    Ok(program)
}

/// Takes the steps of a pattern's first use in this run.
fn first_use(pattern: &str, flags: &str) {
    let mut hasher = std::hash::DefaultHasher::new();
    (pattern, flags).hash(&mut hasher);
    let (hash, run) = (hasher.finish(), meter::run());
    let is_first = USED.with_borrow_mut(|(used_in, used)| {
        if *used_in != run {
            (*used_in, *used) = (run, Vec::new());
        }
        let is_first = !used.contains(&hash);
        if is_first && used.len() < KEPT_MAX {
            used.push(hash);
        }
        is_first
    });
    if is_first {
        meter::step(FIRST_USE_STEPS);
    }
}

fn invalid(error: regex::Error) -> Error {
    Error::str(format_args!("invalid regex: {error}"))
}

/// Regex of a pattern, of so many bytes at the most, or why there is none.
fn made(pattern: &str, flags: &str, bytes: usize) -> Result<Result<Regex, regex::Error>, Error> {
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
    Ok(builder.build())
}

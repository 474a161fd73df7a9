//! Fold: one form for what is written in several: digits of all scripts, the words of browsers.

use std::borrow::Cow;

/// First digits of the scripts whose ten digits follow each other (`Nd` of Unicode).
const ZEROS: &[char] = &[
    '٠', '۰', '߀', '०', '০', '੦', '૦', '୦', '௦', '౦', '೦', '൦', '๐', '໐', '༠', '၀', '០', '᠐', '０',
];

/// Returns a message with the digits of all scripts as ASCII digits, and full-width letters as
/// ASCII letters.
pub(super) fn characters(message: &str) -> Cow<'_, str> {
    if message.is_ascii() || !message.chars().any(|c| character(c) != c) {
        return Cow::Borrowed(message);
    }
    Cow::Owned(message.chars().map(character).collect())
}

fn character(c: char) -> char {
    if c < '٠' {
        return c;
    }
    if matches!(c, 'Ａ'..='Ｚ' | 'ａ'..='ｚ') {
        return char::from_u32(u32::from(c) - 0xfee0).unwrap_or(c);
    }
    let digit =
        |zero: &char| u32::from(c).checked_sub(u32::from(*zero)).filter(|digit| *digit < 10);
    ZEROS.iter().find_map(digit).and_then(|digit| char::from_digit(digit, 10)).unwrap_or(c)
}

/// Texts of browsers that say the same, by the one that stands for all.
const PHRASES: &[(&str, &[&str])] = &[
    ("Failed to fetch", &["NetworkError when attempting to fetch resource", "Load failed"]),
    (
        "ResizeObserver loop limit exceeded",
        &["ResizeObserver loop completed with undelivered notifications"],
    ),
];

/// Returns the message of one browser for what each says in its own words; none for others.
///
/// Source: messages of V8, SpiderMonkey and JavaScriptCore of 2026.
pub(super) fn phrase(message: &str) -> Option<String> {
    let (class, text) = match message.split_once(": ") {
        Some((class, text)) if super::words::is_exception(class) => (class, text),
        _ => ("", message),
    };
    let (line, rest) = text.split_once('\n').map_or((text, ""), |(line, rest)| (line, rest));
    let bare = line.trim_end_matches('.');
    let of = |property: &str, what: &str| {
        format!("Cannot read properties of {what} (reading '{property}')")
    };
    let what = |text: &str| if text.ends_with("null") { "null" } else { "undefined" };
    let said = if let Some((_, (one, _))) =
        PHRASES.iter().map(|phrase| (phrase.1, phrase)).find(|(others, _)| others.contains(&bare))
    {
        (*one).to_owned()
    } else if let Some((subject, path)) = bare.split_once(" is not an object (evaluating '") {
        let path = path.strip_suffix("')")?;
        of(path.rsplit_once('.')?.1, what(subject))
    } else {
        let said = bare.strip_prefix("can't access property \"")?;
        let (property, subject) = said.split_once("\", ")?;
        of(property, what(subject))
    };
    let class = if class.is_empty() { String::new() } else { format!("{class}: ") };
    let rest = if rest.is_empty() { String::new() } else { format!("\n{rest}") };
    Some(class + &said + &rest)
}

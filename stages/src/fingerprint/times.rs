//! Times: dates and times of day in the forms that programs print.

use crate::calendar::{MONTHS, WEEKDAYS};

const ZONES: &[&str] = &[
    "UTC", "GMT", "CET", "CEST", "EET", "EEST", "WET", "BST", "EST", "EDT", "CST", "CDT", "MST",
    "MDT", "PST", "PDT", "JST", "KST", "IST", "MSK", "AEST", "AEDT",
];
/// Halves of the day where they stand before the time.
const HALVES: &[&str] = &["午前", "午後", "上午", "下午", "오전", "오후"];

/// True for a name in full or its first three letters, capitalised.
fn is_name(word: &str, names: &[&str]) -> bool {
    let full = |name: &&str| name.eq_ignore_ascii_case(word);
    let short = |name: &&str| {
        (word.len() == 3 || word == "Sept") && name[..word.len()].eq_ignore_ascii_case(word)
    };
    word.starts_with(|c: char| c.is_ascii_uppercase())
        && (3..=9).contains(&word.len())
        && word.is_ascii()
        && names.iter().any(|name| full(name) || name.len() >= word.len() && short(name))
}

/// True for the name of a weekday or a month that is part of a date, by what follows or the day
/// before it.
pub(super) fn is_date_word(word: &str, next: &str, after_day: bool) -> bool {
    let next = next.trim_start_matches([',', '.', ' ']);
    let number = next.starts_with(|c: char| c.is_ascii_digit());
    if is_name(word, &MONTHS) {
        return number || after_day;
    }
    let month = next.split(|c: char| !c.is_ascii_alphabetic()).next().unwrap_or_default();
    is_name(word, &WEEKDAYS) && (number || is_name(month, &MONTHS))
}

/// True for what may follow the words of a date: its day, its year, its zone.
pub(super) fn follows_date(word: &str) -> bool {
    let digits = word.bytes().all(|b| b.is_ascii_digit());
    digits && matches!(word.len(), 1 | 2 | 4) || is_zone(word)
}

/// True for `UTC`, `CET` or `+0100`.
pub(super) fn is_zone(word: &str) -> bool {
    ZONES.contains(&word)
        || word.len() == 5
            && word.starts_with(['+', '-'])
            && word[1..].bytes().all(|b| b.is_ascii_digit())
}

/// True for the half of a day behind its time.
pub(super) fn is_half(word: &str) -> bool {
    matches!(word, "AM" | "PM" | "am" | "pm" | "a.m" | "p.m")
}

/// Returns the half of a day that a text ends with.
pub(super) fn half_before(text: &str) -> Option<&'static str> {
    let text = text.trim_end_matches(' ');
    HALVES.iter().find(|half| text.ends_with(**half)).copied()
}

/// True for `2026-11-21`, `2026/11/21`, `12:30:45.123Z`, `2026-11-21T12:30:45+01:00`,
/// `28-Nov-2026`, `11/28/2026`.
pub(super) fn is_time(word: &str) -> bool {
    if is_of_three(word) {
        return true;
    }
    if !has_shape(word, "0000-00-00") && !has_shape(word, "0000/00/00") {
        return is_clock(word);
    }
    let rest = &word[10..];
    let clock = |text: &str| is_clock(text) || (text.len() == 5 && has_shape(text, "00:00"));
    rest.is_empty() || rest.strip_prefix(['T', 't', '_', '-']).is_some_and(clock)
}

/// True for day, month and year, with a month by name or parted by slashes.
fn is_of_three(word: &str) -> bool {
    let mut parts = word.split(['-', '/', '.']);
    let [Some(first), Some(second), Some(third), None] =
        [parts.next(), parts.next(), parts.next(), parts.next()]
    else {
        return false;
    };
    let number =
        |part: &str| matches!(part.len(), 1..=4) && part.bytes().all(|b| b.is_ascii_digit());
    number(third)
        && (number(first) && (is_name(second, &MONTHS) || number(second) && word.contains('/'))
            || is_name(first, &MONTHS) && number(second))
}

/// True for `12:30:45` and `9:30:45`, with or without a fraction and an offset.
pub(super) fn is_clock(word: &str) -> bool {
    let Some(hour) = [2, 1].into_iter().find(|hour| has_shape(word, &"00:00:00"[2 - hour..]))
    else {
        return false;
    };
    let rest = word[hour + 6..].trim_end_matches(['Z', 'z']);
    let fraction = rest.strip_prefix('.').unwrap_or(rest);
    let offset = if rest.len() == fraction.len() {
        rest
    } else {
        fraction.trim_start_matches(|c: char| c.is_ascii_digit())
    };
    offset.is_empty()
        || offset.strip_prefix(['+', '-']).is_some_and(|at| {
            matches!(at.len(), 2 | 4 | 5) && at.bytes().all(|b| b.is_ascii_digit() || b == b':')
        })
}

/// True if a text begins as the shape does, in which `0` is any digit.
fn has_shape(text: &str, shape: &str) -> bool {
    text.len() >= shape.len()
        && text
            .bytes()
            .zip(shape.bytes())
            .all(|(b, s)| if s == b'0' { b.is_ascii_digit() } else { b == s })
}

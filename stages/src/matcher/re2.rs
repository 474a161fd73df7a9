//! RE2: regular expressions as Go's `regexp` reads them, which is what Alertmanager uses, written
//! for the `regex` crate.
//!
//! `\w`, `\d`, `\s` and `\b` are ASCII; `\Q…\E` quotes; a brace that is no repetition is itself; in
//! a class `[`, `&&`, `--` and `~~` have no meaning of their own.
//!
//! Source: the syntax page of Go's `regexp/syntax`, 1.24.

use std::{iter::Peekable, str::Chars};

const WORD: &str = "0-9A-Za-z_";
const DIGIT: &str = "0-9";
const SPACE: &str = r"\t\n\f\r ";

/// Rewrites an expression; what neither reads stays as it is, for the compiler to name, and so does
/// `\B`, which cannot be meant for ASCII only.
pub(super) fn rewritten(text: &str) -> String {
    let (mut out, mut chars) = (String::with_capacity(text.len()), text.chars().peekable());
    while let Some(c) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some('Q') => quote(&mut chars, &mut out),
                Some('b') => out.push_str(r"(?-u:\b)"),
                Some(class) => match ascii(class) {
                    // Folding case would add letters that are not ASCII.
                    Some((not, set)) => out.push_str(&format!("(?-i:[{not}{set}])")),
                    None => out.extend(['\\', class]),
                },
                None => out.push('\\'),
            },
            '[' => class(&mut chars, &mut out),
            '{' if !repeats(&chars) => out.push_str(r"\{"),
            c => out.push(c),
        }
    }
    out
}

/// Set of a class by its letter, and `^` before that of a capital one.
fn ascii(letter: char) -> Option<(&'static str, &'static str)> {
    Some(match letter {
        'w' => ("", WORD),
        'd' => ("", DIGIT),
        's' => ("", SPACE),
        'W' => ("^", WORD),
        'D' => ("^", DIGIT),
        'S' => ("^", SPACE),
        _ => return None,
    })
}

/// Copies what stands before `\E`, or before the end, as it is meant: literally.
fn quote(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut literal = String::new();
    while let Some(c) = chars.next() {
        if c == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            break;
        }
        literal.push(c);
    }
    out.push_str(&regex::escape(&literal));
}

/// True if what follows a brace makes it a repetition: `3}`, `3,}` or `3,5}`.
fn repeats(after: &Peekable<Chars<'_>>) -> bool {
    let inside: String = after.clone().take_while(|c| *c != '}').collect();
    let closed = after.clone().any(|c| c == '}');
    let (least, most) = inside.split_once(',').unwrap_or((&inside, ""));
    let digits = |text: &str| text.chars().all(|c| c.is_ascii_digit());
    closed && !least.is_empty() && digits(least) && digits(most)
}

/// Copies a class, whose bracket was read.
fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // True where a hyphen would make a range, and where the end of one is read.
    let (mut begun, mut within, mut first) = (false, false, true);
    while let Some(c) = chars.next() {
        let ends = std::mem::take(&mut within);
        match c {
            ']' if !first => return out.push(']'),
            '-' if begun && !ends && chars.peek().is_some_and(|next| *next != ']') => {
                out.push('-');
                within = true;
            }
            '[' if chars.peek() == Some(&':') && named(chars, out) => begun = false,
            '\\' => {
                let escaped = chars.next();
                match escaped.and_then(ascii) {
                    Some((not, set)) => out.push_str(&format!("[{not}{set}]")),
                    None => out.extend(std::iter::once('\\').chain(escaped)),
                }
                begun = !ends && escaped.and_then(ascii).is_none();
            }
            '[' | ']' | '-' | '&' | '~' => {
                out.extend(['\\', c]);
                begun = !ends;
            }
            c => {
                out.push(c);
                begun = !ends;
            }
        }
        first = false;
    }
}

/// Copies `:alpha:]`, and the bracket before it, if that is what follows.
fn named(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> bool {
    let rest: String = chars.clone().collect();
    let Some(end) = rest.find(":]") else { return false };
    let name = &rest[1..end.max(1)];
    if name.is_empty() || !name.trim_start_matches('^').chars().all(|c| c.is_ascii_lowercase()) {
        return false;
    }
    out.push('[');
    out.push_str(&rest[..end + 2]);
    (0..end + 2).for_each(|_| _ = chars.next());
    true
}

#[cfg(test)]
mod tests {
    /// True if the whole of a text fits; `None` where the expression is not read.
    fn fits(expression: &str, text: &str) -> Option<bool> {
        Some(super::super::compiled(expression).ok()?.is_match(text))
    }

    /// Each was run through Go's `regexp` (1.26) in `^(?:…)$`.
    #[test]
    fn an_expression_means_what_it_means_to_go() {
        for (expression, fitting, not) in [
            (r"\w+", vec!["a_Z9"], vec!["ä", "a-b", ""]),
            (r"(?i)\w", vec!["K"], vec!["-"]),
            (r"\d", vec!["7"], vec!["٣"]),
            (r"a\sb", vec!["a b", "a\tb"], vec!["a\u{a0}b", "a\u{b}b"]),
            (r"[\w.-]+", vec!["a.b-c"], vec!["ä", "a b"]),
            (r"[^\d]", vec!["a", "٣"], vec!["7"]),
            (r"[\D1]", vec!["1", "x"], vec!["2"]),
            (r"\W", vec!["ä", "-"], vec!["a"]),
            (r"a\b.b", vec!["aäb", "a b"], vec!["acb"]),
            (r"\Qa.b*\E+", vec!["a.b*", "a.b**"], vec!["aXb*"]),
            (r"a{", vec!["a{"], vec!["a"]),
            (r"a{,2}", vec!["a{,2}"], vec!["a", "aa"]),
            (r"a{1,2}b{3}c{1,}", vec!["abbbc", "aabbbccc"], vec!["abb"]),
            (r"{x}", vec!["{x}"], vec!["x"]),
            (r"[[]", vec!["["], vec!["]", ""]),
            (r"[[a]+", vec!["[a"], vec!["b"]),
            (r"[]a]+", vec!["]a"], vec!["["]),
            (r"[^]a]", vec!["b"], vec!["]", "a"]),
            (r"[a&&b]", vec!["a", "b", "&"], vec!["c"]),
            (r"[a~~b]", vec!["a", "b", "~"], vec!["c"]),
            (r"[+--]", vec!["+", ",", "-"], vec!["."]),
            (r"[--/]", vec!["-", ".", "/"], vec![","]),
            (r"[a-c-]+", vec!["abc-"], vec!["d"]),
            (r"[[:alpha:]-]+", vec!["ab-"], vec!["1"]),
            (r"[[:^digit:]]", vec!["a"], vec!["1"]),
            (r"DB_.*|PAY", vec!["DB_1", "PAY"], vec!["PAY_1", "XDB_1", "DB_\n"]),
            (r"\pL\x41\.", vec!["äA."], vec!["1A."]),
        ] {
            for (texts, wanted) in [(fitting, true), (not, false)] {
                for text in texts {
                    assert_eq!(fits(expression, text), Some(wanted), "{expression} {text:?}");
                }
            }
        }
        for expression in ["(", "[a", "*", r"\", "[b-a]", "a{1001}{1001}"] {
            assert_eq!(fits(expression, ""), None, "{expression}");
        }
    }
}

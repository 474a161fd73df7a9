//! Sanitize: text that services wrote, made fit to be sent.
//!
//! Bounded, without control characters, unable to mention anyone.

use std::borrow::Cow;

/// Text as it may be sent anywhere: no control characters but line breaks and tabs, and nothing
/// that reorders or hides text.
pub(super) fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut characters = text.chars().peekable();
    while let Some(character) = characters.next() {
        match character {
            '\r' if characters.peek() == Some(&'\n') => {}
            '\r' | '\u{2028}' | '\u{2029}' => out.push('\n'),
            '\n' | '\t' => out.push(character),
            _ if character.is_control() => out.push(' '),
            // Marks that turn the direction of what follows, and invisible ones that break up a
            // word.
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{2069}'
            | '\u{feff}' => {}
            _ => out.push(character),
        }
    }
    out
}

/// Text that is [`plain`], on one line, [`cut`] to `bytes_max`.
pub(super) fn line(text: &str, bytes_max: usize) -> String {
    cut(plain(text).replace(['\n', '\t'], " ").trim(), bytes_max).into_owned()
}

/// Text of at most `bytes_max` bytes, cut between characters; what is left out shows as an
/// ellipsis.
pub(super) fn cut(text: &str, bytes_max: usize) -> Cow<'_, str> {
    if text.len() <= bytes_max {
        return Cow::Borrowed(text);
    }
    let room = bytes_max.saturating_sub('…'.len_utf8());
    let end = (0..=room).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    Cow::Owned(format!("{}…", &text[..end]))
}

/// Makes every text in a value that came from outside [`plain`].
pub(super) fn scrub(value: &mut serde_json::Value) {
    use serde_json::Value;
    match value {
        Value::String(text) if may_harm(text) => *text = plain(text),
        Value::Array(list) => list.iter_mut().for_each(scrub),
        Value::Object(table) => {
            table.values_mut().for_each(scrub);
            let harmful: Vec<String> = table.keys().filter(|key| may_harm(key)).cloned().collect();
            for key in harmful {
                let inner = table.remove(&key).unwrap_or_default();
                table.insert(line(&key, KEY_BYTES_MAX), inner);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Longest name of a label that is made fit, in bytes.
const KEY_BYTES_MAX: usize = 256;

fn may_harm(text: &str) -> bool {
    text.chars().any(|character| character.is_control() || !character.is_ascii())
}

/// Words that mention many people when they follow an `@`, in one chat or another.
const CALLS: [&str; 6] = ["all", "channel", "everyone", "group", "here", "所有人"];

/// Text that mentions nobody: an `@here` stays readable, and is none.
pub(super) fn uncalled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, character) in text.char_indices() {
        out.push(character);
        let rest = &text[at + character.len_utf8()..];
        let calls = |word: &&str| {
            rest.get(..word.len()).is_some_and(|start| start.eq_ignore_ascii_case(word))
        };
        if matches!(character, '@' | '＠') && CALLS.iter().any(calls) {
            out.push('\u{200b}');
        }
    }
    out
}

/// Text that a chat's markdown shows as it is: what would make a link, an image, a heading, a
/// mention or markup is replaced by its full-width twin, since not every chat knows how to escape
/// it.
pub(super) fn unmarked(text: &str) -> String {
    let twin = |character| match character {
        '[' => '［',
        ']' => '］',
        '<' => '＜',
        '>' => '＞',
        '*' => '＊',
        '`' => '｀',
        '~' => '～',
        '|' => '｜',
        '#' => '＃',
        other => other,
    };
    uncalled(text).chars().map(twin).collect()
}

/// Text inside HTML, in an element or in an attribute.
pub(super) fn html(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_calls_hides_or_marks_up_does_not_get_through() {
        assert_eq!(plain("a\r\nb\rc\u{1b}[31m\u{202e}d\u{2028}e\0"), "a\nb\nc [31md\ne ");
        assert_eq!(line("  a\nb\tc ", 80), "a b c");
        assert_eq!(
            uncalled("@Here mail me@all.example @someone"),
            "@\u{200b}Here mail me@\u{200b}all.example @someone"
        );
        assert_eq!(unmarked("[x](http://a) <@u> # `y`"), "［x］(http://a) ＜@u＞ ＃ ｀y｀");
        assert_eq!(html("<b a='\"'>&"), "&lt;b a=&#39;&quot;&#39;&gt;&amp;");
        let mut value = serde_json::json!({ "a": ["x\u{7}", { "b\n": "y\r\n" }], "n": 1 });
        scrub(&mut value);
        assert_eq!(value, serde_json::json!({ "a": ["x ", { "b": "y\n" }], "n": 1 }));
    }

    proptest! {
        #[test]
        fn text_is_cut_between_characters_and_never_longer(
            text in ".{0,200}",
            most in 3..64_usize,
        ) {
            let shorter = cut(&text, most);
            prop_assert!(shorter.len() <= most.max(3));
            prop_assert!(text.len() > most || shorter == text);
            let safe = plain(&text);
            prop_assert!(!safe.chars().any(|c| c.is_control() && !"\n\t".contains(c)));
            prop_assert_eq!(plain(&safe), safe);
        }
    }
}

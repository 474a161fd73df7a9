//! Quote: which quoted text is a name of the program's own, which a message, and which data.

use super::{
    out::{PATH, TEXT},
    paths,
    scan::Scan,
    shape, words,
};

/// Longest quoted name, in bytes; a longer one is data.
const NAME_BYTES_MAX: usize = 128;

/// Returns the quotes that close what `quote` opens.
const fn closing(quote: char) -> Option<&'static [char]> {
    Some(match quote {
        '"' => &['"'],
        '\'' => &['\''],
        '`' => &['`'],
        '“' => &['”'],
        '„' => &['“', '”'],
        '‘' => &['’'],
        '‚' => &['‘', '’'],
        '«' => &['»'],
        '»' => &['«'],
        '‹' => &['›'],
        '›' => &['‹'],
        '「' => &['」'],
        '『' => &['』'],
        '《' => &['》'],
        '〈' => &['〉'],
        '＂' => &['＂'],
        _ => return None,
    })
}

/// True for a letter after and before which quotes open and close without a space: of scripts
/// beyond those with apostrophes.
fn has_no_apostrophe(c: char) -> bool {
    c >= '\u{1100}'
}

impl<'a> Scan<'a> {
    /// Returns the text between the quotes that begin here with `quote`, and its length with both
    /// quotes.
    pub(super) fn quotation(&mut self, quote: char) -> Option<(&'a str, usize)> {
        let close = closing(quote)?;
        // The apostrophe of "can't" opens nothing, and that of "'it's'" closes nothing.
        let in_word = self.before.is_alphanumeric() && !has_no_apostrophe(self.before);
        if quote.is_ascii() && in_word || self.unclosed.contains(quote) {
            return None;
        }
        let rest = self.rest;
        let inside = &rest[quote.len_utf8()..];
        let closes = |at: usize| {
            quote != '\''
                || !inside[at + 1..]
                    .starts_with(|c: char| c.is_alphanumeric() && !has_no_apostrophe(c))
        };
        let end = inside.match_indices(close).find(|(at, _)| closes(*at));
        match end {
            Some((at, close)) => Some((&inside[..at], quote.len_utf8() + at + close.len())),
            None => {
                self.unclosed.push(quote);
                None
            }
        }
    }

    /// Writes a quotation: a message is read, a name of the program's own is kept, the rest is
    /// data.
    pub(super) fn quoted(&mut self, quote: char, inside: &'a str, length: usize) {
        let behind = &self.rest[length..];
        let last = self.said[2];
        let is_word = !inside.is_empty()
            && inside.len() <= NAME_BYTES_MAX
            && !inside.contains(char::is_whitespace);
        let before = self.out.text.trim_ascii_end();
        let is_key = quote == '"'
            && behind.trim_ascii_start().starts_with(':')
            && before.ends_with(['{', ',']);
        let of_exception = words::is_exception(last);
        let is_message = words::says(last) || of_exception && before.ends_with('(');
        let is_name = is_word
            && (is_key
                || words::names(self.said)
                || words::names_before(behind)
                || is_code(inside)
                || last == "KeyError"
                || self.is_in_chain(quote, behind));
        if is_name && !is_message {
            self.name(quote, inside);
            if !is_key {
                self.said = [""; 3];
            }
        } else if is_word && paths::url(inside) == Some(inside.len()) {
            self.out.text.push(quote);
            self.url(inside);
            self.out.text.push(quote);
        } else if let Some(file) = paths::program_file(inside).filter(|_| paths::is_path(inside)) {
            self.out.note(inside, &format!("{PATH}/{file}"), "file of a program", false);
            self.out.text.extend([PATH, "/", &file]);
            self.said = [""; 3];
        } else if !self.nested && is_message && !inside.is_empty() {
            self.out.text.push(quote);
            let mut scan = Scan::new(inside, std::mem::take(&mut self.out));
            scan.nested = true;
            while scan.step() {}
            self.out = scan.out;
            self.out.text.push(quote);
            self.said = [""; 3];
        } else if is_name {
            self.name(quote, inside);
            self.said = [""; 3];
        } else {
            self.out.replace(&self.rest[..length], TEXT, "quoted text");
            self.said = [""; 3];
        }
    }

    /// Keeps a name, but for the digits in it.
    fn name(&mut self, quote: char, inside: &'a str) {
        self.out.note(inside, "", "name", true);
        self.out.text.push(quote);
        let of_module = words::is_of_module(self.said);
        self.said = [""; 3];
        if shape::is_term(inside) || words::is_of_language(inside) {
            self.out.text.push_str(inside);
        } else if of_module && !inside.starts_with(['/', '\\']) && !inside.contains(':') {
            self.parts(inside);
        } else {
            self.word(inside, "");
        }
        self.out.text.push(quote);
    }

    /// True for a name of several, each in quotes: `"SHOP"."ORDERS"`.
    fn is_in_chain(&self, quote: char, behind: &str) -> bool {
        let next = |text: &str| text.strip_prefix('.').is_some_and(|rest| rest.starts_with(quote));
        let before = self.out.text.strip_suffix('.').is_some_and(|text| text.ends_with(quote));
        next(behind) || before
    }
}

/// True for what only code is written like: `Option::unwrap()`, `STRIPE_KEY`, `java.lang.String`.
fn is_code(text: &str) -> bool {
    let is_constant = || {
        text.contains('_')
            && text.starts_with(|c: char| c.is_ascii_uppercase())
            && text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
    };
    let is_class = || {
        text.split('.').nth(2).is_some()
            && text.split('.').all(|part| part.starts_with(|c: char| c.is_ascii_alphabetic()))
            && text
                .rsplit('.')
                .next()
                .is_some_and(|name| name.starts_with(|c: char| c.is_uppercase()))
    };
    text.contains("()")
        || text.contains("::") && shape::whole(text).is_none()
        || is_constant()
        || is_class()
        || words::is_of_language(text)
}

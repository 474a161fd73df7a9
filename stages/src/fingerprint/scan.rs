//! Scan: one pass over a message that puts placeholders for all that varies between occurrences.

use super::{
    out::{NUMBER, Out, PATH, TEXT},
    paths, shape, words,
};

pub(super) struct Scan<'a> {
    pub(super) rest: &'a str,
    /// Character before `rest`.
    pub(super) before: char,
    /// Last three names, the latest last; a number or the end of a clause clears them.
    pub(super) said: [&'a str; 3],
    /// Quotes that do not close any more: looked for once each, so that the scan stays linear.
    pub(super) unclosed: String,
    /// True inside a quoted message. One level is read, so that the scan stays linear.
    pub(super) nested: bool,
    /// True once a `(` that holds data did not close: looked for once.
    open: bool,
    pub(super) out: Out,
}

impl<'a> Scan<'a> {
    pub(super) const fn new(rest: &'a str, out: Out) -> Self {
        Self {
            rest,
            before: ' ',
            said: [""; 3],
            unclosed: String::new(),
            nested: false,
            open: false,
            out,
        }
    }

    /// Keeps the code that a server's answer begins with: `550 5.1.1 …`, `404 Not Found`.
    pub(super) fn opening_code(&mut self) {
        let Some((code, rest)) = self.rest.split_at_checked(3) else { return };
        let is_code = code.starts_with(['4', '5']) && code.bytes().all(|b| b.is_ascii_digit());
        let Some(text) = rest.strip_prefix([' ', '-']).filter(|_| is_code) else { return };
        let enhanced = text.split(' ').next().filter(|word| shape::is_enhanced_status(word));
        if enhanced.is_some() || text.starts_with(|c: char| c.is_uppercase()) {
            let length = 4 + enhanced.map_or(0, str::len);
            self.out.note(self.rest[..length].trim_ascii_end(), "", "code", true);
            self.out.text.push_str(&self.rest[..length]);
            self.rest = &self.rest[length..];
        }
    }

    /// Takes one character, quotation or word off the rest; false at its end.
    pub(super) fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        let taken = if first.is_whitespace() || first.is_control() {
            self.out.space();
            first.len_utf8()
        } else if let Some((inside, length)) = self.quotation(first) {
            self.quoted(first, inside, length);
            length
        } else if let Some(length) = paths::url(self.rest) {
            self.url(&self.rest[..length]);
            length
        } else if let Some(length) =
            (first == '[').then(|| shape::bracketed_address(self.rest)).flatten()
        {
            self.out.replace(&self.rest[..length], "<ip>", "address");
            length
        } else if let Some(length) = (first == '(').then(|| self.row()).flatten() {
            self.out.text.push('(');
            self.out.replace(&self.rest[1..=length], TEXT, "values of a row");
            self.said = [""; 3];
            length + 1
        } else if shape::in_word(first) && !self.parts_words(first) {
            let length = self.word_length(first);
            self.word(&self.rest[..length], self.rest[length..].trim_ascii_start());
            length
        } else {
            self.sign(first);
            first.len_utf8()
        };
        self.before = self.rest[..taken].chars().next_back().unwrap_or(' ');
        self.rest = &self.rest[taken..];
        true
    }

    /// True for a sign that begins no word here: the `/` of `</Key>`, the `:` of `"amount":12.5`.
    fn parts_words(&self, sign: char) -> bool {
        sign == '/' && self.before == '<'
            || sign == ':' && matches!(self.before, '"' | '\'') && !self.rest.starts_with("::")
    }

    /// Length of the word that begins here; a route has its query with it.
    fn word_length(&self, first: char) -> usize {
        let end = |c: char| !shape::in_word(c);
        let length = self.rest.find(end).unwrap_or(self.rest.len());
        if first != '/' || !self.rest[length..].starts_with('?') {
            return length;
        }
        let ends = |c: char| c.is_whitespace() || c.is_control() || "\"'`<>(){}[],;".contains(c);
        self.rest.find(ends).unwrap_or(self.rest.len())
    }

    /// Writes a character that is in no word.
    fn sign(&mut self, sign: char) {
        let behind = &self.rest[sign.len_utf8()..];
        if words::is_currency_sign(sign) {
            if behind.trim_ascii_start().starts_with(|c: char| c.is_ascii_digit()) {
                return self.out.note(&self.rest[..sign.len_utf8()], "", "currency", false);
            } else if self.out.after(NUMBER) {
                return self.out.absorb(&self.rest[..sign.len_utf8()], "currency");
            }
        }
        // What pads base64 belongs to it.
        let padding = behind.strip_prefix('=').unwrap_or(behind);
        if sign == '='
            && self.out.behind()
            && !padding.starts_with(|c: char| shape::in_word(c) || "\"'(".contains(c))
        {
            return;
        }
        if sign == '…' && self.out.behind() {
            return;
        }
        if matches!(sign, ',' | ';' | ')' | ']' | '}' | '，' | '；' | '。' | '）') {
            self.said = [""; 3];
        }
        self.out.text.push(sign);
    }

    /// Returns the length of the values in parentheses that begin here: `Failing row contains (…)`,
    /// `Key (name)=(…)`, `key value is (…)`.
    fn row(&mut self) -> Option<usize> {
        let [_, second, last] = self.said;
        let before = &self.out.text;
        let holds = before.ends_with(")=")
            || second == "row" && last == "contains"
            || second == "value" && last == "is";
        if !holds || self.open {
            return None;
        }
        let end = self.rest.find([')', '\n']);
        self.open = end.is_none();
        end.filter(|end| *end > 1).map(|end| end - 1)
    }

    /// Keeps scheme and host of a URL, and its route.
    pub(super) fn url(&mut self, url: &'a str) {
        let (scheme, rest) = url.split_once("://").expect("a url has \"://\"");
        self.out.text.push_str(scheme);
        self.out.text.push_str("://");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        self.said = [""; 3];
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => self.word(name, ""),
            _ => self.word(host, ""),
        }
        if host.is_empty() && path.len() > 1 {
            self.out.replace(path, PATH, "path");
        } else if path.len() > 1 {
            self.route(path);
        }
        self.said = [""; 3];
    }

    pub(super) fn route(&mut self, path: &str) {
        let route = paths::route(path);
        if route != path {
            self.out.note(path, &route, "route", false);
        }
        self.out.text.push_str(&route);
    }
}

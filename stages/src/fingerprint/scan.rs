//! Scan: one pass over a message that puts placeholders for all that varies between occurrences.

use super::{
    SCANNED_BYTES_MAX, cut,
    shape::{self, Shape},
};

/// Placeholder of a number or an id: one for both, since an id in hexadecimal may be all digits.
const NUMBER: &str = "<n>";
/// Longest quoted name, in bytes; a longer one is data.
const NAME_BYTES_MAX: usize = 64;

/// Words whose number says what failed: `status 502`, `os error 24`, `errno: 110`, `signal 9`.
const TELLING: &[&str] = &[
    "http",
    "status",
    "statuscode",
    "error",
    "errno",
    "errorcode",
    "errcode",
    "sqlstate",
    "sqlcode",
    "exit",
    "signal",
    "hresult",
];
/// Words before `code` that make its number say what failed: `exit code 137`, `status code: 404`.
const CODED: &[&str] = &[
    "status", "exit", "error", "response", "result", "return", "http", "close", "reply", "with",
    "vendor", "sql",
];
/// Nouns whose quoted name is the program's own, not data: `constraint "orders_pkey"`, `(reading
/// 'map')`.
const NAMED: &[&str] = &[
    "constraint",
    "relation",
    "column",
    "table",
    "field",
    "property",
    "attribute",
    "parameter",
    "argument",
    "option",
    "module",
    "package",
    "function",
    "method",
    "class",
    "type",
    "index",
    "reading",
    "setting",
    "code",
    "error",
    "reason",
];
/// Words whose quoted text is itself a message: `err="dial tcp: i/o timeout"`.
const SAID: &[&str] =
    &["err", "error", "msg", "message", "reason", "cause", "desc", "detail", "description"];

/// Returns a message without the parts that vary between occurrences of the same failure.
///
/// `connect to 10.0.0.7:5432 failed after 30s (request 3f2a9c01-…)` becomes
/// `connect to <ip> failed after <n> (request <n>)`. White space is one space, and a run of equal
/// placeholders (`1, 2, 3`) is one placeholder.
pub fn normalise(message: &str) -> String {
    let message = cut(message, SCANNED_BYTES_MAX);
    let out = Out { text: String::with_capacity(message.len()), last: None };
    let mut scan = Scan {
        rest: message,
        before: ' ',
        said: ["", ""],
        unclosed: String::new(),
        nested: false,
        out,
    };
    scan.opening_code();
    while scan.step() {}
    scan.out.text.truncate(scan.out.text.trim_end().len());
    scan.out.text
}

/// Text so far, and the end of its last placeholder.
#[derive(Default)]
struct Out {
    text: String,
    last: Option<(&'static str, usize)>,
}

impl Out {
    /// Adds a placeholder, unless only commas and spaces part it from one like it.
    fn placeholder(&mut self, placeholder: &'static str) {
        match self.last {
            Some((last, end))
                if last == placeholder
                    && self.text[end..].bytes().all(|b| matches!(b, b' ' | b',')) =>
            {
                self.text.truncate(end);
            }
            _ => self.text.push_str(placeholder),
        }
        self.last = Some((placeholder, self.text.len()));
    }

    fn space(&mut self) {
        if !self.text.is_empty() && !self.text.ends_with(' ') {
            self.text.push(' ');
        }
    }

    /// True if a number ended just before, with at most a space since.
    fn after_number(&self) -> bool {
        self.last.is_some_and(|(last, end)| last == NUMBER && matches!(&self.text[end..], "" | " "))
    }
}

struct Scan<'a> {
    rest: &'a str,
    /// Character before `rest`.
    before: char,
    /// Last two names, the latest second; a number or the end of a clause clears them.
    said: [&'a str; 2],
    /// Quotes that do not close any more: looked for once each, so that the scan stays linear.
    unclosed: String,
    /// True inside a quoted message. One level is read, so that the scan stays linear.
    nested: bool,
    out: Out,
}

impl<'a> Scan<'a> {
    /// Keeps the code that a server's answer begins with: `550 5.1.1 …`, `404 Not Found`.
    fn opening_code(&mut self) {
        let Some((code, rest)) = self.rest.split_at_checked(3) else { return };
        let is_code = code.starts_with(['4', '5']) && code.bytes().all(|b| b.is_ascii_digit());
        let Some(text) = rest.strip_prefix([' ', '-']).filter(|_| is_code) else { return };
        let enhanced = text.split(' ').next().filter(|word| shape::is_enhanced_status(word));
        if enhanced.is_some() || text.starts_with(|c: char| c.is_uppercase()) {
            let length = 4 + enhanced.map_or(0, str::len);
            self.out.text.push_str(&self.rest[..length]);
            self.rest = &self.rest[length..];
        }
    }

    /// Takes one character, quotation or word off the rest; false at its end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        let taken = if first.is_whitespace() || first.is_control() {
            self.out.space();
            first.len_utf8()
        } else if let Some((inside, length)) = self.quotation(first) {
            self.quoted(first, inside, length);
            length
        } else if let Some(length) = url(self.rest) {
            self.url(length)
        } else if let Some(length) =
            (first == '[').then(|| shape::bracketed_address(self.rest)).flatten()
        {
            self.out.placeholder("<ip>");
            length
        } else if shape::in_word(first) && !(first == '/' && self.before == '<') {
            let length = self.rest.find(|c| !shape::in_word(c)).unwrap_or(self.rest.len());
            self.word(&self.rest[..length], self.rest[length..].trim_ascii_start());
            length
        } else {
            if matches!(first, ',' | ';' | ')' | ']' | '}') {
                self.said = ["", ""];
            }
            self.out.text.push(first);
            first.len_utf8()
        };
        self.before = self.rest[..taken].chars().next_back().unwrap_or(' ');
        self.rest = &self.rest[taken..];
        true
    }

    /// Returns the text between the quotes that begin here with `quote`, and its length with both
    /// quotes.
    fn quotation(&mut self, quote: char) -> Option<(&'a str, usize)> {
        let close: &[char] = match quote {
            '"' => &['"'],
            '\'' => &['\''],
            '`' => &['`'],
            '“' => &['”'],
            '„' => &['“', '”'],
            '‘' => &['’'],
            '«' => &['»'],
            '「' => &['」'],
            '『' => &['』'],
            _ => return None,
        };
        // The apostrophe of "can't" opens nothing, and that of "'it's'" closes nothing.
        if quote.is_ascii() && self.before.is_alphanumeric() || self.unclosed.contains(quote) {
            return None;
        }
        let rest = self.rest;
        let inside = &rest[quote.len_utf8()..];
        let mut ends = inside.match_indices(close);
        let end = ends
            .find(|(at, _)| quote != '\'' || !inside[at + 1..].starts_with(char::is_alphanumeric));
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
    fn quoted(&mut self, quote: char, inside: &'a str, length: usize) {
        let names = |words: &[&str]| is_one_of(self.said[1], words);
        let is_name = !inside.is_empty()
            && inside.len() <= NAME_BYTES_MAX
            && !inside.contains(char::is_whitespace);
        let is_key = quote == '"'
            && self.rest[length..].trim_ascii_start().starts_with(':')
            && self.out.text.trim_ascii_end().ends_with(['{', ',']);
        if is_name && (is_key || names(NAMED)) {
            self.out.text.push(quote);
            self.said = ["", ""];
            self.word(inside, "");
            self.out.text.push(quote);
        } else if !self.nested && names(SAID) {
            self.out.text.push(quote);
            let out = std::mem::take(&mut self.out);
            let mut scan = Scan {
                rest: inside,
                before: ' ',
                said: ["", ""],
                unclosed: String::new(),
                nested: true,
                out,
            };
            while scan.step() {}
            self.out = scan.out;
            self.out.text.push(quote);
            self.said = ["", ""];
        } else {
            self.out.placeholder("<text>");
            self.said = ["", ""];
        }
    }

    /// Keeps scheme and host of a URL, not its path.
    fn url(&mut self, length: usize) -> usize {
        let (scheme, rest) = self.rest[..length].split_once("://").expect("a url has \"://\"");
        self.out.text.push_str(scheme);
        self.out.text.push_str("://");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => self.word(name, ""),
            _ => self.word(host, ""),
        }
        if path.len() > 1 {
            self.out.placeholder("<path>");
        }
        self.said = ["", ""];
        length
    }

    /// Writes a word: a placeholder where the whole of it varies, else its parts. `next` is what
    /// follows.
    fn word(&mut self, word: &'a str, next: &str) {
        // Most words are plain.
        if word.bytes().all(|b| b.is_ascii_alphabetic())
            && !shape::is_id(word)
            && !self.may_go(word)
        {
            self.out.text.push_str(word);
            self.said = [self.said[1], word];
            return;
        }
        let core = word.trim_end_matches(['.', ':', '-']);
        let tail = &word[core.len()..];
        if core.get(..5).is_some_and(|start| start.eq_ignore_ascii_case("http/")) && core.len() <= 8
        {
            // The version of a protocol: what follows is the status.
            self.out.text.push_str("HTTP");
            self.said = ["", "http"];
        } else if shape::is_currency(core) && next.starts_with(|c: char| c.is_ascii_digit()) {
            // "EUR 12" and "USD 3" are amounts.
        } else if self.out.after_number() && shape::is_unit(core) {
            let end = self.out.last.map_or(0, |(_, end)| end);
            self.out.text.truncate(end);
        } else if shape::is_error_number(core) {
            self.keep(core);
        } else {
            match shape::whole(core) {
                Some(shape) => self.whole(shape, core),
                None => self.parts(core),
            }
        }
        self.out.text.push_str(tail);
    }

    /// True if a word of letters may belong to a number or an id beside it.
    fn may_go(&self, word: &str) -> bool {
        self.out.after_number()
            || shape::is_currency(word)
            || word.len() == 5 && self.out.text.ends_with("<n>-")
    }

    /// Writes a placeholder for a word that varies as a whole, unless the words before it make it a
    /// code that identifies the failure.
    fn whole(&mut self, shape: Shape, word: &'a str) {
        if shape == Shape::Number && self.tells(word) {
            return self.keep(word);
        }
        self.out.placeholder(match shape {
            Shape::Number => NUMBER,
            Shape::Address => "<ip>",
            Shape::Time => "<time>",
            Shape::Email => "<email>",
            Shape::Path => "<path>",
        });
        self.said = ["", ""];
    }

    fn parts(&mut self, word: &'a str) {
        for part in word.split_inclusive(|c: char| !c.is_alphanumeric()) {
            let name = part.trim_end_matches(|c: char| !c.is_alphanumeric());
            if name.bytes().any(|b| b.is_ascii_digit()) && self.tells(name) {
                self.keep(name);
            } else if shape::is_pod_suffix(name) && self.out.text.ends_with("<n>-") {
                self.out.placeholder(NUMBER);
            } else {
                self.segment(name);
                if !name.is_empty() {
                    self.said = [self.said[1], name];
                }
            }
            self.out.text.push_str(&part[name.len()..]);
        }
    }

    /// Writes a part of a word: letters stay, digits do not.
    fn segment(&mut self, text: &str) {
        if !text.bytes().any(|b| b.is_ascii_digit()) && !shape::is_id(text) {
            return self.out.text.push_str(text);
        }
        // Scripts without spaces: the id is one thing, the text around it another.
        for run in text.split_inclusive(|c: char| !c.is_ascii()) {
            let ascii = run.trim_end_matches(|c: char| !c.is_ascii());
            if shape::is_id(ascii) {
                self.out.placeholder(NUMBER);
            } else {
                self.digits(ascii);
            }
            self.out.text.push_str(&run[ascii.len()..]);
        }
    }

    fn digits(&mut self, text: &str) {
        let mut rest = text;
        while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
            self.out.text.push_str(&rest[..at]);
            self.out.placeholder(NUMBER);
            rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
        }
        self.out.text.push_str(rest);
    }

    /// True if this number identifies the failure, by the words before it.
    fn tells(&self, number: &str) -> bool {
        let [earlier, last] = self.said;
        if last.eq_ignore_ascii_case("sqlstate") {
            return number.len() == 5;
        }
        let is_hex = |bare: &str| bare.len() <= 8 && bare.bytes().all(|b| b.is_ascii_hexdigit());
        let digits = number.strip_prefix('-').unwrap_or(number);
        let is_code = digits.len() <= 5 && digits.bytes().all(|b| b.is_ascii_digit())
            || number.strip_prefix("0x").is_some_and(is_hex);
        let by_code = || {
            last.eq_ignore_ascii_case("code") && (is_one_of(earlier, CODED) || number.len() == 3)
        };
        is_code && (is_one_of(last, TELLING) || by_code())
    }

    /// Writes a word as it is.
    fn keep(&mut self, word: &str) {
        self.out.text.push_str(word);
        self.said = ["", ""];
    }
}

fn is_one_of(word: &str, words: &[&str]) -> bool {
    words.iter().any(|known| known.eq_ignore_ascii_case(word))
}

/// Returns the length of the URL that `text` begins with.
fn url(text: &str) -> Option<usize> {
    let scheme = text.bytes().take(16).position(|b| !b.is_ascii_alphanumeric() && b != b'+')?;
    if scheme == 0 || !text[scheme..].starts_with("://") {
        return None;
    }
    let end = text
        .find(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>(){}|,;".contains(c))
        .unwrap_or(text.len());
    Some(text[..end].trim_end_matches(['.', ':', '!', '?']).len().max(scheme + 3))
}

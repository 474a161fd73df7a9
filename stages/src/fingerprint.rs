//! Fingerprint: which failures are the same failure.
//!
//! Two failures are the same when code, service and message agree once everything that varies from
//! one occurrence to the next is taken out of the message: numbers, ids, addresses, times, quoted
//! text and paths. One pass, no backtracking, and only the first [`SCANNED_BYTES_MAX`] bytes.

use std::net::{IpAddr, SocketAddr};

/// How much of a message is looked at, in bytes. What identifies a failure stands at its start.
pub const SCANNED_BYTES_MAX: usize = 4096;

/// Which failure this is: 16 hexadecimal digits, the same on every machine and in every version.
pub fn fingerprint(code: &str, service: &str, message: &str) -> String {
    hex(hash(&[code, service, &normalise(message)]))
}

/// The digits of a hash, as they stand in a fingerprint.
pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// A stable hash of some texts, in which `["a", "b"]` differs from `["ab"]`: FNV-1a, then the finaliser of `MurmurHash3`.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in parts.iter().flat_map(|part| part.bytes().chain([0xff])) {
        hash = (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

/// The first bytes of a text, at most `most`, cut between two characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    let end = (0..=most.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

/// A message without what varies between occurrences of the same failure.
///
/// `connect to 10.0.0.7:5432 failed after 30s (request 3f2a9c01-…)` becomes
/// `connect to <ip> failed after <n> (request <id>)`. White space is one space, and a run of equal
/// placeholders (`1, 2, 3`) is one placeholder.
pub fn normalise(message: &str) -> String {
    let mut scan =
        Scan { rest: cut(message, SCANNED_BYTES_MAX), before: ' ', unclosed: String::new(), out: Out::default() };
    while scan.step() {}
    scan.out.text.truncate(scan.out.text.trim_end().len());
    scan.out.text
}

/// The text so far, and where its last placeholder ends.
#[derive(Default)]
struct Out {
    text: String,
    last: Option<(&'static str, usize)>,
}

impl Out {
    /// Adds a placeholder, unless only commas and spaces part it from one like it.
    fn placeholder(&mut self, placeholder: &'static str) {
        match self.last {
            Some((last, end)) if last == placeholder && self.text[end..].chars().all(|c| matches!(c, ' ' | ',')) => {
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
}

struct Scan<'a> {
    rest: &'a str,
    /// The character before `rest`.
    before: char,
    /// The quotes that do not close any more: asked once each, so that the scan stays linear.
    unclosed: String,
    out: Out,
}

impl Scan<'_> {
    /// Takes one character, quotation or word off the rest; false at its end.
    fn step(&mut self) -> bool {
        let Some(first) = self.rest.chars().next() else { return false };
        let taken = if first.is_whitespace() || first.is_control() {
            self.out.space();
            first.len_utf8()
        } else if let Some(length) = self.quotation(first) {
            self.out.placeholder("<text>");
            length
        } else if let Some(length) = url(self.rest) {
            self.url(length)
        } else if in_word(first) {
            let length = self.rest.find(|c| !in_word(c)).unwrap_or(self.rest.len());
            word(&self.rest[..length], &mut self.out);
            length
        } else {
            self.out.text.push(first);
            first.len_utf8()
        };
        self.before = self.rest[..taken].chars().next_back().unwrap_or(' ');
        self.rest = &self.rest[taken..];
        true
    }

    /// The length of the quotation that begins here with `quote`, both quotes included.
    fn quotation(&mut self, quote: char) -> Option<usize> {
        let close = match quote {
            '"' | '\'' | '`' => quote,
            '“' => '”',
            '‘' => '’',
            '«' => '»',
            _ => return None,
        };
        // The apostrophe of "can't" opens nothing, and that of "'it's'" closes nothing.
        if self.before.is_alphanumeric() || self.unclosed.contains(quote) {
            return None;
        }
        let inside = &self.rest[quote.len_utf8()..];
        let end = inside
            .match_indices(close)
            .find(|(at, _)| close != '\'' || !inside[at + 1..].starts_with(char::is_alphanumeric));
        match end {
            Some((at, _)) => Some(quote.len_utf8() + at + close.len_utf8()),
            None => {
                self.unclosed.push(quote);
                None
            }
        }
    }

    /// Keeps whom a URL speaks to, not what about.
    fn url(&mut self, length: usize) -> usize {
        let (scheme, rest) = self.rest[..length].split_once("://").expect("a url has \"://\"");
        self.out.text.push_str(scheme);
        self.out.text.push_str("://");
        let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
        let (host, path) = rest.split_at(end);
        let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
        match host.rsplit_once(':') {
            Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => word(name, &mut self.out),
            _ => word(host, &mut self.out),
        }
        if path.len() > 1 {
            self.out.placeholder("<path>");
        }
        length
    }
}

/// The length of the URL that `text` begins with.
fn url(text: &str) -> Option<usize> {
    let scheme = text.bytes().take(16).position(|b| !b.is_ascii_alphanumeric() && b != b'+')?;
    if scheme == 0 || !text[scheme..].starts_with("://") {
        return None;
    }
    let end =
        text.find(|c: char| c.is_whitespace() || c.is_control() || "\"'`<>(){}|,;".contains(c)).unwrap_or(text.len());
    Some(text[..end].trim_end_matches(['.', ':', '!', '?']).len().max(scheme + 3))
}

fn in_word(c: char) -> bool {
    c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':' | '/' | '\\' | '@' | '+' | '%' | '~' | '$')
}

/// Writes a word: a placeholder where the whole of it varies, else its parts.
fn word(word: &str, out: &mut Out) {
    let core = word.trim_end_matches(['.', ':', '-']);
    let tail = &word[core.len()..];
    match whole(core) {
        Some(placeholder) => out.placeholder(placeholder),
        None => {
            for part in core.split_inclusive(|c: char| !c.is_alphanumeric()) {
                let name = part.trim_end_matches(|c: char| !c.is_alphanumeric());
                // A Kubernetes pod is called `<deployment>-<hash>-<five letters or digits>`.
                let pod = name.len() == 5 && out.text.ends_with("<id>-");
                if pod {
                    out.placeholder("<id>")
                } else {
                    segment(name, out)
                }
                out.text.push_str(&part[name.len()..]);
            }
        }
    }
    out.text.push_str(tail);
}

/// What a whole word is, if all of it varies.
fn whole(word: &str) -> Option<&'static str> {
    let digits = word.bytes().filter(u8::is_ascii_digit).count();
    let bare = word.strip_prefix("0x").unwrap_or(word);
    if is_uuid(word) || (bare.len() < word.len() && !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_hexdigit())) {
        return Some("<id>");
    }
    // "::" alone is a path of code, and "a:b" a pair; an address has a digit.
    if digits > 0 && (word.parse::<IpAddr>().is_ok() || word.parse::<SocketAddr>().is_ok()) {
        return Some("<ip>");
    }
    if is_time(word) {
        return Some("<time>");
    }
    if let Some((name, host)) = word.split_once('@')
        && !name.is_empty()
        && host.contains('.')
    {
        return Some("<email>");
    }
    if is_path(word) {
        return Some("<path>");
    }
    is_number(word).then_some("<n>")
}

/// Writes a part of a word: letters stay, digits do not.
fn segment(text: &str, out: &mut Out) {
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if digits == 0 {
        return out.text.push_str(text);
    }
    if digits < text.len() {
        let kinds: Vec<bool> = text.bytes().map(|b| b.is_ascii_digit()).collect();
        let changes = kinds.windows(2).filter(|pair| pair[0] != pair[1]).count();
        let hex = text.len() >= 8 && text.bytes().all(|b| b.is_ascii_hexdigit());
        if hex || (changes >= 2 && text.len() >= 5) {
            return out.placeholder("<id>");
        }
    }
    let mut rest = text;
    while let Some(at) = rest.find(|c: char| c.is_ascii_digit()) {
        out.text.push_str(&rest[..at]);
        out.placeholder("<n>");
        rest = rest[at..].trim_start_matches(|c: char| c.is_ascii_digit());
    }
    out.text.push_str(rest);
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36
        && word.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// `2026-11-21`, `2026/11/21`, `12:30:45.123Z`, `2026-11-21T12:30:45+01:00`.
fn is_time(word: &str) -> bool {
    let shape = |text: &str, shape: &str| {
        text.len() >= shape.len()
            && text.bytes().zip(shape.bytes()).all(|(b, s)| if s == b'0' { b.is_ascii_digit() } else { b == s })
    };
    let clock = |text: &str| {
        (shape(text, "00:00:00") || (text.len() == 5 && shape(text, "00:00")))
            && text.bytes().all(|b| b.is_ascii_digit() || b":.+-Z".contains(&b))
    };
    if shape(word, "0000-00-00") || shape(word, "0000/00/00") {
        let rest = &word[10..];
        return rest.is_empty() || rest.strip_prefix(['T', 't', '_', '-']).is_some_and(clock);
    }
    clock(word)
}

/// An absolute path, or one of several parts with a file at its end.
fn is_path(word: &str) -> bool {
    let absolute =
        ["/", "~/", "./", "../", "\\\\"].iter().any(|root| word.len() > root.len() && word.starts_with(root));
    let drive = word.len() > 3 && word.as_bytes()[0].is_ascii_alphabetic() && word[1..].starts_with(":\\");
    let parts = word.split(['/', '\\']).count();
    let file = word.rsplit(['/', '\\']).next().is_some_and(|last| last.contains('.'));
    absolute || drive || parts > 2 || (parts == 2 && file)
}

/// Digits with signs, points and a unit: `-1.5`, `30s`, `99.9%`, `10MiB`, `1.2.3`.
fn is_number(word: &str) -> bool {
    let digits = word.trim_start_matches(['+', '-', '$', '.']);
    let unit = digits.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let unit_fits = unit.len() <= 3 && unit.chars().all(|c| c.is_alphabetic() || c == '%');
    digits.starts_with(|c: char| c.is_ascii_digit()) && (unit_fits || unit == "/s")
}

#[cfg(test)]
mod tests {
    use super::*;
    use expect_test::expect;
    use proptest::prelude::*;

    #[test]
    fn a_fingerprint_never_changes() {
        let got = [
            fingerprint("REDIS_CONNECTION_FAILED", "cart", "connect ECONNREFUSED 10.0.0.7:6379"),
            fingerprint("", "", ""),
            fingerprint("TimeoutError", "shop/orders", "no answer in 5s"),
        ];
        expect!["bb4f03d4c8e7da7c 3db8f5d791a77001 f44d523ae3502359"].assert_eq(&got.join(" "));
    }

    #[test]
    fn what_varies_becomes_a_placeholder() {
        let messages = [
            "connect to 10.0.0.7:5432 failed after 30s (request 3f2a9c01-4b5d-4e6f-8a7b-0c1d2e3f4a5b)",
            "connect to [::1]:5432 or fe80::1 failed",
            "user 'bob' can't read \"a b\" of `orders`, isn't it",
            "an unclosed \" quote of 'one kind and 12 numbers",
            "GET https://u:p@payments.internal:8443/charge/12?x=1 -> 502.",
            "open /var/lib/x/1.db: no such file, see C:\\temp\\a.log or src/app/main.rs:42:7",
            "at 2026-11-21T12:30:45.123Z and 2026-11-21 12:30:45, batch [1, 2, 3] of 99.9%",
            "pod payments-6d4b75cb6d-x7k2p worker12 object 0xdeadbeef sha 9ae1bf00c3",
            "E11000 duplicate key a.b@example.com\r\n\tand/or std::io::Error v1.2.3",
            "Größe 12 überschritten: “Ware 7” 日本語 5件",
        ];
        let got: Vec<String> = messages.iter().map(|message| normalise(message)).collect();
        expect![[r#"
            connect to <ip> failed after <n> (request <id>)
            connect to [<ip>]:<n> or <ip> failed
            user <text> can't read <text> of <text>, isn't it
            an unclosed " quote of 'one kind and <n> numbers
            GET https://payments.internal<path> -> <n>.
            open <path>: no such file, see <path> or <path>
            at <time> and <time>, batch [<n>] of <n>
            pod payments-<id>-<id> worker<n> object <id> sha <id>
            E<n> duplicate key <email> and/or std::io::Error v<n>.<n>.<n>
            Größe <n> überschritten: <text> 日本語 <n>
        "#]]
        .assert_eq(&(got.join("\n") + "\n"));
    }

    #[test]
    fn the_same_failure_merges_and_another_does_not() {
        let same = |a: &str, b: &str| normalise(a) == normalise(b);
        for (a, b) in [
            ("timeout after 5000ms", "timeout after 3s"),
            ("order 1234 not found", "order 99 not found"),
            ("order 1234: stock 5", "order 1: stock -2.5"),
            ("dial tcp 10.1.2.3:5432: refused", "dial tcp 192.168.0.1:6543: refused"),
            ("dial tcp [fe80::1]:5432: refused", "dial tcp [2001:db8::2]:99: refused"),
            ("id=550e8400-e29b-41d4-a716-446655440000 gone", "id=123e4567-e89b-12d3-a456-426614174000 gone"),
            ("trace 4bf92f3577b34da6a3ce929d0e0e4736", "trace 00f067aa0ba902b7aabbccddeeff0011"),
            ("at 2026-01-02T03:04:05Z", "at 2025-12-31 23:59:59.999"),
            ("no user 'alice'", "no user 'bob o''neill'"),
            ("cannot open /tmp/a.txt", "cannot open /home/x/y/z"),
            ("http://api.shop/orders/1 said 500", "http://api.shop/orders/2?retry=1 said 502"),
            ("mail to a@x.org bounced", "mail to b.c@y.example.com bounced"),
            ("pod web-5d9c7b6f4d-abc12 died", "pod web-7c6b5d4f3e-x9z8y died"),
            ("ids 1, 2 and 3", "ids 7 and 8"),
            ("too   many\nspaces", "too many spaces"),
        ] {
            assert!(same(a, b), "{a:?} and {b:?} should merge:\n{}\n{}", normalise(a), normalise(b));
        }
        for (a, b) in [
            ("connection refused", "connection reset"),
            ("timeout reading from redis", "timeout reading from postgres"),
            ("http://payments/charge failed", "http://stock/charge failed"),
            ("user not found", "order not found"),
            ("can't read config", "can't write config"),
            ("invalid input: missing name", "invalid input: missing price"),
            ("std::io::Error", "std::fmt::Error"),
            ("order 5 not paid", "order not paid"),
        ] {
            assert!(!same(a, b), "{a:?} and {b:?} should not merge");
        }
        assert_ne!(fingerprint("A", "s", "m"), fingerprint("B", "s", "m"));
        assert_ne!(fingerprint("A", "s", "m"), fingerprint("A", "t", "m"));
        assert_ne!(fingerprint("ab", "c", "m"), fingerprint("a", "bc", "m"));
    }

    #[test]
    fn a_hostile_message_is_scanned_once() {
        for piece in ["\"", "'", "' ", "`x", "http://", "a:", "1:", "/", "“", "12 "] {
            let message = piece.repeat(1 << 20);
            assert!(normalise(&message).len() <= 4 * SCANNED_BYTES_MAX, "{piece}");
        }
    }

    proptest! {
        #[test]
        fn numbers_never_tell_two_messages_apart(words in "[a-z ]{0,40}", a: u32, b: u32) {
            let message = |n: u32| format!("{words} {n} {words}");
            prop_assert_eq!(normalise(&message(a)), normalise(&message(b)));
        }

        #[test]
        fn any_text_is_taken(text in "\\PC{0,300}|[-0-9a-f:/.@'\"x\\\\ ]{0,100}") {
            prop_assert!(!normalise(&text).contains(char::is_control));
        }
    }
}

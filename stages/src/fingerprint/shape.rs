//! Shape: class of a word by its looks: a number, an id, an address, a time, a path.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// Class of a whole word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Number,
    Address,
    Time,
    Email,
    Path,
}

/// Prefixes of error numbers, such as ORA-00942, E11000, TS2345. Others, such as ORD-17, number
/// things.
const ERROR_PREFIXES: &[&str] = &[
    "ORA", "TNS", "PLS", "RMAN", "SQL", "SQLSTATE", "MY", "E", "ERR", "HTTP", "TS", "CS", "MSB",
    "NU", "AADSTS", "CVE",
];
/// Units that stand apart from their number. One program says "890 MiB" and "1.2 GiB" of the same
/// thing.
const UNITS: &[&str] = &[
    "B", "kB", "KB", "MB", "GB", "TB", "KiB", "MiB", "GiB", "TiB", "byte", "bytes", "ns", "us",
    "µs", "μs", "ms", "s", "sec", "secs", "second", "seconds", "min", "mins", "minute", "minutes",
    "h", "hour", "hours", "day", "days",
];
const CURRENCIES: &[&str] = &[
    "EUR", "USD", "GBP", "CHF", "CNY", "JPY", "INR", "AUD", "CAD", "SEK", "NOK", "DKK", "PLN",
    "CZK", "HUF", "RUB", "TRY", "BRL", "MXN", "KRW", "SGD", "HKD", "NZD", "ZAR",
];

pub(super) fn in_word(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(c, '_' | '-' | '.' | ':' | '/' | '\\' | '@' | '+' | '%' | '~' | '$')
}

pub(super) fn is_unit(word: &str) -> bool {
    UNITS.contains(&word) || is_currency(word)
}

pub(super) fn is_currency(word: &str) -> bool {
    word.len() == 3 && CURRENCIES.contains(&word)
}

/// Returns the class of a word that varies as a whole.
pub(super) fn whole(word: &str) -> Option<Shape> {
    let digits = word.bytes().any(|b| b.is_ascii_digit());
    if digits && is_hex_number(word) || is_hex_pairs(word) {
        return Some(Shape::Number);
    }
    // "::" alone is a path of code, and "a:b" a pair; an address has a digit.
    if digits && is_address(word) {
        return Some(Shape::Address);
    }
    if digits && is_time(word) {
        return Some(Shape::Time);
    }
    if let Some((name, host)) = word.split_once('@')
        && !name.is_empty()
        && host.contains('.')
    {
        return Some(Shape::Email);
    }
    if is_path(word) {
        return Some(Shape::Path);
    }
    (digits && is_number(word)).then_some(Shape::Number)
}

/// True for a UUID, or `0x` and hexadecimal digits, with a sign or without.
fn is_hex_number(word: &str) -> bool {
    let bare = word.trim_start_matches(['+', '-']).strip_prefix("0x");
    is_uuid(word)
        || bare.is_some_and(|bare| !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_hexdigit()))
}

fn is_uuid(word: &str) -> bool {
    word.len() == 36
        && word.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// True for `04:8f:1a`: the serial of a certificate, a MAC address; but not a time of day.
fn is_hex_pairs(word: &str) -> bool {
    let pairs = || word.split(':');
    pairs().nth(1).is_some()
        && pairs().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
        && !is_clock(word)
}

fn is_address(word: &str) -> bool {
    if !word.contains(['.', ':']) {
        return false;
    }
    // Docker writes ":::5554", which is "::" and a port.
    let with_port =
        || word.rsplit_once(':').is_some_and(|(host, _)| host.parse::<Ipv6Addr>().is_ok());
    word.parse::<IpAddr>().is_ok()
        || word.parse::<SocketAddr>().is_ok()
        || (word.starts_with("::") && with_port())
}

/// Returns the length of `[::1]` or `[::1]:6379` at the start of a text.
pub(super) fn bracketed_address(text: &str) -> Option<usize> {
    let inside = text.strip_prefix('[')?;
    // An address with its zone is shorter than this.
    let end = inside.bytes().take(64).position(|b| b == b']')?;
    inside[..end].parse::<Ipv6Addr>().ok()?;
    let rest = &inside[end + 1..];
    let port = rest
        .strip_prefix(':')
        .map_or(0, |port| port.bytes().take(5).take_while(u8::is_ascii_digit).count());
    Some(end + 2 + if port > 0 { port + 1 } else { 0 })
}

/// True for `2026-11-21`, `2026/11/21`, `12:30:45.123Z`, `2026-11-21T12:30:45+01:00`.
fn is_time(word: &str) -> bool {
    if !has_shape(word, "0000-00-00") && !has_shape(word, "0000/00/00") {
        return is_clock(word);
    }
    let rest = &word[10..];
    let clock = |text: &str| is_clock(text) || (text.len() == 5 && has_shape(text, "00:00"));
    rest.is_empty() || rest.strip_prefix(['T', 't', '_', '-']).is_some_and(clock)
}

/// True for `12:30:45`, with or without a fraction and an offset.
fn is_clock(word: &str) -> bool {
    if !has_shape(word, "00:00:00") {
        return false;
    }
    let rest = word[8..].trim_end_matches(['Z', 'z']);
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

/// True for an absolute path, or one of several parts with a file at its end.
fn is_path(word: &str) -> bool {
    if !word.contains(['/', '\\']) {
        return false;
    }
    let absolute = ["/", "~/", "./", "../", "\\\\"]
        .iter()
        .any(|root| word.len() > root.len() && word.starts_with(root));
    let drive =
        word.len() > 3 && word.as_bytes()[0].is_ascii_alphabetic() && word[1..].starts_with(":\\");
    let parts = word.split(['/', '\\']).count();
    let file = word.rsplit(['/', '\\']).next().is_some_and(|last| last.contains('.'));
    absolute || drive || parts > 2 || (parts == 2 && file)
}

/// True for digits with signs, points and units: `-1.5`, `30s`, `99.9%`, `10MiB`, `1.2.3`,
/// `1m30.5s`.
fn is_number(word: &str) -> bool {
    let mut rest = word.trim_start_matches(['+', '-', '$', '.']);
    let mut parts = 0;
    while rest.starts_with(|c: char| c.is_ascii_digit()) {
        let unit = rest.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
        let after = unit
            .trim_start_matches(|c: char| c.is_ascii_alphabetic() || matches!(c, '%' | 'µ' | 'μ'));
        let unit = &unit[..unit.len() - after.len()];
        if after.is_empty() || after == "/s" {
            return unit.len() <= 3;
        }
        if !matches!(unit, "d" | "h" | "m" | "s" | "ms" | "us" | "µs" | "μs" | "ns") {
            return false;
        }
        parts += 1;
        if parts > 8 {
            return false;
        }
        rest = after;
    }
    false
}

/// True for the number of an error in a catalogue: `ORA-00942`, `E11000`.
pub(super) fn is_error_number(word: &str) -> bool {
    if !word.ends_with(|c: char| c.is_ascii_digit())
        || !word.starts_with(|c: char| c.is_ascii_uppercase())
    {
        return false;
    }
    let prefix = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    let digits = word[prefix.len()..].trim_start_matches('-');
    let enough = if prefix == "E" { 4 } else { 3 };
    (enough..=6).contains(&digits.len())
        && !digits.contains('-')
        && ERROR_PREFIXES.contains(&prefix)
}

/// True for an enhanced status code of a mail server (RFC 3463): `5.1.1`.
pub(super) fn is_enhanced_status(word: &str) -> bool {
    let mut parts = word.split('.');
    matches!(parts.next(), Some("2" | "4" | "5"))
        && parts.by_ref().take(2).filter(|part| matches!(part.len(), 1..=3)).count() == 2
        && parts.next().is_none()
        && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

/// True for the end of the name of a Kubernetes pod, `<deployment>-<hash>-<five letters or
/// digits>`: the alphabet has no vowels.
///
/// Source: `SafeEncodeString` and `alphanums` in k8s.io/apimachinery/pkg/util/rand.
pub(super) fn is_pod_suffix(name: &str) -> bool {
    name.len() == 5 && name.bytes().all(|b| b"bcdfghjklmnpqrstvwxz2456789".contains(&b))
}

/// True if letters and digits are mixed as in an id, and not as in a name such as `Base64Decoder`.
pub(super) fn is_id(text: &str) -> bool {
    let length = text.len();
    if length < 4 || !text.bytes().all(|b| b.is_ascii_alphanumeric()) {
        return false;
    }
    let digits = text.bytes().filter(u8::is_ascii_digit).count();
    if text.bytes().all(|b| b.is_ascii_hexdigit())
        && (length >= 8 || (digits > 0 && digits < length))
    {
        return true;
    }
    if digits == 0 || length < 5 {
        return false;
    }
    let (mut digit_runs, mut lower, mut lower_max, mut was_digit) = (0, 0, 0, false);
    for byte in text.bytes() {
        let is_digit = byte.is_ascii_digit();
        digit_runs += usize::from(is_digit && !was_digit);
        was_digit = is_digit;
        lower = if byte.is_ascii_lowercase() { lower + 1 } else { 0 };
        lower_max = lower_max.max(lower);
    }
    (digit_runs >= 3 && length >= 8)
        || (lower_max < 4 && digit_runs >= 2)
        || (lower_max < 5 && length >= 16)
}

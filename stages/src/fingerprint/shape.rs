//! Shape: class of a word by its looks: a number, an id, an address, a time, a path.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use super::{ids, times};

/// Class of a whole word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Number,
    Address,
    Time,
    Email,
}

/// Prefixes of error numbers, such as ORA-00942, E11000, TS2345. Others, such as ORD-17, number
/// things.
const ERROR_PREFIXES: &[&str] = &[
    "ORA", "TNS", "PLS", "RMAN", "SQL", "SQLSTATE", "MY", "E", "ERR", "HTTP", "TS", "CS", "MSB",
    "NU", "AADSTS", "CVE", "P", "PGRST", "DPY", "DPI",
];
pub(super) fn in_word(c: char) -> bool {
    c.is_alphanumeric()
        || matches!(c, '_' | '-' | '.' | ':' | '/' | '\\' | '@' | '+' | '%' | '~' | '$')
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
    if digits && times::is_time(word) {
        return Some(Shape::Time);
    }
    if let Some((name, host)) = word.split_once('@')
        && !name.is_empty()
        && host.contains('.')
        && !word.contains('/')
    {
        return Some(Shape::Email);
    }
    (digits && is_number(word)).then_some(Shape::Number)
}

/// True for a UUID, or `0x` and hexadecimal digits, with a sign or without.
fn is_hex_number(word: &str) -> bool {
    let bare = word.trim_start_matches(['+', '-']).strip_prefix("0x");
    ids::is_uuid(word)
        || bare.is_some_and(|bare| !bare.is_empty() && bare.bytes().all(|b| b.is_ascii_hexdigit()))
}

/// True for `04:8f:1a`: the serial of a certificate, a MAC address; and for `8:30` and `1:48213`;
/// but not a time of day.
fn is_hex_pairs(word: &str) -> bool {
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    if word.contains(':') && word.split(':').all(is_number) {
        return !times::is_clock(word);
    }
    let pairs = || word.split(':');
    pairs().nth(1).is_some()
        && pairs().all(|pair| pair.len() == 2 && pair.bytes().all(|b| b.is_ascii_hexdigit()))
        && !times::is_clock(word)
}

fn is_address(word: &str) -> bool {
    if !word.contains(['.', ':']) {
        return false;
    }
    // The zone of a link: "fe80::1%eth0".
    let word = word.split_once('%').map_or(word, |(address, _)| address);
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

/// True for digits with signs, points and units: `-1.5`, `30s`, `99.9%`, `10MiB`, `1.2.3`,
/// `1m30.5s`.
fn is_number(word: &str) -> bool {
    let mut rest = word.trim_start_matches(['+', '-', '$', '.']);
    let mut parts = 0;
    if let Some((number, exponent)) = rest.split_once(['e', 'E'])
        && number.starts_with(|c: char| c.is_ascii_digit())
        && number.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    {
        let exponent = exponent.trim_start_matches(['+', '-']);
        return !exponent.is_empty() && exponent.bytes().all(|b| b.is_ascii_digit());
    }
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

/// True for the number of an error in a catalogue: `ORA-00942`, `E11000`, `0x80070005`.
pub(super) fn is_error_number(word: &str) -> bool {
    if is_windows_error(word) {
        return true;
    }
    if !word.ends_with(|c: char| c.is_ascii_digit())
        || !word.starts_with(|c: char| c.is_ascii_uppercase())
    {
        return false;
    }
    let prefix = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '-');
    let digits = word[prefix.len()..].trim_start_matches('-');
    let enough = if matches!(prefix, "E" | "P") { 4 } else { 3 };
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

/// True for an HRESULT of Windows or an NTSTATUS.
fn is_windows_error(word: &str) -> bool {
    word.len() == 10
        && word.get(..5).is_some_and(|start| matches!(start, "0x800" | "0xC00" | "0xc00"))
        && word[5..].bytes().all(|b| b.is_ascii_hexdigit())
}

/// True for the name of an encoding, an algorithm, a protocol or a type that has digits, where name
/// and number are one: `utf-8`, `TLSv1.2`, `SHA256`, `int64`, `IPv6`.
pub(super) fn is_term(word: &str) -> bool {
    if !(2..=12).contains(&word.len()) || !word.is_ascii() {
        return false;
    }
    let word = word.to_ascii_lowercase();
    let name = word.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
    let (number, name) = (&word[name.len()..], name.trim_end_matches(['-', '_']));
    let in_list = |list: &[&str]| list.contains(&number);
    match name {
        "utf" => in_list(&["7", "8", "16", "32"]),
        "ucs" => in_list(&["2", "4"]),
        "latin" | "sslv" | "ssl" => number.len() == 1,
        "iso-8859" | "big" | "euc" | "koi" => matches!(number.len(), 1 | 2),
        "cp" | "gb" | "windows" => matches!(number.len(), 3..=5),
        "sha" => in_list(&["1", "2", "3", "224", "256", "384", "512"]),
        "md" => in_list(&["2", "4", "5"]),
        "rs" | "hs" | "es" | "ps" => in_list(&["256", "384", "512"]),
        "aes" => in_list(&["128", "192", "256"]),
        "tls" | "tlsv" => in_list(&["1", "1.0", "1.1", "1.2", "1.3"]),
        "ipv" | "inet" => in_list(&["4", "6"]),
        "x" => number == "509",
        "base" => in_list(&["32", "58", "64"]),
        "oauth" => in_list(&["1", "2"]),
        "int" | "uint" | "float" | "i" | "u" | "f" => in_list(&["8", "16", "32", "64", "128"]),
        "decimal" => in_list(&["32", "64", "128"]),
        "s" => number == "3",
        "ec" | "http" => number == "2",
        "arm" | "amd" | "x86" => number == "64",
        "pkcs" => matches!(number.len(), 1 | 2),
        "ed" => number == "25519",
        _ => false,
    }
}

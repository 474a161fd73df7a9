//! Ids: words that were generated, by their looks: UUIDs, tokens, suffixes of pods.

/// Letters and digits of what Kubernetes generates: no vowels, no 0, 1 and 3.
///
/// Source: `SafeEncodeString` and `alphanums` in k8s.io/apimachinery/pkg/util/rand.
const KUBERNETES: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";
/// Words of those letters alone that people use.
const NO_SUFFIX: &[&str] = &["https", "xhtml", "html5", "pgsql", "mssql", "tmpfs", "grpcs"];

/// True for a generated part of the name of a pod, `<deployment>-<hash>-<five>`.
pub(super) fn is_pod_suffix(name: &str) -> bool {
    matches!(name.len(), 5 | 8..=10)
        && name.bytes().all(|b| KUBERNETES.contains(&b))
        && !NO_SUFFIX.contains(&name)
}

/// True if a UUID ends where this text does, or where letters and digits do.
pub(super) fn begins_with_uuid(text: &str) -> bool {
    text.get(..36).is_some_and(is_uuid)
        && !text[36..].starts_with(|c: char| c.is_alphanumeric() || c == '-')
}

pub(super) fn is_uuid(word: &str) -> bool {
    word.len() == 36
        && word.bytes().enumerate().all(|(at, byte)| match at {
            8 | 13 | 18 | 23 => byte == b'-',
            _ => byte.is_ascii_hexdigit(),
        })
}

/// True for hexadecimal digits behind an `@`: the hash of an object in Java.
pub(super) fn is_object_hash(text: &str) -> bool {
    (4..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// True for a JSON Web Token: its header, in base64, begins with `{"`.
pub(super) fn is_jwt(word: &str) -> bool {
    word.starts_with("eyJ") && word.len() > 20 && word.bytes().filter(|b| *b == b'.').count() >= 1
}

/// True for a long word in which small letters, capitals and digits take turns, as in base64 and
/// nanoid.
pub(super) fn is_random(word: &str) -> bool {
    let class = |b: u8| match b {
        b'a'..=b'z' => Some(1),
        b'A'..=b'Z' => Some(2),
        b'0'..=b'9' => Some(4),
        b'_' | b'-' | b'+' | b'/' => Some(8),
        _ => None,
    };
    if word.len() < 16 || word.starts_with('/') {
        return false;
    }
    let (mut seen, mut turns, mut before) = (0, 0, 0);
    for byte in word.bytes() {
        let Some(class) = class(byte) else { return false };
        seen |= class;
        turns += usize::from(class != before);
        before = class;
    }
    seen & 7 == 7 && turns * 5 >= word.len() * 2
}

/// Returns the kind that an id begins with, with its `_`.
pub(super) fn kind(word: &str) -> Option<&str> {
    let at = word.bytes().take(9).position(|b| b == b'_')?;
    (at >= 2 && word[..at].bytes().all(|b| b.is_ascii_lowercase())).then(|| &word[..=at])
}

/// True for an id with its kind before it: `cus_NffrFeUfNV2Hib`, `ch_9Xy`.
pub(super) fn prefixed(word: &str) -> bool {
    let Some(rest) = kind(word).map(|kind| &word[kind.len()..]) else { return false };
    let mixed = rest.len() >= 3
        && rest.bytes().all(|b| b.is_ascii_alphanumeric())
        && rest.bytes().any(|b| b.is_ascii_digit())
        && rest.bytes().any(|b| b.is_ascii_uppercase());
    mixed || is_id(rest)
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

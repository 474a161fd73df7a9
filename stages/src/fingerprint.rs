//! Fingerprint: hash by which two failures are the same failure.
//!
//! Two failures are the same when code, service and message agree once everything that varies from
//! one occurrence to the next is taken out of the message: numbers, ids, addresses, times, values,
//! other people's files. What names a part of a program or of a schema stays, since it is the
//! cause: a key, a column, a module, a route, an encoding, an HTTP status, the number of an error.
//! One pass, no backtracking, and only the first [`SCANNED_BYTES_MAX`] bytes.

mod fold;
mod ids;
mod out;
mod paths;
mod quote;
mod scan;
mod shape;
mod times;
mod word;
mod words;

pub use out::Note;
use out::Out;
use scan::Scan;

/// Bytes of a message that are looked at: its start identifies the failure.
pub const SCANNED_BYTES_MAX: usize = 4096;

/// What stands for the parts that vary, in a normalised message.
pub const PLACEHOLDERS: &[&str] =
    &["<n>", "<ip>", "<time>", "<text>", "<path>", "<email>", "<bool>"];

/// Returns the fingerprint of a failure: 16 hexadecimal digits, the same on every machine. A
/// version that changes what it is says so in CHANGELOG.md.
pub fn fingerprint(code: &str, service: &str, message: &str) -> String {
    hex(hash(&[code, service, &normalise(message)]))
}

/// Returns a message without the parts that vary between occurrences of the same failure.
///
/// `connect to 10.0.0.7:5432 failed after 30s (request 3f2a9c01-…)` becomes
/// `connect to <ip> failed after <n> (request <n>)`. White space is one space, and a run of equal
/// placeholders (`1, 2, 3`) is one placeholder.
pub fn normalise(message: &str) -> String {
    scanned(message, None).text
}

/// Returns a message as [`normalise`] does, with what was replaced or kept by which rule.
pub fn explain(message: &str) -> (String, Vec<Note>) {
    let out = scanned(message, Some(Vec::new()));
    (out.text, out.notes.unwrap_or_default())
}

fn scanned(message: &str, notes: Option<Vec<Note>>) -> Out {
    let message = fold::characters(cut(message, SCANNED_BYTES_MAX));
    let phrase = fold::phrase(&message);
    let mut out = Out::new(message.len(), notes);
    if let Some(phrase) = &phrase {
        out.note(&message, phrase, "words of a browser", false);
    }
    let mut scan = Scan::new(phrase.as_deref().unwrap_or(&message), out);
    scan.opening_code();
    while scan.step() {}
    scan.out.text.truncate(scan.out.text.trim_end().len());
    scan.out
}

/// Returns the digits of a hash, as they stand in a fingerprint.
pub(crate) fn hex(hash: u64) -> String {
    format!("{hash:016x}")
}

/// Returns a stable hash of some texts, in which `["a", "b"]` differs from `["ab"]`: FNV-1a, then
/// the finaliser of `MurmurHash3`.
pub(crate) fn hash(parts: &[&str]) -> u64 {
    let mut hasher = Hasher::new();
    parts.iter().for_each(|part| hasher.add(part));
    hasher.finish()
}

/// Hasher of [`hash`], text by text.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Hasher(u64);

impl Hasher {
    pub(crate) const fn new() -> Self {
        Self(0xcbf2_9ce4_8422_2325)
    }

    /// Adds one text.
    pub(crate) fn add(&mut self, part: &str) {
        for byte in part.bytes().chain([0xff]) {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
    }

    pub(crate) const fn finish(self) -> u64 {
        let mut hash = self.0;
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
        hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
        hash ^ (hash >> 33)
    }
}

/// Returns the first bytes of a text, at most `most`, cut between two characters.
pub(crate) fn cut(text: &str, most: usize) -> &str {
    if text.len() <= most {
        return text;
    }
    let end = (0..=most).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

#[cfg(test)]
mod tests;

//! Fingerprint: hash by which two failures are the same failure.
//!
//! Two failures are the same when code, service and message agree once everything that varies from
//! one occurrence to the next is taken out of the message: numbers, ids, addresses, times, quoted
//! text and paths. Text that identifies a failure stays, though it looks the same: an HTTP status,
//! an error number, an exit code, the name of a column. One pass, no backtracking, and only the
//! first [`SCANNED_BYTES_MAX`] bytes.

mod scan;
mod shape;

pub use scan::normalise;

/// Bytes of a message that are looked at: its start identifies the failure.
pub const SCANNED_BYTES_MAX: usize = 4096;

/// Returns the fingerprint of a failure: 16 hexadecimal digits, the same on every machine and in
/// every version.
pub fn fingerprint(code: &str, service: &str, message: &str) -> String {
    hex(hash(&[code, service, &normalise(message)]))
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

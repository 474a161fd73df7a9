//! Text: bytes of a text, shared by its parts and longer texts that begin with it.

use std::{
    cmp::Ordering,
    hash::{Hash, Hasher},
    rc::Rc,
};

use super::meter::{self, Charge, Overrun, overrun};

/// Longest text, in bytes, beside those of the event: as much as a handler may answer.
pub(super) const TEXT_BYTES_MAX: usize = 8 << 20;

/// Bytes of a text beside its own, about.
const TEXT_BYTES: usize = 80;

/// A text. Its bytes are UTF-8, but for what a filter decodes that is not (`@base64d`).
#[derive(Debug, Clone)]
pub(super) struct Text {
    buffer: Rc<Buffer>,
    start: usize,
    end: usize,
}

#[derive(Debug)]
struct Buffer {
    bytes: Vec<u8>,
    charge: Charge,
}

impl From<Vec<u8>> for Text {
    fn from(bytes: Vec<u8>) -> Self {
        if bytes.len() > TEXT_BYTES_MAX {
            overrun(Overrun::Memory(TEXT_BYTES_MAX));
        }
        Self::of_event(bytes)
    }
}

impl From<&str> for Text {
    fn from(text: &str) -> Self {
        Self::from(text.as_bytes().to_vec())
    }
}

impl Text {
    /// A text of the event, of any length.
    pub(super) fn of_event(bytes: Vec<u8>) -> Self {
        meter::moved(bytes.len());
        let charge = Charge::of(TEXT_BYTES + bytes.len());
        Self { start: 0, end: bytes.len(), buffer: Rc::new(Buffer { bytes, charge }) }
    }

    pub(super) fn bytes(&self) -> &[u8] {
        &self.buffer.bytes[self.start..self.end]
    }

    /// The part from one byte up to another, which shares its bytes.
    pub(super) fn part(&self, from: usize, upto: usize) -> Self {
        let (start, end) = (self.start + from, self.start + upto.max(from));
        Self { buffer: self.buffer.clone(), start, end: end.min(self.end) }
    }

    /// The part that `part` is a slice of.
    pub(super) fn part_of(&self, part: &[u8]) -> Self {
        let from = part.as_ptr().addr().wrapping_sub(self.bytes().as_ptr().addr());
        if from.saturating_add(part.len()) <= self.bytes().len() {
            self.part(from, from + part.len())
        } else {
            // A slice of nothing may point anywhere.
            Self::from(part.to_vec())
        }
    }

    /// Text with another behind it: in place if nobody else holds it, so that a loop that adds to
    /// a text takes linear time.
    pub(super) fn followed_by(mut self, other: &[u8]) -> Self {
        if (self.end - self.start) + other.len() > TEXT_BYTES_MAX {
            overrun(Overrun::Memory(TEXT_BYTES_MAX));
        }
        if let Some(buffer) = Rc::get_mut(&mut self.buffer)
            && buffer.bytes.len() == self.end
        {
            meter::moved(other.len());
            // It grows by doubling.
            buffer.charge.grow(2 * other.len());
            buffer.bytes.extend_from_slice(other);
            self.end += other.len();
            return self;
        }
        Self::from([self.bytes(), other].concat())
    }

    /// Text so many times over.
    pub(super) fn repeated(&self, times: usize) -> Self {
        let bytes = self.bytes();
        match bytes.len().checked_mul(times) {
            Some(length) if length <= TEXT_BYTES_MAX.min(meter::room()) => {
                Self::from(bytes.repeat(times))
            }
            _ => overrun(Overrun::Memory(TEXT_BYTES_MAX)),
        }
    }

    /// Number of characters; what is no UTF-8 counts as one for each wrong sequence.
    pub(super) fn characters(&self) -> usize {
        meter::moved(self.bytes().len());
        boundaries(self.bytes()).count()
    }

    /// Offset in bytes of a character; the end where there are not so many.
    pub(super) fn offset(&self, character: usize) -> usize {
        meter::moved(self.bytes().len().min(4 * character));
        boundaries(self.bytes()).nth(character).unwrap_or(self.bytes().len())
    }
}

/// Offsets at which characters start.
pub(super) fn boundaries(bytes: &[u8]) -> impl Iterator<Item = usize> {
    let mut at = 0;
    bytes.utf8_chunks().flat_map(move |chunk| {
        let start = at;
        at += chunk.valid().len() + chunk.invalid().len();
        let wrong = (!chunk.invalid().is_empty()).then_some(start + chunk.valid().len());
        chunk.valid().char_indices().map(move |(offset, _)| start + offset).chain(wrong)
    })
}

/// First place of `needle` in `text` from an offset on.
pub(super) fn find(text: &[u8], needle: &[u8], from: usize) -> Option<usize> {
    let first = *needle.first()?;
    let mut at = from;
    loop {
        let ahead = text.get(at..)?.iter().position(|byte| *byte == first)?;
        meter::moved(ahead + needle.len());
        at += ahead;
        if text[at..].starts_with(needle) {
            return Some(at);
        }
        at += 1;
    }
}

impl PartialEq for Text {
    fn eq(&self, other: &Self) -> bool {
        meter::moved(self.bytes().len().min(other.bytes().len()));
        self.bytes() == other.bytes()
    }
}

impl Eq for Text {}

impl PartialOrd for Text {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Text {
    fn cmp(&self, other: &Self) -> Ordering {
        meter::moved(self.bytes().len().min(other.bytes().len()));
        self.bytes().cmp(other.bytes())
    }
}

impl Hash for Text {
    fn hash<H: Hasher>(&self, state: &mut H) {
        meter::moved(self.bytes().len());
        self.bytes().hash(state);
    }
}

//! Offsets: how far a reduce stage has read each stream.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use crate::broker::Mark;

/// Offsets up to which the inputs were applied.
///
/// Each names its message beyond the life of its stream, and the life: one that was made anew is
/// read from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offsets {
    /// The last message applied, by stream.
    #[serde(deserialize_with = "marks")]
    streams: BTreeMap<String, Mark>,
    /// The worker that wrote them.
    writer: String,
}

impl Offsets {
    /// Key of a stage's offsets in the state bucket.
    pub fn key(stage: &str) -> String {
        format!("{stage}.offsets")
    }

    /// Reads offsets, of this version or an older one.
    ///
    /// # Errors
    ///
    /// If it is no JSON of offsets.
    pub fn read(value: &[u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(value)
    }

    /// The offsets, as they are stored.
    ///
    /// # Panics
    ///
    /// Never: they are plain data.
    pub fn written(&self) -> Bytes {
        serde_json::to_vec(self).expect("offsets are plain data").into()
    }

    /// Notes which worker writes them.
    pub fn written_by(&mut self, worker: &str) {
        worker.clone_into(&mut self.writer);
    }

    /// Sequence of the last message that is applied of the life of a stream that was created then;
    /// `None` if none is. Offsets of older versions name no life, and hold for any.
    pub fn of_life(&self, stream: &str, created_ms: u64) -> Option<u64> {
        let mark = self.streams.get(stream)?;
        [0, created_ms].contains(&mark.created_ms).then_some(mark.seq)
    }

    /// The last message of a stream that is applied.
    pub fn mark(&self, stream: &str) -> Mark {
        self.streams.get(stream).copied().unwrap_or_default()
    }

    /// The first sequence of a stream that is not applied yet.
    pub fn next(&self, stream: &str) -> u64 {
        self.mark(stream).seq + 1
    }

    /// Notes that a message was applied. The note is durable once it is written.
    pub fn applied(&mut self, stream: &str, seq: u64, at_ms: u64) {
        let mark = self.of(stream);
        (mark.seq, mark.at_ms) = (seq, at_ms);
    }

    /// Notes which life of a stream is read; true if that was not known of what is applied.
    pub fn opened(&mut self, stream: &str, created_ms: u64) -> bool {
        let mark = self.of(stream);
        std::mem::replace(&mut mark.created_ms, created_ms) != created_ms && mark.seq > 0
    }

    /// Notes that a stream is another one, of which nothing is applied yet.
    pub fn anew(&mut self, stream: &str, created_ms: u64) {
        *self.of(stream) = Mark { created_ms, ..Mark::default() };
    }

    fn of(&mut self, stream: &str) -> &mut Mark {
        if !self.streams.contains_key(stream) {
            self.streams.insert(stream.to_owned(), Mark::default());
        }
        self.streams.get_mut(stream).expect("it was inserted if it was not there")
    }
}

/// Offsets as they are written, or as versions before 2026-11-28 wrote them: sequences alone.
fn marks<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<String, Mark>, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Seq(u64),
        Mark(Mark),
    }
    let written = BTreeMap::<String, Written>::deserialize(from)?;
    let mark = |written| match written {
        Written::Seq(seq) => Mark { seq, ..Mark::default() },
        Written::Mark(mark) => mark,
    };
    Ok(written.into_iter().map(|(stream, written)| (stream, mark(written))).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_name_the_life_of_each_stream_and_those_of_older_versions_are_read() {
        let old = r#"{"streams":{"shop-failed":7},"writer":"w"}"#;
        let mut offsets: Offsets = serde_json::from_str(old).unwrap();
        assert_eq!(offsets.mark("shop-failed"), Mark { seq: 7, ..Mark::default() });
        assert!(offsets.opened("shop-failed", 5) && !offsets.opened("shop-failed", 5));
        offsets.applied("shop-failed", 8, 1000);
        let written = serde_json::to_string(&offsets).unwrap();
        assert_eq!(
            written,
            r#"{"streams":{"shop-failed":{"seq":8,"atMs":1000,"createdMs":5}},"writer":"w"}"#
        );
        assert_eq!(serde_json::from_str::<Offsets>(&written).unwrap(), offsets);
        offsets.anew("shop-failed", 6);
        assert_eq!((offsets.next("shop-failed"), offsets.next("other")), (1, 1));
    }

    #[test]
    fn an_offset_of_another_life_of_its_stream_is_none_of_this_one() {
        let read = |written: &str| Offsets::read(written.as_bytes()).unwrap();
        let of = read(r#"{"streams":{"in":{"seq":8,"atMs":1000,"createdMs":5}},"writer":"w"}"#);
        assert_eq!(
            (of.of_life("in", 5), of.of_life("in", 6), of.of_life("o", 5)),
            (Some(8), None, None)
        );
        assert_eq!(read(r#"{"streams":{"in":7},"writer":"w"}"#).of_life("in", 6), Some(7));
    }
}

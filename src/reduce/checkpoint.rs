//! Checkpoint: offsets of a stage and its state at them, written as one.
//!
//! The offsets are the fence: each commit expects the revision of the one before. Whoever takes a
//! stage over writes them anew at once, and from then on every commit of the old leader is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Deserializer, Serialize};

use super::step_down::StepDown;
use crate::{
    broker::{Broker, CommitError, Mark},
    wire::Names,
};

/// A key of the state and its new value, or `None` where it is gone.
pub(super) type Change = (String, Option<Vec<u8>>);

/// Offsets up to which the inputs were applied.
///
/// Each names its message beyond the life of its stream, and the life: one that was made anew is
/// read from its start.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offsets {
    /// The last message applied, by stream.
    #[serde(deserialize_with = "marks")]
    streams: BTreeMap<String, Mark>,
    /// The worker that wrote them.
    writer: String,
}

impl Offsets {
    /// The last message of a stream that is applied.
    pub(super) fn mark(&self, stream: &str) -> Mark {
        self.streams.get(stream).copied().unwrap_or_default()
    }

    /// The first sequence of a stream that is not applied yet.
    pub(super) fn next(&self, stream: &str) -> u64 {
        self.mark(stream).seq + 1
    }

    /// Notes that a message was applied. The note is durable once it is written.
    pub(super) fn applied(&mut self, stream: &str, seq: u64, at_ms: u64) {
        let mark = self.of(stream);
        (mark.seq, mark.at_ms) = (seq, at_ms);
    }

    /// Notes which life of a stream is read; true if that was not known of what is applied.
    pub(super) fn opened(&mut self, stream: &str, created_ms: u64) -> bool {
        let mark = self.of(stream);
        std::mem::replace(&mut mark.created_ms, created_ms) != created_ms && mark.seq > 0
    }

    /// Notes that a stream is another one, of which nothing is applied yet.
    pub(super) fn anew(&mut self, stream: &str, created_ms: u64) {
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

/// Checkpoint of one stage, held by its leader.
pub(super) struct Checkpoint {
    broker: Broker,
    bucket: String,
    stage: String,
    revision: u64,
}

impl Checkpoint {
    /// Reads the offsets of the stage and fences out whoever led it before.
    pub(super) async fn take_over(
        broker: &Broker,
        bucket: &str,
        stage: &str,
        worker: &str,
    ) -> Result<(Self, Offsets), StepDown> {
        loop {
            let (mut offsets, revision) =
                match broker.kv_get(bucket, &format!("{stage}.offsets")).await? {
                    Some((value, revision)) => {
                        let unread =
                            |error| StepDown::State(format!("key \"{stage}.offsets\": {error}"));
                        (serde_json::from_slice::<Offsets>(&value).map_err(unread)?, revision)
                    }
                    None => (Offsets::default(), 0),
                };
            worker.clone_into(&mut offsets.writer);
            let (broker, bucket, stage) = (broker.clone(), bucket.to_owned(), stage.to_owned());
            let mut checkpoint = Self { broker, bucket, stage, revision };
            match checkpoint.write(&offsets, Vec::new()).await {
                Ok(()) => {
                    // What the leader before has committed may not be written to its keys yet.
                    checkpoint.broker.redo(&checkpoint.bucket, &checkpoint.fence()).await?;
                    return Ok((checkpoint, offsets));
                }
                // The old leader was quicker, with a commit that must be read then.
                Err(CommitError::Fenced { .. }) => {}
                Err(error @ CommitError::Failed { .. }) => return Err(error.into()),
            }
        }
    }

    /// The state of the stage, by its own keys.
    pub(super) async fn state(&self) -> Result<Vec<(String, Bytes)>, StepDown> {
        let prefix = Names::reduce_state(&self.stage);
        let entries = self.broker.kv_entries(&self.bucket, &prefix).await?;
        let own = |key: String| key.strip_prefix(&prefix).map(str::to_owned);
        Ok(entries.into_iter().filter_map(|(key, value, _)| Some((own(key)?, value))).collect())
    }

    /// Key of the offsets.
    fn fence(&self) -> String {
        format!("{}.offsets", self.stage)
    }

    /// Writes the offsets and the changes of the state, all or nothing.
    pub(super) async fn write(
        &mut self,
        offsets: &Offsets,
        changes: Vec<Change>,
    ) -> Result<(), CommitError> {
        let fence = self.fence();
        let offsets = serde_json::to_vec(offsets).expect("offsets are plain data");
        let mut all = vec![(fence.clone(), Some(Bytes::from(offsets)))];
        let prefix = Names::reduce_state(&self.stage);
        all.extend(
            changes
                .into_iter()
                .map(|(key, value)| (format!("{prefix}{key}"), value.map(Bytes::from))),
        );
        self.revision = self.broker.commit(&self.bucket, &fence, self.revision, all).await?;
        Ok(())
    }
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
}

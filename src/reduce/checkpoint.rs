//! Checkpoint: offsets of a stage and its state at them, written as one.
//!
//! The offsets are the fence: each commit expects the revision of the one before. Whoever takes a
//! stage over writes them anew at once, and from then on every commit of the old leader is refused.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::step_down::StepDown;
use crate::{
    broker::{Broker, CommitError},
    wire::Names,
};

/// A key of the state and its new value, or `None` where it is gone.
pub(super) type Change = (String, Option<Vec<u8>>);

/// Offsets up to which the inputs were applied.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Offsets {
    /// The sequence of the last message applied, by stream.
    streams: BTreeMap<String, u64>,
    /// The worker that wrote them.
    writer: String,
}

impl Offsets {
    /// The first sequence of a stream that is not applied yet.
    pub(super) fn next(&self, stream: &str) -> u64 {
        self.streams.get(stream).map_or(1, |seq| seq + 1)
    }

    /// Notes that a message was applied. The note is durable once it is written.
    pub(super) fn applied(&mut self, stream: &str, seq: u64) {
        match self.streams.get_mut(stream) {
            Some(last) => *last = seq,
            None => _ = self.streams.insert(stream.to_owned(), seq),
        }
    }
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
                Ok(()) => return Ok((checkpoint, offsets)),
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

    /// Writes the offsets and the changes of the state, all or nothing.
    pub(super) async fn write(
        &mut self,
        offsets: &Offsets,
        changes: Vec<Change>,
    ) -> Result<(), CommitError> {
        let fence = format!("{}.offsets", self.stage);
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

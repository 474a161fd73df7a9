//! Checkpoint: offsets of a stage and its state at them, written as one.
//!
//! The offsets are the fence: each commit expects the revision of the one before. Whoever takes a
//! stage over writes them anew at once, and from then on every commit of the old leader is refused.

use bytes::Bytes;

use super::step_down::StepDown;
use crate::{
    broker::{Broker, CommitError},
    wire::{Names, Offsets},
};

/// A key of the state and its new value, or `None` where it is gone.
pub(super) type Change = (String, Option<Vec<u8>>);

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
            let (mut offsets, revision) = match broker.kv_get(bucket, &Offsets::key(stage)).await? {
                Some((value, revision)) => {
                    let key = Offsets::key(stage);
                    let unread = |error| StepDown::State(format!("key \"{key}\": {error}"));
                    (Offsets::read(&value).map_err(unread)?, revision)
                }
                None => (Offsets::default(), 0),
            };
            offsets.written_by(worker);
            let (broker, bucket, stage) = (broker.clone(), bucket.to_owned(), stage.to_owned());
            let mut checkpoint = Self { broker, bucket, stage, revision };
            match checkpoint.write(&offsets, Vec::new()).await {
                Ok(()) => {
                    // What the leader before has committed may not be written to its keys yet.
                    checkpoint
                        .broker
                        .redo(&checkpoint.bucket, &Offsets::key(&checkpoint.stage))
                        .await?;
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

    /// Writes the offsets and the changes of the state, all or nothing.
    pub(super) async fn write(
        &mut self,
        offsets: &Offsets,
        changes: Vec<Change>,
    ) -> Result<(), CommitError> {
        let fence = Offsets::key(&self.stage);
        let mut all = vec![(fence.clone(), Some(offsets.written()))];
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

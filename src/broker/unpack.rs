//! Unpack: keys of a packed commit, written one by one.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::{
    Broker, CommitError,
    kv::{failed, stream as stream_of, subject},
    redo::{self, Packed},
};
use crate::limits;

impl Broker {
    /// Writes the keys of a packed commit that are not written yet. Whoever takes the fence does it
    /// before anything is read.
    ///
    /// # Errors
    /// [`CommitError::Failed`]; doing it again goes on.
    pub async fn redo(&self, bucket: &str, fence_key: &str) -> Result<(), CommitError> {
        let prefix = format!("{fence_key}.redo.");
        let parts = self.kv_entries(bucket, &prefix).await;
        let mut parts = parts.map_err(|error| failed(bucket, fence_key, error))?;
        // The newest first: what it wrote is newer than all that came before.
        parts.sort_by_key(|(_, _, revision)| std::cmp::Reverse(*revision));
        for (part, value, revision) in parts {
            let changes = redo::unpacked(&value).map_err(|error| failed(bucket, &part, error))?;
            let write = |change: Packed| self.write_packed(bucket, change, revision);
            stream::iter(changes.into_iter().map(write))
                .buffer_unordered(limits::EMISSIONS_IN_FLIGHT_MAX)
                .try_collect::<()>()
                .await?;
            match self.replace_key(bucket, &part, None, revision).await {
                // Another commit has taken its place.
                Ok(_) | Err(CommitError::Fenced { .. }) => {}
                Err(error @ CommitError::Failed { .. }) => return Err(error),
            }
        }
        Ok(())
    }

    async fn write_packed(
        &self,
        bucket: &str,
        change: Packed,
        committed: u64,
    ) -> Result<(), CommitError> {
        let (key, value) = match change {
            Packed::Text(key, text) => (key, Some(Bytes::from(text))),
            Packed::Bytes(key, bytes) => (key, Some(Bytes::from(bytes))),
            Packed::Gone(key) => (key, None),
        };
        let last = self.last_on_subject(&stream_of(bucket), &subject(bucket, &key)).await;
        let last = last.map_err(|error| failed(bucket, &key, error))?.map_or(0, |last| last.seq);
        if last > committed {
            return Ok(());
        }
        match self.replace_key(bucket, &key, value, last).await {
            // Whoever was quicker wrote the same, or has the fence now and wrote later.
            Ok(_) | Err(CommitError::Fenced { .. }) => Ok(()),
            Err(error @ CommitError::Failed { .. }) => Err(error),
        }
    }
}

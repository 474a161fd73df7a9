//! Key-value: the keys of one bucket, and many of them written as one.
//!
//! Such a commit is the checkpoint of a reduce stage.

use std::{collections::BTreeMap, time::SystemTime};

use async_nats::{
    client::Request,
    jetstream::{ErrorCode, response::Response},
};
use bytes::Bytes;
use futures_util::TryStreamExt as _;
use serde::Deserialize;

use super::{
    AdminError, Broker, Headers,
    read::{End, Reading},
    redo,
};
use crate::limits;

/// Header with the id of the commit that wrote a fence; it tells a lost reply from a lost race.
const COMMIT_ID: &str = "Millstream-Commit";
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";
const OPERATION: &str = "KV-Operation";
/// Error code of an atomic batch of more messages than the server allows
/// (`jetstream.limits.batch.max_msgs`, 1 000 by default).
const BATCH_TOO_LARGE: u64 = 10199;

/// Failed conditional write.
#[derive(Debug, thiserror::Error)]
pub enum CommitError {
    /// Key that someone else has written since: step down.
    #[error("key \"{key}\" of bucket \"{bucket}\" was written by someone else")]
    Fenced {
        /// Name of the bucket.
        bucket: String,
        /// Name of the key.
        key: String,
    },
    /// Write that the server refused or did not answer. After a timeout it may have happened: read
    /// before writing again.
    #[error("could not write key \"{key}\" of bucket \"{bucket}\"")]
    Failed {
        /// Name of the bucket.
        bucket: String,
        /// Name of the key.
        key: String,
        /// Error of the server or the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Last write of a key of a bucket.
#[derive(Debug, Clone)]
pub struct KvChange {
    /// Name of the key.
    pub key: String,
    /// Value of the key; `None`: it was deleted.
    pub value: Option<Bytes>,
    /// Revision of the key.
    pub revision: u64,
    /// Time of the write, on the broker's clock.
    pub written_at: SystemTime,
}

/// Publish ack of the server: the sequence it is stored at.
#[derive(Deserialize)]
struct PubAck {
    seq: u64,
}

impl Broker {
    /// Value of a key and its revision; `None` if there is none. Reads from the leader, so it sees
    /// every write before it.
    ///
    /// # Errors
    /// [`AdminError`] if the bucket cannot be read.
    pub async fn kv_get(
        &self,
        bucket: &str,
        key: &str,
    ) -> Result<Option<(Bytes, u64)>, AdminError> {
        let found = self.last_on_subject(&stream(bucket), &subject(bucket, key)).await?;
        Ok(found
            .filter(|message| !is_deleted(&message.headers))
            .map(|message| (message.body, message.seq)))
    }

    /// True if the bucket exists.
    ///
    /// # Errors
    /// [`AdminError`] if the server cannot be asked.
    pub async fn kv_exists(&self, bucket: &str) -> Result<bool, AdminError> {
        match self.stream_state(&stream(bucket)).await {
            Ok(_) => Ok(true),
            Err(AdminError::NoStream { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Writes a key, whatever it held. Returns its new revision.
    ///
    /// # Errors
    /// [`CommitError::Failed`].
    pub async fn kv_put(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<u64, CommitError> {
        self.write_key(bucket, key, value.into(), None).await
    }

    /// Writes a key that must not exist. Returns its revision.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if it exists.
    pub async fn kv_create(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
    ) -> Result<u64, CommitError> {
        let value = value.into();
        match self.write_key(bucket, key, value.clone(), Some(0)).await {
            Err(CommitError::Fenced { bucket, key }) => {
                // A deleted key still has a message that says so: it is created over that.
                let last = self.last_on_subject(&stream(&bucket), &subject(&bucket, &key)).await;
                match last.map_err(|error| failed(&bucket, &key, error))? {
                    Some(message) if is_deleted(&message.headers) => {
                        self.write_key(&bucket, &key, value, Some(message.seq)).await
                    }
                    _ => Err(CommitError::Fenced { bucket, key }),
                }
            }
            other => other,
        }
    }

    /// Writes a key whose revision is still `revision`. Returns the new one.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if it is another by now.
    pub async fn kv_update(
        &self,
        bucket: &str,
        key: &str,
        value: impl Into<Bytes>,
        revision: u64,
    ) -> Result<u64, CommitError> {
        self.write_key(bucket, key, value.into(), Some(revision)).await
    }

    /// Deletes a key.
    ///
    /// # Errors
    /// [`CommitError::Failed`].
    pub async fn kv_delete(&self, bucket: &str, key: &str) -> Result<(), CommitError> {
        let mut headers = Headers::new();
        headers.insert(OPERATION, "DEL");
        self.store(&subject(bucket, key), headers, Bytes::new())
            .await
            .map_err(|error| error.named(bucket, key))?;
        Ok(())
    }

    /// Entries whose key begins with `prefix` (empty: every key), with value and revision, sorted
    /// by key.
    ///
    /// # Errors
    /// [`AdminError`] if the bucket cannot be read.
    pub async fn kv_entries(
        &self,
        bucket: &str,
        prefix: &str,
    ) -> Result<Vec<(String, Bytes, u64)>, AdminError> {
        // The server filters by whole tokens; what is left of the prefix is compared here.
        let tokens = prefix.rfind('.').map_or("", |dot| &prefix[..=dot]);
        let reading = Reading {
            stream: stream(bucket),
            filters: vec![subject(bucket, &format!("{tokens}>"))],
            from_seq: 1,
            ..Reading::default()
        };
        // A key that is rewritten meanwhile moves behind the end as it was at the start, so read
        // until nothing is left.
        let mut messages = std::pin::pin!(self.read(reading, End::NothingLeft));
        let root = subject(bucket, "");
        let mut entries = BTreeMap::new();
        while let Some(message) = messages.try_next().await? {
            let Some(key) =
                message.subject.strip_prefix(&root).filter(|key| key.starts_with(prefix))
            else {
                continue;
            };
            match is_deleted(&message.headers) {
                true => entries.remove(key),
                false => entries.insert(key.to_owned(), (message.body, message.seq)),
            };
        }
        Ok(entries.into_iter().map(|(key, (value, revision))| (key, value, revision)).collect())
    }

    /// Writes many keys as one: all of them or none, and only if `fence_key` still has the revision
    /// `expected_revision` (0: does not exist). Returns the new revision of the fence.
    ///
    /// `changes` holds the fence key, with a value, and at most [`limits::COMMIT_KEYS_MAX`] keys in
    /// all; `None` deletes a key. A lost reply is cleared up here: the fence carries the id of its
    /// commit, so what did happen is told from what did not, and what did not is tried again. Where
    /// the server takes fewer messages in a batch, the changes are packed into so many, and written
    /// key by key once these are stored ([`Broker::redo`]).
    ///
    /// Source: ADR-50; measured on nats-server 2.15.1: `Nats-Expected-Last-Subject-Sequence` on the
    /// first message of a batch refuses the whole batch with error 10071.
    ///
    /// # Errors
    /// [`CommitError::Fenced`] if someone else has written the fence; then nothing of this is
    /// written.
    pub async fn commit(
        &self,
        bucket: &str,
        fence_key: &str,
        expected_revision: u64,
        changes: Vec<(String, Option<Bytes>)>,
    ) -> Result<u64, CommitError> {
        let (fence, rest): (Vec<_>, Vec<_>) =
            changes.into_iter().partition(|(key, _)| key == fence_key);
        let fence_value = match (fence.into_iter().next(), rest.len() < limits::COMMIT_KEYS_MAX) {
            (Some((_, Some(value))), true) => value,
            (_, fits) => {
                let why =
                    if fits { "the fence has no value" } else { "too many keys for one commit" };
                return Err(failed(bucket, fence_key, why));
            }
        };
        let commit_id = self.client.new_inbox();
        let (mut last, mut rest, mut is_packed) = (None, rest, false);
        for _ in 0..limits::PUBLISH_TRIES {
            let refused = match self
                .try_commit(bucket, fence_key, &fence_value, expected_revision, &rest, &commit_id)
                .await
            {
                Ok(revision) if is_packed => {
                    self.redo(bucket, fence_key).await?;
                    return Ok(revision);
                }
                Ok(revision) => return Ok(revision),
                Err(StoreError::TooMany(most)) if !is_packed => {
                    // Nothing of it is stored.
                    rest = redo::packed(fence_key, &rest, most, self.max_payload())
                        .map_err(|why| failed(bucket, fence_key, why))?;
                    is_packed = true;
                    continue;
                }
                Err(refused) => refused,
            };
            // An earlier try of ours may have been the one that moved the fence.
            let found = self.last_on_subject(&stream(bucket), &subject(bucket, fence_key)).await;
            match found {
                Ok(Some(fence))
                    if fence.headers.get(COMMIT_ID).is_some_and(|id| id.as_str() == commit_id) =>
                {
                    if is_packed {
                        self.redo(bucket, fence_key).await?;
                    }
                    return Ok(fence.seq);
                }
                Ok(_) if matches!(refused, StoreError::Fenced) => {
                    return Err(refused.named(bucket, fence_key));
                }
                Ok(_) | Err(_) => last = Some(refused),
            }
        }
        Err(last.map_or_else(
            || failed(bucket, fence_key, "never tried"),
            |error| error.named(bucket, fence_key),
        ))
    }

    async fn try_commit(
        &self,
        bucket: &str,
        fence_key: &str,
        fence_value: &Bytes,
        expected_revision: u64,
        rest: &[(String, Option<Bytes>)],
        commit_id: &str,
    ) -> Result<u64, StoreError> {
        // Each try is a batch of its own: the server may still hold an unfinished one.
        let batch_id = self.client.new_inbox();
        let batch_id = batch_id.rsplit('.').next().unwrap_or(&batch_id);
        let headers = |position: usize, last: bool| {
            let mut headers = Headers::new();
            headers.insert("Nats-Batch-Id", batch_id);
            headers.insert("Nats-Batch-Sequence", position.to_string().as_str());
            if last {
                headers.insert("Nats-Batch-Commit", "1");
            }
            headers
        };
        let mut fence_headers = headers(1, rest.is_empty());
        fence_headers.insert(EXPECTED, expected_revision.to_string().as_str());
        fence_headers.insert(COMMIT_ID, commit_id);
        let mut next = (subject(bucket, fence_key), fence_headers, fence_value.clone());
        for (position, (key, value)) in rest.iter().enumerate() {
            let (subject_before, headers_before, body) = next;
            self.client
                .publish_with_headers(subject_before, headers_before, body)
                .await
                .map_err(|error| StoreError::Failed(error.into()))?;
            let mut headers = headers(position + 2, position + 1 == rest.len());
            if value.is_none() {
                headers.insert(OPERATION, "DEL");
            }
            next = (subject(bucket, key), headers, value.clone().unwrap_or_default());
        }
        let last_seq = self.store(&next.0, next.1, next.2).await?;
        // A batch is stored without gaps, the fence first.
        Ok(last_seq - rest.len() as u64)
    }

    /// Writes a key, or deletes it, whose last message is still `expected` (0: there is none).
    pub(super) async fn replace_key(
        &self,
        bucket: &str,
        key: &str,
        value: Option<Bytes>,
        expected: u64,
    ) -> Result<u64, CommitError> {
        let mut headers = Headers::new();
        headers.insert(EXPECTED, expected.to_string().as_str());
        if value.is_none() {
            headers.insert(OPERATION, "DEL");
        }
        self.store(&subject(bucket, key), headers, value.unwrap_or_default())
            .await
            .map_err(|error| error.named(bucket, key))
    }

    async fn write_key(
        &self,
        bucket: &str,
        key: &str,
        value: Bytes,
        expected: Option<u64>,
    ) -> Result<u64, CommitError> {
        let mut headers = Headers::new();
        if let Some(revision) = expected {
            headers.insert(EXPECTED, revision.to_string().as_str());
        }
        self.store(&subject(bucket, key), headers, value)
            .await
            .map_err(|error| error.named(bucket, key))
    }

    /// Publishes to a stream, once, and returns the sequence of the message.
    async fn store(&self, subject: &str, headers: Headers, body: Bytes) -> Result<u64, StoreError> {
        let request =
            Request::new().headers(headers).payload(body).timeout(Some(limits::PUBLISH_TIMEOUT));
        let reply = self.client.send_request(subject.to_owned(), request).await;
        let reply = reply.map_err(|error| StoreError::Failed(error.into()))?;
        match serde_json::from_slice(&reply.payload)
            .map_err(|error| StoreError::Failed(error.into()))?
        {
            Response::<PubAck>::Ok(ack) => Ok(ack.seq),
            Response::Err { error }
                if error.error_code() == ErrorCode::STREAM_WRONG_LAST_SEQUENCE =>
            {
                Err(StoreError::Fenced)
            }
            Response::Err { error } if error.error_code().0 == BATCH_TOO_LARGE => {
                let said = error.to_string();
                let most = said.rsplit("too large: ").next().unwrap_or_default();
                let digits = most.split(|c: char| !c.is_ascii_digit()).next().unwrap_or_default();
                match digits.parse() {
                    Ok(most) => Err(StoreError::TooMany(most)),
                    Err(_) => Err(StoreError::Failed(error.into())),
                }
            }
            Response::Err { error } => Err(StoreError::Failed(error.into())),
        }
    }
}

enum StoreError {
    Fenced,
    /// More messages than the server takes in a batch, which is so many.
    TooMany(usize),
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    fn named(self, bucket: &str, key: &str) -> CommitError {
        match self {
            Self::Fenced => CommitError::Fenced { bucket: bucket.to_owned(), key: key.to_owned() },
            Self::TooMany(most) => failed(bucket, key, redo::too_many(most)),
            Self::Failed(source) => failed(bucket, key, source),
        }
    }
}

pub(super) fn failed(
    bucket: &str,
    key: &str,
    source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
) -> CommitError {
    CommitError::Failed { bucket: bucket.to_owned(), key: key.to_owned(), source: source.into() }
}

pub(super) fn stream(bucket: &str) -> String {
    format!("KV_{bucket}")
}

pub(super) fn subject(bucket: &str, key: &str) -> String {
    format!("$KV.{bucket}.{key}")
}

pub(super) fn is_deleted(headers: &Headers) -> bool {
    headers.get(OPERATION).is_some_and(|operation| matches!(operation.as_str(), "DEL" | "PURGE"))
}

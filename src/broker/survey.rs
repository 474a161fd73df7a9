//! Survey: an account at a glance: its limits, its streams, and the subjects that a stream holds.

use async_nats::jetstream::{
    consumer::{AckPolicy, DeliverPolicy, pull},
    response::Response,
    stream::Stream,
};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::json;

use super::{AdminError, Broker, admin::no_stream, lowered, objects::owner};
use crate::limits;

/// Limits of an account, or of its tier for so many replicas; `None`: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct AccountLimits {
    /// Streams.
    pub streams: Option<u64>,
    /// Streams that there are.
    pub streams_used: u64,
    /// Consumers of a stream.
    pub consumers: Option<u64>,
    /// Bytes on disk (or in memory, for streams that are there).
    pub bytes: Option<u64>,
    /// Bytes that are reserved by `max_bytes` of streams, or used.
    pub bytes_used: u64,
    /// Bytes that are stored.
    pub bytes_stored: u64,
    /// `max_bytes` of a stream.
    pub stream_bytes: Option<u64>,
    /// True if every stream must have `max_bytes`.
    pub max_bytes_required: bool,
    /// False if the account has tiers, and none for so many replicas.
    pub has_tier: bool,
}

/// Stream of the account, whoever it belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundStream {
    /// Name of the stream.
    pub name: String,
    /// Pipeline it belongs to; empty: to none.
    pub pipeline: String,
    /// Subjects it captures.
    pub subjects: Vec<String>,
    /// Messages stored.
    pub messages: u64,
    /// Bytes that its `max_bytes` reserves; 0 without one.
    pub reserved: u64,
    /// Settings that are lower than was wanted, a sentence each.
    pub notes: Vec<String>,
}

/// Subjects of a stream with the number of their messages, as far as they were read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subjects {
    /// Subjects, sorted.
    pub counts: Vec<(String, u64)>,
    /// False if there are more than were asked for.
    pub is_all: bool,
}

#[derive(Deserialize)]
struct Account {
    #[serde(flatten)]
    whole: Tier,
    #[serde(default)]
    tiers: std::collections::HashMap<String, Tier>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Tier {
    memory: u64,
    storage: u64,
    reserved_memory: u64,
    reserved_storage: u64,
    streams: u64,
    limits: Limits,
}

#[derive(Deserialize)]
#[serde(default)]
struct Limits {
    max_memory: i64,
    max_storage: i64,
    max_streams: i64,
    max_consumers: i64,
    memory_max_stream_bytes: i64,
    storage_max_stream_bytes: i64,
    max_bytes_required: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_memory: -1,
            max_storage: -1,
            max_streams: -1,
            max_consumers: -1,
            memory_max_stream_bytes: -1,
            storage_max_stream_bytes: -1,
            max_bytes_required: false,
        }
    }
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    total: usize,
    state: PageState,
}

#[derive(Deserialize)]
struct PageState {
    #[serde(default)]
    subjects: Option<std::collections::BTreeMap<String, u64>>,
}

impl Broker {
    /// Limits of the account for streams of so many replicas.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn account_limits(
        &self,
        replicas: usize,
        memory: bool,
    ) -> Result<AccountLimits, AdminError> {
        let answer: Result<Response<Account>, _> = self.jetstream.request("INFO", &json!({})).await;
        let account = match answer.map_err(|error| AdminError::read("*", error))? {
            Response::Ok(account) => account,
            Response::Err { error } => return Err(AdminError::read("*", error)),
        };
        let has_tier =
            account.tiers.is_empty() || account.tiers.contains_key(&format!("R{replicas}"));
        let mut tiers = account.tiers;
        let tier = tiers.remove(&format!("R{replicas}")).unwrap_or(account.whole);
        let most = |limit: i64| u64::try_from(limit).ok().filter(|limit| *limit > 0);
        let Limits { max_streams, max_consumers, max_bytes_required, .. } = tier.limits;
        let bytes_stored = if memory { tier.memory } else { tier.storage };
        let (bytes, bytes_used, stream_bytes) = if memory {
            let used = tier.reserved_memory.max(tier.memory);
            (tier.limits.max_memory, used, tier.limits.memory_max_stream_bytes)
        } else {
            let used = tier.reserved_storage.max(tier.storage);
            (tier.limits.max_storage, used, tier.limits.storage_max_stream_bytes)
        };
        Ok(AccountLimits {
            streams: most(max_streams),
            streams_used: tier.streams,
            consumers: most(max_consumers),
            // None at all is a limit, too.
            bytes: u64::try_from(bytes).ok(),
            bytes_used,
            bytes_stored,
            stream_bytes: most(stream_bytes),
            max_bytes_required,
            has_tier,
        })
    }

    /// Every stream of the account, sorted by name.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn streams_of_account(&self) -> Result<Vec<FoundStream>, AdminError> {
        let found: Result<Vec<_>, _> = self.jetstream.streams().try_collect().await;
        let found = found.map_err(|error| AdminError::read("*", error))?;
        let mut streams: Vec<FoundStream> = found
            .into_iter()
            .map(|info| FoundStream {
                pipeline: owner(&info.config.metadata).to_owned(),
                notes: lowered::of_stream(&info.config),
                reserved: u64::try_from(info.config.max_bytes).unwrap_or(0),
                messages: info.state.messages,
                name: info.config.name,
                subjects: info.config.subjects,
            })
            .collect();
        streams.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(streams)
    }

    /// Settings of a pipeline's consumers on a stream that are lower than was wanted, a sentence
    /// each.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn lowered_consumers(
        &self,
        stream: &str,
        pipeline: &str,
    ) -> Result<Vec<String>, AdminError> {
        let opened =
            self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error))?;
        let found: Result<Vec<_>, _> = opened.consumers().try_collect().await;
        let found = found.map_err(|error| AdminError::read(stream, error))?;
        let ours = found.iter().filter(|info| owner(&info.config.metadata) == pipeline);
        Ok(ours.filter_map(lowered::of_consumer).collect())
    }

    /// Subjects of a stream that match `filter`, at most some `most` of them. A page of the answer
    /// is in memory at a time, and what was asked for.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn subjects(
        &self,
        stream: &str,
        filter: &str,
        most: usize,
    ) -> Result<Subjects, AdminError> {
        let mut found = Subjects::default();
        loop {
            let request = json!({ "subjects_filter": filter, "offset": found.counts.len() });
            let answer: Result<Response<Page>, _> =
                self.jetstream.request(format!("STREAM.INFO.{stream}"), &request).await;
            let page = match answer.map_err(|error| AdminError::read(stream, error))? {
                Response::Ok(page) => page,
                Response::Err { error } if error.code() == 404 => {
                    return Err(AdminError::NoStream { stream: stream.to_owned() });
                }
                Response::Err { error } => return Err(AdminError::read(stream, error)),
            };
            let subjects = page.state.subjects.unwrap_or_default();
            let is_last = subjects.is_empty();
            found.counts.extend(subjects);
            found.is_all = is_last || found.counts.len() >= page.total;
            if found.is_all || found.counts.len() >= most {
                return Ok(found);
            }
        }
    }

    /// Number of messages of a stream on subjects that match any of `filters`, which do not
    /// overlap; no work queue. Counted as [`Broker::subjects_count`] does.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn messages_on(&self, stream: &str, filters: Vec<String>) -> Result<u64, AdminError> {
        if filters.is_empty() {
            return Ok(0);
        }
        let opened =
            self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error))?;
        counted(&opened, stream, DeliverPolicy::All, filters).await
    }

    /// Share of its `max_bytes` that a stream takes up, 0 to 1; `None`: it has no limit, or is not
    /// there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn fullness(&self, stream: &str) -> Result<Option<f64>, AdminError> {
        match self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error)) {
            Ok(found) => {
                let info = found.cached_info();
                let most = u64::try_from(info.config.max_bytes).ok().filter(|most| *most > 0);
                Ok(most.map(|most| info.state.bytes as f64 / most as f64))
            }
            Err(AdminError::NoStream { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Time at which a stream was created, in Unix milliseconds; `None`: it is not there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn created_ms(&self, stream: &str) -> Result<Option<u64>, AdminError> {
        match self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error)) {
            Ok(found) => {
                let created: std::time::SystemTime = found.cached_info().created.into();
                Ok(Some(super::unix_ms(created)))
            }
            Err(AdminError::NoStream { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Value of a key in the metadata of a stream; `None`: the stream, or the key, is not there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn mark_of(&self, stream: &str, key: &str) -> Result<Option<String>, AdminError> {
        match self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error)) {
            Ok(found) => Ok(found.cached_info().config.metadata.get(key).cloned()),
            Err(AdminError::NoStream { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sets a key in the metadata of a stream; `None` takes it out.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Change`].
    pub async fn set_mark(
        &self,
        stream: &str,
        key: &str,
        value: Option<&str>,
    ) -> Result<(), AdminError> {
        let found =
            self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error))?;
        let mut config = found.cached_info().config.clone();
        match value {
            Some(value) => config.metadata.insert(key.to_owned(), value.to_owned()),
            None => config.metadata.remove(key),
        };
        let updated = self.jetstream.update_stream(config).await;
        updated.map(drop).map_err(|error| AdminError::change(stream, error))
    }
}

/// Number of messages that a consumer would be given: the server counts them as it makes one.
pub(super) async fn counted<I>(
    opened: &Stream<I>,
    stream: &str,
    deliver_policy: DeliverPolicy,
    filter_subjects: Vec<String>,
) -> Result<u64, AdminError> {
    let config = pull::Config {
        deliver_policy,
        ack_policy: AckPolicy::None,
        filter_subjects,
        headers_only: true,
        memory_storage: true,
        num_replicas: 1,
        inactive_threshold: limits::READER_INACTIVE_MAX,
        ..pull::Config::default()
    };
    let counter = opened.create_consumer(config).await;
    let counter = counter.map_err(|error| AdminError::read(stream, error))?;
    let info = counter.cached_info();
    // If it fails, the server deletes it a little later by itself.
    opened.delete_consumer(&info.name).await.ok();
    Ok(info.num_pending)
}

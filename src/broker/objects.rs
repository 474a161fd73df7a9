//! Objects: streams and consumers as we declare them, read from and written to the server.

use std::{collections::HashMap, time::Duration};

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, PullConsumer, pull},
    response::Response,
    stream::{Config, DiscardPolicy, RetentionPolicy, StorageType},
};
use futures_util::TryStreamExt as _;

use super::{AdminError, Broker, admin, lowered};
use crate::limits;

/// Metadata key with the pipeline that an object belongs to.
pub(super) const OWNER: &str = "millstream";

/// Retention policy of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retention {
    /// Messages go when they are too old, or the stream too large.
    Limits,
    /// Messages go when every consumer has settled them. What no consumer reads is dropped as it is
    /// published.
    Interest,
    /// Messages go when their one consumer has settled them.
    WorkQueue,
}

/// Settings of a stream that we declare. The others are left as they are.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct StreamSpec {
    /// Name of the stream.
    pub name: String,
    /// Pipeline it belongs to.
    pub pipeline: String,
    /// Subjects it captures.
    pub subjects: Vec<String>,
    /// Retention policy.
    pub retention: Retention,
    /// Memory storage instead of file storage.
    pub memory: bool,
    /// Replicas in the cluster.
    pub replicas: usize,
    /// Longest time a message is kept; `None`: for ever.
    pub max_age: Option<Duration>,
    /// Most bytes kept; `None`: no limit.
    pub max_bytes: Option<u64>,
    /// Time the ids of messages are remembered.
    pub duplicate_window: Duration,
    /// Message schedules allowed. Cannot be turned off again.
    pub schedules: bool,
    /// Roll-ups allowed: a message may take the place of those before it on its subject.
    pub rollup: bool,
    /// True for the stream of a key-value bucket: one message per subject, atomic batches.
    pub bucket: bool,
    /// Discard policy `new`: a full stream refuses what is new instead of dropping what is oldest.
    pub keeps_oldest: bool,
    /// Discard policy `old`, whatever an operator chose. Neither of the two: it is left as it is.
    pub drops_oldest: bool,
}

/// Settings of a durable consumer that we declare: explicit acks, no `backoff`. Where it begins is
/// chosen when it is made.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct ConsumerSpec {
    /// Stream it reads.
    pub stream: String,
    /// Name of the consumer.
    pub name: String,
    /// Pipeline it belongs to.
    pub pipeline: String,
    /// Filter subjects that do not overlap; empty: everything.
    pub filters: Vec<String>,
    /// Ack wait: time the server gives a delivery before it hands it out again.
    pub ack_wait: Duration,
    /// Most deliveries of a message; `None`: without end.
    pub max_deliver: Option<u32>,
    /// Messages in flight over the whole fleet.
    pub max_ack_pending: u64,
}

/// Consumer as the server has it: the settings we declare, and whether the others still fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FoundConsumer {
    /// Settings that we declare.
    pub spec: ConsumerSpec,
    /// Most pull requests that may wait. Immutable.
    pub max_waiting: i64,
    /// True if it acks explicitly and pulls in order, from the beginning or from the floor of the
    /// one that it replaced, without `backoff`.
    pub fits: bool,
    /// Messages it still has to deliver, or to have settled.
    pub unsettled: u64,
    /// Stream sequence below which everything is settled.
    pub ack_floor: u64,
}

impl Broker {
    /// Declared settings of the stream of this name; `None` if there is none.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn find_stream(&self, name: &str) -> Result<Option<StreamSpec>, AdminError> {
        match self.jetstream.get_stream(name).await.map_err(|error| admin::no_stream(name, error)) {
            Ok(stream) => Ok(Some(StreamSpec::read(&stream.cached_info().config))),
            Err(AdminError::NoStream { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Streams that belong to a pipeline, sorted by name.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn streams_of(&self, pipeline: &str) -> Result<Vec<StreamSpec>, AdminError> {
        let found: Result<Vec<_>, _> = self.jetstream.streams().try_collect().await;
        let found = found.map_err(|error| AdminError::read("*", error))?;
        let ours = found
            .iter()
            .map(|info| &info.config)
            .filter(|config| owner(&config.metadata) == pipeline);
        let mut ours: Vec<_> = ours.map(StreamSpec::read).collect();
        ours.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(ours)
    }

    /// Creates a stream. One that is there already with the same settings is no error. A duplicate
    /// window that the server does not allow is lowered to what it does.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn create_stream(&self, spec: &StreamSpec) -> Result<(), AdminError> {
        self.create_stream_lent(spec, None).await
    }

    /// Creates a stream, with `lent` bytes at the most where the account requires a limit and the
    /// stream declares none.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn create_stream_lent(
        &self,
        spec: &StreamSpec,
        lent: Option<u64>,
    ) -> Result<(), AdminError> {
        self.put_stream("CREATE", spec.over(Config::default()), lent).await
    }

    /// Creates or updates a stream; what the server limits is lowered, and marked as that.
    async fn put_stream(
        &self,
        how: &str,
        mut config: Config,
        lent: Option<u64>,
    ) -> Result<(), AdminError> {
        let name = config.name.clone();
        loop {
            let subject = format!("STREAM.{how}.{name}");
            let answer: Result<Response<serde_json::Value>, _> =
                self.jetstream.request(subject, &config).await;
            match answer.map_err(|error| AdminError::change(&name, error))? {
                Response::Ok(_) => return Ok(()),
                Response::Err { error } if lowered::stream(&mut config, &error, lent) => {}
                Response::Err { error } => return Err(AdminError::change(&name, error)),
            }
        }
    }

    /// Gives a stream the declared settings, and leaves the others as they are.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Change`].
    pub async fn update_stream(&self, spec: &StreamSpec) -> Result<(), AdminError> {
        self.update_stream_lent(spec, None).await
    }

    /// Gives a stream the declared settings, with `lent` bytes at the most where the account
    /// requires a limit and the stream declares none.
    ///
    /// # Errors
    /// As [`Broker::update_stream`].
    pub async fn update_stream_lent(
        &self,
        spec: &StreamSpec,
        lent: Option<u64>,
    ) -> Result<(), AdminError> {
        let name = &spec.name;
        let stream =
            self.jetstream.get_stream(name).await.map_err(|error| admin::no_stream(name, error))?;
        let before = &stream.cached_info().config;
        let mut config = spec.over(before.clone());
        if spec.max_bytes.is_none() && lowered::is_lent(before) {
            // What was lent once stays as it is: others may have been lent their share since.
            lowered::lend(&mut config, before.max_bytes);
        }
        self.put_stream("UPDATE", config, lent).await
    }

    /// Deletes a stream and all that it holds.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn delete_stream(&self, name: &str) -> Result<(), AdminError> {
        self.jetstream
            .delete_stream(name)
            .await
            .map(drop)
            .map_err(|error| AdminError::change(name, error))
    }

    /// Consumer of this name; `None` if there is none.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn find_consumer(
        &self,
        stream: &str,
        name: &str,
    ) -> Result<Option<FoundConsumer>, AdminError> {
        let found: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(name, stream).await;
        match found.map_err(|error| admin::no_consumer(stream, name, error)) {
            Ok(consumer) => Ok(Some(FoundConsumer::read(consumer.cached_info()))),
            Err(AdminError::NoStream { .. } | AdminError::NoConsumer { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Consumers of a stream that belong to a pipeline, sorted by name.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn consumers_of(
        &self,
        stream: &str,
        pipeline: &str,
    ) -> Result<Vec<FoundConsumer>, AdminError> {
        let opened = self
            .jetstream
            .get_stream(stream)
            .await
            .map_err(|error| admin::no_stream(stream, error))?;
        let found: Result<Vec<_>, _> = opened.consumers().try_collect().await;
        let found = found.map_err(|error| AdminError::read(stream, error))?;
        let ours = found.iter().filter(|info| owner(&info.config.metadata) == pipeline);
        let mut ours: Vec<_> = ours.map(FoundConsumer::read).collect();
        ours.sort_by(|a, b| a.spec.name.cmp(&b.spec.name));
        Ok(ours)
    }

    /// Creates a consumer that begins with the first message. One that is there already with the
    /// same settings is no error.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Change`].
    pub async fn create_consumer(&self, spec: &ConsumerSpec) -> Result<(), AdminError> {
        self.create_consumer_after(spec, None).await
    }

    /// Creates a consumer that goes on behind the sequence `after`; `None`: with the first message,
    /// as every consumer of a work queue must. One that is there already with the same settings is
    /// no error, wherever it began.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Change`].
    pub async fn create_consumer_after(
        &self,
        spec: &ConsumerSpec,
        after: Option<u64>,
    ) -> Result<(), AdminError> {
        let config = pull::Config {
            durable_name: Some(spec.name.clone()),
            deliver_policy: after.map_or(DeliverPolicy::All, |after| {
                DeliverPolicy::ByStartSequence { start_sequence: after + 1 }
            }),
            ack_policy: AckPolicy::Explicit,
            max_waiting: limits::PULLS_WAITING_MAX,
            ..pull::Config::default()
        };
        let Err(refused) = self.put_consumer(spec, config).await else { return Ok(()) };
        // Of two that make it at once, from floors that are not the same, the later is refused.
        match self.find_consumer(&spec.stream, &spec.name).await {
            Ok(Some(found)) if found.fits && found.spec.is_as(spec) => Ok(()),
            Ok(_) | Err(_) => Err(refused),
        }
    }

    /// Gives a consumer the declared settings, and leaves the others as they are.
    ///
    /// # Errors
    /// [`AdminError::NoConsumer`], [`AdminError::Change`].
    pub async fn update_consumer(&self, spec: &ConsumerSpec) -> Result<(), AdminError> {
        let found: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(&spec.name, &spec.stream).await;
        let found = found.map_err(|error| admin::no_consumer(&spec.stream, &spec.name, error))?;
        let config =
            consumer::FromConsumer::try_from_consumer_config(found.cached_info().config.clone());
        self.put_consumer(spec, config.map_err(|error| AdminError::change(&spec.stream, error))?)
            .await
    }

    async fn put_consumer(
        &self,
        spec: &ConsumerSpec,
        config: pull::Config,
    ) -> Result<(), AdminError> {
        let mut config = spec.over(config);
        loop {
            let created =
                self.jetstream.create_consumer_on_stream(config.clone(), &spec.stream).await;
            match created {
                Ok(_) => return Ok(()),
                Err(error) if lowered::consumer(&mut config, &error) => {}
                Err(error) => return Err(admin::no_consumer(&spec.stream, &spec.name, error)),
            }
        }
    }

    /// Deletes a consumer, and on an interest or work-queue stream what only it would have read.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn delete_consumer(&self, stream: &str, name: &str) -> Result<(), AdminError> {
        let deleted = self.jetstream.delete_consumer_from_stream(name, stream).await;
        deleted.map(drop).map_err(|error| AdminError::change(stream, error))
    }
}

impl StreamSpec {
    fn over(&self, base: Config) -> Config {
        let mut metadata = base.metadata.clone();
        metadata.insert(OWNER.to_owned(), self.pipeline.clone());
        lowered::forget(&mut metadata);
        Config {
            name: self.name.clone(),
            subjects: self.subjects.clone(),
            retention: match self.retention {
                Retention::Limits => RetentionPolicy::Limits,
                Retention::Interest => RetentionPolicy::Interest,
                Retention::WorkQueue => RetentionPolicy::WorkQueue,
            },
            storage: if self.memory { StorageType::Memory } else { StorageType::File },
            num_replicas: self.replicas,
            max_age: self.max_age.unwrap_or_default(),
            max_bytes: self.max_bytes.map_or(-1, |bytes| i64::try_from(bytes).unwrap_or(i64::MAX)),
            duplicate_window: self.duplicate_window,
            allow_message_schedules: self.schedules,
            // Scheduling turns roll-ups on by itself; a bucket's clients use them to purge a key.
            allow_rollup: self.rollup,
            allow_direct: true,
            allow_atomic_publish: self.bucket,
            deny_delete: self.bucket,
            discard: if self.bucket || self.keeps_oldest {
                DiscardPolicy::New
            } else if self.drops_oldest {
                DiscardPolicy::Old
            } else {
                base.discard
            },
            max_messages_per_subject: if self.bucket { 1 } else { base.max_messages_per_subject },
            metadata,
            ..base
        }
    }

    pub(super) fn read(config: &Config) -> Self {
        Self {
            name: config.name.clone(),
            pipeline: owner(&config.metadata).to_owned(),
            subjects: config.subjects.clone(),
            retention: match config.retention {
                RetentionPolicy::Limits => Retention::Limits,
                RetentionPolicy::Interest => Retention::Interest,
                RetentionPolicy::WorkQueue => Retention::WorkQueue,
            },
            memory: config.storage == StorageType::Memory,
            replicas: config.num_replicas,
            max_age: Some(config.max_age).filter(|age| !age.is_zero()),
            max_bytes: u64::try_from(config.max_bytes)
                .ok()
                .filter(|bytes| *bytes > 0 && !lowered::is_lent(config)),
            duplicate_window: lowered::window(config),
            schedules: config.allow_message_schedules,
            rollup: config.allow_rollup,
            bucket: config.max_messages_per_subject == 1 && config.allow_atomic_publish,
            keeps_oldest: config.discard == DiscardPolicy::New && !config.allow_atomic_publish,
            drops_oldest: config.discard == DiscardPolicy::Old,
        }
    }
}

impl ConsumerSpec {
    /// True if the settings are the same; the server gives filters back in an order of its own.
    pub fn is_as(&self, other: &Self) -> bool {
        let sorted = |spec: &Self| {
            let mut filters = spec.filters.clone();
            filters.sort();
            Self { filters, ..spec.clone() }
        };
        sorted(self) == sorted(other)
    }

    fn over(&self, mut config: pull::Config) -> pull::Config {
        config.metadata.insert(OWNER.to_owned(), self.pipeline.clone());
        lowered::forget(&mut config.metadata);
        // The server keeps one filter and several apart.
        (config.filter_subject, config.filter_subjects) = match self.filters.as_slice() {
            [one] => (one.clone(), Vec::new()),
            several => (String::new(), several.to_vec()),
        };
        config.ack_wait = self.ack_wait;
        config.max_deliver = self.max_deliver.map_or(-1, i64::from);
        config.max_ack_pending = i64::try_from(self.max_ack_pending).unwrap_or(i64::MAX);
        config
    }
}

impl FoundConsumer {
    pub(super) fn read(info: &consumer::Info) -> Self {
        let config = &info.config;
        let one = Some(&config.filter_subject).filter(|filter| !filter.is_empty());
        Self {
            spec: ConsumerSpec {
                stream: info.stream_name.clone(),
                name: info.name.clone(),
                pipeline: owner(&config.metadata).to_owned(),
                filters: one.into_iter().chain(&config.filter_subjects).cloned().collect(),
                ack_wait: config.ack_wait,
                max_deliver: u32::try_from(config.max_deliver).ok().filter(|most| *most > 0),
                max_ack_pending: lowered::max_ack_pending(config),
            },
            max_waiting: config.max_waiting,
            fits: config.ack_policy == AckPolicy::Explicit
                && matches!(
                    config.deliver_policy,
                    DeliverPolicy::All | DeliverPolicy::ByStartSequence { .. }
                )
                && config.deliver_subject.is_none()
                && config.backoff.is_empty(),
            unsettled: info.num_pending + info.num_ack_pending as u64,
            ack_floor: info.ack_floor.stream_sequence,
        }
    }
}

pub(super) fn owner(metadata: &HashMap<String, String>) -> &str {
    metadata.get(OWNER).map_or("", String::as_str)
}

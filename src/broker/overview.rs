//! Overview: states of all streams in one question, of all consumers of a stream in another, and
//! the trim of what all have settled.

use std::time::SystemTime;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{self, DeliverPolicy, PullConsumer},
    response::Response,
    stream,
};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::json;

use super::{
    AdminError, Broker, ConsumerSpec, ConsumerState, StreamSpec, StreamState, admin,
    objects::FoundConsumer, survey::counted, unix_ms,
};

/// Stream as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamOverview {
    /// Settings that we declare.
    pub spec: StreamSpec,
    /// Time it was created, in Unix milliseconds: one made anew has another.
    pub created: u64,
    /// State of it.
    pub state: StreamState,
    /// Most bytes that it takes, whoever set that; `None`: no limit.
    pub bytes_max: Option<u64>,
    /// Most messages that it takes; `None`: no limit.
    pub messages_max: Option<u64>,
    /// True if it refuses what is new once it is full, and does not drop what is oldest.
    pub refuses: bool,
    /// False in a cluster while no server leads it: it takes nothing and gives nothing.
    pub is_led: bool,
}

/// Consumer of a stream as it is now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReaderOverview {
    /// Settings that we declare.
    pub spec: ConsumerSpec,
    /// State of it.
    pub state: ConsumerState,
    /// Deliveries up to the ack floor: it and the stream sequence grow apart by what was delivered
    /// again, was filtered out or is gone.
    pub floor_deliveries: u64,
    /// Deliveries, ever.
    pub deliveries: u64,
    /// True while an operator has it paused: its pull requests wait whatever there is.
    pub is_paused: bool,
    /// False in a cluster while no server leads it.
    pub is_led: bool,
}

/// Message that the server found. Its headers are left alone: whatever they are, it has a sequence.
#[derive(Deserialize)]
struct Found {
    message: FoundMessage,
}

#[derive(Deserialize)]
struct FoundMessage {
    seq: u64,
    time: jiff::Timestamp,
}

/// Answer of the server to a purge.
#[derive(Deserialize)]
struct Purged {
    purged: u64,
}

impl Broker {
    /// Every stream of the account that we may see, in a question for each 256 of them.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn streams_overview(&self) -> Result<Vec<StreamOverview>, AdminError> {
        let found: Result<Vec<_>, _> = self.jetstream.streams().try_collect().await;
        let found = found.map_err(|error| AdminError::read("*", error))?;
        Ok(found.iter().map(StreamOverview::read).collect())
    }

    /// One stream; `None` if it is not there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn stream_overview(&self, name: &str) -> Result<Option<StreamOverview>, AdminError> {
        let found = self.jetstream.get_stream(name).await;
        match found.map_err(|error| admin::no_stream(name, error)) {
            Ok(stream) => Ok(Some(StreamOverview::read(stream.cached_info()))),
            Err(AdminError::NoStream { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Every consumer of a stream, whoever made it.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn readers_of(&self, stream: &str) -> Result<Vec<ReaderOverview>, AdminError> {
        let opened = self.jetstream.get_stream_no_info(stream).await;
        let opened = opened.map_err(|error| AdminError::read(stream, error))?;
        let found: Result<Vec<_>, _> = opened.consumers().try_collect().await;
        let found = found.map_err(|error| AdminError::read(stream, error))?;
        Ok(found.iter().map(ReaderOverview::read).collect())
    }

    /// One consumer; `None` if it, or its stream, is not there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn reader(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<Option<ReaderOverview>, AdminError> {
        let found: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(consumer, stream).await;
        match found.map_err(|error| admin::no_consumer(stream, consumer, error)) {
            Ok(consumer) => Ok(Some(ReaderOverview::read(consumer.cached_info()))),
            Err(AdminError::NoStream { .. } | AdminError::NoConsumer { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sequence, and time of storage, of the first message from `from_seq` on whose subject matches
    /// `filter`, from the leader of the stream; `None` if there is none.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn next_seq(
        &self,
        stream: &str,
        filter: &str,
        from_seq: u64,
    ) -> Result<Option<(u64, SystemTime)>, AdminError> {
        let subject = format!("STREAM.MSG.GET.{stream}");
        let request = json!({ "seq": from_seq.max(1), "next_by_subj": filter });
        let answer: Result<Response<Found>, _> = self.jetstream.request(subject, &request).await;
        match answer.map_err(|error| AdminError::read(stream, error))? {
            Response::Ok(Found { message }) => Ok(Some((message.seq, message.time.into()))),
            Response::Err { error } if error.error_code() == ErrorCode::NO_MESSAGE_FOUND => {
                Ok(None)
            }
            Response::Err { error } => Err(AdminError::read(stream, error)),
        }
    }

    /// Number of the messages that a consumer with these filters would be given from `from_seq` on.
    /// Not for work queues.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn count_from(
        &self,
        stream: &str,
        filters: &[String],
        from_seq: u64,
    ) -> Result<u64, AdminError> {
        let opened = self.jetstream.get_stream_no_info(stream).await;
        let opened = opened.map_err(|error| AdminError::read(stream, error))?;
        let from = DeliverPolicy::ByStartSequence { start_sequence: from_seq.max(1) };
        counted(&opened, stream, from, filters.to_vec()).await
    }

    /// Trims a stream: deletes every message below the sequence `keep_from`, which is 2 or more.
    /// Returns how many.
    ///
    /// The server reads a purge without a sequence as one of everything, and one beyond the last
    /// message moves the last sequence, so the caller keeps to at most one past the last.
    ///
    /// Source: measured on nats-server 2.15.1.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn trim(&self, stream: &str, keep_from: u64) -> Result<u64, AdminError> {
        if keep_from < 2 {
            return Ok(0);
        }
        let (subject, request) = (format!("STREAM.PURGE.{stream}"), json!({ "seq": keep_from }));
        let answer: Result<Response<Purged>, _> = self.jetstream.request(subject, &request).await;
        match answer.map_err(|error| AdminError::change(stream, error))? {
            Response::Ok(Purged { purged }) => Ok(purged),
            Response::Err { error } => Err(AdminError::change(stream, error)),
        }
    }
}

impl StreamOverview {
    fn read(info: &stream::Info) -> Self {
        Self {
            spec: StreamSpec::read(&info.config),
            created: unix_ms(info.created.into()),
            state: StreamState::read(info),
            bytes_max: u64::try_from(info.config.max_bytes).ok().filter(|most| *most > 0),
            messages_max: u64::try_from(info.config.max_messages).ok().filter(|most| *most > 0),
            refuses: info.config.discard == stream::DiscardPolicy::New,
            is_led: info.cluster.as_ref().is_none_or(|cluster| cluster.leader.is_some()),
        }
    }
}

impl ReaderOverview {
    fn read(info: &consumer::Info) -> Self {
        Self {
            spec: FoundConsumer::read(info).spec,
            state: ConsumerState::read(info),
            floor_deliveries: info.ack_floor.consumer_sequence,
            deliveries: info.delivered.consumer_sequence,
            is_paused: info.paused,
            is_led: info.cluster.as_ref().is_none_or(|cluster| cluster.leader.is_some()),
        }
    }
}

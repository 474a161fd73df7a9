//! Admin: single messages, and the state of streams and consumers.

use std::time::SystemTime;

use async_nats::jetstream::{
    ErrorCode,
    consumer::{self, AckPolicy, PullConsumer, pull},
    context::GetStreamErrorKind,
    response::Response,
    stream::{self, ConsumerErrorKind, RetentionPolicy},
};
use futures_util::TryStreamExt as _;
use serde::Deserialize;
use serde_json::json;

use super::{
    Broker,
    connection::{Block, SendError, Sending},
    message::{RawMessage, StoredMessage},
    refusal::Refusal,
};
use crate::limits;

/// Failed read or change of a stream.
#[derive(Debug, thiserror::Error)]
pub enum AdminError {
    /// Stream that does not exist.
    #[error("stream \"{stream}\" does not exist")]
    NoStream {
        /// Name of the stream.
        stream: String,
    },
    /// Consumer that does not exist.
    #[error("consumer \"{consumer}\" on stream \"{stream}\" does not exist")]
    NoConsumer {
        /// Name of the stream.
        stream: String,
        /// Name of the consumer.
        consumer: String,
    },
    /// Failed read: the server refused, or did not answer.
    #[error("could not read stream \"{stream}\"")]
    Read {
        /// Name of the stream.
        stream: String,
        /// Error of the client.
        source: Source,
    },
    /// Failed change: the server refused, or did not answer.
    #[error("could not change stream \"{stream}\"")]
    Change {
        /// Name of the stream.
        stream: String,
        /// Error of the client.
        source: Source,
    },
}

type Source = Box<dyn std::error::Error + Send + Sync>;

impl AdminError {
    /// Refusal that is the cause, if one is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::NoStream { .. } | Self::NoConsumer { .. } => None,
            Self::Read { source, .. } | Self::Change { source, .. } => source
                .downcast_ref::<Refusal>()
                .or_else(|| source.downcast_ref::<SendError>()?.refusal()),
        }
    }

    pub(super) fn read(stream: &str, source: impl Into<Source>) -> Self {
        Self::Read { stream: stream.to_owned(), source: source.into() }
    }

    pub(super) fn change(stream: &str, source: impl Into<Source>) -> Self {
        Self::Change { stream: stream.to_owned(), source: source.into() }
    }
}

/// State of a stream: what it holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamState {
    /// Messages stored.
    pub messages: u64,
    /// Bytes of those messages.
    pub bytes: u64,
    /// Sequence of the oldest; one more than `last_seq` if there is none.
    pub first_seq: u64,
    /// Highest sequence ever given out.
    pub last_seq: u64,
    /// Different subjects.
    pub subjects: u64,
    /// Consumers.
    pub consumers: usize,
    /// Time at which the stream was created: another one for each time that it is made anew. One in
    /// memory keeps it over a restart of the server, and its sequences begin again.
    pub created: SystemTime,
    /// Time the oldest was stored; meaningless if there is none.
    pub first_at: SystemTime,
    /// Time the last one was stored; meaningless if there never was one.
    pub last_at: SystemTime,
}

/// Progress of a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumerState {
    /// Messages still to be delivered for the first time.
    pub num_pending: u64,
    /// Messages delivered and not settled, those that wait for a retry included.
    pub num_ack_pending: u64,
    /// Messages delivered more than once and not settled.
    pub num_redelivered: u64,
    /// Pull requests that wait.
    pub num_waiting: u64,
    /// Stream sequence below which everything is settled. No mark of completion: it stays at what
    /// is exhausted, and jumps past it later.
    pub ack_floor: u64,
    /// Stream sequence of the last message delivered.
    pub delivered: u64,
}

/// Answer of the server to a read of one message.
#[derive(Deserialize)]
struct RawAnswer {
    message: Option<RawMessage>,
    error: Option<async_nats::jetstream::Error>,
}

/// Answer of the server to a deletion.
#[derive(Deserialize)]
struct Deleted {
    success: bool,
}

impl StreamState {
    pub(super) fn read(info: &stream::Info) -> Self {
        let state = &info.state;
        Self {
            messages: state.messages,
            bytes: state.bytes,
            first_seq: state.first_sequence,
            last_seq: state.last_sequence,
            subjects: state.subjects_count,
            consumers: state.consumer_count,
            created: info.created.into(),
            first_at: state.first_timestamp.into(),
            last_at: state.last_timestamp.into(),
        }
    }
}

impl ConsumerState {
    pub(super) fn read(info: &consumer::Info) -> Self {
        Self {
            num_pending: info.num_pending,
            num_ack_pending: info.num_ack_pending as u64,
            num_redelivered: info.num_redelivered as u64,
            num_waiting: info.num_waiting as u64,
            ack_floor: info.ack_floor.stream_sequence,
            delivered: info.delivered.stream_sequence,
        }
    }
}

impl Broker {
    /// Message at a sequence; `None` if it is not, or no longer, there.
    ///
    /// The leader answers: what it does not have is not there.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn message(
        &self,
        stream: &str,
        seq: u64,
    ) -> Result<Option<StoredMessage>, AdminError> {
        self.raw(stream, &json!({ "seq": seq })).await
    }

    /// Last message on a subject, from the leader; `None` if there is none.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn last_on_subject(
        &self,
        stream: &str,
        subject: &str,
    ) -> Result<Option<StoredMessage>, AdminError> {
        self.raw(stream, &json!({ "last_by_subj": subject })).await
    }

    /// First message from `from_seq` on whose subject matches `filter`, from the leader; `None` if
    /// there is none.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn next_on_subject(
        &self,
        stream: &str,
        filter: &str,
        from_seq: u64,
    ) -> Result<Option<StoredMessage>, AdminError> {
        self.raw(stream, &json!({ "seq": from_seq.max(1), "next_by_subj": filter })).await
    }

    /// Message that the leader of a stream has for a request; `None` if it has none. Read by
    /// ourselves, since the client fails for what a message holds.
    pub(super) async fn raw(
        &self,
        stream: &str,
        request: &serde_json::Value,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let failed = |source: Source| AdminError::read(stream, source);
        // Closed only with the broker.
        let _place = self.raw_reads.acquire().await;
        let (subject, body) = (format!("$JS.API.STREAM.MSG.GET.{stream}"), request.to_string());
        let sending =
            Sending { subject: &subject, headers: None, extra: &[], body: body.as_bytes() };
        let mut tries = limits::RAW_READ_TRIES;
        let answer = loop {
            tries -= 1;
            match self.connection.request(&sending, limits::REQUEST_TIMEOUT).await {
                // A read may be repeated, and a connection that broke is soon there again.
                Err(SendError::Lost(_)) if tries > 0 => {}
                answer => break answer.map_err(|error| failed(error.into()))?,
            }
        };
        if Block::read(answer.head()).status == Some(503) {
            return Err(failed("JetStream does not answer".into()));
        }
        let answer: RawAnswer =
            serde_json::from_slice(&answer.body()).map_err(|error| failed(error.into()))?;
        match answer {
            RawAnswer { error: Some(refused), .. }
                if refused.error_code() == ErrorCode::NO_MESSAGE_FOUND =>
            {
                Ok(None)
            }
            RawAnswer { error: Some(refused), .. } => Err(failed(refused.into())),
            RawAnswer { message, .. } => {
                let message = message.and_then(RawMessage::message);
                message.map(Some).ok_or_else(|| failed("its message cannot be read".into()))
            }
        }
    }

    /// Deletes a message; true if it was there.
    ///
    /// The client's own call has the server overwrite the message on disk before it answers, which
    /// takes some six milliseconds and holds up the stream: 155 a second against tens of thousands
    /// (nats-server 2.15.1, `no_erase`).
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn delete_message(&self, stream: &str, seq: u64) -> Result<bool, AdminError> {
        let gone = [ErrorCode::NO_MESSAGE_FOUND, ErrorCode::SEQUENCE_NOT_FOUND];
        // Of two that delete at once, the server tells one that it failed, for this reason in
        // words.
        let lost_a_race = |refused: &async_nats::jetstream::Error| {
            refused.error_code() == ErrorCode::STREAM_MESSAGE_DELETE_FAILED
                && refused.to_string().contains("no message found")
        };
        let (subject, request) =
            (format!("STREAM.MSG.DELETE.{stream}"), json!({ "seq": seq, "no_erase": true }));
        let asked = format!("$JS.API.{subject}");
        let answer = self.unless_refused(&asked, self.jetstream.request(subject, &request)).await;
        let answer: Result<Response<Deleted>, _> =
            answer.map_err(|refusal| AdminError::change(stream, refusal))?;
        match answer.map_err(|error| AdminError::change(stream, error))? {
            Response::Ok(deleted) => Ok(deleted.success),
            Response::Err { error }
                if gone.contains(&error.error_code()) || lost_a_race(&error) =>
            {
                Ok(false)
            }
            Response::Err { error } => Err(AdminError::change(stream, error)),
        }
    }

    /// Deletes every message on subjects that match `filter` up to `seq`, that one included.
    /// Returns how many.
    ///
    /// # Errors
    /// [`AdminError::Change`].
    pub async fn purge_up_to(
        &self,
        stream: &str,
        filter: &str,
        seq: u64,
    ) -> Result<u64, AdminError> {
        let opened = self.open_stream(stream).await?;
        // The server takes the sequence of the first that is to stay.
        let purging = opened.purge().filter(filter).sequence(seq + 1).into_future();
        let purged = self.unless_refused(&format!("$JS.API.STREAM.PURGE.{stream}"), purging).await;
        let purged = purged.map_err(|refusal| AdminError::change(stream, refusal))?;
        Ok(purged.map_err(|error| AdminError::change(stream, error))?.purged)
    }

    /// State of a stream.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn stream_state(&self, stream: &str) -> Result<StreamState, AdminError> {
        let opened =
            self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error))?;
        Ok(StreamState::read(opened.cached_info()))
    }

    /// Number of messages of a stream on subjects that match `filter`.
    ///
    /// Read from `num_pending` of a consumer that is made for it and deleted at once; the names of
    /// the subjects, of which there may be a million, are not sent. A work-queue stream lets nobody
    /// read beside its consumers, so there they are.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::Read`].
    pub async fn subjects_count(&self, stream: &str, filter: &str) -> Result<u64, AdminError> {
        let read = |error: Source| AdminError::read(stream, error);
        let opened =
            self.jetstream.get_stream(stream).await.map_err(|error| no_stream(stream, error))?;
        if opened.cached_info().state.messages == 0 {
            return Ok(0);
        }
        if opened.cached_info().config.retention == RetentionPolicy::WorkQueue {
            let subjects =
                opened.info_with_subjects(filter).await.map_err(|error| read(error.into()))?;
            let sum = subjects.try_fold(0, async |sum, (_, count)| Ok(sum + count as u64));
            return sum.await.map_err(|error| read(error.into()));
        }
        let config = pull::Config {
            ack_policy: AckPolicy::None,
            filter_subject: filter.to_owned(),
            headers_only: true,
            memory_storage: true,
            num_replicas: 1,
            inactive_threshold: limits::READER_INACTIVE_MAX,
            ..pull::Config::default()
        };
        let counter = opened.create_consumer(config).await.map_err(|error| read(error.into()))?;
        let info = counter.cached_info();
        // If it fails, the server deletes it a little later by itself.
        opened.delete_consumer(&info.name).await.ok();
        Ok(info.num_pending)
    }

    /// Progress of a consumer.
    ///
    /// # Errors
    /// [`AdminError::NoStream`], [`AdminError::NoConsumer`], [`AdminError::Read`].
    pub async fn consumer_state(
        &self,
        stream: &str,
        consumer: &str,
    ) -> Result<ConsumerState, AdminError> {
        let opened: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(consumer, stream).await;
        let opened = opened.map_err(|error| no_consumer(stream, consumer, error))?;
        Ok(ConsumerState::read(opened.cached_info()))
    }

    /// Acks an exhausted message on behalf of its consumer, as a late ack of its last worker would.
    /// On a work-queue stream the message then goes; on an interest stream once no other consumer
    /// waits for it.
    ///
    /// The ack is made up: the server looks at the stream sequence in its subject and passes over
    /// the number of deliveries, the consumer sequence, the time and what is pending. A message in
    /// flight is settled as well, while its worker still runs it, so make sure first that it is
    /// exhausted. One that the consumer was never given is not settled, and the server says
    /// nothing: that shows as an error after [`crate::limits::REQUEST_TIMEOUT`].
    ///
    /// Source: measured on nats-server 2.15.1 in `tests/it/broker.rs`: interest and work queue,
    /// `max_deliver` 1 and 2, in and out of order, before and after a restart of the server.
    ///
    /// # Errors
    /// [`AdminError::Change`], also where the consumer is gone.
    pub async fn settle_for(
        &self,
        stream: &str,
        consumer: &str,
        seq: u64,
    ) -> Result<(), AdminError> {
        let subject = format!("$JS.ACK.{stream}.{consumer}.1.{seq}.{seq}.0.0");
        self.client
            .request(subject, "+ACK".into())
            .await
            .map_err(|error| AdminError::change(stream, error))?;
        Ok(())
    }

    /// Handle of a stream, without asking whether it is there.
    async fn open_stream(
        &self,
        stream: &str,
    ) -> Result<async_nats::jetstream::stream::Stream<()>, AdminError> {
        self.jetstream
            .get_stream_no_info(stream)
            .await
            .map_err(|error| AdminError::read(stream, error))
    }
}

/// Error for a stream that could not be opened.
pub(super) fn no_stream(
    stream: &str,
    error: async_nats::jetstream::context::GetStreamError,
) -> AdminError {
    match error.kind() {
        GetStreamErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            AdminError::NoStream { stream: stream.to_owned() }
        }
        GetStreamErrorKind::JetStream(_)
        | GetStreamErrorKind::EmptyName
        | GetStreamErrorKind::Request
        | GetStreamErrorKind::InvalidStreamName => AdminError::read(stream, error),
    }
}

pub(super) fn no_consumer(
    stream: &str,
    consumer: &str,
    error: async_nats::jetstream::stream::ConsumerError,
) -> AdminError {
    match error.kind() {
        ConsumerErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::STREAM_NOT_FOUND =>
        {
            AdminError::NoStream { stream: stream.to_owned() }
        }
        ConsumerErrorKind::JetStream(refused)
            if refused.error_code() == ErrorCode::CONSUMER_NOT_FOUND =>
        {
            AdminError::NoConsumer { stream: stream.to_owned(), consumer: consumer.to_owned() }
        }
        ConsumerErrorKind::JetStream(_)
        | ConsumerErrorKind::TimedOut
        | ConsumerErrorKind::Request
        | ConsumerErrorKind::InvalidConsumerType
        | ConsumerErrorKind::InvalidName
        | ConsumerErrorKind::Other => AdminError::read(stream, error),
    }
}

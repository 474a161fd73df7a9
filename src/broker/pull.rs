//! Pull: deliveries from a durable consumer, each settled once.

use std::{
    pin::pin,
    sync::{Arc, atomic::Ordering},
    time::{Duration, SystemTime},
};

use async_nats::{
    StatusCode, Subscriber,
    jetstream::{AckKind, ErrorCode, Message, consumer::PullConsumer, stream::ConsumerErrorKind},
};
use bytes::Bytes;
use futures_util::StreamExt as _;
use serde_json::json;
use tokio::time::Instant;

use super::{Broker, Headers};
use crate::limits;

/// Deliveries from one durable consumer. Ends when the consumer is gone: open it again.
///
/// The client's own stream of messages goes on asking for as long as it is polled, and drops what
/// is on its way when it is not. Here whoever pulls says how much it has room for, so that all that
/// was asked for can be taken in at once and kept alive while it waits, and can be waited for when
/// the pulling ends.
pub struct Pull {
    broker: Broker,
    stream: Arc<str>,
    subscriber: Subscriber,
    /// Subject that pull requests go to, and the inbox that deliveries come to.
    next_subject: String,
    inbox: String,
    /// Messages that there is room for.
    room: usize,
    /// Free room that is worth a pull request.
    step: usize,
    /// Messages asked for that have not come.
    due: usize,
    /// Time before which no request is sent.
    ask_after: Instant,
    /// Time of the server's last sign of life.
    heard: Instant,
    /// Connections made, by the client's count: a new one knows nothing of earlier requests.
    connects: u64,
    gone: bool,
}

/// Delivery of one message. Settled once: each way of settling takes it.
#[derive(Debug)]
pub struct Delivered {
    message: Message,
    /// Stream it came from.
    pub stream: Arc<str>,
    /// Stream sequence of the message.
    pub seq: u64,
    /// Number of deliveries of the message, this one included.
    pub deliveries: u32,
    /// Time the server stored the message.
    pub stored_at: SystemTime,
    /// Messages that match the consumer and are still to be delivered.
    pub pending: u64,
}

/// Failed wait for a delivery.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// Consumer that is gone, or whose stream is, or that is not there yet.
    #[error("consumer \"{consumer}\" on stream \"{stream}\" is gone")]
    Gone {
        /// Name of the stream.
        stream: String,
        /// Name of the consumer.
        consumer: String,
    },
    /// Consumer that could not be opened: no server, or another answer.
    #[error("could not open consumer \"{consumer}\" on stream \"{stream}\"")]
    Open {
        /// Name of the stream.
        stream: String,
        /// Name of the consumer.
        consumer: String,
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Trouble that passes: the next delivery may come all the same.
    #[error("waiting for the broker")]
    Passing {
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Broker {
    /// Opens a durable consumer, to pull as many as `batch` messages ahead.
    ///
    /// # Errors
    /// [`PullError::Gone`] if there is no such consumer, [`PullError::Open`] for anything else.
    pub async fn pull(
        &self,
        stream: &str,
        consumer: &str,
        batch: usize,
    ) -> Result<Pull, PullError> {
        let opened: Result<PullConsumer, _> =
            self.jetstream.get_consumer_from_stream(consumer, stream).await;
        let consumer: PullConsumer = opened.map_err(|error| {
            let (stream, consumer) = (stream.to_owned(), consumer.to_owned());
            let missing = [ErrorCode::CONSUMER_NOT_FOUND, ErrorCode::STREAM_NOT_FOUND];
            match error.kind() {
                ConsumerErrorKind::JetStream(error) if missing.contains(&error.error_code()) => {
                    PullError::Gone { stream, consumer }
                }
                ConsumerErrorKind::JetStream(_)
                | ConsumerErrorKind::TimedOut
                | ConsumerErrorKind::Request
                | ConsumerErrorKind::InvalidConsumerType
                | ConsumerErrorKind::InvalidName
                | ConsumerErrorKind::Other => {
                    PullError::Open { stream, consumer, source: error.into() }
                }
            }
        })?;
        let inbox = self.client.new_inbox();
        let subscribed = self.client.subscribe(inbox.clone()).await;
        let now = Instant::now();
        let room = batch.clamp(1, limits::PREFETCH_MAX);
        Ok(Pull {
            broker: self.clone(),
            stream: stream.into(),
            subscriber: subscribed.map_err(|error| PullError::Passing { source: error.into() })?,
            next_subject: format!(
                "$JS.API.CONSUMER.MSG.NEXT.{stream}.{}",
                consumer.cached_info().name
            ),
            inbox,
            room,
            step: room.div_ceil(4),
            due: 0,
            ask_after: now,
            heard: now,
            connects: self.connects(),
            gone: false,
        })
    }

    /// Number of times the connection was made.
    fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }
}

impl Pull {
    /// Sets how many messages there is room for, those that are due included.
    pub fn make_room(&mut self, room: usize) {
        self.room = room.min(limits::PREFETCH_MAX);
    }

    /// Room from which on it is worth looking again.
    pub fn worth(&self) -> usize {
        self.room.max(self.due) + self.step
    }

    /// Next delivery; `None` once the consumer is gone. Asks for more where there is room. Nothing
    /// is lost when the future is dropped.
    ///
    /// # Errors
    /// [`PullError::Passing`]: the next delivery may come all the same.
    pub async fn next(&mut self) -> Option<Result<Delivered, PullError>> {
        loop {
            if self.gone {
                return None;
            }
            if let Err(error) = self.ask().await {
                return Some(Err(error));
            }
            let look = pin!(tokio::time::sleep(limits::PULL_LOOK));
            tokio::select! {
                biased;
                message = self.subscriber.next() => match message {
                    Some(message) => if let Some(next) = self.take(message) { return Some(next) },
                    None => return None,
                },
                () = look => if self.is_lost() {
                    let source = "no heartbeat from the consumer".into();
                    return Some(Err(PullError::Passing { source }));
                },
            }
        }
    }

    /// Next delivery of those asked for, without asking for more; `None` once all have come, or
    /// none has for [`limits::DRAIN_QUIET`]. What comes after the pull was dropped is lost to
    /// everyone until its ack wait is over.
    pub async fn last(&mut self) -> Option<Delivered> {
        while self.due > 0 && !self.gone {
            let message =
                tokio::time::timeout(limits::DRAIN_QUIET, self.subscriber.next()).await.ok()??;
            if let Some(Ok(delivered)) = self.take(message) {
                return Some(delivered);
            }
        }
        None
    }

    /// Asks for as much as there is room for, where that is worth a request.
    async fn ask(&mut self) -> Result<(), PullError> {
        let connects = self.broker.connects();
        if connects != self.connects {
            (self.connects, self.due) = (connects, 0);
        }
        if !self.broker.is_connected() {
            // It would be sent later, with all that were asked in the meantime.
            return Ok(());
        }
        let batch = self.room.saturating_sub(self.due);
        if batch < self.step || Instant::now() < self.ask_after {
            return Ok(());
        }
        let request = json!({
            "batch": batch,
            "expires": limits::PULL_EXPIRES.as_nanos() as u64,
            "idle_heartbeat": limits::PULL_HEARTBEAT.as_nanos() as u64,
        });
        let (subject, inbox) = (self.next_subject.clone(), self.inbox.clone());
        let sent =
            self.broker.client.publish_with_reply(subject, inbox, request.to_string().into()).await;
        sent.map_err(|error| PullError::Passing { source: error.into() })?;
        if self.due == 0 {
            self.heard = Instant::now();
        }
        self.due += batch;
        Ok(())
    }

    /// Takes in what came: a delivery, or a status of a request, of which only trouble is passed
    /// on.
    ///
    /// Source: nats-server 2.15.1, `server/consumer.go`; ADR-37.
    fn take(&mut self, message: async_nats::Message) -> Option<Result<Delivered, PullError>> {
        self.heard = Instant::now();
        let description = message.description.clone().unwrap_or_default();
        match message.status {
            None | Some(StatusCode::OK) => {
                self.due = self.due.saturating_sub(1);
                return Some(Delivered::new(
                    &self.stream,
                    Message { context: self.broker.jetstream.clone(), message },
                ));
            }
            Some(StatusCode::IDLE_HEARTBEAT) => return None,
            Some(_)
                if ["Consumer Deleted", "Consumer is push based"]
                    .contains(&description.as_str()) =>
            {
                self.gone = true;
                return None;
            }
            Some(_) => {}
        }
        // A request has ended: by its time, or refused. It says how much of it has not come.
        let left = message
            .headers
            .as_ref()
            .and_then(|headers| headers.get("Nats-Pending-Messages")?.as_str().parse().ok());
        if let Some(left) = left {
            self.due = self.due.saturating_sub(left);
            return None;
        }
        self.due = 0;
        self.ask_after = Instant::now() + limits::PULL_LOOK;
        let status = message.status.map_or(0, |status| status.as_u16());
        Some(Err(PullError::Passing {
            source: format!("the server answered {status} {description}").into(),
        }))
    }

    /// True if the server has forgotten what was asked for: then it is asked again.
    fn is_lost(&mut self) -> bool {
        let expected = self.due > 0 || !self.broker.is_connected();
        let lost = expected && self.heard.elapsed() > limits::PULL_HEARTBEAT * 2;
        if lost {
            (self.due, self.heard) = (0, Instant::now());
        }
        lost
    }
}

impl Delivered {
    fn new(stream: &Arc<str>, message: Message) -> Result<Self, PullError> {
        let info = message.info().map_err(|source| PullError::Passing { source })?;
        Ok(Self {
            stream: Arc::clone(stream),
            seq: info.stream_sequence,
            deliveries: u32::try_from(info.delivered).unwrap_or(u32::MAX),
            stored_at: info.published.into(),
            pending: info.pending,
            message,
        })
    }

    /// Subject it was published on.
    pub fn subject(&self) -> &str {
        &self.message.subject
    }

    /// Value of a header.
    pub fn header(&self, name: &'static str) -> Option<&str> {
        super::get(self.message.headers.as_ref()?, name)
    }

    /// Headers of the message.
    pub fn headers(&self) -> Option<&Headers> {
        self.message.headers.as_ref()
    }

    /// Payload of the message.
    pub fn body(&self) -> &Bytes {
        &self.message.payload
    }

    /// Sends an in-progress ack: work goes on, and the ack wait starts anew. Not a settlement.
    pub async fn progress(&self) {
        // A lost sign of life costs a second run of the event, never the event.
        self.message.ack_with(AckKind::Progress).await.ok();
    }

    /// Acks the delivery: it is done.
    pub async fn ack(self) {
        self.settle(AckKind::Ack).await;
    }

    /// Naks the delivery: it comes again after `wait`.
    pub async fn nak(self, wait: Duration) {
        self.settle(AckKind::Nak(Some(wait))).await;
    }

    /// Terms the delivery: it never comes again. The reason shows in the server's advisory.
    pub async fn term(self, reason: &str) {
        // The client's own Term carries no reason; the server reads "+TERM <reason>".
        let reply = self.message.reply.clone();
        let text = format!("+TERM {}", millstream_stages::headers::clean(reason));
        if let Some(reply) = reply {
            // A lost settlement costs a redelivery, never the event.
            self.message.context.client().publish(reply, text.into()).await.ok();
        }
    }

    async fn settle(self, kind: AckKind) {
        // A lost settlement costs a redelivery, never the event.
        self.message.ack_with(kind).await.ok();
    }
}

impl std::fmt::Debug for Pull {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Pull").finish_non_exhaustive()
    }
}

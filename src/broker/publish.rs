//! Publish: one message to a stream, awaited until it is stored, tried again with the same id.

use std::time::Duration;

use async_nats::jetstream::{context::PublishErrorKind, message::PublishMessage};
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use millstream_stages::headers;

use super::{Broker, Headers};
use crate::limits;

/// One message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// The subject it is published on.
    pub subject: String,
    /// Its headers; `Nats-Msg-Id` among them where the server should drop a repeat.
    pub headers: Headers,
    /// Its payload.
    pub body: Bytes,
    /// Refuse it if its subject already has a message: the subject is a claim that only one may make.
    pub first_on_subject: bool,
}

/// Where a published message is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The stream that stored it.
    pub stream: String,
    /// Its sequence in that stream.
    pub seq: u64,
    /// Whether the server already had a message of this id.
    pub duplicate: bool,
}

/// A publish that did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// The subject already has a message, and the publish was to be the first.
    #[error("subject \"{subject}\" already has a message")]
    NotFirst {
        /// The subject.
        subject: String,
    },
    /// The message is larger than the server takes.
    #[error("the message for \"{subject}\" is larger than the server's max_payload")]
    TooLarge {
        /// The subject.
        subject: String,
    },
    /// The server refused it, or did not answer in time, as often as it was tried.
    #[error("could not publish to \"{subject}\"")]
    Failed {
        /// The subject.
        subject: String,
        /// What the client said of the last try.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Outgoing {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self { subject: subject.into(), headers: Headers::new(), body: body.into(), first_on_subject: false }
    }

    /// The same message with one more header; the value is sanitised.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        super::set(&mut self.headers, name, super::header(value));
        self
    }

    /// The same message with the id the server drops repeats by.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.header(headers::MSG_ID, id)
    }
}

impl Broker {
    /// Publishes one message and waits until it is stored.
    ///
    /// A try that times out may have happened, so it is repeated as it was, with the same id. With
    /// `first_on_subject` a repeat of our own that did happen is told apart by its id.
    ///
    /// # Errors
    /// [`PublishError`], after the tries that [`limits::PUBLISH_TRIES`] allows.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<Stored, PublishError> {
        self.publish_made(|| outgoing.clone()).await
    }

    /// Publishes the message that `make` gives, made anew for each try, and waits until it is stored: like
    /// [`Broker::publish`], without the copy that a second try would need.
    ///
    /// # Errors
    /// As [`Broker::publish`].
    pub async fn publish_made(&self, make: impl Fn() -> Outgoing) -> Result<Stored, PublishError> {
        let mut waits = ExponentialBuilder::default()
            .with_min_delay(Duration::from_millis(100))
            .with_max_times(limits::PUBLISH_TRIES - 1)
            .build();
        loop {
            let failed = match self.try_publish(make()).await {
                Ok(stored) => return Ok(stored),
                Err(failed) => failed,
            };
            let subject = || make().subject;
            match failed.kind() {
                PublishErrorKind::WrongLastSequence => return Err(PublishError::NotFirst { subject: subject() }),
                PublishErrorKind::MaxPayloadExceeded => return Err(PublishError::TooLarge { subject: subject() }),
                PublishErrorKind::StreamNotFound
                | PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::Other => {}
            }
            match waits.next() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(PublishError::Failed { subject: subject(), source: failed.into() }),
            }
        }
    }

    async fn try_publish(&self, outgoing: Outgoing) -> Result<Stored, async_nats::jetstream::context::PublishError> {
        let Outgoing { subject, headers, body, first_on_subject } = outgoing;
        let mut message = PublishMessage::build().payload(body).headers(headers);
        if first_on_subject {
            message = message.expected_last_subject_sequence(0);
        }
        let ack = self.jetstream.send_publish(subject, message).await?.await?;
        Ok(Stored { stream: ack.stream, seq: ack.sequence, duplicate: ack.duplicate })
    }
}

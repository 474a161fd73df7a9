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
    /// What its subject must hold for it to be stored.
    pub expects: Expects,
}

/// What the subject of a message must hold for the message to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expects {
    /// Anything.
    #[default]
    Anything,
    /// Nothing: the subject is a claim that only one may make.
    Nothing,
    /// The message of this sequence, as its last; the new one takes its place and that of any
    /// before (a roll-up).
    Replaced(u64),
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
    /// The subject does not hold what the message [`Expects`]: someone else was first.
    #[error("subject \"{subject}\" has been written by someone else")]
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

/// What a publish fails with when its stream has no room.
#[derive(Debug, thiserror::Error)]
#[error("its stream is full: make room in it, or raise its limit (the server says: {said})")]
struct Full {
    /// What the server said.
    said: String,
}

impl PublishError {
    /// Whether the stream has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Failed { source, .. } => source.is::<Full>(),
            Self::NotFirst { .. } | Self::TooLarge { .. } => false,
        }
    }

    fn failed(subject: String, error: async_nats::jetstream::context::PublishError) -> Self {
        use async_nats::jetstream::{Error, ErrorCode};
        let refused =
            std::error::Error::source(&error).and_then(|source| source.downcast_ref::<Error>());
        let source = match refused {
            Some(refused) if refused.error_code() == ErrorCode::STREAM_STORE_FAILED => {
                Full { said: refused.to_string() }.into()
            }
            _ => error.into(),
        };
        Self::Failed { subject, source }
    }
}

impl Outgoing {
    /// A message without headers.
    pub fn new(subject: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            headers: Headers::new(),
            body: body.into(),
            expects: Expects::Anything,
        }
    }

    /// Its bytes as `max_payload` counts them: headers and payload.
    pub fn bytes(&self) -> usize {
        let lines = self.headers.iter().flat_map(|(name, values)| {
            values.iter().map(move |value| {
                AsRef::<str>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()
            })
        });
        let framing = if self.headers.is_empty() { 0 } else { "NATS/1.0\r\n\r\n".len() };
        framing + lines.sum::<usize>() + self.body.len()
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
    /// The largest message that the server takes, headers and payload, in bytes.
    pub fn max_payload(&self) -> usize {
        self.client.max_payload()
    }

    /// Publishes one message and waits until it is stored.
    ///
    /// A try that times out may have happened, so it is repeated as it was, with the same id. With
    /// [`Expects`] a repeat of our own that did happen is told apart by its id.
    ///
    /// # Errors
    /// [`PublishError`], after the tries that [`limits::PUBLISH_TRIES`] allows.
    pub async fn publish(&self, outgoing: Outgoing) -> Result<Stored, PublishError> {
        self.publish_made(|| outgoing.clone()).await
    }

    /// Publishes the message that `make` gives, made anew for each try, and waits until it is
    /// stored: like [`Broker::publish`], without the copy that a second try would need.
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
                PublishErrorKind::WrongLastSequence => {
                    return Err(PublishError::NotFirst { subject: subject() });
                }
                PublishErrorKind::MaxPayloadExceeded => {
                    return Err(PublishError::TooLarge { subject: subject() });
                }
                PublishErrorKind::StreamNotFound
                | PublishErrorKind::WrongLastMessageId
                | PublishErrorKind::TimedOut
                | PublishErrorKind::BrokenPipe
                | PublishErrorKind::MaxAckPending
                | PublishErrorKind::Other => {}
            }
            match waits.next() {
                Some(wait) => tokio::time::sleep(wait).await,
                None => return Err(PublishError::failed(subject(), failed)),
            }
        }
    }

    async fn try_publish(
        &self,
        outgoing: Outgoing,
    ) -> Result<Stored, async_nats::jetstream::context::PublishError> {
        let Outgoing { subject, mut headers, body, expects } = outgoing;
        if let Expects::Replaced(_) = expects {
            super::set(&mut headers, "Nats-Rollup", "sub");
        }
        let mut message = PublishMessage::build().payload(body).headers(headers);
        message = match expects {
            Expects::Anything => message,
            Expects::Nothing => message.expected_last_subject_sequence(0),
            Expects::Replaced(seq) => message.expected_last_subject_sequence(seq),
        };
        let ack = self.jetstream.send_publish(subject, message).await?.await?;
        Ok(Stored { stream: ack.stream, seq: ack.sequence, duplicate: ack.duplicate })
    }
}

//! Publish: one message to a stream, awaited until it is stored, tried again with the same id.

use std::time::Duration;

use async_nats::jetstream::ErrorCode;
use backon::{BackoffBuilder as _, ExponentialBuilder};
use bytes::Bytes;
use millstream_stages::headers;

use serde::Deserialize;

use super::{
    Broker, Headers,
    connection::{Block, SendError, Sending, Unsendable},
    refusal::Refusal,
};
use crate::limits;

/// Message to publish.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Subject it is published on.
    pub subject: String,
    /// Headers; `Nats-Msg-Id` among them where the server should drop a repeat.
    pub headers: Headers,
    /// Payload of the message.
    pub body: Bytes,
    /// Condition on its subject.
    pub expects: Expects,
}

/// Condition: what the subject of a message must hold for the message to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Expects {
    /// No condition.
    #[default]
    Anything,
    /// Empty subject: it is a claim that only one may make.
    Nothing,
    /// Last message with this sequence; the new one takes its place and that of any before (a
    /// roll-up).
    Replaced(u64),
}

/// Publish ack: the place of a published message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Stream that stored it.
    pub stream: String,
    /// Sequence in that stream.
    pub seq: u64,
    /// True if the server already had a message of this id.
    pub duplicate: bool,
}

/// Failed publish.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    /// Subject that does not hold what the message [`Expects`]: someone else was first.
    #[error("subject \"{subject}\" has been written by someone else")]
    NotFirst {
        /// Subject of the message.
        subject: String,
    },
    /// Message larger than the server takes.
    #[error("the message for \"{subject}\" is larger than the server's max_payload")]
    TooLarge {
        /// Subject of the message.
        subject: String,
    },
    /// Publish that the server refused, or did not answer in time, as often as it was tried.
    #[error("could not publish to \"{subject}\"")]
    Failed {
        /// Subject of the message.
        subject: String,
        /// Error of the client at the last try.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// Error of a publish whose stream has no room.
#[derive(Debug, thiserror::Error)]
#[error("its stream is full: make room in it, or raise its limit (the server says: {said})")]
struct Full {
    /// Text of the server.
    said: String,
}

impl PublishError {
    /// Refusal that is the cause, if one is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Failed { source, .. } => source.downcast_ref::<SendError>()?.refusal(),
            Self::NotFirst { .. } | Self::TooLarge { .. } => None,
        }
    }

    /// True if the stream has no room.
    pub fn is_full(&self) -> bool {
        match self {
            Self::Failed { source, .. } => source.is::<Full>(),
            Self::NotFirst { .. } | Self::TooLarge { .. } => false,
        }
    }
}

/// Answer of the server to a publish.
#[derive(Deserialize)]
struct PubAck {
    #[serde(default)]
    stream: String,
    #[serde(default)]
    seq: u64,
    #[serde(default)]
    duplicate: bool,
    error: Option<async_nats::jetstream::Error>,
}

/// Outcome of one try that did not store the message.
enum Tried {
    NotFirst,
    TooLarge,
    Failed(Box<dyn std::error::Error + Send + Sync>),
}

impl From<SendError> for Tried {
    fn from(error: SendError) -> Self {
        match error {
            SendError::Unsendable(Unsendable::TooLarge { .. }) => Self::TooLarge,
            SendError::Unsendable(_) | SendError::Lost(_) | SendError::TimedOut(_) => {
                Self::Failed(error.into())
            }
        }
    }
}

/// Outcome of an answer.
fn read(head: &[u8], body: &[u8]) -> Result<Stored, Tried> {
    if Block::read(head).status == Some(503) {
        return Err(Tried::Failed("no stream takes it, or none that has a leader now".into()));
    }
    let ack: PubAck = serde_json::from_slice(body).map_err(|error| Tried::Failed(error.into()))?;
    let Some(refused) = ack.error else {
        return Ok(Stored { stream: ack.stream, seq: ack.seq, duplicate: ack.duplicate });
    };
    Err(match refused.error_code() {
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE | ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT => {
            Tried::NotFirst
        }
        ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM => Tried::TooLarge,
        ErrorCode::STREAM_STORE_FAILED => Tried::Failed(Full { said: refused.to_string() }.into()),
        _ => Tried::Failed(refused.into()),
    })
}

impl Outgoing {
    /// Returns a message without headers.
    pub fn new(subject: impl Into<String>, body: impl Into<Bytes>) -> Self {
        Self {
            subject: subject.into(),
            headers: Headers::new(),
            body: body.into(),
            expects: Expects::Anything,
        }
    }

    /// Size in bytes as `max_payload` counts it: headers and payload.
    pub fn bytes(&self) -> usize {
        let lines = self.headers.iter().flat_map(|(name, values)| {
            values.iter().map(move |value| {
                AsRef::<str>::as_ref(name).len() + value.as_str().len() + ": \r\n".len()
            })
        });
        let framing = if self.headers.is_empty() { 0 } else { "NATS/1.0\r\n\r\n".len() };
        framing + lines.sum::<usize>() + self.body.len()
    }

    /// Adds a header; the value is sanitised.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        super::set(&mut self.headers, name, super::header(value));
        self
    }

    /// Adds the id that the server drops repeats by.
    #[must_use]
    pub fn id(self, id: &str) -> Self {
        self.header(headers::MSG_ID, id)
    }
}

impl Broker {
    /// Largest message that the server takes, headers and payload, in bytes.
    pub fn max_payload(&self) -> usize {
        self.connection.max_payload()
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
            let outgoing = make();
            let source = match self.try_publish(&outgoing).await {
                Ok(stored) => return Ok(stored),
                Err(tried) => {
                    let subject = outgoing.subject;
                    match tried {
                        Tried::NotFirst => return Err(PublishError::NotFirst { subject }),
                        Tried::TooLarge => return Err(PublishError::TooLarge { subject }),
                        Tried::Failed(source) => (subject, source),
                    }
                }
            };
            let (subject, source) = source;
            let failed = PublishError::Failed { subject, source };
            match waits.next() {
                // What is refused is refused again.
                Some(wait) if failed.refusal().is_none() => tokio::time::sleep(wait).await,
                _ => return Err(failed),
            }
        }
    }

    async fn try_publish(&self, outgoing: &Outgoing) -> Result<Stored, Tried> {
        let units = (outgoing.body.len() / limits::PUBLISH_UNIT_BYTES + 1)
            .min(limits::PUBLISHES_IN_FLIGHT_MAX);
        // Closed only with the broker.
        let _place = self.publishes.acquire_many(u32::try_from(units).unwrap_or(u32::MAX)).await;
        let Outgoing { subject, headers, body, expects } = outgoing;
        let expected = match expects {
            Expects::Anything => None,
            Expects::Nothing => Some("0".to_owned()),
            Expects::Replaced(seq) => Some(seq.to_string()),
        };
        let extra = [(EXPECTED, expected.as_deref().unwrap_or_default()), ("Nats-Rollup", "sub")];
        let extra = match expects {
            Expects::Anything => &extra[..0],
            Expects::Nothing => &extra[..1],
            Expects::Replaced(_) => &extra[..],
        };
        let sending = Sending { subject, headers: Some(headers), extra, body };
        let answer = self.connection.request(&sending, limits::PUBLISH_TIMEOUT).await?;
        read(answer.head(), &answer.body())
    }
}

/// Header with the condition on the last sequence of a subject.
const EXPECTED: &str = "Nats-Expected-Last-Subject-Sequence";

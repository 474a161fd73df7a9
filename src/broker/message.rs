//! Message: a message as a stream holds it, and the headers of messages.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::{HeaderName, Subject};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use serde::Deserialize;

use super::{
    HeaderValue, Headers,
    connection::{Block, Frame},
};
use crate::limits;

/// Message as its stream holds it.
#[derive(Debug, Clone)]
pub struct StoredMessage {
    /// Subject it was published on.
    pub subject: String,
    /// Headers of the message.
    pub headers: Headers,
    /// Payload of the message; empty where only headers were read.
    pub body: Bytes,
    /// Stream sequence of the message.
    pub seq: u64,
    /// Time the server stored the message.
    pub stored_at: SystemTime,
    /// Reason why it is malformed, if it is.
    pub malformed: Option<Malformed>,
}

/// Message that is not as NATS says: the server stores any header block. What can be read of it is
/// among its headers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Malformed {
    /// First reason, in words without anything of the message.
    pub why: String,
    /// Header block as it is stored.
    pub raw_headers: Bytes,
}

impl Malformed {
    pub(super) fn of(block: Option<String>, bad_subject: bool, head: &[u8]) -> Option<Self> {
        let why = match (block, bad_subject) {
            (Some(why), _) => format!("its headers are malformed: {why}"),
            (None, true) => "its subject is not text".to_owned(),
            (None, false) => return None,
        };
        Some(Self { why, raw_headers: Bytes::copy_from_slice(head) })
    }

    /// Header block in base64, for a header; of a long one its first
    /// [`limits::RAW_HEADERS_BYTES_MAX`] bytes.
    pub fn encoded(&self) -> String {
        STANDARD
            .encode(&self.raw_headers[..self.raw_headers.len().min(limits::RAW_HEADERS_BYTES_MAX)])
    }
}

/// Subject of a message, and true if it is not UTF-8 and was made so.
pub(super) fn text_of(subject: Bytes) -> (Subject, bool) {
    match Subject::from_utf8(subject.clone()) {
        Ok(subject) => (subject, false),
        Err(_) => (Subject::from(String::from_utf8_lossy(&subject).into_owned()), true),
    }
}

impl StoredMessage {
    /// Message that a consumer without acks gave.
    pub(super) fn read(frame: &Frame, seq: u64, stored_at: SystemTime) -> Self {
        let (subject, bad_subject) = text_of(frame.subject_bytes());
        let block = Block::read(frame.head());
        Self {
            subject: subject.into_string(),
            malformed: Malformed::of(block.malformed, bad_subject, frame.head()),
            headers: block.headers,
            body: frame.body(),
            seq,
            stored_at,
        }
    }

    /// Size of the payload in bytes, also where only the headers were read.
    pub fn body_bytes(&self) -> usize {
        let said = super::get(&self.headers, HEADERS_ONLY_SIZE).filter(|_| self.body.is_empty());
        said.and_then(|size| size.parse().ok()).unwrap_or(self.body.len())
    }
}

/// Unix time in milliseconds, as reduce stages are given it.
pub fn unix_ms(at: SystemTime) -> u64 {
    at.duration_since(UNIX_EPOCH)
        .map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Header with the size of a payload that the server left out.
const HEADERS_ONLY_SIZE: &str = "Nats-Msg-Size";

/// Message as the server's API gives it.
#[derive(Debug, Deserialize)]
pub(super) struct RawMessage {
    subject: String,
    seq: u64,
    #[serde(default)]
    hdrs: String,
    #[serde(default)]
    data: String,
    time: jiff::Timestamp,
}

impl RawMessage {
    /// The message; `None` if its parts are not base64.
    pub(super) fn message(self) -> Option<StoredMessage> {
        let head = STANDARD.decode(&self.hdrs).ok()?;
        let block = Block::read(&head);
        Some(StoredMessage {
            malformed: Malformed::of(block.malformed, false, &head),
            headers: block.headers,
            body: STANDARD.decode(&self.data).ok()?.into(),
            subject: self.subject,
            seq: self.seq,
            stored_at: self.time.into(),
        })
    }
}

/// Sets a header. The name is taken as it is: the client would copy it each time.
pub fn set(headers: &mut Headers, name: &'static str, value: impl Into<HeaderValue>) {
    headers.insert(HeaderName::from_static(name), value.into());
}

/// Value of a header.
pub fn get<'a>(headers: &'a Headers, name: &'static str) -> Option<&'a str> {
    headers.get(HeaderName::from_static(name)).map(HeaderValue::as_str)
}

/// Value for a header of ours: outside text goes through [`millstream_stages::headers::clean`]
/// first.
pub fn header(text: &str) -> HeaderValue {
    use std::str::FromStr as _;
    let clean = || HeaderValue::from(millstream_stages::headers::clean(text).as_str());
    if text.chars().any(char::is_control) {
        clean()
    } else {
        HeaderValue::from_str(text).unwrap_or_else(|_| clean())
    }
}

//! Message: a message as a stream holds it, and the headers of messages.

use std::time::{SystemTime, UNIX_EPOCH};

use async_nats::{HeaderName, jetstream};
use bytes::Bytes;

use super::{HeaderValue, Headers};

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
}

impl StoredMessage {
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

impl From<jetstream::message::StreamMessage> for StoredMessage {
    fn from(message: jetstream::message::StreamMessage) -> Self {
        Self {
            subject: message.subject.to_string(),
            headers: message.headers,
            body: message.payload,
            seq: message.sequence,
            stored_at: message.time.into(),
        }
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

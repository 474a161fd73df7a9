//! Stored letter: its headers, its payload wherever that is, and its removal.

use bytes::Bytes;
use millstream_stages::headers;
use serde::Serialize;

use crate::{
    broker::{AdminError, Broker, Headers, StoredMessage, get},
    wire::Names,
};

/// A stored letter, as `dlq` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterRecord {
    /// Sequence in the dead-letter stream, by which `dlq` names it.
    pub seq: u64,
    /// The stage that gave up.
    pub stage: String,
    /// Reason for giving up.
    pub reason: String,
    /// The class of the last failure.
    pub error_class: String,
    /// The message of the last failure.
    pub error_message: String,
    /// Fingerprint of the failure: equal for the same failure.
    pub fingerprint: String,
    /// The event's id, if its payload could be read.
    pub event_id: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The event's tenant.
    pub tenant: Option<String>,
    /// Attempts spent.
    pub attempts: u32,
    /// Time of the first failed attempt, RFC 3339.
    pub first_failed_at: String,
    /// Time of giving up, RFC 3339.
    pub dead_at: String,
    /// Source: the message it was first stored as, `<stream>:<seq>@<ms>`.
    pub source: String,
    /// Subject of the source.
    pub source_subject: String,
    /// Number of its redrives.
    pub redrives: u32,
    /// Trace that it belongs to.
    pub trace_id: Option<String>,
    /// The hash of the configuration that was running.
    pub config: Option<String>,
    /// Reason why recovery will not redrive it by itself.
    pub permanent: Option<String>,
    /// Time at which its event was completed all the same, RFC 3339.
    pub completed_at: Option<String>,
    /// Time of the last edit of its payload, RFC 3339.
    pub edited_at: Option<String>,
    /// The size of the payload in bytes, wherever it is.
    pub bytes: usize,
    /// True if the payload is kept apart, since the letter would be too large with it.
    pub apart: bool,
}

/// Headers of a stored letter, read in one pass: for folding a million letters, where looking up
/// each header by its name costs more than all else.
#[derive(Debug, Default)]
pub struct LetterHeaders<'a> {
    pub(super) stage: &'a str,
    pub(super) reason: &'a str,
    pub(super) error_class: &'a str,
    pub(super) error_message: &'a str,
    pub(super) fingerprint: &'a str,
    pub(super) event_id: Option<&'a str>,
    pub(super) event_type: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    pub(super) attempts: u32,
    pub(super) first_failed_at: &'a str,
    pub(super) dead_at: &'a str,
    pub(super) source: &'a str,
    pub(super) source_subject: &'a str,
    pub(super) redrives: u32,
    pub(super) trace_id: Option<&'a str>,
    pub(super) config: Option<&'a str>,
    pub(super) permanent: Option<&'a str>,
    pub(super) completed_at: Option<&'a str>,
    pub(super) edited_at: Option<&'a str>,
    body_bytes: Option<usize>,
}

impl<'a> LetterHeaders<'a> {
    /// Reads the headers of a stored letter.
    pub fn of(message: &'a StoredMessage) -> Self {
        let mut read = Self::default();
        for (name, values) in message.headers.iter() {
            let Some(value) = values.first().map(|value| value.as_str()) else { continue };
            match name.as_ref() {
                headers::STAGE => read.stage = value,
                headers::REASON => read.reason = value,
                headers::ERROR_CLASS => read.error_class = value,
                headers::ERROR_MESSAGE => read.error_message = value,
                headers::FINGERPRINT => read.fingerprint = value,
                headers::EVENT_ID => read.event_id = Some(value),
                headers::EVENT_TYPE => read.event_type = Some(value),
                headers::TENANT => read.tenant = Some(value),
                headers::ATTEMPTS => read.attempts = value.parse().unwrap_or(0),
                headers::FIRST_FAILED_AT => read.first_failed_at = value,
                headers::DEAD_AT => read.dead_at = value,
                headers::SOURCE => read.source = value,
                headers::SOURCE_SUBJECT => read.source_subject = value,
                headers::REDRIVES => read.redrives = value.parse().unwrap_or(0),
                headers::TRACE_ID => read.trace_id = Some(value),
                headers::CONFIG => read.config = Some(value),
                headers::PERMANENT => read.permanent = Some(value),
                headers::COMPLETED_AT => read.completed_at = Some(value),
                headers::EDITED_AT => read.edited_at = Some(value),
                headers::BODY_BYTES => read.body_bytes = value.parse().ok(),
                _ => {}
            }
        }
        read
    }

    /// Size of the payload of `message`, whose headers these are, wherever it is.
    pub(super) fn bytes(&self, message: &StoredMessage) -> usize {
        self.body_bytes.unwrap_or_else(|| message.body_bytes())
    }
}

impl LetterRecord {
    /// Reads a stored letter.
    pub fn of(message: &StoredMessage) -> Self {
        let read = LetterHeaders::of(message);
        let owned = |text: Option<&str>| text.map(ToOwned::to_owned);
        Self {
            seq: message.seq,
            stage: read.stage.to_owned(),
            reason: read.reason.to_owned(),
            error_class: read.error_class.to_owned(),
            error_message: read.error_message.to_owned(),
            fingerprint: read.fingerprint.to_owned(),
            event_id: owned(read.event_id),
            event_type: owned(read.event_type),
            tenant: owned(read.tenant),
            attempts: read.attempts,
            first_failed_at: read.first_failed_at.to_owned(),
            dead_at: read.dead_at.to_owned(),
            source: read.source.to_owned(),
            source_subject: read.source_subject.to_owned(),
            redrives: read.redrives,
            trace_id: owned(read.trace_id),
            config: owned(read.config),
            permanent: owned(read.permanent),
            completed_at: owned(read.completed_at),
            edited_at: owned(read.edited_at),
            bytes: read.bytes(message),
            apart: apart(&message.subject, &message.headers).is_some(),
        }
    }
}

/// Value of [`headers::BODY`] on a letter whose payload is kept apart; a dot and a name follow
/// where it was edited.
pub(super) const APART: &str = "apart";

/// Subject of the payload of a letter that is on `subject` and has these headers, where it is kept
/// apart. A header that names none leaves the subject that no payload is kept on: it is gone.
pub fn apart(subject: &str, headers: &Headers) -> Option<String> {
    let name = get(headers, headers::BODY)?.strip_prefix(APART)?;
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
    let is_name = match name.strip_prefix('.') {
        Some(token) => !token.is_empty() && token.bytes().all(is_plain),
        None => name.is_empty(),
    };
    Some(Names::dlq_body(subject) + if is_name { name } else { ".unreadable" })
}

/// Payload of a stored letter, wherever it is; `None` if it was kept apart and is gone.
///
/// # Errors
/// [`AdminError`]: the dead-letter stream could not be read.
pub async fn payload(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
) -> Result<Option<Bytes>, AdminError> {
    payload_at(broker, names, &letter.subject, letter).await
}

/// Payload of the letter on `subject`, or of its original from before an edit: see [`payload`].
///
/// # Errors
/// As [`payload`].
pub async fn payload_at(
    broker: &Broker,
    names: &Names,
    subject: &str,
    letter: &StoredMessage,
) -> Result<Option<Bytes>, AdminError> {
    let Some(apart) = apart(subject, &letter.headers) else { return Ok(Some(letter.body.clone())) };
    let apart = broker.last_on_subject(&names.dlq_stream(), &apart).await?;
    Ok(apart.map(|message| message.body))
}

/// Removes a letter, and its payload where that is kept apart; true if the letter was there.
///
/// # Errors
/// [`AdminError`]; what is removed in part can be removed again.
pub async fn remove(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
) -> Result<bool, AdminError> {
    let dlq = names.dlq_stream();
    let was_there = broker.delete_message(&dlq, letter.seq).await?;
    if let Some(apart) = apart(&letter.subject, &letter.headers).filter(|_| was_there) {
        // What is stored there after the letter is another letter's, whose writer did not see this
        // one.
        broker.purge_up_to(&dlq, &apart, letter.seq).await?;
    }
    Ok(was_there)
}

/// Removes a letter for good, its original from before an edit included; true if it was there.
///
/// # Errors
/// As [`remove`].
pub async fn erase(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
) -> Result<bool, AdminError> {
    let dlq = names.dlq_stream();
    let was_there = broker.delete_message(&dlq, letter.seq).await?;
    let has = |name| get(&letter.headers, name).is_some();
    if was_there && (has(headers::BODY) || has(headers::EDITED_AT)) {
        broker.purge_up_to(&dlq, &Names::dlq_beside(&letter.subject), letter.seq).await?;
    }
    Ok(was_there)
}

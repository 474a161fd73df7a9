//! Letter: the message that an event given up on becomes. The payload is the original, byte for
//! byte; headers say the rest, a stable contract from any language.

use std::{
    borrow::Cow,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use millstream_stages::{
    Envelope, Event, Failure,
    envelope::{self, Carrier},
    event::FIRST_VERSION,
    fingerprint::fingerprint,
    headers,
    settle::Reason,
};
use serde::Serialize;

use super::{Origin, record::Who};
use crate::{
    broker::{
        AdminError, Broker, Expects, Headers, Outgoing, PublishError, StoredMessage, get, header,
        set,
    },
    config::Pipeline,
    limits,
    observe::TraceContext,
    topology::Names,
};

/// An event to give up on.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The stage that gave up, or whose workers died.
    pub stage: &'a str,
    /// Why.
    pub reason: Reason,
    /// What went wrong last.
    pub failure: &'a Failure,
    /// Attempts spent.
    pub attempts: u32,
    /// When the first attempt failed, to within the handling time of the attempts.
    pub first_failed_at: SystemTime,
    /// When it is given up on.
    pub dead_at: SystemTime,
    /// Where it comes from.
    pub origin: &'a Origin,
    /// Who it is, if its payload could be read.
    pub identity: Identity<'a>,
    /// The trace context it came with; without one, its trace is derived from its id.
    pub traceparent: Option<&'a str>,
    /// The hash of the configuration that was running.
    pub config: &'a str,
    /// The payload.
    pub body: Bytes,
}

/// What is known of the event in a letter.
#[derive(Debug, Clone)]
pub enum Identity<'a> {
    /// It was decoded.
    Event(Cow<'a, Event>),
    /// It was not, and should have been in this envelope.
    Unread(Envelope),
    /// It was published by Millstream with these headers, which say it.
    Headers(&'a Headers),
}

impl<'a> Identity<'a> {
    /// What is known of a stored message by its stream, and where it comes from: only our own
    /// headers are believed.
    pub fn stored(pipeline: &Pipeline, stream: &str, message: &'a StoredMessage) -> (Origin, Self) {
        let header = |name| get(&message.headers, name);
        let Some(source) = pipeline.source_of(stream) else {
            return (
                Origin::read(stream, message.seq, &message.subject, header),
                Self::Headers(&message.headers),
            );
        };
        let origin = Origin::first(stream, message.seq, &message.subject);
        let carrier = Carrier {
            subject: &message.subject,
            message_id: header(headers::MSG_ID),
            fallback_id: &origin.source.to_string(),
        };
        let identity = match envelope::decode(source.envelope, message.body.clone(), &carrier) {
            Ok(event) => Self::Event(Cow::Owned(event)),
            Err(_) => Self::Unread(source.envelope),
        };
        (origin, identity)
    }

    /// Who it is, as an error event says it.
    pub fn who(&self) -> Who<'_> {
        match self {
            Self::Event(event) => event.as_ref().into(),
            Self::Unread(_) => Who::default(),
            Self::Headers(from) => Who {
                id: get(from, headers::EVENT_ID),
                event_type: get(from, headers::EVENT_TYPE),
                tenant: get(from, headers::TENANT),
            },
        }
    }

    /// Its id, where it is known.
    fn event_id(&self) -> Option<&str> {
        match self {
            Self::Event(event) => Some(&event.id),
            Self::Unread(_) => None,
            Self::Headers(from) => get(from, headers::EVENT_ID),
        }
    }
}

pub(super) const IDENTITY: [&str; 5] = [
    headers::EVENT_ID,
    headers::EVENT_TYPE,
    headers::EVENT_VERSION,
    headers::TENANT,
    headers::ENVELOPE,
];

/// Writes an event's identity where a later stage reads it without parsing the payload.
pub fn write_identity(event: &Event, to: &mut Headers) {
    set(to, headers::EVENT_ID, header(&event.id));
    set(to, headers::EVENT_TYPE, header(&event.event_type));
    if event.version != FIRST_VERSION {
        set(to, headers::EVENT_VERSION, header(&event.version));
    }
    set(to, headers::ENVELOPE, event.envelope.as_str());
    if let Some(tenant) = &event.tenant {
        set(to, headers::TENANT, header(tenant));
    }
}

impl Letter<'_> {
    /// Publishes the letter: see [`store`].
    ///
    /// # Errors
    /// The publish did not succeed: the event must not be settled.
    pub async fn publish(&self, broker: &Broker, names: &Names) -> Result<bool, PublishError> {
        store(broker, self.message(names)).await
    }

    /// The letter as a message. It claims its subject: only one letter of one life of an event is
    /// stored.
    pub fn message(&self, names: &Names) -> Outgoing {
        let mut all = Headers::new();
        match &self.identity {
            Identity::Event(event) => write_identity(event, &mut all),
            Identity::Unread(envelope) => all.insert(headers::ENVELOPE, envelope.as_str()),
            Identity::Headers(from) => {
                for name in IDENTITY {
                    if let Some(value) = from.get(name) {
                        all.insert(name, value.clone());
                    }
                }
            }
        }
        self.origin.write_source(&mut all);
        all.insert(headers::REDRIVES, self.origin.redrives.to_string());
        let class = headers::clean(&self.failure.class);
        // As the error event of the failure has it: letter and incident share the fingerprint.
        let service = format!("{}/{}", names.pipeline(), self.stage);
        all.insert(headers::STAGE, self.stage);
        all.insert(headers::REASON, self.reason.as_str());
        all.insert(
            headers::FINGERPRINT,
            fingerprint(&class, &service, &self.failure.message).as_str(),
        );
        all.insert(headers::ERROR_CLASS, header(&class));
        all.insert(headers::ERROR_MESSAGE, headers::clean(&self.failure.message).as_str());
        all.insert(headers::ATTEMPTS, self.attempts.to_string());
        all.insert(headers::FIRST_FAILED_AT, rfc3339(self.first_failed_at).as_str());
        all.insert(headers::DEAD_AT, rfc3339(self.dead_at).as_str());
        all.insert(headers::CONFIG, self.config);
        let root = || Some(TraceContext::root(self.identity.event_id()?).to_string());
        if let Some(traceparent) = self.traceparent.map(ToOwned::to_owned).or_else(root) {
            all.insert(headers::TRACEPARENT, header(&traceparent));
            if let Some(trace_id) = traceparent.split('-').nth(1) {
                all.insert(headers::TRACE_ID, header(trace_id));
            }
        }
        let life = &self.origin.life;
        Outgoing {
            subject: names.dlq_subject(self.stage, &life.stream, life.seq),
            headers: all,
            body: self.body.clone(),
            expects: Expects::Nothing,
        }
    }
}

/// The value of [`headers::BODY`] on a letter whose payload is kept apart; a dot and a name follow
/// where it was edited.
pub(super) const APART: &str = "apart";

/// Stores a letter and waits until it is there. Whoever is second to give up on the same life of an
/// event finds the letter there and writes none. Returns whether this one was the first.
///
/// Where the server would find the letter too large, the payload is stored first, by itself, on
/// [`Names::dlq_body`]. (What it came from is no place to point at: a source forgets sooner than
/// the letters, and an edge as soon as it is settled.)
///
/// # Errors
/// The publish did not succeed: the event must not be settled.
pub async fn store(broker: &Broker, mut letter: Outgoing) -> Result<bool, PublishError> {
    if letter.bytes() + limits::LETTER_RESERVE > broker.max_payload() {
        let bytes = letter.body.len();
        // The same bytes, however often they are stored: the last takes the place of those before.
        let apart =
            Outgoing::new(Names::dlq_body(&letter.subject), std::mem::take(&mut letter.body));
        match broker.publish(apart.clone().header("Nats-Rollup", "sub")).await {
            // It came without headers, and only so it fits.
            Err(PublishError::TooLarge { .. }) => broker.publish(apart).await,
            stored => stored,
        }
        .map_err(hinted)?;
        letter =
            letter.header(headers::BODY, APART).header(headers::BODY_BYTES, &bytes.to_string());
    }
    match broker.publish(letter).await {
        Ok(_) => Ok(true),
        Err(PublishError::NotFirst { .. }) => Ok(false),
        Err(error @ (PublishError::TooLarge { .. } | PublishError::Failed { .. })) => {
            Err(hinted(error))
        }
    }
}

/// What to do where the dead-letter stream is full.
fn hinted(error: PublishError) -> PublishError {
    const FULL: &str = "the dead-letter stream is full (dlq_max_bytes in [storage]): redrive or drop letters \
                        (`millstream dlq`), or raise it and `millstream apply`";
    let is_full = error.is_full();
    match error {
        PublishError::Failed { subject, .. } if is_full => {
            PublishError::Failed { subject, source: FULL.into() }
        }
        PublishError::Failed { .. }
        | PublishError::NotFirst { .. }
        | PublishError::TooLarge { .. } => error,
    }
}

/// The subject on which the payload is kept of a letter that is on `subject` and has these headers,
/// where that is apart.
pub fn apart(subject: &str, headers: &Headers) -> Option<String> {
    let name = get(headers, headers::BODY)?.strip_prefix(APART)?;
    Some(Names::dlq_body(subject) + name)
}

/// The payload of a stored letter, wherever it is; `None` if it was kept apart and is gone.
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

/// The payload of what the letter on `subject` is, or was before it was edited: see [`payload`].
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

/// Removes a letter, and its payload where that is kept apart. Says whether the letter was there.
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

/// Removes a letter for good: also what it was before it was edited. Says whether it was there.
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

/// A stored letter, as `dlq` shows it.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LetterRecord {
    /// Its sequence in the dead-letter stream: how `dlq` names it.
    pub seq: u64,
    /// The stage that gave up.
    pub stage: String,
    /// Why.
    pub reason: String,
    /// The class of the last failure.
    pub error_class: String,
    /// The message of the last failure.
    pub error_message: String,
    /// Which failures are the same failure.
    pub fingerprint: String,
    /// The event's id, if its payload could be read.
    pub event_id: Option<String>,
    /// The event's type.
    pub event_type: Option<String>,
    /// The event's tenant.
    pub tenant: Option<String>,
    /// Attempts spent.
    pub attempts: u32,
    /// When the first attempt failed, RFC 3339.
    pub first_failed_at: String,
    /// When it was given up on, RFC 3339.
    pub dead_at: String,
    /// What it was first stored as, `<stream>:<seq>`.
    pub source: String,
    /// The subject it was first stored under.
    pub source_subject: String,
    /// How often it was redriven.
    pub redrives: u32,
    /// The trace it belongs to.
    pub trace_id: Option<String>,
    /// The hash of the configuration that was running.
    pub config: Option<String>,
    /// Why recovery will not redrive it by itself.
    pub permanent: Option<String>,
    /// When its event was completed all the same, RFC 3339.
    pub completed_at: Option<String>,
    /// When its payload was last edited, RFC 3339.
    pub edited_at: Option<String>,
    /// The size of the payload in bytes, wherever it is.
    pub bytes: usize,
    /// Whether the payload is kept apart, since the letter would be too large with it.
    pub apart: bool,
}

/// What the headers of a stored letter say, read in one pass: for folding a million letters, where
/// looking up each header by its name costs more than all else.
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
    /// Those of a stored letter.
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

    /// The size of the payload of `message`, which these are of, wherever it is.
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

/// The time that [`rfc3339`] wrote.
pub fn parse_rfc3339(text: &str) -> Option<SystemTime> {
    Some(text.parse::<jiff::Timestamp>().ok()?.into())
}

/// A time as RFC 3339 with milliseconds, UTC.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let stamp = i64::try_from(since.as_millis())
        .ok()
        .and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    format!("{:.3}", stamp.unwrap_or(jiff::Timestamp::MAX))
}

//! Letter: message that an event given up on becomes.
//!
//! The payload is the original, byte for byte; headers hold the rest, a stable contract for any
//! language.

use std::{borrow::Cow, time::SystemTime};

use bytes::Bytes;
use millstream_stages::{
    Envelope, Event, Failure,
    envelope::{self, Carrier},
    fingerprint::fingerprint,
    headers,
    settle::Reason,
};

use crate::{
    broker::{
        Broker, Expects, Headers, Malformed, Outgoing, PublishError, StoredMessage, get, header,
    },
    config::Pipeline,
    dead_letter::store::store,
    wire::{
        Names, Origin, Place, TraceContext, attempt_record::Who, identity::IDENTITY, rfc3339,
        write_identity,
    },
};

/// Event to give up on.
#[derive(Debug)]
pub struct Letter<'a> {
    /// The stage that gave up, or whose workers died.
    pub stage: &'a str,
    /// Reason for giving up.
    pub reason: Reason,
    /// Last failure.
    pub failure: &'a Failure,
    /// Attempts spent.
    pub attempts: u32,
    /// Time of the first failed attempt, to within the handling time of the attempts.
    pub first_failed_at: SystemTime,
    /// Time of giving up.
    pub dead_at: SystemTime,
    /// Source and life of the event.
    pub origin: &'a Origin,
    /// Identity of the event, if its payload could be read.
    pub identity: Identity<'a>,
    /// Trace context of its message; without one, its trace is derived from its id.
    pub traceparent: Option<&'a str>,
    /// The hash of the configuration that was running.
    pub config: &'a str,
    /// The payload.
    pub body: Bytes,
    /// Header block of the message, if it was malformed: the letter keeps it.
    pub malformed: Option<&'a Malformed>,
}

/// Identity of the event in a letter, as far as it is known.
#[derive(Debug, Clone)]
pub enum Identity<'a> {
    /// Decoded.
    Event(Cow<'a, Event>),
    /// Not decoded; it should have been in this envelope.
    Unread(Envelope),
    /// In these headers, which Millstream wrote.
    Headers(&'a Headers),
}

impl<'a> Identity<'a> {
    /// Origin and identity of a stored message, by its stream: only our own headers are believed.
    pub fn stored(pipeline: &Pipeline, stream: &str, message: &'a StoredMessage) -> (Origin, Self) {
        let header = |name| get(&message.headers, name);
        let place = Place::new(stream, message.seq, message.stored_at);
        let Some(source) = pipeline.source_of(stream) else {
            return (
                Origin::read(place, &message.subject, header),
                Self::Headers(&message.headers),
            );
        };
        let origin = Origin::first(place, &message.subject);
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

    /// Identity in the form of an error event.
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

    /// Id of the event, where it is known.
    pub fn event_id(&self) -> Option<&str> {
        match self {
            Self::Event(event) => Some(&event.id),
            Self::Unread(_) => None,
            Self::Headers(from) => get(from, headers::EVENT_ID),
        }
    }
}

impl Letter<'_> {
    /// Publishes the letter: see [`store`]; true if this one was the first.
    ///
    /// # Errors
    /// The publish did not succeed: the event must not be settled.
    pub async fn publish(&self, broker: &Broker, names: &Names) -> Result<bool, PublishError> {
        store(broker, names, self.message(names)).await
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
        all.insert(headers::LIFE, self.origin.life.to_string());
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
        if let Some(malformed) = self.malformed {
            all.insert(headers::RAW_HEADERS, malformed.encoded());
        }
        Outgoing {
            subject: names.dlq_subject(self.stage, &self.origin.life),
            headers: all,
            body: self.body.clone(),
            expects: Expects::Nothing,
        }
    }
}

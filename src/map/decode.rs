//! Decode: event of a delivery, from its headers or its envelope.

use bytes::Bytes;
use millstream_stages::{
    Envelope, Event, Failure,
    envelope::{self, Carrier},
    event::{FIRST_VERSION, Identity},
    failure::class,
    headers,
};

use super::stage::Carries;
use crate::{
    broker::Delivered,
    wire::{Origin, Place, TraceContext},
};

/// Origin and trace of a delivery, before its payload is looked at.
#[derive(Debug, Clone)]
pub(super) struct Arrival {
    /// Source of the event, and its life.
    pub(super) origin: Origin,
    /// Trace context it came with.
    pub(super) trace: Option<TraceContext>,
}

impl Arrival {
    /// Reads the headers of a delivery. Only headers that Millstream wrote are believed.
    pub(super) fn of(delivered: &Delivered, carries: Carries) -> Self {
        let origin = match carries {
            Carries::Envelope(_) => Origin::first(Place::of(delivered), delivered.subject()),
            Carries::Headers => Origin::read(Place::of(delivered), delivered.subject(), |name| {
                delivered.header(name)
            }),
        };
        let trace = delivered.header(headers::TRACEPARENT).and_then(TraceContext::parse);
        Self { trace, origin }
    }
}

/// Event of a delivery: from its headers where Millstream wrote them, else from its envelope. A
/// malformed message is none, whatever could be read of it.
pub(super) fn event(delivered: &Delivered, carries: Carries) -> Result<Event, Failure> {
    if let Some(malformed) = delivered.malformed() {
        return Err(Failure::reject(class::DECODE, malformed.why.clone()));
    }
    let header = |name| delivered.header(name);
    let envelope = match carries {
        Carries::Envelope(envelope) => envelope,
        Carries::Headers => {
            let envelope =
                header(headers::ENVELOPE).and_then(Envelope::named).unwrap_or(Envelope::Raw);
            if let (Some(id), Some(event_type)) =
                (header(headers::EVENT_ID), header(headers::EVENT_TYPE))
            {
                let identity = Identity {
                    id: id.to_owned(),
                    event_type: event_type.to_owned(),
                    version: header(headers::EVENT_VERSION).unwrap_or(FIRST_VERSION).to_owned(),
                    tenant: header(headers::TENANT).map(ToOwned::to_owned),
                };
                return Ok(Event::new(identity, envelope, delivered.body().clone()));
            }
            envelope
        }
    };
    from_envelope(envelope, delivered)
}

fn from_envelope(envelope: Envelope, delivered: &Delivered) -> Result<Event, Failure> {
    let fallback_id = Place::of(delivered).to_string();
    let carrier = Carrier {
        subject: delivered.subject(),
        message_id: delivered.header(headers::MSG_ID),
        fallback_id: &fallback_id,
    };
    let body: Bytes = delivered.body().clone();
    envelope::decode(envelope, body, &carrier)
}

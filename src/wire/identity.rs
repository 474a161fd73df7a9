//! Identity: the id, type, version, tenant and envelope of an event, as headers.
//!
//! A later stage reads them without parsing the payload.

use millstream_stages::{Event, event::FIRST_VERSION, headers};

use crate::broker::{Headers, header, set};

/// Names of the headers that hold an event's identity.
pub const IDENTITY: [&str; 5] = [
    headers::EVENT_ID,
    headers::EVENT_TYPE,
    headers::EVENT_VERSION,
    headers::TENANT,
    headers::ENVELOPE,
];

/// Writes an event's identity as headers.
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

//! Event: one fact, read from its envelope, with its original bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::Failure;

/// The version of an event that was never given one.
pub const FIRST_VERSION: &str = "1";

/// The longest event id, type, version or tenant, in bytes: they go into headers and subjects.
pub const IDENTITY_BYTES_MAX: usize = 256;
/// Events that one event may turn into at one stage.
pub const OUTPUTS_MAX: usize = 1000;

/// What an absent `data` is to a schema.
static ABSENT: Value = Value::Null;

/// The encoded form of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Envelope {
    /// `{"eventId", "eventType", "eventVersion"?, "aggregateId"?, "tenantId"?, "eventData", …}`.
    #[default]
    Domain,
    /// CloudEvents 1.0, structured JSON.
    CloudEvents,
    /// Any JSON; the id comes from `Nats-Msg-Id`, the type from the subject.
    Raw,
    /// An error report: `{"errorCode", "severity", "message", "serviceName", "timestamp", …}`.
    Error,
}

impl Envelope {
    /// The envelope's name in `pipeline.toml` and in the `Millstream-Envelope` header.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Domain => "domain",
            Self::CloudEvents => "cloudevents",
            Self::Raw => "raw",
            Self::Error => "error",
        }
    }

    /// The envelope of this name.
    pub fn named(name: &str) -> Option<Self> {
        [Self::Domain, Self::CloudEvents, Self::Raw, Self::Error]
            .into_iter()
            .find(|envelope| envelope.as_str() == name)
    }
}

/// One fact: its identity, read from its envelope, and its original bytes.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its id. It survives every retry, park and redrive.
    pub id: String,
    /// Its type, such as `order.created`.
    pub event_type: String,
    /// The version of its type, such as `1`.
    pub version: String,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
    /// How it is encoded.
    pub envelope: Envelope,
    /// Its bytes, as they were published.
    pub body: Bytes,
    /// The body parsed as JSON, once, when first asked for.
    document: Arc<OnceLock<Result<Value, String>>>,
}

/// What an event is known by, whatever it says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Its id.
    pub id: String,
    /// Its type, such as `order.created`.
    pub event_type: String,
    /// The version of its type, such as `1`.
    pub version: String,
    /// The tenant it belongs to.
    pub tenant: Option<String>,
}

impl Event {
    /// An event that was decoded before: its identity was carried beside it. The body is not looked
    /// at.
    ///
    /// An event that has not been decoded before comes from [`crate::envelope::decode`].
    pub fn new(identity: Identity, envelope: Envelope, body: Bytes) -> Self {
        let Identity { id, event_type, version, tenant } = identity;
        Self { id, event_type, version, tenant, envelope, body, document: Arc::default() }
    }

    /// The body parsed as JSON, once however often it is asked for.
    ///
    /// # Errors
    /// What is wrong with the text, with line and column. Text that [`crate::envelope::decode`]
    /// lets pass may still fail: numbers past `1e308`, lone surrogates, nesting deeper than 128.
    pub fn json(&self) -> Result<&Value, &str> {
        let parsed = self
            .document
            .get_or_init(|| serde_json::from_slice(&self.body).map_err(|error| error.to_string()));
        parsed.as_ref().map_err(String::as_str)
    }

    /// The part that a schema describes, and the JSON pointer to it: `/eventData` of a domain
    /// event, `/data` of a CloudEvent (null where it has none), the whole document otherwise.
    ///
    /// # Errors
    /// Those of [`Event::json`], and that a CloudEvent has its data in base64.
    pub fn data(&self) -> Result<(&'static str, &Value), &str> {
        let document = self.json()?;
        match self.envelope {
            Envelope::Domain => Ok(("/eventData", document.get("eventData").unwrap_or(&ABSENT))),
            Envelope::CloudEvents if document.get("data_base64").is_some() => {
                Err("the data is in data_base64, which a JSON Schema cannot describe")
            }
            Envelope::CloudEvents => Ok(("/data", document.get("data").unwrap_or(&ABSENT))),
            Envelope::Raw | Envelope::Error => Ok(("", document)),
        }
    }

    /// The event that a handler's output number `n`, from 1, is.
    ///
    /// An output in the envelope of this event is read as one and keeps the identity that the
    /// handler wrote, even where several outputs then have the same id. Any other JSON becomes a
    /// raw event with this event's type, version and tenant, and the id `<this id>/<n>`.
    ///
    /// # Errors
    /// A [`crate::failure::class::HANDLER`] failure where the output is not JSON at all.
    pub fn derive(&self, body: Bytes, n: usize) -> Result<Self, Failure> {
        crate::envelope::derive(self, body, n)
    }
}

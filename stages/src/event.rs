//! Event: one fact, read from its envelope, with its original bytes.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// Version of an event that was never given one.
pub const FIRST_VERSION: &str = "1";

/// Longest event id, type, version or tenant, in bytes: they go into headers and subjects.
pub const IDENTITY_BYTES_MAX: usize = 256;
/// Most events that one event may turn into at one stage.
pub const OUTPUTS_MAX: usize = 1000;

/// Value that a schema sees for an absent `data`.
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
    /// Id, which survives every retry, park and redrive.
    pub id: String,
    /// Type, such as `order.created`.
    pub event_type: String,
    /// Version of its type, such as `1`.
    pub version: String,
    /// Tenant it belongs to.
    pub tenant: Option<String>,
    /// Encoded form.
    pub envelope: Envelope,
    /// Bytes, as they were published.
    pub body: Bytes,
    /// The body parsed as JSON, once, when first asked for.
    document: Arc<OnceLock<Result<Value, String>>>,
}

/// Identity of an event, whatever its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Id.
    pub id: String,
    /// Type, such as `order.created`.
    pub event_type: String,
    /// Version of its type, such as `1`.
    pub version: String,
    /// Tenant it belongs to.
    pub tenant: Option<String>,
}

impl Event {
    /// Returns an event that was decoded before: its identity was carried beside it. The body is
    /// not looked at.
    ///
    /// An event that has not been decoded before comes from [`crate::envelope::decode`].
    pub fn new(identity: Identity, envelope: Envelope, body: Bytes) -> Self {
        let Identity { id, event_type, version, tenant } = identity;
        Self { id, event_type, version, tenant, envelope, body, document: Arc::default() }
    }

    /// Returns the body parsed as JSON, once however often it is asked for.
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

    /// Returns the JSON pointer to the part that a schema describes, and that part: `/eventData` of
    /// a domain event, `/data` of a CloudEvent (null where it has none), the whole document
    /// otherwise.
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
}

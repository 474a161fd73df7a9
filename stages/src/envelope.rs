//! Envelope: reads an event's identity from its encoded form, without parsing the data.
//!
//! Only the fields an identity is made of are read. The rest is skipped, whatever its depth, and
//! travels on byte for byte; `validate` is what parses it.

use bytes::Bytes;
use serde::{Deserialize, Deserializer};
use serde_json::{error::Category, value::RawValue};

use crate::{
    Envelope, Event, Failure,
    event::{FIRST_VERSION, IDENTITY_BYTES_MAX, Identity},
    failure::class,
    headers,
    text::excerpt,
};

/// Facts about an event from the message that carries it.
#[derive(Debug, Clone, Copy)]
pub struct Carrier<'a> {
    /// Subject it was published to; the type of a raw event.
    pub subject: &'a str,
    /// `Nats-Msg-Id`, where it has one; the id of a raw event and of an error report.
    pub message_id: Option<&'a str>,
    /// Id where there is no `Nats-Msg-Id`: `<stream>:<seq>@<ms>`.
    pub fallback_id: &'a str,
}

/// Reads an event from its envelope.
///
/// # Errors
/// A rejection of class [`class::DECODE`] that says in one line what is wrong and where.
pub fn decode(envelope: Envelope, body: Bytes, carrier: &Carrier<'_>) -> Result<Event, Failure> {
    let identity = text(&body).and_then(|text| match envelope {
        Envelope::Domain => domain(text),
        Envelope::CloudEvents => cloud_events(text),
        Envelope::Raw => raw(text, carrier),
        Envelope::Error => error_report(text, carrier),
    });
    match identity {
        Ok(identity) => Ok(Event::new(identity, envelope, body)),
        Err(message) => Err(Failure::reject(class::DECODE, message)),
    }
}

impl Event {
    /// Returns the event that a handler's output number `n`, from 1, is.
    ///
    /// An output in the envelope of this event is read as one and keeps the identity that the
    /// handler wrote, even where several outputs then have the same id. Any other JSON becomes a
    /// raw event with this event's type, version and tenant, and the id `<this id>/<n>`.
    ///
    /// # Errors
    /// A [`class::HANDLER`] failure where the output is not JSON at all.
    pub fn derive(&self, body: Bytes, n: usize) -> Result<Self, Failure> {
        let id = derived_id(&self.id, n);
        let carrier = Carrier { subject: &self.event_type, message_id: None, fallback_id: &id };
        if self.envelope != Envelope::Raw
            && let Ok(event) = decode(self.envelope, body.clone(), &carrier)
        {
            return Ok(event);
        }
        let mut event = decode(Envelope::Raw, body, &carrier).map_err(|failure| {
            Failure::retry(
                class::HANDLER,
                format!("output {n} of the handler cannot be read: {}", failure.message),
            )
        })?;
        event.version.clone_from(&self.version);
        event.tenant.clone_from(&self.tenant);
        Ok(event)
    }
}

/// Returns `<parent>/<n>`. Where that is too long the parent's id loses its start, since ids tend
/// to differ at the end.
fn derived_id(parent: &str, n: usize) -> String {
    let tail = format!("/{n}");
    let mut start = (parent.len() + tail.len()).saturating_sub(IDENTITY_BYTES_MAX);
    while !parent.is_char_boundary(start) {
        start += 1;
    }
    format!("{}{tail}", parent[start..].trim_start())
}

/// `{"eventId", "eventType", "eventVersion"?, "tenantId"?, "eventData", …}`.
fn domain(text: &str) -> Result<Identity, String> {
    #[derive(Deserialize)]
    struct Domain<'a> {
        #[serde(borrow, rename = "eventId")]
        id: Option<&'a RawValue>,
        #[serde(borrow, rename = "eventType")]
        event_type: Option<&'a RawValue>,
        #[serde(borrow, rename = "eventVersion")]
        version: Option<&'a RawValue>,
        #[serde(borrow, rename = "tenantId")]
        tenant: Option<&'a RawValue>,
        #[serde(borrow, rename = "eventData", default, deserialize_with = "even_null")]
        data: Option<&'a RawValue>,
    }
    let event: Domain<'_> = object(text)?;
    let identity = Identity {
        id: required("eventId", event.id)?,
        event_type: required("eventType", event.event_type)?,
        version: version("eventVersion", event.version)?,
        tenant: optional("tenantId", event.tenant)?,
    };
    event.data.map(|_| identity).ok_or_else(|| "eventData is missing".to_owned())
}

/// CloudEvents 1.0, structured. The extension attributes `dataversion` and `tenantid` are ours.
///
/// Source: <https://github.com/cloudevents/spec/blob/v1.0.2/cloudevents/formats/json-format.md>.
fn cloud_events(text: &str) -> Result<Identity, String> {
    #[derive(Deserialize)]
    struct CloudEvent<'a> {
        #[serde(borrow)]
        specversion: Option<&'a RawValue>,
        #[serde(borrow)]
        id: Option<&'a RawValue>,
        #[serde(borrow)]
        source: Option<&'a RawValue>,
        #[serde(borrow, rename = "type")]
        event_type: Option<&'a RawValue>,
        #[serde(borrow)]
        dataversion: Option<&'a RawValue>,
        #[serde(borrow)]
        tenantid: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "even_null")]
        data: Option<&'a RawValue>,
        #[serde(borrow, default, deserialize_with = "even_null")]
        data_base64: Option<&'a RawValue>,
    }
    let event: CloudEvent<'_> = object(text)?;
    let specversion = string("specversion", event.specversion)?.ok_or("specversion is missing")?;
    if specversion != "1.0" {
        return Err(format!("specversion must be \"1.0\", got \"{}\"", excerpt(&specversion, 20)));
    }
    if string("source", event.source)?.is_none_or(|source| source.is_empty()) {
        return Err("source is missing".to_owned());
    }
    if event.data.is_some() && event.data_base64.is_some() {
        return Err("data and data_base64 exclude each other".to_owned());
    }
    Ok(Identity {
        id: required("id", event.id)?,
        event_type: required("type", event.event_type)?,
        version: version("dataversion", event.dataversion)?,
        tenant: optional("tenantid", event.tenantid)?,
    })
}

/// Any JSON: the id comes from the message, the type from its subject.
fn raw(text: &str, carrier: &Carrier<'_>) -> Result<Identity, String> {
    parse::<&RawValue>(text)?;
    Ok(Identity {
        id: message_id(carrier)?,
        event_type: identifying("the subject", carrier.subject.to_owned())?,
        version: FIRST_VERSION.to_owned(),
        tenant: None,
    })
}

/// `{"errorCode", "severity", "message", "serviceName", "timestamp"?, "metadata"?, …}`.
fn error_report(text: &str, carrier: &Carrier<'_>) -> Result<Identity, String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Report<'a> {
        #[serde(borrow)]
        error_code: Option<&'a RawValue>,
        #[serde(borrow)]
        severity: Option<&'a RawValue>,
        #[serde(borrow)]
        message: Option<&'a RawValue>,
        #[serde(borrow)]
        service_name: Option<&'a RawValue>,
        #[serde(borrow)]
        timestamp: Option<&'a RawValue>,
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow, rename = "tenantId")]
        tenant: Option<&'a RawValue>,
    }
    let report: Report<'_> = object(text)?;
    let event_type = required("errorCode", report.error_code)?;
    let severity = string("severity", report.severity)?.ok_or("severity is missing")?;
    if !["critical", "high", "medium", "low", "info"].contains(&severity.as_str()) {
        let got = excerpt(&severity, 20);
        return Err(format!("severity must be critical, high, medium, low or info, got \"{got}\""));
    }
    string("message", report.message)?.ok_or("message is missing")?;
    string("serviceName", report.service_name)?.ok_or("serviceName is missing")?;
    report.timestamp.map_or(Ok(()), timestamp)?;
    let metadata = report.metadata.map(|metadata| {
        object::<Metadata<'_>>(metadata.get())
            .map_err(|error| format!("metadata is not what it should be: {error}"))
    });
    Ok(Identity {
        id: message_id(carrier)?,
        event_type,
        version: FIRST_VERSION.to_owned(),
        tenant: optional(
            "metadata.tenantId",
            metadata.transpose()?.and_then(|metadata| metadata.tenant),
        )?,
    })
}

/// Returns the body as text.
fn text(body: &[u8]) -> Result<&str, String> {
    if body.is_empty() {
        return Err("the payload is empty".to_owned());
    }
    if body.starts_with(b"\xef\xbb\xbf") {
        return Err(
            "the payload begins with a byte order mark, which JSON does not allow".to_owned()
        );
    }
    std::str::from_utf8(body)
        .map_err(|error| format!("not UTF-8: invalid byte at offset {}", error.valid_up_to()))
}

/// Reads a JSON text as `T`.
fn parse<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    serde_json::from_str(text).map_err(|error| match error.classify() {
        Category::Data => error.to_string(),
        Category::Io | Category::Syntax | Category::Eof => format!("not JSON: {error}"),
    })
}

/// Reads a JSON object as `T`. serde would also read a struct from an array.
fn object<'a, T: Deserialize<'a>>(text: &'a str) -> Result<T, String> {
    if text.trim_ascii_start().starts_with('{') {
        return parse(text);
    }
    parse::<&RawValue>(text)?;
    Err("not a JSON object".to_owned())
}

/// Tells a field that is null from one that is absent.
fn even_null<'de: 'a, 'a, D: Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<&'a RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

/// Returns the string in a field, where there is one.
fn string(name: &str, value: Option<&RawValue>) -> Result<Option<String>, String> {
    let Some(value) = value.map(RawValue::get) else { return Ok(None) };
    if !value.starts_with('"') {
        return Err(format!("{name} must be a string, got {}", excerpt(value, 40)));
    }
    let unreadable = |error: serde_json::Error| format!("{name} cannot be read: {error}");
    serde_json::from_str(value).map(Some).map_err(unreadable)
}

/// Returns an identity field that must be there.
fn required(name: &str, value: Option<&RawValue>) -> Result<String, String> {
    let value = string(name, value)?.ok_or_else(|| format!("{name} is missing"))?;
    identifying(name, value)
}

/// Returns an identity field that need not be there.
fn optional(name: &str, value: Option<&RawValue>) -> Result<Option<String>, String> {
    string(name, value)?.map(|value| identifying(name, value)).transpose()
}

/// Returns a version: a string or a positive whole number.
fn version(name: &str, value: Option<&RawValue>) -> Result<String, String> {
    match value.map(RawValue::get) {
        None => Ok(FIRST_VERSION.to_owned()),
        Some(text) if text.starts_with('"') => required(name, value),
        Some(text) => match text.parse::<u64>() {
            Ok(number) if number > 0 => Ok(number.to_string()),
            _ => Err(format!(
                "{name} must be a string or a positive whole number, got {}",
                excerpt(text, 40)
            )),
        },
    }
}

/// Checks a time: RFC 3339, or milliseconds since 1970.
fn timestamp(value: &RawValue) -> Result<(), String> {
    let text = value.get();
    let fits = match text.strip_prefix('"').and_then(|text| text.strip_suffix('"')) {
        Some(text) => text.parse::<jiff::Timestamp>().is_ok(),
        None => text.parse::<u64>().is_ok(),
    };
    let got = || excerpt(text, 40);
    if fits {
        Ok(())
    } else {
        Err(format!("timestamp must be RFC 3339 or milliseconds since 1970, got {}", got()))
    }
}

/// Returns the id of an event that does not have its own.
fn message_id(carrier: &Carrier<'_>) -> Result<String, String> {
    match carrier.message_id {
        Some(id) if !id.is_empty() => identifying(headers::MSG_ID, id.to_owned()),
        _ => Ok(carrier.fallback_id.to_owned()),
    }
}

/// Checks that a value can be part of an identity: it can go through a header and come back the
/// same.
fn identifying(name: &str, value: String) -> Result<String, String> {
    let wrong = if value.is_empty() {
        "is empty".to_owned()
    } else if value.len() > IDENTITY_BYTES_MAX {
        format!("is {} bytes long, more than {IDENTITY_BYTES_MAX}", value.len())
    } else if value.contains(char::is_control) {
        "has a control character in it".to_owned()
    } else if value.trim() != value {
        "begins or ends with a space".to_owned()
    } else {
        return Ok(value);
    };
    Err(format!("{name} {wrong}"))
}

//! Report: one error event, as a service, a failed attempt or the monitor publishes it.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use crate::{incident::Severity, text::excerpt};

/// Parts read of an error event; the rest, a stack trace above all, is skipped without a copy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'a> {
    /// Error code.
    #[serde(borrow)]
    pub(super) error_code: Cow<'a, str>,
    /// Message for people.
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    /// Service that reports it.
    #[serde(borrow)]
    pub(super) service_name: Cow<'a, str>,
    /// Severity by its reporter: any word, or nothing.
    #[serde(borrow, default)]
    severity: Loose<'a>,
    /// User affected.
    #[serde(borrow, default)]
    user_id: Loose<'a>,
    /// Metadata unparsed, for fingerprints made of other keys.
    #[serde(borrow, default, rename = "metadata")]
    raw: Option<&'a RawValue>,
    #[serde(skip)]
    pub(super) metadata: Metadata<'a>,
}

/// Parts read of `metadata`; all empty where it is no object.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(super) struct Metadata<'a> {
    #[serde(borrow)]
    pub(super) event_id: Loose<'a>,
    #[serde(borrow)]
    pub(super) event_type: Loose<'a>,
    #[serde(borrow)]
    pub(super) trace_id: Loose<'a>,
    #[serde(borrow)]
    tenant_id: Loose<'a>,
    #[serde(borrow)]
    stage: Loose<'a>,
}

/// A text or a number, as text; empty for anything else, since no optional field is a reason to
/// refuse an error.
#[derive(Debug, Default)]
pub(super) struct Loose<'a>(Option<Cow<'a, str>>);

impl Loose<'_> {
    /// Returns the text, unless it is empty.
    pub(super) fn text(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

impl<'a> Report<'a> {
    /// Reads an error event.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        let mut report: Self = serde_json::from_slice(body).map_err(|error| wrong(body, &error))?;
        if let Some(raw) = report.raw.map(RawValue::get).filter(|raw| raw.starts_with('{')) {
            report.metadata = serde_json::from_str(raw).unwrap_or_default();
        }
        if report.error_code.is_empty() { Err("errorCode is empty".to_owned()) } else { Ok(report) }
    }

    /// Severity by its reporter, if in a word we know.
    pub(super) fn severity(&self) -> Option<Severity> {
        self.severity.text().and_then(Severity::meant_by)
    }

    /// User affected.
    pub(super) fn user(&self) -> Option<&str> {
        self.user_id.text()
    }

    /// Stage whose attempt failed.
    pub(super) fn stage(&self) -> Option<&str> {
        self.metadata.stage.text()
    }

    /// Tenant of the event that failed.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.metadata.tenant_id.text()
    }

    /// Returns a text or a number of `metadata` by its key; parses all of `metadata` again.
    pub(super) fn in_metadata(&self, key: &str) -> Option<String> {
        let all: HashMap<String, Loose<'_>> = serde_json::from_str(self.raw?.get()).ok()?;
        all.get(key)?.text().map(str::to_owned)
    }

    /// Returns the facts that rules match.
    pub(super) fn about(&self) -> Facts<'_> {
        Facts {
            code: &self.error_code,
            service: &self.service_name,
            stage: self.stage(),
            tenant: self.tenant(),
            severity: self.severity(),
        }
    }
}

/// Facts that rules match, of an incoming error or of a known fingerprint.
#[derive(Debug, Clone, Copy)]
pub(super) struct Facts<'a> {
    pub(super) code: &'a str,
    pub(super) service: &'a str,
    /// Stage, of a failed attempt.
    pub(super) stage: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    /// Severity that was reported.
    pub(super) severity: Option<Severity>,
}

/// Reason why a body is no error event, with the name of the field where one is to blame.
fn wrong(body: &[u8], error: &serde_json::Error) -> String {
    let document = match serde_json::from_slice::<Value>(body) {
        Ok(Value::Object(document)) => document,
        Ok(_) => return "it is not a JSON object".to_owned(),
        Err(error) => return format!("it is not JSON: {error}"),
    };
    for name in ["errorCode", "serviceName", "message"] {
        match document.get(name) {
            None | Some(Value::Null) => return format!("{name} is missing"),
            Some(Value::String(_)) => {}
            Some(other) => {
                return format!("{name} must be a string, got {}", excerpt(&other.to_string(), 40));
            }
        }
    }
    error.to_string()
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text or a number")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
        Ok(Loose(Some(Cow::Borrowed(text))))
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
        Ok(Loose(Some(Cow::Owned(text.to_owned()))))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Loose<'de>, E> {
        Ok(Loose(Some(Cow::Owned(number.to_string()))))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Loose<'de>, E> {
        Ok(Loose(Some(Cow::Owned(number.to_string()))))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Loose<'de>, E> {
        Ok(Loose(Some(Cow::Owned(number.to_string()))))
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
        Ok(Loose(None))
    }

    fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
        Ok(Loose(None))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose<'de>, A::Error> {
        while list.next_element::<IgnoredAny>()?.is_some() {}
        Ok(Loose(None))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
        while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
        Ok(Loose(None))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Loose<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(LooseVisitor)
    }
}

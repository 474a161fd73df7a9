//! Report: one error event, as a service, a failed attempt or the monitor publishes it.

use std::{borrow::Cow, collections::HashMap, fmt};

use serde::{
    Deserialize, Deserializer,
    de::{IgnoredAny, MapAccess, SeqAccess, Visitor},
};
use serde_json::{Value, value::RawValue};

use super::rules::About;
use crate::{incident::Severity, text::excerpt};

/// What is read of an error event. The rest of it, a stack trace above all, is passed over without
/// a copy.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Report<'a> {
    /// What sort of error it is.
    #[serde(borrow)]
    pub(super) error_code: Cow<'a, str>,
    /// What happened, for people.
    #[serde(borrow)]
    pub(super) message: Cow<'a, str>,
    /// Who reports it.
    #[serde(borrow)]
    pub(super) service_name: Cow<'a, str>,
    /// How bad its reporter finds it: any word, or nothing.
    #[serde(borrow, default)]
    severity: Loose<'a>,
    /// Whom it happened to.
    #[serde(borrow, default)]
    user_id: Loose<'a>,
    /// All of the metadata, for those who look for more in it.
    #[serde(borrow, default, rename = "metadata")]
    raw: Option<&'a RawValue>,
    #[serde(skip)]
    pub(super) metadata: Metadata<'a>,
}

/// What is read of `metadata`. Where they are no object, nothing is.
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

/// A text or a number, as text; nothing where it is anything else. Optional fields are no reason to
/// refuse an error.
#[derive(Debug, Default)]
pub(super) struct Loose<'a>(Option<Cow<'a, str>>);

impl Loose<'_> {
    /// The text, if there is any.
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

    /// How bad its reporter finds it, if it says so in a word we know.
    pub(super) fn severity(&self) -> Option<Severity> {
        self.severity.text().and_then(Severity::meant_by)
    }

    /// Whom it happened to.
    pub(super) fn user(&self) -> Option<&str> {
        self.user_id.text()
    }

    /// The stage whose attempt failed.
    pub(super) fn stage(&self) -> Option<&str> {
        self.metadata.stage.text()
    }

    /// The tenant of the event that failed.
    pub(super) fn tenant(&self) -> Option<&str> {
        self.metadata.tenant_id.text()
    }

    /// A text or a number in `metadata`, by its key. They are read anew for it.
    pub(super) fn in_metadata(&self, key: &str) -> Option<String> {
        let all: HashMap<String, Loose<'_>> = serde_json::from_str(self.raw?.get()).ok()?;
        all.get(key)?.text().map(str::to_owned)
    }

    /// What rules go by.
    pub(super) fn about(&self) -> About<'_> {
        About {
            code: &self.error_code,
            service: &self.service_name,
            stage: self.stage(),
            tenant: self.tenant(),
            severity: self.severity(),
        }
    }
}

/// What keeps a body from being an error event, with the name of the field where one is to blame.
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

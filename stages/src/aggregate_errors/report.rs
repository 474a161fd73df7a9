//! Report: one error event, as a service or a failed attempt publishes it.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::{Value, value::RawValue};

/// What is read of an error event. The rest of it, a stack trace above all, is passed over without a copy.
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
    #[serde(default)]
    severity: Option<Value>,
    /// Whom it happened to: a text or a number.
    #[serde(default)]
    user_id: Option<Value>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
}

/// What is read of `metadata`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Metadata {
    #[serde(default)]
    pub(super) event_id: Value,
    #[serde(default)]
    pub(super) trace_id: Value,
}

impl<'a> Report<'a> {
    /// Reads an error event.
    pub(super) fn read(body: &'a [u8]) -> Result<Self, String> {
        let report: Self = serde_json::from_slice(body).map_err(|error| error.to_string())?;
        if report.error_code.is_empty() { Err("errorCode is empty".to_owned()) } else { Ok(report) }
    }

    /// How bad its reporter finds it, if it says so in a word we know.
    pub(super) fn severity(&self) -> Option<crate::incident::Severity> {
        self.severity.as_ref().and_then(Value::as_str).and_then(crate::incident::Severity::meant_by)
    }

    /// Whom it happened to, as text.
    pub(super) fn user(&self) -> Option<String> {
        match self.user_id.as_ref()? {
            Value::String(text) if !text.is_empty() => Some(text.clone()),
            Value::Number(number) => Some(number.to_string()),
            Value::String(_) | Value::Null | Value::Bool(_) | Value::Array(_) | Value::Object(_) => None,
        }
    }

    /// Its metadata, as far as they have the usual shape.
    pub(super) fn metadata(&self) -> Metadata {
        self.metadata.and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }
}

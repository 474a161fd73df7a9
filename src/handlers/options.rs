//! Options: a handler's table read into its type, and the table's JSON Schema.
//!
//! Every unknown key is found.

use crate::suggest::nearest;
use bytes::Bytes;
use millstream_stages::{
    Failure, Problem, Reply, failure::class, handle, text::excerpt, units::Period,
};
use schemars::{JsonSchema, Schema, generate::SchemaSettings};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, value::RawValue};

/// Most bytes of an unreadable reply that go into a message.
const EXCERPT_BYTES: usize = 200;

/// Output of a stage whose handler accepted an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Output {
    /// The event itself; the reply is not looked at.
    #[default]
    Event,
    /// The handler's reply, in the event's place: one JSON value, or an array with one value per
    /// output. No content passes nothing on.
    Reply,
}

impl Output {
    /// Reply to pass on for the answer of a handler that accepted the event.
    ///
    /// # Errors
    /// [`class::HANDLER`] failure where the reply passes on and is not JSON.
    pub(super) fn reply(self, body: &Bytes) -> Result<Reply, Failure> {
        let blank = || body.iter().all(u8::is_ascii_whitespace);
        let parts: Vec<&RawValue> = match self {
            Self::Event => return Ok(Reply::Pass),
            Self::Reply if blank() => Vec::new(),
            Self::Reply if body.trim_ascii_start().starts_with(b"[") => parse(body)?,
            Self::Reply => vec![parse(body)?],
        };
        // Slices of the reply: nothing is copied or written anew.
        Ok(Reply::Replace(
            parts.into_iter().map(|part| body.slice_ref(part.get().as_bytes())).collect(),
        ))
    }
}

fn parse<'a, T: Deserialize<'a>>(body: &'a Bytes) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let start = excerpt(&String::from_utf8_lossy(body), EXCERPT_BYTES);
        Failure::retry(class::HANDLER, format!("the reply is not JSON ({error}): {start}"))
    })
}

/// `timeout` of a handler that sets none.
pub(super) fn default_timeout() -> Period {
    Period(handle::TIMEOUT)
}

/// Reads a handler's table.
///
/// # Errors
/// Unknown keys, all of them, each with the nearest key the handler has; else the first value of
/// the wrong type, with its path.
pub(super) fn read<T: DeserializeOwned + JsonSchema>(options: &Value) -> Result<T, Vec<Problem>> {
    let (schema, own) = (schema_of::<T>(), own_schema_of::<T>());
    let (known, own) = (keys(&schema), keys(&own));
    let keys = options.as_object().into_iter().flatten().map(|(key, _)| key.as_str());
    let unknown: Vec<Problem> =
        keys.filter(|key| !known.contains(key)).map(|key| unknown_key(key, &known)).collect();
    if !unknown.is_empty() {
        return Err(unknown);
    }
    let mut options = options.clone();
    if let Some(options) = options.as_object_mut() {
        options.retain(|key, _| own.contains(&key.as_str()));
    }
    serde_path_to_error::deserialize(&options).map_err(|error| {
        let at: Vec<String> =
            error.path().iter().map(ToString::to_string).filter(|key| key != "?").collect();
        vec![Problem { at, message: error.inner().to_string(), hint: None }]
    })
}

fn unknown_key(key: &str, known: &[&str]) -> Problem {
    let problem = Problem::new(&[key], format!("unknown key \"{key}\" in a handler"));
    match nearest(key, known.iter().copied()) {
        Some(near) => problem.hint(format!("did you mean \"{near}\"?")),
        None => problem.hint(format!("this handler has: {}", known.join(", "))),
    }
}

/// Keys that every handler's table has, whatever the handler. A handler that needs one declares it;
/// the engine reads `timeout` itself.
#[derive(Debug, Deserialize, JsonSchema)]
struct Common {
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    #[expect(dead_code, reason = "read by the stage; here for its schema")]
    timeout: Period,
}

/// JSON Schema of a handler's table, complete in itself.
pub(super) fn schema_of<T: JsonSchema>() -> Schema {
    let mut schema = own_schema_of::<T>();
    let common = own_schema_of::<Common>();
    let properties = schema.get_mut("properties").and_then(Value::as_object_mut);
    let common = common.get("properties").and_then(Value::as_object);
    for (properties, common) in properties.into_iter().zip(common) {
        for (key, value) in common {
            properties.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
    schema
}

fn own_schema_of<T: JsonSchema>() -> Schema {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.inline_subschemas = true;
        settings.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>()
}

fn keys(schema: &Schema) -> Vec<&str> {
    let properties = schema.get("properties").and_then(Value::as_object);
    properties.into_iter().flatten().map(|(key, _)| key.as_str()).collect()
}

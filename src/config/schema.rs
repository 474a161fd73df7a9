//! Schema: JSON Schema of the whole file, and of each section by itself.

use std::collections::BTreeMap;

use millstream_stages::retry::Policy;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};

use super::{
    Catalogue,
    written::{
        ChannelTable, NatsTable, ObserveTable, PipelineTable, SourceTable, StageTable, StorageTable,
    },
};
use crate::channels;

/// The tables at the top of the file.
pub const SECTIONS: &[&str] =
    &["pipeline", "nats", "source", "stage", "retry", "channel", "storage", "observe"];
/// Sections that hold named tables.
pub const NAMED: &[&str] = &["source", "stage", "retry", "channel"];

/// Schemas of the sections.
#[derive(Debug)]
pub struct Schemas {
    /// Schemas by section: `pipeline`, `nats`, `source`, `retry`, `storage`, `observe`.
    pub plain: BTreeMap<&'static str, Value>,
    /// The keys that every stage has.
    pub stage: Value,
    /// A stage of each kind, all its keys.
    pub stages: BTreeMap<&'static str, Value>,
    /// The keys that every channel has.
    pub channel: Value,
    /// A channel of each kind, all its keys.
    pub channels: BTreeMap<&'static str, Value>,
    /// The `handler` table of each handler.
    pub handlers: BTreeMap<&'static str, Value>,
}

impl Schemas {
    /// The schemas of everything the catalogue knows.
    pub fn new(catalogue: &Catalogue) -> Self {
        let plain = BTreeMap::from([
            ("pipeline", needing(of::<PipelineTable>(), &["name"])),
            ("nats", of::<NatsTable>()),
            ("source", of::<SourceTable>()),
            ("retry", of::<Policy>()),
            ("storage", of::<StorageTable>()),
            ("observe", of::<ObserveTable>()),
        ]);
        let stage = needing(of::<StageTable>(), &["kind", "inputs"]);
        let channel = needing(of::<ChannelTable>(), &["kind"]);
        let stages = catalogue.kinds.iter().map(|kind| {
            (kind.name, joined(&stage, tidy((kind.options)().to_value()), kind.name, kind.about))
        });
        let channels = catalogue.channels.iter().map(|kind| {
            let own = tidy((kind.options)().to_value());
            let mut schema = joined(&channel, own, kind.name, kind.about);
            let rate = &mut schema["properties"]["rate"]["description"];
            let about = rate.as_str().unwrap_or_default();
            *rate = format!("{about} Here: {}.", channels::rate(kind.name)).into();
            (kind.name, schema)
        });
        let handlers = catalogue.handlers.iter().map(|kind| {
            let mut schema = tidy((kind.options)().to_value());
            schema["description"] = kind.about.into();
            (kind.name, schema)
        });
        Self {
            stages: stages.collect(),
            channels: channels.collect(),
            handlers: handlers.collect(),
            plain,
            stage,
            channel,
        }
    }

    /// The schema of the whole file, 2020-12, for editors.
    pub fn whole(&self) -> Value {
        let mut defs = Map::new();
        let mut properties = Map::new();
        let named = |of: Value| {
            json!({
                "type": "object",
                "propertyNames": { "pattern": super::names::PATTERN },
                "additionalProperties": of,
            })
        };
        for (name, schema) in &self.plain {
            let schema = hoisted(schema, name, &mut defs);
            properties.insert(
                (*name).to_owned(),
                if NAMED.contains(name) { named(schema) } else { schema },
            );
        }
        let handlers: Vec<Value> = self
            .handlers
            .iter()
            .map(|(name, schema)| {
                let mut schema = hoisted(schema, &format!("handler-{name}"), &mut defs);
                schema["required"] = json!([name]);
                schema
            })
            .collect();
        let choice = |schemas: &BTreeMap<&'static str, Value>,
                      prefix: &str,
                      defs: &mut Map<String, Value>| {
            let each = schemas.iter().map(|(name, schema)| {
                let mut schema = hoisted(schema, &format!("{prefix}-{name}"), defs);
                if prefix == "stage"
                    && !handlers.is_empty()
                    && schema.pointer("/properties/handler").is_some()
                {
                    schema["properties"]["handler"] =
                        json!({ "type": "object", "oneOf": handlers });
                }
                schema
            });
            json!({ "type": "object", "required": ["kind"], "oneOf": each.collect::<Vec<_>>() })
        };
        let stage = choice(&self.stages, "stage", &mut defs);
        let channel = choice(&self.channels, "channel", &mut defs);
        properties.insert("stage".to_owned(), named(stage));
        properties.insert("channel".to_owned(), named(channel));
        json!({
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Millstream pipeline",
            "type": "object",
            "required": ["pipeline", "source", "stage"],
            "additionalProperties": false,
            "properties": properties,
            "$defs": defs,
        })
    }
}

fn of<T: JsonSchema>() -> Value {
    tidy(SchemaSettings::draft2020_12().into_generator().into_root_schema_for::<T>().to_value())
}

/// Returns the schema with keys that must be there. (Every key has a default in Rust, so that
/// checking can go on without it.)
fn needing(mut schema: Value, keys: &[&str]) -> Value {
    schema["required"] = json!(keys);
    schema
}

/// Returns the schema of a table with the common keys and a kind's own.
fn joined(common: &Value, own: Value, name: &str, about: &str) -> Value {
    let mut schema = common.clone();
    let open = own.get("properties").is_none()
        && own.get("additionalProperties").is_none_or(|more| more != false);
    for list in ["properties", "$defs"] {
        if let (Some(Value::Object(more)), table) = (own.get(list), &mut schema[list]) {
            let mut all = table.as_object().cloned().unwrap_or_default();
            all.extend(more.clone());
            *table = Value::Object(all);
        }
    }
    if schema["$defs"].is_null() {
        schema.as_object_mut().expect("a schema is an object").remove("$defs");
    }
    let required: Vec<Value> = [common, &own]
        .iter()
        .filter_map(|schema| schema.get("required")?.as_array().cloned())
        .flatten()
        .collect();
    schema["required"] = required.into();
    for keyword in ["oneOf", "anyOf", "allOf", "dependentRequired"] {
        if let Some(rule) = own.get(keyword) {
            schema[keyword] = rule.clone();
        }
    }
    schema["properties"]["kind"] = json!({ "const": name, "description": about });
    schema["description"] = about.into();
    schema["additionalProperties"] = open.into();
    schema
}

/// Returns the schema without null, which TOML has no word for, and without names that only Rust
/// knows.
fn tidy(mut schema: Value) -> Value {
    match &mut schema {
        Value::Object(keywords) => {
            for keyword in ["$schema", "title", "format"] {
                if keywords.get(keyword).is_some_and(Value::is_string) {
                    keywords.remove(keyword);
                }
            }
            if keywords.get("default").is_some_and(Value::is_null) {
                keywords.remove("default");
            }
            if let Some(Value::Array(types)) = keywords.get_mut("type") {
                types.retain(|name| name != "null");
                if let [only] = types.as_slice() {
                    let only = only.clone();
                    keywords.insert("type".to_owned(), only);
                }
            }
            if let Some(Value::Array(choices)) = keywords.get_mut("anyOf") {
                choices.retain(|choice| choice.get("type").is_none_or(|name| name != "null"));
                if let [Value::Object(only)] = choices.as_slice() {
                    let only = only.clone();
                    keywords.remove("anyOf");
                    only.into_iter().for_each(|(keyword, value)| {
                        keywords.entry(keyword).or_insert(value);
                    });
                }
            }
            keywords.values_mut().for_each(|value| *value = tidy(value.take()));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| *value = tidy(value.take())),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
    schema
}

/// Returns the schema with its definitions moved to `defs`, under names that no other section uses.
fn hoisted(schema: &Value, prefix: &str, defs: &mut Map<String, Value>) -> Value {
    let mut schema = schema.clone();
    renamed(&mut schema, prefix);
    if let Some(Value::Object(own)) =
        schema.as_object_mut().and_then(|keywords| keywords.remove("$defs"))
    {
        defs.extend(own.into_iter().map(|(name, schema)| (format!("{prefix}-{name}"), schema)));
    }
    schema
}

fn renamed(schema: &mut Value, prefix: &str) {
    match schema {
        Value::Object(keywords) => {
            if let Some(Value::String(target)) = keywords.get_mut("$ref")
                && let Some(name) = target.strip_prefix("#/$defs/")
            {
                *target = format!("#/$defs/{prefix}-{name}");
            }
            keywords.values_mut().for_each(|value| renamed(value, prefix));
        }
        Value::Array(list) => list.iter_mut().for_each(|value| renamed(value, prefix)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

//! Handlers: the calls that `handle` stages make.
//!
//! One file and one line in [`HANDLERS`] per handler. Touches services, child processes and the
//! broker; decides nothing about retries.

mod exec;
mod http;
mod jq;
mod log;
mod nats;
mod options;
mod rust;

use std::{fmt::Write as _, path::PathBuf, sync::Arc};

use millstream_stages::{Delivery, Event, Handler, Problem};
use schemars::Schema;
use serde_json::{Value, json};

pub use options::Output;
pub use rust::{Registry, handler_fn};

use crate::{broker::Broker, suggest::nearest};

/// Every handler, one line each. A new handler is one file and one line here.
pub const HANDLERS: &[HandlerKind] =
    &[http::KIND, nats::KIND, exec::KIND, jq::KIND, log::KIND, rust::KIND];

/// Kind of handler: its name, its options, and its constructor.
#[derive(Debug)]
pub struct HandlerKind {
    /// Key that names it in a `handler = { … }` table.
    pub name: &'static str,
    /// One sentence on what it does, for `schema` and hints.
    pub about: &'static str,
    /// JSON Schema of its table.
    pub options: fn() -> Schema,
    /// Constructor from its table. Touches neither the network nor a process: `check` builds
    /// handlers, too.
    pub build: Build,
}

/// Constructor of a handler from its table.
pub type Build = fn(&Value, &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>>;

/// Surroundings that handlers are built with.
#[derive(Debug, Clone, Default)]
pub struct HandlerContext {
    /// Broker; `None` where nothing will be called (`check`).
    pub broker: Option<Broker>,
    /// Folder that relative paths start from.
    pub base: PathBuf,
    /// Handlers written in Rust, by name.
    pub registered: Registry,
}

/// Builds the handler that a `handler = { … }` table describes. Its kind is the one key that names
/// a handler.
///
/// # Errors
/// Problems of the table, each with its key path inside it.
pub fn build(options: &Value, context: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let choices: Vec<&str> = HANDLERS.iter().map(|kind| kind.name).collect();
    let choose = || format!("name one of: {}", choices.join(", "));
    let one = |problem: Problem| Err(vec![problem]);
    let Some(table) = options.as_object() else {
        return one(Problem::new(
            &[],
            "a handler is a table, such as { http = \"http://127.0.0.1:9000/orders\" }",
        )
        .hint(choose()));
    };
    let named: Vec<&HandlerKind> =
        HANDLERS.iter().filter(|kind| table.contains_key(kind.name)).collect();
    match named.as_slice() {
        [kind] => (kind.build)(options, context),
        [] => {
            let slip = table
                .keys()
                .find_map(|key| nearest(key, choices.iter().copied()).map(|near| (key, near)));
            one(match slip {
                Some((key, near)) => Problem::new(&[key], format!("unknown handler \"{key}\""))
                    .hint(format!("did you mean \"{near}\"?")),
                None => {
                    Problem::new(&[], "the table does not say which handler it is").hint(choose())
                }
            })
        }
        [first, second, ..] => one(Problem::new(
            &[second.name],
            format!("a handler is one of \"{}\" and \"{}\", not both", first.name, second.name),
        )
        .hint(
            "for both, declare a stage for each; \
             `chain = true` runs the second in the first's worker",
        )),
    }
}

/// JSON Schema of a `handler = { … }` table: the key that names the handler chooses the rest.
pub fn options_schema() -> Schema {
    let one_of: Vec<Value> =
        HANDLERS.iter().map(|kind| json!({ "required": [kind.name] })).collect();
    let each: Vec<Value> = HANDLERS
        .iter()
        .map(|kind| json!({ "if": { "required": [kind.name] }, "then": (kind.options)() }))
        .collect();
    let about: Vec<String> =
        HANDLERS.iter().map(|kind| format!("`{}`: {}", kind.name, kind.about)).collect();
    let schema = json!({
        "type": "object",
        "description": format!("What is called for each event. {}", about.join(" ")),
        "oneOf": one_of,
        "allOf": each,
    });
    Schema::try_from(schema).expect("an object is a schema")
}

/// Idempotency key, by which a handler can tell that it has seen this event at this stage before:
/// `<event id>/<stage>`, and `/<edit>` where its payload was edited: services refuse a key that
/// they know with another payload.
///
/// Source: draft-ietf-httpapi-idempotency-key-header, section 2.7.
///
/// Control characters and `%` are percent-encoded, so that different ids stay different keys.
fn idempotency_key(event: &Event, delivery: &Delivery) -> String {
    let mut key = String::with_capacity(event.id.len() + delivery.stage.len() + 1);
    for character in event.id.chars() {
        if character.is_control() || character == '%' {
            let mut bytes = [0; 4];
            for byte in character.encode_utf8(&mut bytes).bytes() {
                // Writing to a String cannot fail.
                _ = write!(key, "%{byte:02X}");
            }
        } else {
            key.push(character);
        }
    }
    key.push('/');
    key.push_str(&delivery.stage);
    if let Some(edit) = delivery.edit {
        _ = write!(key, "/{edit}");
    }
    key
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use millstream_stages::{Envelope, event::Identity};
    use proptest::prelude::*;

    use super::*;

    fn key(id: &str) -> String {
        let (event_type, version) = ("order.created".to_owned(), "1".to_owned());
        let identity = Identity { id: id.to_owned(), event_type, version, tenant: None };
        let event = Event::new(identity, Envelope::Domain, "{}".into());
        let stage = "orders".to_owned();
        let edit = id.contains('7').then_some(7);
        idempotency_key(
            &event,
            &Delivery { stage, attempt: 1, now: SystemTime::UNIX_EPOCH, traceparent: None, edit },
        )
    }

    proptest! {
        #[test]
        fn different_events_have_different_idempotency_keys(
            a in "[\\x00-\\x7f]{0,4}|.{0,4}",
            b in "[\\x00-\\x7f]{0,4}|.{0,4}",
        ) {
            prop_assert_eq!(a == b, key(&a) == key(&b));
            prop_assert!(!key(&a).contains(char::is_control));
        }
    }
}

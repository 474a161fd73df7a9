//! Kind `validate`: checks each event against the JSON Schema of its type and version.

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use crate::{
    Build, Delivery, Emits, Event, Failure, Kind, Map, Pending, Problem, World,
    failure::class,
    schemas::{Schemas, violation},
    text::excerpt,
};

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "validate",
    about: "checks each event against the JSON Schema of its type and version",
    options: || schemars::schema_for!(Options),
    build: Build::Map(build),
    emits: Emits::Events,
    concurrency: 256,
    calls_out: false,
    checks_only: true,
    tallies: &[],
    follows: &[],
};

/// Violations that a failure's message lists.
const LISTED_MAX: usize = 5;
/// Longest pointer that a message shows, in bytes.
const POINTER_BYTES_MAX: usize = 200;

/// The keys of a `validate` stage.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The folder of schemas, one file `<event type>.<version>.json` each: JSON Schema 2020-12 for
    /// the event's data. Other `.json` files in it may be referred to by `$ref`. Nothing is ever
    /// fetched.
    schemas: String,
    /// Action on an event that has no schema.
    #[serde(default)]
    unknown: Unknown,
}

/// Action on an event that has no schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Unknown {
    /// Rejects it.
    #[default]
    Reject,
    /// Passes it on unchecked.
    Pass,
}

/// A `validate` stage.
struct Validate {
    schemas: Schemas,
    unknown: Unknown,
}

fn build(options: &Value, world: &dyn World) -> Result<Box<dyn Map>, Vec<Problem>> {
    let Options { schemas: folder, unknown } = Options::deserialize(options)
        .map_err(|error| vec![Problem::new(&[], error.to_string())])?;
    let schemas =
        world.folder(&folder).map_err(|message| vec![Problem::new(&["schemas"], message)]);
    let schemas = Schemas::compile(&folder, &schemas?)?;
    Ok(Box::new(Validate { schemas, unknown }))
}

impl Validate {
    fn check(&self, event: &Event) -> Result<(), Failure> {
        let reject = |message: String| Failure::reject(class::VALIDATION, message);
        event
            .json()
            .map_err(|error| Failure::reject(class::DECODE, format!("not JSON: {error}")))?;
        let Some(schema) = self.schemas.get(&event.event_type, &event.version) else {
            return match self.unknown {
                Unknown::Pass => Ok(()),
                Unknown::Reject => {
                    Err(reject(self.schemas.lacking(&event.event_type, &event.version)))
                }
            };
        };
        let (pointer, data) = event.data().map_err(|error| reject(error.to_owned()))?;
        if schema.is_valid(data) {
            return Ok(());
        }
        let mut violations = schema.iter_errors(data).map(|error| {
            let place = format!("{pointer}{}", error.instance_path());
            let place = if place.is_empty() { "the event" } else { place.as_str() };
            format!("{}: {}", excerpt(place, POINTER_BYTES_MAX), violation(&error))
        });
        let mut listed: Vec<String> = violations.by_ref().take(LISTED_MAX).collect();
        if violations.next().is_some() {
            listed.push("and more".to_owned());
        }
        Err(reject(listed.join("; ")))
    }
}

impl Map for Validate {
    fn apply<'a>(&'a self, event: &'a Event, _: &'a Delivery) -> Pending<'a, Vec<Event>> {
        Box::pin(std::future::ready(self.check(event).map(|()| vec![event.clone()])))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Envelope,
        envelope::{Carrier, decode},
        testing::{Memory, answer, delivery, map_stage},
    };
    use expect_test::{Expect, expect};
    use serde_json::json;

    const ORDER: &str = r##"{
        "type": "object",
        "required": ["orderId", "amount"],
        "properties": {
            "orderId": { "type": "string", "pattern": "^[a-z0-9-]+$", "maxLength": 12 },
            "amount": { "$ref": "common/money.json#/$defs/amount" },
            "at": { "type": "string", "format": "date-time" },
            "status": { "enum": ["open", "paid"] },
            "lines": { "type": "array", "items": { "$ref": "#/$defs/line" } }
        },
        "additionalProperties": false,
        "$defs": { "line": { "type": "object", "required": ["sku"] } }
    }"##;
    const MONEY: &str = r#"{ "$defs": { "amount": { "type": "number", "minimum": 0 } } }"#;

    fn world() -> Memory {
        let files = vec![
            ("common/money.json", MONEY),
            ("order.created.1.json", ORDER),
            ("order.created.2.json", "true"),
            ("later/order.created.10.json", "true"),
            ("order.created.late.1.json", "true"),
        ];
        Memory { files, ..Memory::default() }
    }

    fn stage(options: &Value) -> Box<dyn Map> {
        map_stage(&KIND, options, &world()).unwrap()
    }

    fn event(envelope: Envelope, body: &str) -> Event {
        let carrier = Carrier { subject: "order.created", message_id: None, fallback_id: "in:1" };
        decode(envelope, body.to_owned().into(), &carrier).unwrap()
    }

    fn order(version: &str, data: &str) -> Event {
        let body = format!(
            r#"{{"eventId":"e1","eventType":"order.created","eventVersion":"{version}","eventData":{data}}}"#
        );
        event(Envelope::Domain, &body)
    }

    #[track_caller]
    fn check(event: &Event, expect: Expect) {
        let stage = stage(&json!({ "schemas": "schemas" }));
        let line = match answer(stage.apply(event, &delivery())) {
            Ok(events) => {
                assert_eq!(events.len(), 1);
                assert_eq!(events[0].body, event.body);
                format!("{} passes", events[0].id)
            }
            Err(failure) => format!("{:?} {failure}", failure.disposition),
        };
        expect.assert_eq(&line);
    }

    #[test]
    fn an_event_passes_unchanged_or_is_rejected_with_every_violation_and_its_pointer() {
        check(&order("1", r#"{"orderId":"a-1","amount":3}"#), expect!["e1 passes"]);
        check(
            &order("1", r#"{"orderId":"a-1","amount":-1}"#),
            expect!["Reject ValidationError: /eventData/amount: -1 is less than the minimum of 0"],
        );
        check(
            &order(
                "1",
                r#"{"orderId":"NO WAY","amount":"3","at":"today","status":"lost","lines":[{}],"x":1,"y":2}"#,
            ),
            expect![[
                r#"Reject ValidationError: /eventData/amount: "3" is not of type "number"; /eventData/at: "today" is not a "date-time"; /eventData/lines/0: "sku" is a required property; /eventData/orderId: "NO WAY" does not match "^[a-z0-9-]+$"; /eventData/status: "lost" is not one of "open" or "paid"; and more"#
            ]],
        );
        check(
            &order("1", "null"),
            expect![[r#"Reject ValidationError: /eventData: null is not of type "object""#]],
        );
        check(
            &order("1", &format!(r#"{{"orderId":"{}","amount":3}}"#, "a".repeat(1 << 20))),
            expect![[
                r#"Reject ValidationError: /eventData/orderId: "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa… is longer than 12 characters"#
            ]],
        );
        check(&order("2", "[]"), expect!["e1 passes"]);
    }

    #[test]
    fn what_the_schema_describes_depends_on_the_envelope() {
        let cloud = r#"{"specversion":"1.0","id":"c1","source":"/s","type":"order.created","#;
        check(
            &event(
                Envelope::CloudEvents,
                &format!(r#"{cloud}"data":{{"orderId":"a","amount":-2}}}}"#),
            ),
            expect!["Reject ValidationError: /data/amount: -2 is less than the minimum of 0"],
        );
        check(
            &event(Envelope::CloudEvents, &format!(r#"{cloud}"data_base64":"e30="}}"#)),
            expect![
                "Reject ValidationError: the data is in data_base64, which a JSON Schema cannot describe"
            ],
        );
        check(
            &event(Envelope::CloudEvents, &format!(r#"{cloud}"subject":"none"}}"#)),
            expect![[r#"Reject ValidationError: /data: null is not of type "object""#]],
        );
        check(
            &event(Envelope::Raw, r#"{"orderId":"a","amount":-2}"#),
            expect!["Reject ValidationError: /amount: -2 is less than the minimum of 0"],
        );
        check(
            &event(Envelope::Raw, "3"),
            expect![[r#"Reject ValidationError: the event: 3 is not of type "object""#]],
        );
    }

    #[test]
    fn an_event_without_a_schema_is_rejected_unless_told_to_pass() {
        check(
            &order("3", "{}"),
            expect![
                "Reject ValidationError: no schema for order.created version 3 (there are versions 1, 2, 10)"
            ],
        );
        let mut other = order("1", "{}");
        other.event_type = "order.created.late".into();
        other.version = "2".into();
        check(
            &other,
            expect![
                "Reject ValidationError: no schema for order.created.late version 2 (there is version 1)"
            ],
        );
        other.event_type = "order".into();
        check(
            &other,
            expect![[
                r#"Reject ValidationError: no schema for order version 2 (there is none for the type in "schemas")"#
            ]],
        );
        let stage = stage(&json!({ "schemas": "schemas", "unknown": "pass" }));
        assert_eq!(answer(stage.apply(&other, &delivery())).unwrap().len(), 1);
    }

    #[test]
    fn what_decoding_let_pass_and_json_cannot_hold_is_rejected_as_undecodable() {
        check(
            &order("2", &format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000))),
            expect!["Reject DecodeError: not JSON: recursion limit exceeded at line 1 column 202"],
        );
        check(
            &order("2", "1e400"),
            expect!["Reject DecodeError: not JSON: number out of range at line 1 column 80"],
        );
        check(
            &order("2", r#""\ud800""#),
            expect![
                "Reject DecodeError: not JSON: unexpected end of hex escape at line 1 column 83"
            ],
        );
        check(&order("2", r#"{"a":1,"a":2}"#), expect!["e1 passes"]);
    }
}

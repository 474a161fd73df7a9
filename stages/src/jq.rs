//! jq: filters over one event, for `when` and for the jq handler.
//!
//! A filter sees its event and nothing else: `env`, `$ENV`, `now`, `localtime`, `input`, `debug`
//! and `halt` do not exist, so it reads no secret, prints nothing and gives the same answer each
//! time.
//!
//! Filters come from the configuration, so whoever writes one is trusted not to write `def f: f;
//! f`: jaq counts no steps. Outputs are bounded, but a filter that never gives one, that collects
//! without end (`[range(infinite)]`) runs until its thread is given up on or memory is out, and one
//! that recurses without end outside a tail call (`def f: 1 + f; f`) overflows the stack, which
//! ends the process. No event can bring either about by its depth: events nested deeper than 128
//! levels are refused. A filter belongs on a thread that may block, under the stage's timeout.

mod wording;

use bytes::Bytes;
use jaq_core::{
    Compiler, Ctx, Vars, data,
    load::{self, Arena, File, Loader},
    native,
};
use jaq_json::{Error, Val, read, write};
use serde::de::IgnoredAny;

use crate::{Event, text::excerpt};

/// Deepest nesting of an event that a filter reads. `serde_json` stops at the same depth.
const DEPTH_MAX: usize = 128;

/// Longest message of a filter's own error, in bytes.
const MESSAGE_BYTES_MAX: usize = 300;

/// Native that reads JSON out of an event's text; ours refuses nesting too deep for the stack.
const FROM_JSON: &str = "fromjson";

/// Natives of jq's standard library that reach outside the event.
const OUTSIDE: &[&str] =
    &["env", "now", "localtime", "strflocaltime", "halt", "debug_empty", "stderr_empty"];

/// Definitions of jq's standard library that are made from [`OUTSIDE`].
const MADE_FROM_OUTSIDE: &[&str] = &["debug", "stderr", "halt", "halt_error"];

/// Definitions that jq has and jaq 3.1 lacks.
const ADDED: &str = "def IN(xs): any(xs == .; .); def IN(ys; xs): any(ys == xs; .);";

type Data = data::JustLut<Val>;

/// A compiled jq program. Any number of threads may run it at once.
pub struct Filter {
    program: jaq_core::Filter<Data>,
    text: String,
}

/// Error of a text that is not a jq program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct JqError {
    /// Message: lower case, no full stop.
    pub message: String,
    /// Place in the text, in bytes from its start.
    pub offset: usize,
}

impl Filter {
    /// Compiles a jq program.
    ///
    /// # Errors
    /// The first thing wrong with the text, and where.
    pub fn compile(text: &str) -> Result<Self, JqError> {
        let added = load::parse(ADDED, |parser| parser.defs()).expect("our own definitions are jq");
        let definitions =
            jaq_core::defs().chain(jaq_std::defs()).chain(jaq_json::defs()).chain(added);
        let definitions =
            definitions.filter(|definition| !MADE_FROM_OUTSIDE.contains(&definition.name));
        let natives = jaq_core::funs::<Data>().chain(jaq_std::funs()).chain(jaq_json::funs());
        let natives = natives.filter(|(name, ..)| !OUTSIDE.contains(name) && *name != FROM_JSON);
        let natives = natives.chain([from_json()]);

        let arena = Arena::default();
        let modules = Loader::new(definitions)
            .load(&arena, File { code: text, path: () })
            .map_err(|errors| {
                wording::first(
                    text,
                    errors.into_iter().map(|(_, error)| wording::loading(text, &error)),
                )
            })?;
        let program =
            Compiler::default().with_funs(natives).compile(modules).map_err(|errors| {
                wording::first(
                    text,
                    errors
                        .into_iter()
                        .flat_map(|(_, errors)| errors)
                        .map(|e| wording::undefined(text, e)),
                )
            })?;
        Ok(Self { program, text: text.to_owned() })
    }

    /// Returns the text it was compiled from.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// True if the first output is neither `false` nor `null`. No output counts as false.
    ///
    /// # Errors
    /// The error the filter ended in, or the reason why it cannot read the event; one line.
    pub fn truthy(&self, event: &Event) -> Result<bool, String> {
        let first = self.values(event, 1)?.next().transpose()?;
        Ok(!matches!(first, None | Some(Val::Null | Val::Bool(false))))
    }

    /// Returns every output as compact JSON. Numbers that the filter only passes on keep their
    /// digits.
    ///
    /// # Errors
    /// The error the filter ended in, why it cannot read the event, that it gives more than `most`
    /// outputs, or that an output has no form in JSON (`nan`, `infinite`, bytes); one line.
    pub fn outputs(&self, event: &Event, most: usize) -> Result<Vec<Bytes>, String> {
        let mut outputs = Vec::new();
        for value in self.values(event, most.saturating_add(1))? {
            let value = value?;
            if outputs.len() == most {
                return Err(format!("the filter gives more than {most} outputs"));
            }
            outputs.push(json(&value)?);
        }
        Ok(outputs)
    }

    /// Returns at most `most` of the values the filter gives.
    fn values(
        &self,
        event: &Event,
        most: usize,
    ) -> Result<impl Iterator<Item = Result<Val, String>> + use<'_>, String> {
        let input = value(&event.body).map_err(|error| format!("the event {error}"))?;
        let context = Ctx::<Data>::new(&self.program.lut, Vars::new([]));
        let values = self.program.id.run((context, input)).take(most);
        Ok(values.map(|value| {
            value.map_err(|exception| match exception.get_err() {
                Ok(error) => excerpt(&error_text(error), MESSAGE_BYTES_MAX),
                Err(_) => "the filter stopped outside any loop".to_owned(),
            })
        }))
    }
}

impl std::fmt::Debug for Filter {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Filter").field(&self.text).finish()
    }
}

/// Returns the text of an error; a message without the quotes it has as a value.
fn error_text(error: Error) -> String {
    let value = error.into_val();
    if let Val::TStr(message) = &value {
        String::from_utf8_lossy(message).into_owned()
    } else {
        value.to_string()
    }
}

/// Returns a value as compact JSON.
fn json(value: &Val) -> Result<Bytes, String> {
    let mut out = Vec::new();
    write::write(&mut out, &write::Pp::default(), 0, value).map_err(|error| error.to_string())?;
    // jq's values are more than JSON's: NaN, infinity, bytes, keys that are no strings.
    serde_json::from_slice::<IgnoredAny>(&out).map_err(|_| {
        format!("an output has no form in JSON: {}", excerpt(&String::from_utf8_lossy(&out), 60))
    })?;
    Ok(out.into())
}

/// Returns the value of a JSON text, its numbers to the digit.
///
/// jaq's reader takes more than JSON and recurses without a limit, so the text is checked first.
fn value(text: &[u8]) -> Result<Val, String> {
    let strict = std::str::from_utf8(text).map_err(|error| error.to_string());
    let strict = strict.and_then(|text| {
        serde_json::from_str::<IgnoredAny>(text).map_err(|error| error.to_string())
    });
    strict.map_err(|error| format!("is not JSON: {error}"))?;
    if depth(text) > DEPTH_MAX {
        return Err(format!("is nested deeper than {DEPTH_MAX} levels"));
    }
    read::parse_single(text).map_err(|error| format!("is not JSON: {error}"))
}

/// Returns jq's `fromjson`, on which `tonumber` and `toboolean` rest.
fn from_json() -> native::Fun<Data> {
    native::run((FROM_JSON, native::v(0), |(_, input)| {
        let text = input.try_as_utf8_bytes_owned();
        native::bome(
            text.and_then(|text| {
                value(&text).map_err(|error| Error::str(format!("the text {error}")))
            }),
        )
    }))
}

/// Returns the depth of nesting of a JSON text.
fn depth(text: &[u8]) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_string, mut escaped) = (false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b'[' | b'{' if !in_string => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Envelope, event::Identity};
    use expect_test::{Expect, expect};

    fn event(body: &str) -> Event {
        let identity = Identity {
            id: "e1".into(),
            event_type: "order.created".into(),
            version: "1".into(),
            tenant: None,
        };
        Event::new(identity, Envelope::Raw, Bytes::copy_from_slice(body.as_bytes()))
    }

    fn outputs(filter: &str, body: &str) -> String {
        match Filter::compile(filter).unwrap().outputs(&event(body), 10) {
            Ok(outputs) => {
                outputs.iter().map(|output| String::from_utf8_lossy(output) + "\n").collect()
            }
            Err(message) => format!("error: {message}\n"),
        }
    }

    #[track_caller]
    fn check(filter: &str, expect: Expect) {
        let JqError { message, offset } = Filter::compile(filter).unwrap_err();
        expect.assert_eq(&format!("{offset}: {message}"));
    }

    #[test]
    fn a_filter_can_be_run_by_any_number_of_threads() {
        fn shared<T: Send + Sync>() {}
        shared::<Filter>();
    }

    #[test]
    fn what_is_wrong_with_a_filter_is_told_with_its_place() {
        check("", expect!["0: expected a value, such as .key or 1, found the end"]);
        check(".amount >", expect!["9: expected a value, such as .key or 1, found the end"]);
        check("(.amount > 0", expect![[r#"12: "(" is never closed"#]]);
        check(".a | \"text", expect!["10: a text in quotes is never closed"]);
        check("if .a then 1", expect![[r#"12: expected "else" or "end", found the end"#]]);
        check(".a } .b", expect![[r#"3: "} .b" does not belong here"#]]);
        check(".a == 'x'", expect!["6: jq writes text in double quotes"]);
        check(
            ".amount | lenght",
            expect![[r#"10: there is no function "lenght" (write ".lenght" for a key)"#]],
        );
        check(
            "amount > 0",
            expect![[r#"0: there is no function "amount" (write ".amount" for a key)"#]],
        );
        check("map(.a; .b)", expect![[r#"0: there is no function "map" with 2 arguments"#]]);
        check("$order.amount", expect![[r#"0: there is no variable "$order""#]]);
        check("include \"file\"; .", expect!["9: a filter may not include or import a file"]);
        check(".a && .b", expect![[r#"3: jq writes "and" for "&&""#]]);
    }

    #[test]
    fn a_filter_reaches_nothing_but_its_event() {
        for filter in [
            "env",
            "$ENV.HOME",
            "now",
            "input",
            "debug",
            "stderr",
            "halt",
            "halt_error",
            "localtime",
        ] {
            let error = Filter::compile(filter).unwrap_err();
            assert!(error.message.contains("is not available"), "{filter}: {error}");
        }
        assert!(Filter::compile("$__loc__, input_filename, getpath([\"a\"]), @base64").is_err());
    }

    #[test]
    fn truth_is_what_jq_holds_for_true() {
        let event = event(r#"{"amount": 3, "name": "Ada", "none": null, "items": []}"#);
        for (filter, truth) in [
            (".amount > 0", true),
            (".amount > 3", false),
            (".none", false),
            (".missing", false),
            ("empty", false),
            (".items[]", false),
            ("0, false", true),
            ("false, true", false),
            (".name | test(\"^a\"; \"i\")", true),
            (".amount | IN(1, 2, 3)", true),
        ] {
            match Filter::compile(filter) {
                Ok(filter) => assert_eq!(filter.truthy(&event), Ok(truth), "{filter:?}"),
                Err(error) => panic!("{filter}: {error}"),
            }
        }
        let error = Filter::compile(".name.first > 0").unwrap().truthy(&event).unwrap_err();
        expect![[r#"cannot index "Ada" with "first""#]].assert_eq(&error);
    }

    #[test]
    fn outputs_are_compact_json_and_numbers_keep_their_digits() {
        let body = r#"{ "big": 12345678901234567890123, "dec": 1.10, "huge": 1e400, "text": "a\u00e9\n\"", "z": 1, "a": 2 }"#;
        expect![[r#"
            {"big":12345678901234567890123,"dec":1.10,"huge":1e400,"text":"aé\n\"","z":1,"a":2}
        "#]]
        .assert_eq(&outputs(".", body));
        expect![[r#"
            12345678901234567890123
            1.10
            1e400
            1.5
        "#]]
        .assert_eq(&outputs(".big, .dec, .huge, .z + 0.5", body));
        expect![[r#"
            error: an output has no form in JSON: NaN
        "#]]
        .assert_eq(&outputs("nan", body));
        expect![[r#"
            error: an output has no form in JSON: Infinity
        "#]]
        .assert_eq(&outputs("infinite", body));
        expect![[r#"
            {"1":1}
            {"a":2}
        "#]]
        .assert_eq(&outputs("{(.z|tostring): 1}, {\"a\": .a}", body));
        expect![[r#"
            error: an output has no form in JSON: b"a\xc3\xa9\n\""
        "#]]
        .assert_eq(&outputs(".text | tobytes", body));
        expect![].assert_eq(&outputs("empty", body));
        expect![[r#"
            error: not today
        "#]]
        .assert_eq(&outputs("error(\"not\\ntoday\")", body));
        expect![[r#"
            "2026-07-24T00:00:00Z"
            1784851200
        "#]]
        .assert_eq(&outputs("1784851200 | todate, (\"2026-07-24T00:00:00Z\" | fromdate)", body));
        expect![[r#"
            "YcOpCiI="
        "#]]
        .assert_eq(&outputs(".text | @base64", body));
    }

    #[test]
    fn what_never_ends_is_cut_where_outputs_are_counted() {
        for filter in ["repeat(.)", "range(infinite)", "def f: 1, f; f"] {
            assert_eq!(outputs(filter, "1"), "error: the filter gives more than 10 outputs\n");
        }
        assert_eq!(Filter::compile("repeat(.)").unwrap().truthy(&event("1")), Ok(true));
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_never_a_panic() {
        expect![[r#"
            error: the event is not JSON: EOF while parsing a list at line 1 column 100000
        "#]]
        .assert_eq(&outputs(".", &"[".repeat(100_000)));
        let embedded = serde_json::to_string(&"[".repeat(100_000)).unwrap();
        expect![[r#"
            error: the text is not JSON: EOF while parsing a list at line 1 column 100000
        "#]]
        .assert_eq(&outputs("fromjson", &embedded));
        expect![[r#"
            error: the text is not JSON: EOF while parsing a list at line 1 column 100000
        "#]]
        .assert_eq(&outputs("tonumber", &embedded));
        let embedded =
            serde_json::to_string(&format!("{}{}", "[".repeat(129), "]".repeat(129))).unwrap();
        expect![[r#"
            error: the text is nested deeper than 128 levels
        "#]]
        .assert_eq(&outputs("fromjson", &embedded));
        expect![[r#"
            {"a":1.10}
            1.10
        "#]]
        .assert_eq(&outputs("fromjson, (.[6:10] | tonumber)", r#""{\"a\": 1.10}""#));
        expect![[r#"
            error: the event is not JSON: expected value at line 1 column 1
        "#]]
        .assert_eq(&outputs(".", "# \"\n[1]"));
        expect![[r#"
            error: the event is not JSON: byte offset 13: expected low surrogate
        "#]]
        .assert_eq(&outputs(".", r#"{"a": "\ud800"}"#));
        expect![[r#"
            error: the event is not JSON: EOF while parsing an object at line 1 column 1
        "#]]
        .assert_eq(&outputs(".", "{"));
        expect![[r#"
            true
        "#]]
        .assert_eq(&outputs(". == \"[[\\\"[\"", r#""[[\"[""#));
    }
}

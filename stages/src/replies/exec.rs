//! Exec: the line that a child process is given for an event, and those that it writes.

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use super::{EXCERPT_BYTES_MAX, own_class};
use crate::{Delivery, Event, Failure, Reply, failure::class, text::excerpt, units::Period};

/// Returns the line that an exec handler is given on stdin for one delivery, newline included.
///
/// `{"id", "type", "version", "tenant", "attempt", "event"}`, where `event` is the event's body.
///
/// # Errors
/// A [`class::DECODE`] rejection where the body is not JSON.
pub fn exec_request(event: &Event, delivery: &Delivery) -> Result<Vec<u8>, Failure> {
    #[derive(Serialize)]
    struct Request<'a> {
        id: &'a str,
        #[serde(rename = "type")]
        event_type: &'a str,
        version: &'a str,
        tenant: Option<&'a str>,
        attempt: u32,
        event: &'a RawValue,
    }
    let unreadable =
        |error: serde_json::Error| Failure::reject(class::DECODE, format!("not JSON: {error}"));
    let mut line = serde_json::to_vec(&Request {
        id: &event.id,
        event_type: &event.event_type,
        version: &event.version,
        tenant: event.tenant.as_deref(),
        attempt: delivery.attempt,
        event: serde_json::from_slice(&event.body).map_err(unreadable)?,
    })
    .map_err(unreadable)?;
    // A line break in JSON stands between tokens: inside a string it is escaped.
    line.iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    line.push(b'\n');
    Ok(line)
}

/// Line that an exec handler wrote to its standard output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecLine {
    /// A reply to the event that it was given.
    Reply {
        /// The reply, or the failure that it reports.
        reply: Result<Reply, Failure>,
        /// True if it names the event.
        has_id: bool,
    },
    /// It names the event it was given, and cannot be read.
    Unreadable(Failure),
    /// Something else, such as a line of a log; with the reason why it is no reply.
    NoReply(String),
}

/// Keys of a reply.
const REPLY_KEYS: &[&str] = &["id", "ok", "outputs", "error"];

/// Reads a line that an exec handler wrote while it had the event `id`.
///
/// - `{"id": …, "ok": true}`: handled, the event passes on
/// - `{"id": …, "ok": true, "outputs": […]}`: handled, these pass on in its place
/// - `{"id": …, "error": {"class"?, "message"?, "retry"?: "retry" | "reject" | "defer", "after"?:
///   "2s"}}`: failed
///
/// `id` is that of the event. A line that is exactly one of these without it is a reply, too,
/// unless the program `names_events`. Loggers write JSON with an `error`, an `ok` or an `id` in it,
/// so a line with any other key is no reply.
pub fn exec_line(line: &[u8], id: &str, names_events: bool) -> ExecLine {
    let no_reply = |why: &str| ExecLine::NoReply(why.to_owned());
    let parts = match exec_parts(line) {
        Ok(parts) => parts,
        Err(why) => return ExecLine::NoReply(why),
    };
    if parts.keys().all(|key| key == "id") {
        return no_reply("neither \"ok\": true nor \"error\"");
    }
    let has_id = match parts.get("id") {
        Some(written) if is_text(written, id) => true,
        Some(_) => return no_reply("its \"id\" is not that of the event"),
        None if names_events => return no_reply("it has no \"id\", unlike replies before"),
        None => false,
    };
    match exec_reply(&parts) {
        Ok(reply) => ExecLine::Reply { reply, has_id },
        Err(why) if has_id => {
            let line = excerpt(&String::from_utf8_lossy(line), EXCERPT_BYTES_MAX);
            let message = format!("cannot read the handler's reply ({why}): {line}");
            ExecLine::Unreadable(Failure::retry(class::HANDLER, message))
        }
        Err(why) => ExecLine::NoReply(why),
    }
}

/// True if a line is a reply of an exec handler, to whichever event.
pub fn is_exec_reply(line: &[u8]) -> bool {
    exec_parts(line).is_ok_and(|parts| exec_reply(&parts).is_ok())
}

type Parts<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

fn is_text(value: &RawValue, text: &str) -> bool {
    serde_json::from_str::<Cow<'_, str>>(value.get()).is_ok_and(|value| value == text)
}

/// Parts of a line that may be a reply.
fn exec_parts(line: &[u8]) -> Result<Parts<'_>, String> {
    let parts: Parts<'_> =
        serde_json::from_slice(line).map_err(|_| "it is no JSON object".to_owned())?;
    match parts.keys().find(|key| !REPLY_KEYS.contains(&&***key)) {
        Some(key) => Err(format!("a reply has no key \"{}\"", excerpt(key, 40))),
        None => Ok(parts),
    }
}

/// Reply made of the parts of a line, if they are one; else the reason why not.
fn exec_reply(parts: &Parts<'_>) -> Result<Result<Reply, Failure>, String> {
    let told = |error: serde_json::Error| {
        // Where it stands in a line that nobody sees is no use.
        let told = error.to_string();
        told.split(" at line ").next().unwrap_or(&told).to_owned()
    };
    if let Some(error) = parts.get("error") {
        if parts.contains_key("ok") || parts.contains_key("outputs") {
            return Err("it has both \"ok\" and \"error\"".to_owned());
        }
        if !error.get().starts_with('{') {
            return Err("its \"error\" is no object".to_owned());
        }
        let failure: ReportedFailure<'_> = serde_json::from_str(error.get()).map_err(told)?;
        return Ok(Err(failure.failure()));
    }
    if parts.get("ok").is_none_or(|ok| ok.get() != "true") {
        return Err("neither \"ok\": true nor \"error\"".to_owned());
    }
    let Some(outputs) = parts.get("outputs") else { return Ok(Ok(Reply::Pass)) };
    let outputs: Vec<&RawValue> =
        serde_json::from_str(outputs.get()).map_err(|_| "its \"outputs\" are no array")?;
    let bytes = |output: &&RawValue| Bytes::copy_from_slice(output.get().as_bytes());
    Ok(Ok(Reply::Replace(outputs.iter().map(bytes).collect())))
}

/// Failure as an exec handler reports it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ReportedFailure<'a> {
    #[serde(borrow)]
    class: Option<Cow<'a, str>>,
    #[serde(borrow)]
    message: Option<Cow<'a, str>>,
    #[serde(default)]
    retry: Disposing,
    after: Option<Period>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "lowercase")]
enum Disposing {
    #[default]
    Retry,
    Reject,
    Defer,
}

impl ReportedFailure<'_> {
    fn failure(self) -> Failure {
        let class = self.class.map_or(Cow::Borrowed(class::HANDLER), |class| own_class(&class));
        let message = self.message.filter(|message| !message.trim().is_empty());
        let message =
            message.map_or_else(|| "the handler gave no message".to_owned(), Cow::into_owned);
        let failure = match self.retry {
            Disposing::Retry => Failure::retry(class, message),
            Disposing::Reject => Failure::reject(class, message),
            Disposing::Defer => Failure::defer(class, message),
        };
        match self.after {
            Some(wait) => failure.after(wait.0),
            None => failure,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::{Envelope, event::Identity, testing::shown};
    use expect_test::expect;

    #[test]
    fn an_exec_handler_is_given_one_line_whatever_the_event_looks_like() {
        let identity = Identity {
            id: "e\"1".into(),
            event_type: "t".into(),
            version: "1".into(),
            tenant: None,
        };
        let delivery = Delivery {
            stage: "s".into(),
            attempt: 2,
            now: SystemTime::UNIX_EPOCH,
            traceparent: None,
            edit: None,
        };
        let event = |body| Event::new(identity.clone(), Envelope::Raw, Bytes::from_static(body));
        let line = exec_request(&event(b"{\r\n  \"a\": \"x\\ny\",\n  \"n\": 1.10\n}\n"), &delivery)
            .unwrap();
        expect![[r#"
            {"id":"e\"1","type":"t","version":"1","tenant":null,"attempt":2,"event":{    "a": "x\ny",   "n": 1.10 }}
        "#]]
        .assert_eq(&String::from_utf8(line).unwrap());
        expect!["Reject DecodeError: not JSON: EOF while parsing an object at line 1 column 1"]
            .assert_eq(&shown(exec_request(&event(b"{"), &delivery)));
    }

    fn heard(line: &str, names_events: bool) -> String {
        match exec_line(line.as_bytes(), "o-1", names_events) {
            ExecLine::Reply { reply, has_id } => {
                format!("{}{}", shown(reply), if has_id { " (named)" } else { "" })
            }
            ExecLine::Unreadable(failure) => format!("unreadable: {failure}"),
            ExecLine::NoReply(why) => format!("no reply: {why}"),
        }
    }

    #[test]
    fn an_exec_reply_says_done_with_what_or_why_not() {
        let lines = [
            r#"{"ok":true}"#,
            r#"{"id":"o-1","ok":true}"#,
            r#"{"id":"o\u002d1","ok":true,"outputs":[]}"#,
            r#"{"ok":true,"outputs":[{"a":1.10}, "text"]}"#,
            r#"{"error":{}}"#,
            r#"{"error":{"class":"OutOfStock","message":"none left","retry":"reject"}}"#,
            r#"{"id":"o-1","error":{"message":"busy","retry":"defer","after":"2s"}}"#,
            r#"{"error":{"class":"a b","message":"x","retry":"retry","after":"1m"}}"#,
            r#"{"id":"o-1","error":{"retry":"maybe"}}"#,
            r#"{"id":"o-1","error":{"after":"2"}}"#,
            r#"{"id":"o-1","ok":false}"#,
            r#"{"id":"o-1","ok":true,"error":{"message":"both"}}"#,
        ];
        let line = |line: &str| format!("{line}\n    {}\n", heard(line, false));
        expect![[r#"
            {"ok":true}
                Pass
            {"id":"o-1","ok":true}
                Pass (named)
            {"id":"o\u002d1","ok":true,"outputs":[]}
                Replace([]) (named)
            {"ok":true,"outputs":[{"a":1.10}, "text"]}
                Replace([b"{\"a\":1.10}", b"\"text\""])
            {"error":{}}
                Retry { after: None } HandlerError: the handler gave no message
            {"error":{"class":"OutOfStock","message":"none left","retry":"reject"}}
                Reject OutOfStock: none left
            {"id":"o-1","error":{"message":"busy","retry":"defer","after":"2s"}}
                Defer { after: Some(2s) } HandlerError: busy (named)
            {"error":{"class":"a b","message":"x","retry":"retry","after":"1m"}}
                Retry { after: Some(60s) } HandlerError: x
            {"id":"o-1","error":{"retry":"maybe"}}
                unreadable: HandlerError: cannot read the handler's reply (unknown variant `maybe`, expected one of `retry`, `reject`, `defer`): {"id":"o-1","error":{"retry":"maybe"}}
            {"id":"o-1","error":{"after":"2"}}
                unreadable: HandlerError: cannot read the handler's reply (expected a duration with its unit, such as "30s", "250ms" or "1h30m", got "2"): {"id":"o-1","error":{"after":"2"}}
            {"id":"o-1","ok":false}
                unreadable: HandlerError: cannot read the handler's reply (neither "ok": true nor "error"): {"id":"o-1","ok":false}
            {"id":"o-1","ok":true,"error":{"message":"both"}}
                unreadable: HandlerError: cannot read the handler's reply (it has both "ok" and "error"): {"id":"o-1","ok":true,"error":{"message":"both"}}
        "#]].assert_eq(&lines.map(line).concat());
    }

    #[test]
    fn what_a_program_logs_is_never_its_reply() {
        let lines = [
            r#"{"level":"warn","msg":"cache miss","error":"redis: nil"}"#,
            r#"{"level":"warn","id":"o-1","error":{"message":"x"}}"#,
            r#"{"level":"info","ok":true}"#,
            r#"{"ok":true,"took":3}"#,
            r#"{"error":"redis: nil"}"#,
            r#"{"error":{"errno":111}}"#,
            r#"{"id":"o-2","ok":true}"#,
            r#"{"id":1,"ok":true}"#,
            r#"{"ok":false}"#,
            r#"{"ok":"true"}"#,
            r#"{"id":"o-1"}"#,
            r#"{"ok":true,"outputs":1}"#,
            "{}",
            "[]",
            "Traceback (most recent call last):\u{1b}[0m",
            "",
        ];
        let line = |line: &str| format!("{}\n    {}\n", excerpt(line, 100), heard(line, false));
        expect![[r#"
            {"level":"warn","msg":"cache miss","error":"redis: nil"}
                no reply: a reply has no key "level"
            {"level":"warn","id":"o-1","error":{"message":"x"}}
                no reply: a reply has no key "level"
            {"level":"info","ok":true}
                no reply: a reply has no key "level"
            {"ok":true,"took":3}
                no reply: a reply has no key "took"
            {"error":"redis: nil"}
                no reply: its "error" is no object
            {"error":{"errno":111}}
                no reply: unknown field `errno`, expected one of `class`, `message`, `retry`, `after`
            {"id":"o-2","ok":true}
                no reply: its "id" is not that of the event
            {"id":1,"ok":true}
                no reply: its "id" is not that of the event
            {"ok":false}
                no reply: neither "ok": true nor "error"
            {"ok":"true"}
                no reply: neither "ok": true nor "error"
            {"id":"o-1"}
                no reply: neither "ok": true nor "error"
            {"ok":true,"outputs":1}
                no reply: its "outputs" are no array
            {}
                no reply: neither "ok": true nor "error"
            []
                no reply: it is no JSON object
            Traceback (most recent call last): [0m
                no reply: it is no JSON object

                no reply: it is no JSON object
        "#]].assert_eq(&lines.map(line).concat());
        assert_eq!(
            heard(r#"{"ok":true}"#, true),
            "no reply: it has no \"id\", unlike replies before"
        );
        for unasked in [r#"{"ok":true}"#, r#"{"id":"o-0","ok":true}"#, r#"{"error":{}}"#] {
            assert!(is_exec_reply(unasked.as_bytes()), "{unasked}");
        }
        assert!(lines.iter().all(|line| {
            !is_exec_reply(line.as_bytes()) || line.contains("o-2") || line.contains(":1,")
        }));
    }
}

//! Kind `handle`: gives each event to a handler, and makes events of its reply.

use std::{sync::Arc, time::Duration};

use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Map as Table, Value};

use crate::{
    Build, Delivery, Emits, Event, Failure, Handler, Kind, Map, Pending, Problem, Reply, World,
    event::OUTPUTS_MAX,
    failure::class,
    jq::{Fault, Filter},
    units::Period,
};

/// The kind's line in [`crate::KINDS`].
pub const KIND: Kind = Kind {
    name: "handle",
    about: "gives each event to a handler: HTTP, a NATS service, a child process, jq, Rust",
    options: || schemars::schema_for!(Options),
    build: Build::Map(build),
    emits: Emits::Events,
    concurrency: 64,
    calls_out: true,
    checks_only: false,
    tallies: &[],
    follows: &[],
};

/// Time limit of a handler whose table sets none.
pub const TIMEOUT: Duration = Duration::from_secs(30);

/// The keys of a `handle` stage.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The call made with each event, and its time limit, `timeout` (30 s by default).
    handler: Table<String, Value>,
    /// A jq filter over the event. Only events it is true for are handled; any other ends here,
    /// acked, and nothing passes on, as if `types` had left it out.
    when: Option<String>,
}

/// A `handle` stage.
struct Handle {
    handler: Arc<dyn Handler>,
    when: Option<Arc<Filter>>,
    timeout: Duration,
}

fn build(options: &Value, world: &dyn World) -> Result<Box<dyn Map>, Vec<Problem>> {
    let options = Options::deserialize(options)
        .map_err(|error| vec![Problem::new(&[], error.to_string())])?;
    let mut problems = Vec::new();
    let timeout = options.handler.get("timeout").map_or(Ok(Period(TIMEOUT)), Period::deserialize);
    let timeout = timeout.unwrap_or_else(|error| {
        problems.push(Problem::new(&["handler", "timeout"], error.to_string()));
        Period(TIMEOUT)
    });
    if timeout.0.is_zero() {
        let problem = Problem::new(&["handler", "timeout"], "a handler needs more time than none");
        problems.push(problem.hint("write how long one call may take, such as \"30s\""));
    }
    let when =
        options.when.map(|text| Filter::compile(&text).map(Arc::new)).transpose().unwrap_or_else(
            |error| {
                let problem = Problem::new(
                    &["when"],
                    format!("not a jq filter: {error} (at character {})", error.offset + 1),
                );
                problems.push(
                    problem.hint("a filter reads the whole event, such as '.eventData.amount > 0'"),
                );
                None
            },
        );
    match world.handler(&Value::Object(options.handler)) {
        Ok(handler) if problems.is_empty() => {
            return Ok(Box::new(Handle { handler, when, timeout: timeout.0 }));
        }
        Ok(_) => {}
        Err(found) => problems.extend(found.into_iter().map(|mut problem| {
            problem.at.insert(0, "handler".to_owned());
            problem
        })),
    }
    Err(problems)
}

/// Failure of an event of which a filter does not say if it is for the stage.
pub fn undecided(fault: &Fault) -> Failure {
    Failure::reject(class::CONDITION, format!("when cannot be decided: {fault}"))
}

impl Map for Handle {
    fn when(&self) -> Option<&Arc<Filter>> {
        self.when.as_ref()
    }

    fn apply<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Vec<Event>> {
        Box::pin(async move {
            match self.handler.call(event, delivery).await? {
                Reply::Pass => Ok(vec![event.clone()]),
                Reply::Replace(bodies) if bodies.len() > OUTPUTS_MAX => Err(Failure::retry(
                    class::HANDLER,
                    format!("the handler gave {} outputs, more than {OUTPUTS_MAX}", bodies.len()),
                )),
                Reply::Replace(bodies) => {
                    bodies.into_iter().zip(1..).map(|(body, n)| event.derive(body, n)).collect()
                }
            }
        })
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Envelope,
        envelope::{Carrier, decode},
        jq::{Bounds, Stop},
        testing::{Memory, answer, delivery, map_stage},
    };
    use bytes::Bytes;
    use expect_test::{Expect, expect};
    use serde_json::json;

    /// Handler that always gives this answer.
    struct Always(Result<Reply, Failure>);

    impl Handler for Always {
        fn call<'a>(&'a self, _: &'a Event, _: &'a Delivery) -> Pending<'a, Reply> {
            Box::pin(std::future::ready(self.0.clone()))
        }
    }

    #[track_caller]
    fn check(options: &Value, reply: Result<Reply, Failure>, expect: Expect) {
        let world = Memory { handler: Some(Arc::new(Always(reply))), ..Memory::default() };
        let stage = map_stage(&KIND, options, &world).unwrap();
        let body = r#"{"eventId":"e1","eventType":"order.created","tenantId":"acme","eventData":{"amount":3}}"#;
        let carrier = Carrier { subject: "events.orders", message_id: None, fallback_id: "in:1" };
        let event = decode(Envelope::Domain, body.into(), &carrier).unwrap();
        let delivery = delivery();
        let line = |event: &Event| {
            format!("{} {} {}\n", event.id, event.event_type, String::from_utf8_lossy(&event.body))
        };
        let taken = stage.when().map_or(Ok(true), |when| {
            when.truthy(&event, &Bounds::FULL, &Stop::default()).map_err(|fault| undecided(&fault))
        });
        let answered = taken.and_then(|taken| match taken {
            true => answer(stage.apply(&event, &delivery)),
            false => Ok(Vec::new()),
        });
        let text = match answered {
            Ok(events) if events.is_empty() => "nothing passes on\n".to_owned(),
            Ok(events) => events.iter().map(line).collect(),
            Err(failure) => format!("{:?} {failure}\n", failure.disposition),
        };
        expect.assert_eq(&text);
    }

    #[test]
    fn a_reply_passes_the_event_on_or_others_in_its_place() {
        let options = json!({ "handler": { "log": true } });
        check(
            &options,
            Ok(Reply::Pass),
            expect![[r#"
            e1 order.created {"eventId":"e1","eventType":"order.created","tenantId":"acme","eventData":{"amount":3}}
        "#]],
        );
        check(
            &options,
            Ok(Reply::Replace(vec![])),
            expect![[r#"
            nothing passes on
        "#]],
        );
        let bodies =
            [r#"{"eventId":"e2","eventType":"order.paid","eventData":1}"#, r#"{"total":4}"#, "5"];
        check(
            &options,
            Ok(Reply::Replace(bodies.map(Bytes::from).into())),
            expect![[r#"
            e2 order.paid {"eventId":"e2","eventType":"order.paid","eventData":1}
            e1/2 order.created {"total":4}
            e1/3 order.created 5
        "#]],
        );
        check(
            &options,
            Ok(Reply::Replace(vec![Bytes::from_static(b"1"), Bytes::new()])),
            expect![[r#"
            Retry { after: None } HandlerError: output 2 of the handler cannot be read: the payload is empty
        "#]],
        );
        check(
            &options,
            Ok(Reply::Replace(vec![Bytes::from_static(b"1"); OUTPUTS_MAX + 1])),
            expect![[r#"
            Retry { after: None } HandlerError: the handler gave 1001 outputs, more than 1000
        "#]],
        );
        check(
            &options,
            Err(Failure::retry("TimeoutError", "no answer in 5s")),
            expect![[r#"
            Retry { after: None } TimeoutError: no answer in 5s
        "#]],
        );
    }

    #[test]
    fn only_events_that_when_is_true_for_are_handled() {
        let when = |filter: &str| json!({ "handler": { "log": true }, "when": filter });
        check(
            &when(".eventData.amount > 2"),
            Ok(Reply::Pass),
            expect![[r#"
            e1 order.created {"eventId":"e1","eventType":"order.created","tenantId":"acme","eventData":{"amount":3}}
        "#]],
        );
        check(
            &when(".eventData.amount > 3"),
            Ok(Reply::Pass),
            expect![[r#"
            nothing passes on
        "#]],
        );
        check(
            &when(".eventId.amount > 3"),
            Ok(Reply::Pass),
            expect![[r#"
            Reject ConditionError: when cannot be decided: cannot index "e1" with "amount"
        "#]],
        );
    }

    #[test]
    fn every_problem_of_a_stage_is_reported_with_its_key() {
        let problems =
            |options: &Value| map_stage(&KIND, options, &Memory::default()).err().unwrap();
        expect![[r#"
            handler.timeout: expected a duration with its unit, such as "30s", "250ms" or "1h30m", got "5"
            when: not a jq filter: there is no function "lenght" (write ".lenght" for a key) (at character 6)
             hint: a filter reads the whole event, such as '.eventData.amount > 0'
            handler.http: is not a URL
        "#]]
        .assert_eq(&problems(&json!({ "handler": { "timeout": "5" }, "when": ".a | lenght" })));
        expect![[r#"
            handler.timeout: a handler needs more time than none
             hint: write how long one call may take, such as "30s"
            handler.http: is not a URL
        "#]]
        .assert_eq(&problems(&json!({ "handler": { "timeout": "0s" } })));
        expect![[r#"
            : missing field `handler`
        "#]]
        .assert_eq(&problems(&json!({ "when": "." })));
    }

    #[test]
    fn the_timeout_is_the_handlers_own_or_thirty_seconds() {
        let world =
            Memory { handler: Some(Arc::new(Always(Ok(Reply::Pass)))), ..Memory::default() };
        let timeout = |handler: Value| {
            map_stage(&KIND, &json!({ "handler": handler }), &world).unwrap().timeout()
        };
        assert_eq!(timeout(json!({ "timeout": "5s" })), Some(Duration::from_secs(5)));
        assert_eq!(timeout(json!({})), Some(Duration::from_secs(30)));
    }
}

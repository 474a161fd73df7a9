//! NATS handler: a NATS service that is sent each event as a request; its answer is the outcome.

use std::{sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Event, Failure, Handler, Pending, Problem, Reply, failure::class, headers, replies,
    units::Period,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{HandlerContext, HandlerKind, Output, idempotency_key, options};
use crate::broker::{Answer, Broker, Headers, RequestError, header};

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "nats",
    about: "sends the event as a request to a NATS service; \
            its error headers decide what becomes of it.",
    options: options::schema_of::<Options>,
    build,
};

/// Sends each event, its original bytes, as a request to a NATS service.
///
/// An answer without error headers: done. `Nats-Service-Error-Code` is read as an HTTP status: 400
/// rejects, 429 and 500 are retried. Nobody listening on the subject: deferred as
/// `ConnectionError`, which costs the event no attempt. No answer in time: retried as
/// `TimeoutError`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The subject the service listens on.
    nats: String,
    /// Time limit of a call.
    #[serde(default = "options::default_timeout")]
    timeout: Period,
    /// Output of the stage: the event, or the service's reply in its place.
    #[serde(default)]
    output: Output,
}

struct Nats {
    /// Broker; `None` where the handler is only checked, never called.
    broker: Option<Broker>,
    subject: String,
    timeout: Duration,
    output: Output,
}

fn build(options: &Value, context: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let Options { nats: subject, timeout, output } = options::read(options)?;
    let one_subject = |token: &str| {
        !token.is_empty()
            && !token
                .contains(|c: char| c.is_whitespace() || c.is_control() || matches!(c, '*' | '>'))
    };
    if !subject.split('.').all(one_subject) {
        let problem = Problem::new(
            &["nats"],
            format!("\"{subject}\" is not a subject that a request can be sent to"),
        );
        return Err(vec![problem.hint("write one without wildcards, such as \"orders.enrich\"")]);
    }
    Ok(Arc::new(Nats { broker: context.broker.clone(), subject, timeout: timeout.0, output }))
}

impl Handler for Nats {
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let broker =
                self.broker.as_ref().expect("a handler built without a broker is never called");
            let request = broker.request(
                &self.subject,
                request_headers(event, delivery),
                event.body.clone(),
                self.timeout,
            );
            meaning(request.await.map_err(no_answer)?, self.output)
        })
    }
}

fn request_headers(event: &Event, delivery: &Delivery) -> Headers {
    let mut sent = Headers::new();
    sent.insert(headers::EVENT_ID, header(&event.id));
    sent.insert(headers::EVENT_TYPE, header(&event.event_type));
    sent.insert(headers::ENVELOPE, event.envelope.as_str());
    sent.insert("Millstream-Attempt", delivery.attempt.to_string());
    sent.insert("Idempotency-Key", header(&idempotency_key(event, delivery)));
    if let Some(traceparent) = &delivery.traceparent {
        sent.insert(headers::TRACEPARENT, header(traceparent));
    }
    sent
}

/// Outcome that an answer means.
fn meaning(answer: Answer, output: Output) -> Result<Reply, Failure> {
    let text = |name: &str| answer.headers.get(name).map(|value| value.as_str());
    match (text(replies::SERVICE_ERROR_CODE), text(replies::SERVICE_ERROR)) {
        (None, None) => output.reply(&answer.body),
        (code, error) => {
            Err(replies::service_error(code.unwrap_or_default(), error.unwrap_or_default()))
        }
    }
}

fn no_answer(error: RequestError) -> Failure {
    if let Some(refusal) = error.refusal() {
        // Nobody was asked: someone has to grant it, and the event is not to blame.
        return Failure::defer(class::CONNECTION, refusal.to_string());
    }
    match &error {
        RequestError::NoResponders { .. } => Failure::defer(class::CONNECTION, error.to_string()),
        RequestError::TimedOut { .. } => Failure::retry(class::TIMEOUT, error.to_string()),
        RequestError::TooLarge { .. } => Failure::reject(class::VALIDATION, error.to_string()),
        RequestError::Malformed { .. } => Failure::retry(class::HANDLER, error.to_string()),
        RequestError::Failed { source, .. } => Failure::retry(
            class::CONNECTION,
            format!("{error}: {}", headers::clean(&source.to_string())),
        ),
    }
}

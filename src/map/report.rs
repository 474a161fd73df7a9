//! Report: the error event of a failed attempt, on the stream that incidents are made from.

use std::time::{Duration, SystemTime};

use millstream_stages::{Event, Failure, headers};
use serde_json::json;

use super::{Stage, delivery::until_stored, record::Spent};
use crate::{
    broker::{Expects, Headers, Outgoing},
    dead_letter::{Origin, letter::rfc3339},
    limits,
};

/// One failed attempt.
pub(super) struct Report<'a> {
    /// The stage that failed; in a line not always the one that was delivered to.
    pub(super) stage: &'a str,
    /// What went wrong.
    pub(super) failure: &'a Failure,
    /// What becomes of it: `retry`, `park`, `defer`, or the reason of the dead letter.
    pub(super) outcome: &'a str,
    /// When it comes back, from now.
    pub(super) wait: Option<Duration>,
    /// Which handing-over it was: `<stream>:<seq>:<deliveries>`. (Deferred attempts repeat their number, this does not.)
    pub(super) delivery_id: &'a str,
    /// The number of the attempt.
    pub(super) attempt: u32,
    /// Attempts spent, this one included where it counts.
    pub(super) spent: Spent,
    /// Where the event comes from.
    pub(super) origin: &'a Origin,
    /// The event, if its payload could be read.
    pub(super) event: Option<&'a Event>,
    /// The trace it belongs to.
    pub(super) traceparent: Option<&'a str>,
}

/// Publishes the error event and waits until it is stored: counts are made from it, so it comes before the settlement.
///
/// Its id names the delivery. A publish that is repeated because its answer was lost is dropped by the server.
pub(super) async fn publish(stage: &Stage, report: &Report<'_>) {
    let message = cut(&report.failure.message, limits::ERROR_TEXT_BYTES_MAX);
    let pipeline = stage.names.pipeline();
    let body = json!({
        "errorCode": report.failure.class,
        "severity": if report.wait.is_some() { "low" } else { "medium" },
        "message": message,
        "serviceName": format!("{pipeline}/{}", report.stage),
        "timestamp": rfc3339(SystemTime::now()),
        "metadata": {
            "eventId": report.event.map(|event| &event.id),
            "eventType": report.event.map(|event| &event.event_type),
            "tenantId": report.event.and_then(|event| event.tenant.as_ref()),
            "stage": report.stage,
            "attempt": report.attempt,
            "outcome": report.outcome,
            "waitMs": report.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            "source": report.origin.source.to_string(),
        },
    });
    let id = format!("{}:{}", report.delivery_id, report.stage);
    let mut all = Headers::new();
    all.insert(headers::EVENT_ID, id.as_str());
    all.insert(headers::EVENT_TYPE, crate::broker::header(&report.failure.class));
    all.insert(headers::ENVELOPE, "error");
    crate::broker::set(&mut all, headers::ATTEMPTS, u64::from(report.spent.attempts));
    all.insert(headers::OUTCOME, report.outcome);
    if let Some(at) = report.spent.first_failed_at {
        all.insert(headers::FIRST_FAILED_AT, rfc3339(at));
    }
    report.origin.write_source(&mut all);
    if let Some(traceparent) = report.traceparent {
        all.insert(headers::TRACEPARENT, crate::broker::header(traceparent));
    }
    let subject = stage.names.failed_subject(
        report.stage,
        &headers::clean(&report.failure.class),
        report.origin.source.parts(),
        report.origin.life.parts(),
    );
    let outgoing =
        Outgoing { subject, headers: all, body: body.to_string().into(), expects: Expects::Anything }.id(&id);
    if let Err(error) = until_stored(report.stage, || stage.broker.publish(outgoing.clone())).await {
        tracing::error!(stage = report.stage, error = %error, "could not report a failed attempt");
    }
}

/// At most `bytes_max` bytes of `text`, as it is: a JSON string may hold any character.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

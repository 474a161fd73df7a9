//! Record: what became of the delivery before this one, by the error event it left behind.
//!
//! Attempts are counted from what is on record, never from how often the server handed an event out: it counts a delivery
//! that only waited in a worker which died of another event, and one that was given back unhandled.

use std::time::{Duration, SystemTime};

use millstream_stages::{Failure, headers, settle::Reason};
use serde::Deserialize;

use super::{Stage, decode::Arrival};
use crate::{
    broker::{Delivered, StoredMessage, get},
    dead_letter::letter::parse_rfc3339,
    limits,
};

/// What is known of a life of an event before this delivery.
#[derive(Debug)]
pub(super) enum Past {
    /// Every delivery is accounted for.
    Known(Spent),
    /// The one before was decided, and its worker died before all of it was done.
    Decided(Spent, Decision),
    /// Nobody knows what became of the one before: whoever had it died, hung, or lost the broker.
    Unknown(Spent),
}

/// What an event has behind it at a stage.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Spent {
    /// Attempts on record.
    pub(super) attempts: u32,
    /// When the first of them failed.
    pub(super) first_failed_at: Option<SystemTime>,
}

/// What was decided of a delivery.
#[derive(Debug)]
pub(super) enum Decision {
    /// It comes back to the stage after this wait.
    Return(Duration),
    /// It is given up on.
    GiveUp(Reason, Failure),
}

/// The part of an error event that says what was decided.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    error_code: String,
    message: String,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata {
    wait_ms: Option<u64>,
}

/// Which handing-over it is: `<stream>:<seq>:<deliveries>`.
pub(super) fn delivery_id(delivered: &Delivered) -> String {
    format!("{}:{}:{}", delivered.stream, delivered.seq, delivered.deliveries)
}

/// Looks up what became of the delivery before this one. The first delivery has none.
///
/// A broker that does not answer holds the event back.
pub(super) async fn past(stage: &Stage, arrival: &Arrival, delivered: &Delivered) -> Past {
    let origin = &arrival.origin;
    let carried = Spent { attempts: origin.attempts_spent, first_failed_at: origin.first_failed_at };
    if delivered.deliveries <= 1 {
        return Past::Known(carried);
    }
    let mut last: Option<StoredMessage> = None;
    for name in stage.line.names() {
        let filter = stage.names.failed_in_life(name, origin.source.parts(), origin.life.parts());
        let found = until_answered(stage, &filter).await;
        last = [last, found].into_iter().flatten().max_by_key(|message| message.seq);
    }
    let Some(last) = last else { return Past::Unknown(carried) };
    let header = |name| get(&last.headers, name);
    let spent = Spent {
        attempts: header(headers::ATTEMPTS).and_then(|n| n.parse().ok()).unwrap_or(0).max(carried.attempts),
        first_failed_at: header(headers::FIRST_FAILED_AT).and_then(parse_rfc3339).or(carried.first_failed_at),
    };
    let id = header(headers::MSG_ID).unwrap_or_default();
    let here = format!("{}:{}:", delivered.stream, delivered.seq);
    let Some(rest) = id.strip_prefix(&here) else { return Past::Unknown(spent) };
    match decision(header(headers::OUTCOME).unwrap_or_default(), &last.body) {
        // However often it was handed out since: nobody ran it again.
        Some(decision) => Past::Decided(spent, decision),
        None if rest.starts_with(&format!("{}:", delivered.deliveries - 1)) => Past::Known(spent),
        None => Past::Unknown(spent),
    }
}

/// What an error event says was decided, if that is not to hand the event out again.
fn decision(outcome: &str, body: &[u8]) -> Option<Decision> {
    let told: Told = serde_json::from_slice(body).ok()?;
    if outcome == "park" || outcome == "defer" {
        return Some(Decision::Return(Duration::from_millis(told.metadata.wait_ms.unwrap_or(0))));
    }
    let reason = Reason::named(outcome)?;
    Some(Decision::GiveUp(reason, Failure::reject(told.error_code, told.message)))
}

async fn until_answered(stage: &Stage, filter: &str) -> Option<StoredMessage> {
    loop {
        match stage.broker.last_on_subject(&stage.names.failed_stream(), filter).await {
            Ok(found) => return found,
            Err(error) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string);
                tracing::warn!(stage = stage.line.name(), error = %error, cause, "could not look up an earlier attempt; holding the event and trying again");
                tokio::time::sleep(limits::PUBLISH_AGAIN_AFTER).await;
            }
        }
    }
}

//! Prior delivery: outcome of the delivery before this one, read from its error event.
//!
//! Attempts are counted from what is on record, never from the server's count of deliveries: it
//! counts a delivery that only waited in a worker which died of another event, and one that was
//! given back unhandled.

use std::time::Duration;

use millstream_stages::{Failure, settle::Reason};

use super::{decode::Arrival, stage::MapStage};
use crate::{
    broker::Delivered,
    error_chain::causes_of,
    limits,
    wire::{
        Place,
        attempt_record::{AttemptRecord, Spent},
    },
};

/// Prior state of a life of an event, as far as it is on record.
#[derive(Debug)]
pub(super) enum Prior {
    /// Every delivery is accounted for.
    Known(Spent),
    /// The one before was decided, and its worker died before all of it was done.
    Decided(Spent, Decision),
    /// The one before has no known outcome: whoever had it died, hung, or lost the broker.
    Unknown(Spent),
}

/// Decision on a delivery.
#[derive(Debug)]
pub(super) enum Decision {
    /// Back to the stage after this wait.
    Return(Duration),
    /// Given up on.
    GiveUp(Reason, Failure),
}

/// Id of a delivery: `<place>:<deliveries>`.
pub(super) fn delivery_id(delivered: &Delivered) -> String {
    format!("{}:{}", Place::of(delivered), delivered.deliveries)
}

/// Looks up the outcome of the delivery before this one. The first delivery has none.
///
/// A broker that does not answer holds the event back.
pub(super) async fn look_up(stage: &MapStage, arrival: &Arrival, delivered: &Delivered) -> Prior {
    let carried = Spent {
        attempts: arrival.origin.attempts_spent,
        first_failed_at: arrival.origin.first_failed_at,
    };
    if delivered.deliveries <= 1 {
        return Prior::Known(carried);
    }
    let Some(record) = last_record(stage, arrival, delivered).await else {
        return Prior::Unknown(carried);
    };
    let spent = Spent {
        attempts: record.spent.attempts.max(carried.attempts),
        first_failed_at: record.spent.first_failed_at.or(carried.first_failed_at),
    };
    let Some(deliveries) = record.delivery_of(&Place::of(delivered)) else {
        return Prior::Unknown(spent);
    };
    // However often it was delivered since: nobody ran it again.
    if record.comes_back() {
        return Prior::Decided(spent, Decision::Return(record.wait));
    }
    if let Some(reason) = Reason::named(&record.outcome) {
        return Prior::Decided(
            spent,
            Decision::GiveUp(reason, Failure::reject(record.class, record.message)),
        );
    }
    match deliveries.starts_with(&format!("{}:", delivered.deliveries - 1)) {
        true => Prior::Known(spent),
        false => Prior::Unknown(spent),
    }
}

async fn last_record(
    stage: &MapStage,
    arrival: &Arrival,
    delivered: &Delivered,
) -> Option<AttemptRecord> {
    let (line, since) = (stage.line.names(), delivered.stored_at);
    loop {
        match AttemptRecord::last(&stage.broker, &stage.names, &line, &arrival.origin, since).await
        {
            Ok(found) => return found,
            Err(error) => {
                let cause = causes_of(&error);
                tracing::warn!(
                    stage = stage.line.name(),
                    error = %error,
                    cause,
                    "could not look up an earlier attempt; holding the event and trying again"
                );
                tokio::time::sleep(limits::PUBLISH_AGAIN_AFTER).await;
            }
        }
    }
}

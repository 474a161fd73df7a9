//! Apart: an event whose attempts were spent without a settlement runs again by itself, before it is called the killer.
//!
//! The server counts a delivery that only waited in a worker which died of another event. All that was in hand comes
//! again at the same time, and dies again with the event that does it. So each is parked for a while of its own and
//! runs once more, up to [`limits::CHANCES`] times; what still is not settled then kills workers itself.

use std::{
    hash::{DefaultHasher, Hash as _, Hasher as _},
    time::Duration,
};

use super::{Carries, Stage, decode, decode::Arrival, park::park};
use crate::{
    broker::{Delivered, header},
    limits,
};

/// The attempts to write down if the event is to be set apart: its attempts are spent, its last was never settled, and it
/// has a chance left. Where the policy allows one attempt only there is no second one.
pub(super) fn due(stage: &Stage, arrival: &Arrival, delivered: &Delivered) -> Option<u32> {
    let attempts_max = stage.line.policy().attempts_max();
    if attempts_max == 1 || arrival.attempt <= attempts_max {
        return None;
    }
    if arrival.origin.attempts_spent < attempts_max {
        // The first time. It may have been handed out several times since, to workers that died before they saw it.
        return Some(attempts_max);
    }
    let spent = arrival.attempt - 1;
    (delivered.deliveries > 1 && spent < attempts_max + limits::CHANCES).then_some(spent)
}

/// Whether every attempt and every chance is spent: it is given up on unexecuted.
pub(super) fn is_over(stage: &Stage, arrival: &Arrival) -> bool {
    let attempts_max = stage.line.policy().attempts_max();
    let chances = if attempts_max == 1 { 0 } else { limits::CHANCES };
    arrival.attempt > attempts_max + chances
}

/// Parks the event for a while of its own. Returns whether it is parked: what cannot be read, or does not fit with our
/// headers, takes its turn where it is.
pub(super) async fn set(stage: &Stage, carries: Carries, arrival: &Arrival, delivered: &Delivered, spent: u32) -> bool {
    let Ok(event) = decode::event(delivered, carries) else { return false };
    let mut hasher = DefaultHasher::new();
    (&arrival.origin.life.stream, arrival.origin.life.seq, spent).hash(&mut hasher);
    let spread = u64::try_from(limits::SET_APART_MAX.as_millis()).unwrap_or(u64::MAX);
    let wait = Duration::from_millis(hasher.finish() % spread);
    tracing::warn!(
        stage = stage.line.name(), event_id = %header(&event.id), source = %arrival.origin.source, attempt = arrival.attempt,
        "its last attempt was never settled; setting it apart"
    );
    park(stage, delivered, &event, &arrival.origin, spent, wait).await.is_ok()
}

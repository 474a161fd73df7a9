//! Completed late: mark on the letter of an event that completed although it was given up on.

use std::time::SystemTime;

use millstream_stages::headers;

use super::{amend, store};
use crate::{
    broker::{AdminError, Broker, PublishError, get},
    limits,
    wire::{Names, Place, rfc3339},
};

/// Failure to find or to mark the letter of a completed event.
#[derive(Debug, thiserror::Error)]
pub enum CompletedLateError {
    /// The dead-letter stream could not be read.
    #[error("could not look for a dead letter of a completed event")]
    Read(#[from] AdminError),
    /// The letter could not be changed. If it was a time-out, it may have been.
    #[error("could not mark the dead letter of a completed event")]
    Mark(#[from] PublishError),
}

/// Marks the letter of one life of an event at a stage, if there is one, as that of an event that
/// completed at `at`; true if this call did: a letter that is marked already is left as it is, so
/// that it is counted once.
///
/// For a late success: delivered more than once, or in flight for longer than the ack wait.
///
/// # Errors
/// [`CompletedLateError`]; calling it again does no harm.
pub async fn completed_late(
    broker: &Broker,
    names: &Names,
    stage: &str,
    life: &Place,
    at: SystemTime,
) -> Result<bool, CompletedLateError> {
    for _ in 0..limits::AMEND_TRIES {
        let Some(letter) = store::letter_of(broker, names, stage, life).await? else {
            return Ok(false);
        };
        if get(&letter.headers, headers::COMPLETED_AT).is_some() {
            return Ok(false);
        }
        if amend::mark(broker, &letter, headers::COMPLETED_AT, &rfc3339(at)).await?.is_some() {
            tracing::warn!(
                stage,
                letter = letter.seq,
                source = get(&letter.headers, headers::SOURCE),
                "an event completed although there is a dead letter of it; the letter says so now"
            );
            return Ok(true);
        }
    }
    // Others keep changing it: it is being redriven or edited, by people who look at it.
    Ok(false)
}

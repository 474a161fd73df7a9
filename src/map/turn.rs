//! Turn: wait of a delivery until it may be handled, or may no longer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{
    breaker::Pace,
    quarantine::{Entry, Place},
};

/// Conditions under which a delivery may be handled, and no longer.
pub(super) struct Turn {
    /// Slots: one permit per event in flight.
    pub(super) slots: Arc<Semaphore>,
    /// Pace at which the stage may pull; what has not begun when it stops goes back.
    pub(super) pace: watch::Receiver<Pace>,
    /// The feeds have ended: what has not begun goes back.
    pub(super) closed: CancellationToken,
    /// The worker ends: what is in flight is given back.
    pub(super) abandon: CancellationToken,
    /// Entry of a suspect into the company of those that run here.
    pub(super) entry: Option<Entry>,
}

/// Turn that has come: what it holds while the event runs.
pub(super) struct Come {
    /// Slot among those of the stage, until the delivery is settled.
    pub(super) slot: OwnedSemaphorePermit,
    /// Place of a suspect, until its handler is done.
    pub(super) place: Option<Place>,
}

impl Turn {
    /// Turn of another delivery, which is no suspect.
    pub(super) fn another(&self) -> Self {
        Self {
            slots: Arc::clone(&self.slots),
            pace: self.pace.clone(),
            closed: self.closed.clone(),
            abandon: self.abandon.clone(),
            entry: None,
        }
    }

    /// Waits for the turn; `None` if the delivery will not have one here.
    pub(super) async fn come(&mut self) -> Option<Come> {
        let slot = self.slot().await?;
        let Some(entry) = self.entry.take() else { return Some(Come { slot, place: None }) };
        let place = tokio::select! {
            biased;
            () = self.closed.cancelled() => return None,
            Ok(_) = self.pace.wait_for(|pace| *pace == Pace::Stopped) => return None,
            place = entry.enter() => place,
        };
        Some(Come { slot, place: Some(place) })
    }

    /// Waits for a slot.
    async fn slot(&mut self) -> Option<OwnedSemaphorePermit> {
        let free = !self.closed.is_cancelled() && *self.pace.borrow() != Pace::Stopped;
        if free && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            Ok(_) = self.pace.wait_for(|pace| *pace == Pace::Stopped) => None,
            slot = Arc::clone(&self.slots).acquire_owned() => {
                Some(slot.expect("the semaphore is never closed"))
            }
        }
    }
}

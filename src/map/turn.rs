//! Turn: wait of a delivery until it may be handled, or may no longer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::breaker::Pace;

/// Conditions under which a delivery may be handled, and no longer.
#[derive(Clone)]
pub(super) struct Turn {
    /// Slots: one permit per event in flight.
    pub(super) slots: Arc<Semaphore>,
    /// Pace at which the stage may pull; what has not begun when it stops goes back.
    pub(super) pace: watch::Receiver<Pace>,
    /// The feeds have ended: what has not begun goes back.
    pub(super) closed: CancellationToken,
    /// The worker ends: what is in flight is given back.
    pub(super) abandon: CancellationToken,
}

impl Turn {
    /// Waits for a slot; `None` if the delivery will not have one here.
    pub(super) async fn come(&mut self) -> Option<OwnedSemaphorePermit> {
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

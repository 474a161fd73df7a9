//! Turn: when a delivery may be handled, and when no longer.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::breaker::Pace;

/// When a delivery may be handled, and when no longer.
#[derive(Clone)]
pub(super) struct Turn {
    /// One permit per event in hand.
    pub(super) slots: Arc<Semaphore>,
    /// How fast the stage may pull; what has not begun when it stops goes back.
    pub(super) pace: watch::Receiver<Pace>,
    /// The feeds have ended: what has not begun goes back.
    pub(super) closed: CancellationToken,
    /// The worker ends: what is in hand is given back.
    pub(super) abandon: CancellationToken,
}

impl Turn {
    /// Waits for its turn; `None` if it will not have one here.
    pub(super) async fn come(&mut self) -> Option<OwnedSemaphorePermit> {
        let free = !self.closed.is_cancelled() && *self.pace.borrow() != Pace::Stopped;
        if free && let Ok(slot) = Arc::clone(&self.slots).try_acquire_owned() {
            return Some(slot);
        }
        tokio::select! {
            biased;
            () = self.closed.cancelled() => None,
            Ok(_) = self.pace.wait_for(|pace| *pace == Pace::Stopped) => None,
            slot = Arc::clone(&self.slots).acquire_owned() => Some(slot.expect("the semaphore is never closed")),
        }
    }
}

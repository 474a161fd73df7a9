//! Waiting: events that a worker leaves to wait in their consumer, after a nak, and how many.
//!
//! What waits there counts towards `max_ack_pending` of a consumer that the whole fleet shares: a
//! thousand that wait for a retry would leave no room for fresh events. Past its share a worker
//! parks them, however short the wait.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use crate::limits;

/// Events of a stage that wait in its consumers by the doing of this worker.
#[derive(Debug)]
pub struct Waiting {
    /// Time at which each comes back, the first on top.
    due: Mutex<BinaryHeap<Reverse<Instant>>>,
    /// The least `max_ack_pending` of the stage's consumers.
    pending_max: AtomicU64,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { due: Mutex::default(), pending_max: AtomicU64::new(u64::MAX) }
    }
}

impl Waiting {
    /// Notes the `max_ack_pending` of a consumer of the stage, as the server granted it.
    pub(super) fn granted(&self, pending_max: u64) {
        self.pending_max.fetch_min(pending_max, Ordering::Relaxed);
    }

    /// Takes a place for an event that comes back after `wait`; false if there is none, with so
    /// many workers in the fleet.
    pub(super) fn take(&self, wait: Duration, workers: u64) -> bool {
        self.take_at(Instant::now(), wait, workers)
    }

    fn take_at(&self, now: Instant, wait: Duration, workers: u64) -> bool {
        let most = self.pending_max.load(Ordering::Relaxed) / limits::WAITING_SHARE;
        let most = usize::try_from(most / workers.max(1)).unwrap_or(usize::MAX);
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        while due.peek().is_some_and(|Reverse(at)| *at <= now) {
            due.pop();
        }
        let has_room = due.len() < most;
        if has_room {
            due.push(Reverse(now + wait));
        }
        has_room
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_worker_leaves_its_share_to_wait_and_no_more_until_some_are_due() {
        let (waiting, now) = (Waiting::default(), Instant::now());
        waiting.granted(1000);
        waiting.granted(4000);
        let taken =
            |now, workers| (0..9999).take_while(|_| waiting.take_at(now, SECOND, workers)).count();
        assert_eq!(taken(now, 2), 125, "a quarter, shared by two");
        assert_eq!(taken(now + SECOND / 2, 2), 0);
        assert_eq!(taken(now + SECOND / 2, 1), 125, "the other one is gone");
        assert_eq!(taken(now + SECOND, 1), 125, "half of them are back");
        waiting.granted(3);
        assert!(!waiting.take_at(now + 9 * SECOND, SECOND, 1), "all are parked where few may wait");
    }
}

//! Budget: bytes that a worker's feeds may have on their way and waiting, in fair shares.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::Notify;

use crate::limits;

/// Bytes of one worker; each feed has an equal share.
#[derive(Debug, Clone, Default)]
pub(super) struct Budget(Arc<AtomicUsize>);

/// Share of one feed, for as long as it is open.
#[derive(Debug)]
pub(super) struct Share {
    feeds: Budget,
    waiting: Arc<Waiting>,
}

/// Bytes of one feed that have come and are not begun.
#[derive(Debug, Default)]
struct Waiting {
    bytes: AtomicUsize,
    /// True while the feed waits for room.
    wanted: AtomicBool,
    freed: Notify,
}

/// Bytes of one message that waits. They count until it begins or goes.
#[derive(Debug)]
pub(super) struct Held {
    bytes: AtomicUsize,
    waiting: Arc<Waiting>,
}

impl Budget {
    /// A share for one more feed.
    pub(super) fn share(&self) -> Share {
        self.0.fetch_add(1, Ordering::Relaxed);
        Share { feeds: self.clone(), waiting: Arc::default() }
    }
}

impl Share {
    /// Bytes that the feed may have on their way and waiting.
    pub(super) fn bytes(&self) -> usize {
        limits::IN_FLIGHT_BYTES_MAX / self.feeds.0.load(Ordering::Relaxed).max(1)
    }

    /// Bytes of it that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.bytes.load(Ordering::Relaxed)
    }

    /// Takes in a message that has come.
    pub(super) fn hold(&self, bytes: usize) -> Held {
        self.waiting.bytes.fetch_add(bytes, Ordering::Relaxed);
        Held { bytes: AtomicUsize::new(bytes), waiting: Arc::clone(&self.waiting) }
    }

    /// Asks to be told once there is more room.
    pub(super) fn want(&self) {
        self.waiting.wanted.store(true, Ordering::Release);
    }

    /// Resolves once there is more room than when it was wanted.
    pub(super) async fn freed(&self) {
        self.waiting.freed.notified().await;
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.feeds.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Held {
    /// The message begins, and waits no longer.
    pub(super) fn release(&self) {
        let bytes = self.bytes.swap(0, Ordering::Relaxed);
        if bytes > 0 {
            self.waiting.bytes.fetch_sub(bytes, Ordering::Release);
            if self.waiting.wanted.load(Ordering::Acquire)
                && self.waiting.wanted.swap(false, Ordering::AcqRel)
            {
                self.waiting.freed.notify_one();
            }
        }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.release();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn feeds_have_equal_shares_and_waiting_counts_until_it_begins() {
        let budget = Budget::default();
        let first = budget.share();
        assert_eq!(first.bytes(), limits::IN_FLIGHT_BYTES_MAX);
        let second = budget.share();
        assert_eq!(first.bytes(), limits::IN_FLIGHT_BYTES_MAX / 2);
        let (a, b) = (first.hold(10), first.hold(5));
        assert_eq!((first.waiting(), second.waiting()), (15, 0));
        a.release();
        a.release();
        drop(a);
        assert_eq!(first.waiting(), 5);
        drop((b, second));
        assert_eq!((first.waiting(), first.bytes()), (0, limits::IN_FLIGHT_BYTES_MAX));
    }
}

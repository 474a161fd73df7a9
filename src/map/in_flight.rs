//! In flight: deliveries of one worker over all of its stages, and the wait until there are none.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{Mutex, MutexGuard, Notify, watch};

/// Count of what one worker has in flight: deliveries that are not settled, and pulls that may
/// bring more.
#[derive(Debug)]
pub struct InFlight {
    held: AtomicUsize,
    emptied: Notify,
    quiet: watch::Sender<bool>,
    one: Mutex<()>,
}

/// Something in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold(Arc<InFlight>);

/// Guard: nothing else is in flight until it is dropped.
#[derive(Debug)]
pub(super) struct Isolated<'a> {
    in_flight: &'a InFlight,
    _one: MutexGuard<'a, ()>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            held: AtomicUsize::new(0),
            emptied: Notify::new(),
            quiet: watch::Sender::new(false),
            one: Mutex::new(()),
        }
    }
}

impl InFlight {
    /// Holds a pull, which may bring more, unless nothing may be pulled now.
    pub(super) fn try_hold(self: &Arc<Self>) -> Option<Hold> {
        // Whoever wants quiet writes it before looking at what is held, and cannot write it while
        // this looks at it.
        let quiet = self.quiet.borrow();
        (!*quiet).then(|| self.hold())
    }

    /// Holds something that came by something held.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.held.fetch_add(1, Ordering::AcqRel);
        Hold(Arc::clone(self))
    }

    /// True while nothing more may be pulled, now and from now on.
    pub(super) fn quiet(&self) -> watch::Receiver<bool> {
        self.quiet.subscribe()
    }

    /// Stops all pulling and waits until nothing is in flight.
    pub(super) async fn isolate(&self) -> Isolated<'_> {
        let one = self.one.lock().await;
        let isolated = Isolated { in_flight: self, _one: one };
        self.quiet.send_replace(true);
        loop {
            let emptied = self.emptied.notified();
            tokio::pin!(emptied);
            // Registered before the look, so that what is emptied in between is not missed.
            emptied.as_mut().enable();
            if self.held.load(Ordering::Acquire) == 0 {
                return isolated;
            }
            emptied.await;
        }
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Drop for Isolated<'_> {
    fn drop(&mut self) {
        self.in_flight.quiet.send_replace(false);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn isolation_waits_until_nothing_is_held_and_pulling_resumes_after_it() {
        let in_flight = Arc::new(InFlight::default());
        let (first, second) = (in_flight.hold(), in_flight.hold());
        let quiet = in_flight.quiet();
        let isolated = in_flight.isolate();
        tokio::pin!(isolated);
        assert!(futures_util::poll!(&mut isolated).is_pending() && *quiet.borrow());
        drop(first);
        assert!(futures_util::poll!(&mut isolated).is_pending());
        drop(second);
        let isolated = isolated.await;
        assert!(*quiet.borrow());
        drop(isolated);
        assert!(!*quiet.borrow());
    }

    #[tokio::test]
    async fn whoever_gives_up_waiting_for_isolation_leaves_the_others_to_their_work() {
        let in_flight = Arc::new(InFlight::default());
        let _held = in_flight.hold();
        let mut isolated = Box::pin(in_flight.isolate());
        assert!(futures_util::poll!(&mut isolated).is_pending());
        drop(isolated);
        assert!(!*in_flight.quiet().borrow());
    }
}

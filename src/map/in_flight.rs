//! In flight: deliveries of some stages of one worker, and the wait until there are none.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::sync::{Notify, watch};

/// Count of what some stages of one worker have in flight: deliveries that are not settled, and
/// pulls that may bring more.
#[derive(Debug)]
pub struct InFlight {
    held: AtomicUsize,
    emptied: Notify,
    /// Number of those who want quiet.
    quiet: watch::Sender<usize>,
}

/// Something in flight, until it is dropped.
#[derive(Debug)]
pub(super) struct Hold(Arc<InFlight>);

/// Guard: nothing more is pulled until it is dropped.
#[derive(Debug)]
pub(super) struct Quiet(Arc<InFlight>);

impl Default for InFlight {
    fn default() -> Self {
        Self { held: AtomicUsize::new(0), emptied: Notify::new(), quiet: watch::Sender::new(0) }
    }
}

impl InFlight {
    /// Holds a pull, which may bring more, unless nothing may be pulled now.
    pub(super) fn try_hold(self: &Arc<Self>) -> Option<Hold> {
        // Whoever wants quiet writes it before looking at what is held, and cannot write it while
        // this looks at it.
        let quiet = self.quiet.borrow();
        (*quiet == 0).then(|| self.hold())
    }

    /// Holds something that came by something held.
    pub(super) fn hold(self: &Arc<Self>) -> Hold {
        self.held.fetch_add(1, Ordering::AcqRel);
        Hold(Arc::clone(self))
    }

    /// Number of those who want that nothing more is pulled, now and from now on.
    pub(super) fn quiet(&self) -> watch::Receiver<usize> {
        self.quiet.subscribe()
    }

    /// Stops all pulling and waits until nothing is in flight, though no longer than `patience`:
    /// what never ends must not hold up others for ever.
    pub(super) async fn quieten(self: &Arc<Self>, patience: Duration) -> Quiet {
        self.quiet.send_modify(|wanted| *wanted += 1);
        let quiet = Quiet(Arc::clone(self));
        let emptied = async {
            loop {
                let emptied = self.emptied.notified();
                tokio::pin!(emptied);
                // Registered before the look, so that what is emptied in between is not missed.
                emptied.as_mut().enable();
                if self.held.load(Ordering::Acquire) == 0 {
                    return;
                }
                emptied.await;
            }
        };
        tokio::time::timeout(patience, emptied).await.ok();
        quiet
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if self.0.held.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.emptied.notify_waiters();
        }
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        self.0.quiet.send_modify(|wanted| *wanted -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    #[tokio::test]
    async fn quiet_comes_when_nothing_is_held_and_pulling_resumes_after_all_who_wanted_it() {
        let in_flight = Arc::new(InFlight::default());
        let (first, second) = (in_flight.hold(), in_flight.hold());
        let mut quiet = Box::pin(in_flight.quieten(LONG));
        assert!(futures_util::poll!(&mut quiet).is_pending() && in_flight.try_hold().is_none());
        drop(first);
        assert!(futures_util::poll!(&mut quiet).is_pending());
        drop(second);
        let (quiet, other) = (quiet.await, in_flight.quieten(LONG).await);
        drop(quiet);
        assert!(in_flight.try_hold().is_none());
        drop(other);
        assert!(in_flight.try_hold().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_gives_up_waiting_for_quiet_leaves_the_others_to_their_work() {
        let in_flight = Arc::new(InFlight::default());
        let _held = in_flight.hold();
        let mut quiet = Box::pin(in_flight.quieten(LONG));
        assert!(futures_util::poll!(&mut quiet).is_pending());
        drop(quiet);
        assert!(in_flight.try_hold().is_some());
        in_flight.quieten(LONG).await;
    }
}

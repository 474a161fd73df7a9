//! Quarantine: suspects, run among all else but beside few of their kind, and fewer each time.
//!
//! A suspect is an event whose last delivery has no known outcome, and that a worker may have died
//! of. Most are innocent: whoever kills a worker takes along all that it had in hand. So they go on
//! together, and fresh events beside them, and only if a worker dies once more is the circle drawn
//! closer: 16 share a worker the first time, 4 the second, and from the third on each is the only
//! suspect of its worker. A killer is alone in the end, and has taken nobody's attempts.
//!
//! The level is the number of deliveries of the quarantine's consumer, so that it outlives all who
//! ran them. What is delivered must therefore run: each stage pulls the next one only when the one
//! before has begun, and nothing while one of its own fills the worker.

use std::sync::Arc;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::in_flight::{InFlight, Quiet};
use crate::limits;

/// Company: suspects that run in one worker, over all of its stages.
#[derive(Debug)]
pub struct Company {
    places: Arc<Semaphore>,
    /// Events of the worker that have one attempt only: none of them is to be hit twice.
    fragile: Arc<InFlight>,
}

/// Entry of a suspect into the company, when its turn has come.
pub(super) struct Entry {
    company: Arc<Company>,
    deliveries: u32,
    /// Place of the one suspect of a stage that was delivered and has not begun.
    waits: Option<OwnedSemaphorePermit>,
}

/// Place of a suspect that runs.
pub(super) struct Place {
    _places: OwnedSemaphorePermit,
    _quiet: Option<Quiet>,
    _waits: Option<OwnedSemaphorePermit>,
}

impl Company {
    /// Company of a worker whose events of one attempt only are counted in `fragile`.
    pub fn new(fragile: Arc<InFlight>) -> Self {
        Self { places: Arc::new(Semaphore::new(limits::SUSPECTS_AT_ONCE)), fragile }
    }

    /// Entry of a suspect of this many deliveries, which has `waits` until it begins.
    pub(super) fn entry(
        self: &Arc<Self>,
        deliveries: u32,
        waits: Option<OwnedSemaphorePermit>,
    ) -> Entry {
        Entry { company: Arc::clone(self), deliveries, waits }
    }
}

impl Entry {
    /// Waits for a place. Nothing is taken where the future is dropped.
    pub(super) async fn enter(self) -> Place {
        let Self { company, deliveries, waits } = self;
        let places = Arc::clone(&company.places);
        let places = places.acquire_many_owned(weight(deliveries)).await;
        let places = places.expect("the semaphore is never closed");
        // A second death makes it likely that one of them is a killer.
        let quiet = match deliveries {
            0 | 1 => None,
            _ => Some(company.fragile.quieten(limits::FRAGILE_WAIT).await),
        };
        let waits = waits.filter(|_| company.places.available_permits() == 0);
        Place { _places: places, _quiet: quiet, _waits: waits }
    }
}

/// Places that a suspect takes up, of [`limits::SUSPECTS_AT_ONCE`].
fn weight(deliveries: u32) -> u32 {
    let all = u32::try_from(limits::SUSPECTS_AT_ONCE).unwrap_or(u32::MAX);
    match deliveries {
        0 | 1 => 1,
        2 => all / 4,
        _ => all,
    }
}

#[cfg(test)]
mod tests {
    use std::{future::Future, pin::Pin};

    use futures_util::poll;

    use super::*;

    type Entering = Pin<Box<dyn Future<Output = Place>>>;

    /// Lets suspects of these deliveries ask for a place in turn, and returns how many got one.
    async fn enter(company: &Arc<Company>, deliveries: &[u32]) -> (Vec<Place>, Vec<Entering>) {
        let (mut inside, mut outside) = (Vec::new(), Vec::new());
        for deliveries in deliveries {
            let mut entering: Entering = Box::pin(company.entry(*deliveries, None).enter());
            match poll!(&mut entering) {
                std::task::Poll::Ready(place) => inside.push(place),
                std::task::Poll::Pending => outside.push(entering),
            }
        }
        (inside, outside)
    }

    fn company() -> Arc<Company> {
        Arc::new(Company::new(Arc::default()))
    }

    #[tokio::test]
    async fn the_circle_is_drawn_closer_with_each_death() {
        for (deliveries, at_once) in [(1, 16), (2, 4), (3, 1), (4, 1), (5, 1)] {
            let (inside, outside) = enter(&company(), &[deliveries; 20]).await;
            assert_eq!((inside.len(), outside.len()), (at_once, 20 - at_once), "{deliveries}");
        }
    }

    #[tokio::test]
    async fn one_that_is_to_be_alone_waits_for_the_others_and_has_its_turn() {
        let company = company();
        let (first, mut waiting) = enter(&company, &[1, 2, 3, 1]).await;
        assert_eq!((first.len(), waiting.len()), (2, 2));
        drop(first);
        let alone = waiting.remove(0).await;
        assert!(poll!(&mut waiting[0]).is_pending(), "nothing enters beside it");
        drop(alone);
        waiting.remove(0).await;
    }

    #[tokio::test]
    async fn the_next_is_pulled_once_one_has_begun_unless_it_fills_the_worker() {
        let (company, room) = (company(), Arc::new(Semaphore::new(1)));
        for (deliveries, free) in [(1, 1), (2, 1), (3, 0)] {
            let waits = Arc::clone(&room).try_acquire_owned().ok();
            let place = company.entry(deliveries, waits).enter().await;
            assert_eq!(room.available_permits(), free, "{deliveries}");
            drop(place);
            assert_eq!(room.available_permits(), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn after_a_second_death_events_of_one_attempt_are_kept_out_of_its_way() {
        let fragile = Arc::new(InFlight::default());
        let company = Arc::new(Company::new(Arc::clone(&fragile)));
        let first = company.entry(1, None).enter().await;
        assert!(fragile.try_hold().is_some());
        let held = fragile.try_hold();
        let second = company.entry(2, None).enter();
        let mut second = Box::pin(second);
        assert!(poll!(&mut second).is_pending() && fragile.try_hold().is_none());
        drop(held);
        let second = second.await;
        assert!(fragile.try_hold().is_none());
        drop((first, second));
        // One that never ends holds up no suspect for ever.
        let _held = fragile.try_hold();
        let place = company.entry(3, None).enter().await;
        assert!(fragile.try_hold().is_none());
        drop(place);
        assert!(fragile.try_hold().is_some());
    }
}

//! Trim: decision how far a stream may be trimmed, and when. Pure.
//!
//! A purge empties the redelivery queue of every consumer of the stream, and what waited there
//! waits for a whole ack wait more (measured on nats-server 2.15.1). So a stream is trimmed when
//! nothing can be in those queues: a reader's samples show that all that was delivered a while ago
//! is settled, a while being less than an ack wait and than any nak's wait; or it has given out all
//! there is and its pull requests wait, so that what is due goes out at once. Where failures never
//! pause, neither comes true; then it is trimmed all the same before much has gathered, and what
//! waits is late by an ack wait at the most.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use crate::limits;

/// Reader of a stream, as far as a trim is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reader {
    /// Stream sequence up to which it has settled everything; `None`: not known.
    pub floor: Option<u64>,
    /// True if nothing that it was given can be due again.
    pub is_spared: bool,
}

/// Decision on one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Nothing that every reader has settled is there.
    Nothing,
    /// There is, and a purge would delay what is due again: later.
    Later,
    /// Delete what is below this sequence.
    KeepFrom(u64),
}

/// Decides on a stream that holds `first_seq` to `last_seq`. `waited`: time for which the answer
/// has been [`Decision::Later`].
///
/// Never beyond the floor of any reader; nothing while there is none.
pub fn decide(first_seq: u64, last_seq: u64, readers: &[Reader], waited: Duration) -> Decision {
    // An empty stream that never held anything begins at 0.
    let first_seq = first_seq.max(1);
    let floors = readers.iter().map(|reader| reader.floor);
    // `None` is the least.
    let Some(floor) = floors.min().flatten().map(|floor| floor.min(last_seq)) else {
        return Decision::Nothing;
    };
    if floor < first_seq {
        return Decision::Nothing;
    }
    let settled = floor + 1 - first_seq;
    let is_overdue = settled >= limits::TRIM_BEHIND_MAX || waited >= limits::TRIM_WAIT_MAX;
    if !is_overdue && !readers.iter().all(|reader| reader.is_spared) {
        return Decision::Later;
    }
    Decision::KeepFrom(first_seq + settled.min(limits::TRIM_STEP))
}

/// Last sequences delivered to a reader, by the time at which the broker was asked for them.
#[derive(Debug, Clone, Default)]
pub struct Samples(VecDeque<(Instant, u64)>);

impl Samples {
    /// Notes the sequence of the last delivery, asked for at `at`. One older than `within` decides
    /// nothing any more, and goes.
    pub fn note(&mut self, at: Instant, delivered: u64, within: Duration) {
        self.0.push_back((at, delivered));
        while self.0.len() > limits::TRIM_SAMPLES_MAX
            || self.0.front().is_some_and(|(before, _)| at.duration_since(*before) > within)
        {
            self.0.pop_front();
        }
    }

    /// True if all that was delivered up to a sample is settled: what is in flight was delivered
    /// since, too late to be due again.
    pub fn are_settled(&self, floor: u64) -> bool {
        self.0.front().is_some_and(|(_, delivered)| *delivered <= floor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SPARED: Reader = Reader { floor: Some(9), is_spared: true };
    const BUSY: Reader = Reader { floor: Some(20), is_spared: false };

    fn now(first: u64, last: u64, readers: &[Reader]) -> Decision {
        decide(first, last, readers, Duration::ZERO)
    }

    #[test]
    fn what_the_slowest_reader_has_settled_goes() {
        let other = Reader { floor: Some(20), ..SPARED };
        assert_eq!(now(1, 30, &[SPARED, other]), Decision::KeepFrom(10));
        assert_eq!(now(10, 30, &[SPARED, other]), Decision::Nothing);
        assert_eq!(now(1, 9, &[SPARED]), Decision::KeepFrom(10), "one past the last, no further");
    }

    #[test]
    fn nothing_goes_where_a_floor_is_not_known_or_nobody_reads() {
        let unknown = Reader { floor: None, is_spared: true };
        assert_eq!(now(1, 30, &[SPARED, unknown]), Decision::Nothing);
        assert_eq!(now(1, 30, &[]), Decision::Nothing);
        assert_eq!(now(0, 0, &[Reader { floor: Some(0), ..SPARED }]), Decision::Nothing);
    }

    #[test]
    fn what_may_be_due_again_is_spared_for_a_while() {
        assert_eq!(now(1, 30, &[BUSY]), Decision::Later);
        assert_eq!(decide(1, 30, &[BUSY], limits::TRIM_WAIT_MAX), Decision::KeepFrom(21));
        let far = Reader { floor: Some(u64::MAX), ..BUSY };
        assert_eq!(
            now(1, 10 * limits::TRIM_BEHIND_MAX, &[far]),
            Decision::KeepFrom(1 + limits::TRIM_STEP)
        );
    }

    #[test]
    fn samples_older_than_a_redelivery_decide_nothing() {
        let (start, within) = (Instant::now(), Duration::from_secs(4));
        let mut samples = Samples::default();
        assert!(!samples.are_settled(100), "a new keeper knows nothing");
        for second in 0..10 {
            samples.note(start + Duration::from_secs(second), 10 * second, within);
        }
        // The oldest that counts is of second 5.
        assert!(samples.are_settled(50) && !samples.are_settled(49));
        let mut none = Samples::default();
        none.note(start, 7, Duration::ZERO);
        assert!(none.are_settled(7) && !none.are_settled(6), "nothing may be in flight");
    }

    proptest! {
        #[test]
        fn never_beyond_any_floor(
            first in 0..1000_u64,
            held in 0..2_000_000_u64,
            readers in prop::collection::vec(
                (prop::option::of(0..2_000_000_u64), any::<bool>()),
                0..5,
            ),
            waited in 0..1000_u64,
        ) {
            let readers: Vec<Reader> = readers
                .into_iter()
                .map(|(floor, is_spared)| Reader { floor, is_spared })
                .collect();
            let last = first + held;
            let decided = decide(first, last, &readers, Duration::from_secs(waited));
            if let Decision::KeepFrom(keep_from) = decided {
                prop_assert!(!readers.is_empty());
                for reader in &readers {
                    prop_assert!(reader.floor.is_some_and(|floor| keep_from <= floor + 1));
                }
                prop_assert!(keep_from > first.max(1) && keep_from <= last + 1);
                prop_assert!(keep_from - first.max(1) <= limits::TRIM_STEP);
            }
        }
    }
}

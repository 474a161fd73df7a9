//! Loss: events that a stream lost before a reader had settled them, and how near others are. Pure.

use std::time::Duration;

/// Position of a reader in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Stream sequence up to which it has settled everything, or what is lost has been counted.
    pub floor: u64,
    /// Deliveries; `None`: not known, as of a reader by offset.
    pub deliveries: Option<Deliveries>,
}

/// Deliveries of a consumer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Deliveries {
    /// Up to the floor.
    pub to_floor: u64,
    /// All.
    pub all: u64,
    /// True if somebody asks for more.
    pub is_asked: bool,
    /// In somebody's hands.
    pub pending: u64,
    /// Those of them that may be of workers that are gone, and given out once more.
    pub abandoned: u64,
}

impl Position {
    /// Position once all up to `gone` is counted, after `before`; `delivered` is the last sequence
    /// that was given out. What is given out of what is gone settles nothing that is left.
    pub fn counted(self, before: Option<Self>, gone: u64, delivered: u64) -> Self {
        let earlier = before.and_then(|before| before.deliveries);
        let (floor, is_behind) = (self.floor.max(gone), self.floor < gone);
        let deliveries = self.deliveries.map(|now| {
            let of_gone = now.all.saturating_sub(delivered.saturating_sub(gone));
            let abandoned = match earlier {
                Some(earlier) if now.is_left(earlier) => now.pending,
                Some(earlier) => {
                    let again =
                        earlier.abandoned.min(now.to_floor.saturating_sub(earlier.to_floor));
                    (earlier.abandoned - again).min(now.pending)
                }
                None => 0,
            };
            let to_floor = if is_behind { now.to_floor.max(of_gone) } else { now.to_floor };
            Deliveries { to_floor, abandoned, ..now }
        });
        Self { floor, deliveries }
    }
}

impl Deliveries {
    /// True if nothing was given out since `before`, and nobody asks.
    fn is_left(&self, before: Self) -> bool {
        self.all == before.all && !self.is_asked
    }
}

/// Number of events that are gone and that the reader had not settled, of those after `before`;
/// the stream begins with `first_seq` now.
///
/// A floor jumps over what is gone, also over what was in somebody's hands, so that what it did
/// settle shows only in its deliveries. Where nothing was given out since and nobody asks, nobody
/// is there who would have settled it: all is counted, and what somebody has done all the same, who
/// had it in hand until then, is counted too much; so may be what is given out again of it. Of a
/// reader with filters this counts the others'
/// events as well. So it is at the most; but what died with one worker while others went on may be
/// missing.
///
/// Source: nats-server 2.15.1, measured: a message that expires leaves what is ack pending, and the
/// floor goes on as if it had been settled.
pub fn lost(before: Position, now: Position, first_seq: u64) -> u64 {
    let gone = first_seq.saturating_sub(1);
    if gone <= before.floor {
        return 0;
    }
    let beyond = gone.saturating_sub(now.floor.max(before.floor));
    // What was given out beyond what is gone is in both numbers.
    let passed = now.floor.saturating_sub(before.floor);
    let settled = match (before.deliveries, now.deliveries) {
        (Some(before), Some(now)) if now.is_left(before) => 0,
        (Some(before), Some(now)) => {
            now.to_floor.saturating_sub(before.to_floor).saturating_sub(before.abandoned)
        }
        _ => passed,
    };
    (beyond + passed.saturating_sub(settled)).min(gone - before.floor)
}

/// Stream that drops what is too old or too much, and what is unread of it.
#[derive(Debug, Clone, Copy)]
pub struct Unread {
    /// Messages stored.
    pub messages: u64,
    /// Messages stored that some reader has not settled.
    pub unread: u64,
    /// Bytes of all that is stored.
    pub bytes: u64,
    /// Limit of the bytes.
    pub bytes_max: Option<u64>,
    /// Age of the oldest that some reader has not settled.
    pub age: Duration,
    /// Limit of the age.
    pub age_max: Option<Duration>,
}

impl Unread {
    /// Share of its limits that unread events take up, by age or by bytes: at 1 they are lost or,
    /// by bytes, refused.
    pub fn fill(&self) -> f64 {
        if self.unread == 0 || self.messages == 0 {
            return 0.0;
        }
        let by_age = self.age_max.map_or(0.0, |most| self.age.as_secs_f64() / most.as_secs_f64());
        let share = self.unread.min(self.messages) as f64 / self.messages as f64;
        let by_bytes = self.bytes_max.map_or(0.0, |most| self.bytes as f64 * share / most as f64);
        by_age.max(by_bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(floor: u64, to_floor: u64) -> Position {
        let deliveries =
            Deliveries { to_floor, all: to_floor, is_asked: true, ..Deliveries::default() };
        Position { floor, deliveries: Some(deliveries) }
    }

    #[test]
    fn what_is_gone_beyond_the_floor_is_lost_once() {
        assert_eq!(lost(at(5, 5), at(5, 5), 6), 0);
        assert_eq!(lost(at(5, 5), at(5, 5), 101), 95);
        // Counted up to 100 by then.
        assert_eq!(lost(at(100, 5), at(5, 5), 101), 0);
        assert_eq!(lost(at(100, 5), at(5, 5), 111), 10);
        assert_eq!(lost(at(100, 5), at(130, 35), 120), 0, "it was read before it went");
    }

    #[test]
    fn a_floor_that_jumped_hides_nothing() {
        // It was given 3 more, 101 to 103, and jumped over 95.
        assert_eq!(lost(at(5, 5), at(103, 8), 101), 95);
        // And over 40 of 340.
        assert_eq!(lost(at(100, 5), at(440, 305), 141), 40);
        let by_offset = Position { floor: 103, deliveries: None };
        assert_eq!(lost(Position { floor: 5, deliveries: None }, by_offset, 101), 0);
    }

    #[test]
    fn what_expired_in_the_hands_of_the_dead_is_lost() {
        let position = |floor, to_floor, all, is_asked| {
            let pending = all - to_floor;
            let deliveries = Deliveries { to_floor, all, is_asked, pending, abandoned: 0 };
            Position { floor, deliveries: Some(deliveries) }
        };
        // 8 of 10 were in hand, and 10 more are gone that nobody was given.
        let before = position(2, 2, 10, false);
        assert_eq!(lost(before, position(10, 10, 10, false), 21), 18);
        // Somebody asks: he had them, and settled them.
        assert_eq!(lost(before, position(10, 10, 10, true), 11), 0);
        assert_eq!(lost(before, position(10, 10, 10, true), 21), 10);
        // They were counted while they were in hand, and are not taken for others.
        let counted = position(5, 5, 10, true).counted(None, 20, 10);
        assert_eq!((counted.floor, counted.deliveries.unwrap().to_floor), (20, 10));
        assert_eq!(lost(counted, position(40, 20, 20, true), 41), 10);
        // What they had is given out once more: 4 deliveries for 2 events, and 16 are gone.
        let left = position(2, 2, 4, false);
        let left = left.counted(Some(left), 0, 4);
        assert_eq!(left.deliveries.unwrap().abandoned, 2);
        let again = position(20, 6, 6, true);
        assert_eq!(lost(left, again, 21), 16);
        assert_eq!(again.counted(Some(left), 20, 20).deliveries.unwrap().abandoned, 0);
        // All of it was settled before it went.
        assert_eq!(lost(position(10, 10, 10, false), position(10, 10, 10, false), 11), 0);
    }

    #[test]
    fn fill_is_by_what_is_unread() {
        let half = Unread {
            messages: 100,
            unread: 50,
            bytes: 1000,
            bytes_max: Some(1000),
            age: Duration::from_secs(80),
            age_max: Some(Duration::from_secs(100)),
        };
        assert_eq!(half.fill(), 0.8);
        assert_eq!(Unread { age_max: None, ..half }.fill(), 0.5);
        assert_eq!(Unread { unread: 0, ..half }.fill(), 0.0);
        assert_eq!(Unread { age_max: None, bytes_max: None, ..half }.fill(), 0.0);
    }
}

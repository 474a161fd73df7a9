//! Loss: events that a stream lost before a reader had settled them, and how near others are. Pure.

use std::time::Duration;

/// Position of a reader in a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Position {
    /// Stream sequence up to which it has settled everything, or what is lost has been counted.
    pub floor: u64,
    /// Deliveries up to there; `None`: not known, as of a reader by offset.
    pub deliveries: Option<u64>,
}

/// Number of events that are gone and that the reader had not settled, of those after `before`;
/// the stream begins with `first_seq` now.
///
/// A floor jumps over what is gone once the reader goes on, so that what it did settle shows only
/// in its deliveries. Of a reader with filters this counts the others' events as well: at the most.
pub fn lost(before: Position, now: Position, first_seq: u64) -> u64 {
    let gone = first_seq.saturating_sub(1);
    if now.floor < gone {
        return gone - now.floor.max(before.floor).min(gone);
    }
    let passed = gone.saturating_sub(before.floor);
    match (before.deliveries, now.deliveries) {
        (Some(before), Some(now)) => passed.saturating_sub(now.saturating_sub(before)),
        _ => 0,
    }
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

    fn at(floor: u64, deliveries: u64) -> Position {
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
        // It was given 3 more, and jumped over 92.
        assert_eq!(lost(at(5, 5), at(103, 8), 101), 92);
        let by_offset = Position { floor: 103, deliveries: None };
        assert_eq!(lost(Position { floor: 5, deliveries: None }, by_offset, 101), 0);
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

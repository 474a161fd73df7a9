//! Place: name of a message that holds beyond the life of its stream.

use std::{sync::Arc, time::SystemTime};

use crate::broker::{Delivered, StoredMessage, unix_ms};

/// Place of a message: its stream, its sequence, and the time at which the server stored it.
///
/// A stream that is deleted and created again, one in memory whose server was restarted, and one
/// that was restored begin at sequence 1 again: sequences alone would take a message for another.
/// The time tells the lives of a stream apart without any look-up.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Place {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Sequence in the stream.
    pub seq: u64,
    /// Time at which the server stored it, in Unix milliseconds; 0: not known, in what an older
    /// version wrote.
    pub at_ms: u64,
}

impl Place {
    /// Place of the message of `stream` that was stored as `seq` at `stored_at`.
    pub fn new(stream: impl Into<Arc<str>>, seq: u64, stored_at: SystemTime) -> Self {
        Self { stream: stream.into(), seq, at_ms: unix_ms(stored_at) }
    }

    /// Place of a delivery.
    pub fn of(delivered: &Delivered) -> Self {
        Self::new(Arc::clone(&delivered.stream), delivered.seq, delivered.stored_at)
    }

    /// Reads `<stream>:<seq>@<ms>`, or the older `<stream>:<seq>`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, rest) = text.rsplit_once(':')?;
        let (seq, at_ms) = match rest.split_once('@') {
            Some((seq, at_ms)) => (seq, at_ms.parse().ok()?),
            None => (rest, 0),
        };
        Some(Self { stream: stream.into(), seq: seq.parse().ok()?, at_ms })
    }

    /// Subject token: `<seq>-<ms>`, or the older `<seq>`.
    pub fn token(&self) -> String {
        match self.at_ms {
            0 => self.seq.to_string(),
            at_ms => format!("{}-{at_ms}", self.seq),
        }
    }

    /// The same place as versions before 2026-11-28 named it.
    #[must_use]
    pub fn without_time(&self) -> Self {
        Self { at_ms: 0, ..self.clone() }
    }

    /// True if `message`, which was read at this sequence, is the one meant and not another life's.
    pub fn is(&self, message: &StoredMessage) -> bool {
        self.at_ms == 0 || self.at_ms == unix_ms(message.stored_at)
    }

    /// True if this names the same message as `text`, as far as both know.
    pub fn may_be(&self, text: Option<&str>) -> bool {
        text.and_then(Self::parse).is_some_and(|other| {
            let untimed = self.at_ms == 0 || other.at_ms == 0;
            self.stream == other.stream
                && self.seq == other.seq
                && (untimed || self.at_ms == other.at_ms)
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.at_ms {
            0 => write!(f, "{}:{}", self.stream, self.seq),
            at_ms => write!(f, "{}:{}@{at_ms}", self.stream, self.seq),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    #[test]
    fn two_lives_of_a_stream_never_share_a_place_and_old_texts_are_read() {
        let (one, two) = (place("shop-in-events:7@1764288000000"), place("shop-in-events:7@5"));
        assert_ne!(one, two);
        assert!(!one.may_be(Some("shop-in-events:7@5")) && one.may_be(Some("shop-in-events:7")));
        assert!(!one.may_be(Some("shop-in-events:8")) && !one.may_be(None));
        let old = place("shop-in-events:7");
        assert_eq!((old.seq, old.at_ms, old.to_string()), (7, 0, "shop-in-events:7".into()));
        assert_eq!((one.token(), old.token()), ("7-1764288000000".into(), "7".into()));
        assert_eq!(one.without_time(), old);
        for text in ["", "7", "shop", "shop:", "shop:x", "shop:7@", "shop:7@x", "shop:@7"] {
            assert_eq!(Place::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(stream in "[^\\pC]{1,20}", seq: u64, at_ms: u64) {
            let place = Place { stream: stream.into(), seq, at_ms };
            prop_assert_eq!(Place::parse(&place.to_string()), Some(place));
        }
    }
}

//! Origin: the source of an event, and its current life at its stage.

use std::{sync::Arc, time::SystemTime};

use millstream_stages::headers;

use super::rfc3339::parse_rfc3339;
use crate::broker::{Headers, header, set};

/// Origin of an event: its source, and its current life at its stage.
///
/// Parking an event and a redrive publish it again, so that its place in a stream changes. The
/// *source* stays what it was first stored as. The *life* names one run through the attempts at one
/// stage: parking keeps it, so that whoever gives up on the event writes the same dead letter; a
/// redrive begins a new one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Stream and sequence the event was first stored as.
    pub source: Place,
    /// Subject it was first stored under.
    pub source_subject: String,
    /// Stream and sequence this life began as.
    pub life: Place,
    /// Attempts that this life spent before it was last stored.
    pub attempts_spent: u32,
    /// Number of redrives of the event.
    pub redrives: u32,
    /// Time its first attempt at the stage failed, where one has.
    pub first_failed_at: Option<SystemTime>,
    /// Time since which it waits in the retry stream, where it does.
    pub queued_at: Option<SystemTime>,
}

/// Place of a message: `<stream>:<seq>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Name of the stream.
    pub stream: Arc<str>,
    /// Sequence in the stream.
    pub seq: u64,
}

impl Origin {
    /// Origin of a message that someone published to us.
    pub fn first(stream: impl Into<Arc<str>>, seq: u64, subject: &str) -> Self {
        let place = Place { stream: stream.into(), seq };
        Self {
            source: place.clone(),
            source_subject: subject.to_owned(),
            life: place,
            attempts_spent: 0,
            redrives: 0,
            first_failed_at: None,
            queued_at: None,
        }
    }

    /// Origin of a message that Millstream published, by its headers.
    pub fn read<'a>(
        stream: impl Into<Arc<str>>,
        seq: u64,
        subject: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Self {
        let first = Self::first(stream, seq, subject);
        let number = |name| header(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        Self {
            source: header(headers::SOURCE).and_then(Place::parse).unwrap_or(first.source),
            source_subject: header(headers::SOURCE_SUBJECT)
                .map_or(first.source_subject, ToOwned::to_owned),
            life: header(headers::LIFE).and_then(Place::parse).unwrap_or(first.life),
            attempts_spent: number(headers::ATTEMPTS),
            redrives: number(headers::REDRIVES),
            first_failed_at: header(headers::FIRST_FAILED_AT).and_then(parse_rfc3339),
            queued_at: header(headers::QUEUED_AT).and_then(parse_rfc3339),
        }
    }

    /// Writes the headers that give a later reader the source, and the number of redrives.
    pub fn write_source(&self, to: &mut Headers) {
        set(to, headers::SOURCE, self.source.to_string().as_str());
        set(to, headers::SOURCE_SUBJECT, header(&self.source_subject));
        if self.redrives > 0 {
            set(to, headers::REDRIVES, u64::from(self.redrives));
        }
    }
}

impl Place {
    /// Stream and sequence, as [`Names`](super::Names) takes them.
    pub fn parts(&self) -> (&str, u64) {
        (&self.stream, self.seq)
    }

    /// Reads `<stream>:<seq>`; `None` for any other text.
    pub fn parse(text: &str) -> Option<Self> {
        let (stream, seq) = text.rsplit_once(':')?;
        Some(Self { stream: stream.into(), seq: seq.parse().ok()? })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.stream, self.seq)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parking_keeps_the_life_and_a_redrive_begins_a_new_one() {
        let parked = |name| match name {
            headers::SOURCE => Some("shop-in-events:7"),
            headers::LIFE => Some("shop-out-validate:9"),
            headers::ATTEMPTS => Some("3"),
            _ => None,
        };
        let origin = Origin::read("shop-retry", 70, "shop.retry.orders", parked);
        assert_eq!(
            (origin.source.to_string(), origin.life.to_string()),
            ("shop-in-events:7".into(), "shop-out-validate:9".into())
        );
        assert_eq!(origin.attempts_spent, 3);

        let redriven = |name| (name == headers::SOURCE).then_some("shop-in-events:7");
        assert_eq!(
            Origin::read("shop-retry", 71, "shop.retry.orders", redriven).life.to_string(),
            "shop-retry:71"
        );
    }
}

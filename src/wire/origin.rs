//! Origin: the source of an event, and its current life at its stage.

use std::time::SystemTime;

use millstream_stages::headers;

use super::{place::Place, rfc3339::parse_rfc3339};
use crate::broker::{Headers, header, set};

/// Origin of an event: its source, and its current life at its stage.
///
/// Parking an event and a redrive publish it again, so that its place in a stream changes. The
/// *source* stays what it was first stored as. The *life* names one run through the attempts at one
/// stage: parking keeps it, so that whoever gives up on the event writes the same dead letter; a
/// redrive begins a new one, which is named by the letter that it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Origin {
    /// Message the event was first stored as.
    pub source: Place,
    /// Subject it was first stored under.
    pub source_subject: String,
    /// Message this life began as: the first that the stage was given, or the letter of a redrive.
    pub life: Place,
    /// Attempts that this life spent before it was last stored.
    pub attempts_spent: u32,
    /// Number of redrives of the event.
    pub redrives: u32,
    /// Edit that gave the event its payload, in Unix milliseconds.
    pub edit: Option<u64>,
    /// Time its first attempt at the stage failed, where one has.
    pub first_failed_at: Option<SystemTime>,
    /// Time since which it waits in the retry stream, where it does.
    pub queued_at: Option<SystemTime>,
}

impl Origin {
    /// Origin of a message that someone published to us.
    pub fn first(place: Place, subject: &str) -> Self {
        Self {
            source: place.clone(),
            source_subject: subject.to_owned(),
            life: place,
            attempts_spent: 0,
            redrives: 0,
            edit: None,
            first_failed_at: None,
            queued_at: None,
        }
    }

    /// Origin of a message that Millstream published, by its headers.
    ///
    /// Only what waits in the retry stream, which says since when, goes on with the life that its
    /// headers name. On an error event and on a letter that is the life of the event that failed: a
    /// stage that is given them begins a new one.
    pub fn read<'a>(
        place: Place,
        subject: &str,
        header: impl Fn(&'static str) -> Option<&'a str>,
    ) -> Self {
        let first = Self::first(place, subject);
        let number = |name| header(name).and_then(|text| text.parse().ok()).unwrap_or(0);
        let queued_at = header(headers::QUEUED_AT).and_then(parse_rfc3339);
        let life = header(headers::LIFE).filter(|_| queued_at.is_some());
        Self {
            source: header(headers::SOURCE).and_then(Place::parse).unwrap_or(first.source),
            source_subject: header(headers::SOURCE_SUBJECT)
                .map_or(first.source_subject, ToOwned::to_owned),
            life: life.and_then(Place::parse).unwrap_or(first.life),
            attempts_spent: number(headers::ATTEMPTS),
            redrives: number(headers::REDRIVES),
            edit: header(headers::EDIT).and_then(|text| text.parse().ok()),
            first_failed_at: header(headers::FIRST_FAILED_AT).and_then(parse_rfc3339),
            queued_at,
        }
    }

    /// Writes the headers that give a later reader the source, and the number of redrives.
    pub fn write_source(&self, to: &mut Headers) {
        set(to, headers::SOURCE, self.source.to_string().as_str());
        set(to, headers::SOURCE_SUBJECT, header(&self.source_subject));
        if self.redrives > 0 {
            set(to, headers::REDRIVES, u64::from(self.redrives));
        }
        if let Some(edit) = self.edit {
            set(to, headers::EDIT, edit);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(text: &str) -> Place {
        Place::parse(text).unwrap()
    }

    #[test]
    fn parking_keeps_the_life_and_a_redrive_or_an_error_event_begins_a_new_one() {
        let parked = |name| match name {
            headers::SOURCE => Some("shop-in-events:7@1000"),
            headers::LIFE => Some("shop-out-validate:9@2000"),
            headers::QUEUED_AT => Some("2026-11-28T00:00:00.000Z"),
            headers::ATTEMPTS => Some("3"),
            _ => None,
        };
        let origin = Origin::read(place("shop-retry:70@3000"), "shop.retry.orders", parked);
        assert_eq!(
            (origin.source.to_string(), origin.life.to_string()),
            ("shop-in-events:7@1000".into(), "shop-out-validate:9@2000".into())
        );
        assert_eq!(origin.attempts_spent, 3);

        let report = |name| parked(name).filter(|_| name != headers::QUEUED_AT);
        let origin = Origin::read(place("shop-failed:5@4000"), "shop.failed.orders.0a3", report);
        assert_eq!(origin.life.to_string(), "shop-failed:5@4000", "not that of what failed");

        let redriven = |name| (name == headers::SOURCE).then_some("shop-in-events:7");
        assert_eq!(
            Origin::read(place("shop-retry:71"), "shop.retry.orders", redriven).life.to_string(),
            "shop-retry:71"
        );
    }
}

//! Groups: letters folded into groups by fingerprint, and into totals; pure, and of bounded size.

use std::{
    collections::{BTreeMap, HashMap},
    time::{Duration, SystemTime},
};

use serde::Serialize;

use super::stored::LetterHeaders;
use crate::{broker::StoredMessage, limits, wire::parse_rfc3339};

/// Letters of one fingerprint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Group {
    /// Fingerprint that the failures share.
    pub fingerprint: String,
    /// Number of letters.
    pub count: u64,
    /// Time at which the first was given up on, RFC 3339.
    pub first: String,
    /// Time at which the last was.
    pub last: String,
    /// The stages that gave up.
    pub stages: NameList,
    /// The classes of the last failures.
    pub classes: NameList,
    /// The types of the events.
    pub types: NameList,
    /// Sequence of the letter that was given up on last.
    pub sample: u64,
    /// Message of its last failure.
    pub message: String,
}

/// The first few distinct names of many.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct NameList {
    /// The first [`limits::GROUP_NAMES_MAX`].
    pub names: Vec<String>,
    /// True if there are others.
    pub more: bool,
}

impl NameList {
    fn add(&mut self, name: &str) {
        if name.is_empty() || self.names.iter().any(|known| known == name) {
            return;
        }
        if self.names.len() < limits::GROUP_NAMES_MAX {
            self.names.push(name.to_owned());
        } else {
            self.more = true;
        }
    }
}

impl std::fmt::Display for NameList {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let dash = if self.names.is_empty() { "-" } else { "" };
        write!(f, "{dash}{}{}", self.names.join(", "), if self.more { ", …" } else { "" })
    }
}

/// Letters by fingerprint.
#[derive(Debug)]
pub struct Groups {
    groups: HashMap<String, Group>,
    groups_max: usize,
    other: u64,
}

impl Groups {
    /// No groups yet; at most `groups_max` will be told apart.
    pub fn new(groups_max: usize) -> Self {
        Self { groups: HashMap::new(), groups_max, other: 0 }
    }

    /// Adds a letter.
    pub fn add(&mut self, message: &StoredMessage) {
        let letter = LetterHeaders::of(message);
        if !self.groups.contains_key(letter.fingerprint) {
            if self.groups.len() >= self.groups_max {
                self.other += 1;
                return;
            }
            let group = Group {
                fingerprint: letter.fingerprint.to_owned(),
                count: 0,
                first: letter.dead_at.to_owned(),
                last: String::new(),
                stages: NameList::default(),
                classes: NameList::default(),
                types: NameList::default(),
                sample: message.seq,
                message: String::new(),
            };
            self.groups.insert(letter.fingerprint.to_owned(), group);
        }
        let Some(group) = self.groups.get_mut(letter.fingerprint) else { return };
        group.count += 1;
        group.stages.add(letter.stage);
        group.classes.add(letter.error_class);
        group.types.add(letter.event_type.unwrap_or_default());
        // All of one form, UTC with milliseconds: they compare as the times they are.
        if letter.dead_at < group.first.as_str() {
            letter.dead_at.clone_into(&mut group.first);
        }
        if letter.dead_at >= group.last.as_str() {
            letter.dead_at.clone_into(&mut group.last);
            letter.error_message.clone_into(&mut group.message);
            group.sample = message.seq;
        }
    }

    /// Groups, the largest first, and the number of letters that are in none of them.
    pub fn finish(self) -> (Vec<Group>, u64) {
        let mut groups: Vec<Group> = self.groups.into_values().collect();
        groups.sort_by(|a, b| {
            b.count
                .cmp(&a.count)
                .then_with(|| b.last.cmp(&a.last))
                .then_with(|| a.fingerprint.cmp(&b.fingerprint))
        });
        (groups, self.other)
    }
}

/// Totals of letters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Stats {
    /// Number of letters.
    pub letters: u64,
    /// Size of their payloads in bytes.
    pub payload_bytes: u64,
    /// Letters of each reason, by stage.
    pub stages: BTreeMap<String, BTreeMap<String, u64>>,
    /// Letters of each class of the last failure.
    pub classes: BTreeMap<String, u64>,
    /// Letters that recovery will not redrive by itself.
    pub permanent: u64,
    /// Letters whose payload was edited.
    pub edited: u64,
    /// Letters whose event was completed all the same.
    pub completed_late: u64,
    /// Letters whose event was redriven before.
    pub redriven: u64,
    /// Letters given up on in the last hour.
    pub last_hour: u64,
    /// Letters given up on in the last 24 hours.
    pub last_day: u64,
    /// Time at which the first was given up on, RFC 3339.
    pub oldest: Option<String>,
    /// Time at which the last was.
    pub newest: Option<String>,
    #[serde(skip)]
    now: SystemTime,
}

/// Name for what is counted under none of its own: names come from outside, and have no bound.
pub const OTHER: &str = "(other)";
/// Limit of the stages and of the classes that are told apart.
const NAMES_MAX: usize = limits::GROUP_NAMES_MAX * 100;

impl Stats {
    /// Zero totals; "the last hour" ends at `now`.
    pub fn new(now: SystemTime) -> Self {
        Self {
            letters: 0,
            payload_bytes: 0,
            stages: BTreeMap::new(),
            classes: BTreeMap::new(),
            permanent: 0,
            edited: 0,
            completed_late: 0,
            redriven: 0,
            last_hour: 0,
            last_day: 0,
            oldest: None,
            newest: None,
            now,
        }
    }

    /// Adds a letter.
    pub fn add(&mut self, message: &StoredMessage) {
        let letter = LetterHeaders::of(message);
        self.letters += 1;
        self.payload_bytes += letter.bytes(message) as u64;
        *named(named(&mut self.stages, letter.stage), letter.reason) += 1;
        *named(&mut self.classes, letter.error_class) += 1;
        self.permanent += u64::from(letter.permanent.is_some());
        self.edited += u64::from(letter.edited_at.is_some());
        self.completed_late += u64::from(letter.completed_at.is_some());
        self.redriven += u64::from(letter.redrives > 0);
        let Some(dead_at) = parse_rfc3339(letter.dead_at) else { return };
        let since = |ago: u64| dead_at + Duration::from_secs(ago) >= self.now;
        self.last_hour += u64::from(since(3600));
        self.last_day += u64::from(since(86_400));
        if self.oldest.as_ref().is_none_or(|oldest| letter.dead_at < oldest.as_str()) {
            self.oldest = Some(letter.dead_at.to_owned());
        }
        if self.newest.as_ref().is_none_or(|newest| letter.dead_at > newest.as_str()) {
            self.newest = Some(letter.dead_at.to_owned());
        }
    }
}

fn named<'a, T: Default>(map: &'a mut BTreeMap<String, T>, name: &str) -> &'a mut T {
    let name = if map.contains_key(name) || map.len() < NAMES_MAX { name } else { OTHER };
    if !map.contains_key(name) {
        map.insert(name.to_owned(), T::default());
    }
    map.get_mut(name).expect("it was inserted where it was not there")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        broker::{Headers, set},
        wire::rfc3339,
    };

    fn letter(seq: u64, of: &[(&'static str, &str)]) -> StoredMessage {
        let mut all = Headers::new();
        for (name, value) in of {
            set(&mut all, name, crate::broker::header(value));
        }
        let body = bytes::Bytes::from_static(b"{}");
        StoredMessage {
            subject: String::new(),
            headers: all,
            body,
            seq,
            stored_at: SystemTime::UNIX_EPOCH,
            malformed: None,
        }
    }

    fn at(second: u64) -> String {
        rfc3339(SystemTime::UNIX_EPOCH + Duration::from_secs(second))
    }

    fn of(seq: u64, fingerprint: &str, event_type: &str, second: u64) -> StoredMessage {
        use millstream_stages::headers::{
            DEAD_AT, ERROR_CLASS, ERROR_MESSAGE, EVENT_TYPE, FINGERPRINT, REASON, STAGE,
        };
        letter(
            seq,
            &[
                (FINGERPRINT, fingerprint),
                (EVENT_TYPE, event_type),
                (DEAD_AT, &at(second)),
                (STAGE, "orders"),
                (REASON, "exhausted"),
                (ERROR_CLASS, "TimeoutError"),
                (ERROR_MESSAGE, &format!("no answer to {seq}")),
            ],
        )
    }

    #[test]
    fn groups_are_sorted_by_count_and_keep_the_newest_sample() {
        let mut groups = Groups::new(2);
        for letter in [
            of(1, "aa", "order.created", 50),
            of(2, "bb", "order.paid", 10),
            of(3, "bb", "order.created", 30),
            of(4, "bb", "order.paid", 20),
            of(5, "cc", "order.paid", 60),
        ] {
            groups.add(&letter);
        }
        let (groups, other) = groups.finish();
        let told: Vec<String> = groups
            .iter()
            .map(|g| {
                format!(
                    "{} x{} {}..{} {} #{} {}",
                    g.fingerprint, g.count, g.first, g.last, g.types, g.sample, g.message
                )
            })
            .collect();
        expect_test::expect![[r#"
            bb x3 1970-01-01T00:00:10.000Z..1970-01-01T00:00:30.000Z order.paid, order.created #3 no answer to 3
            aa x1 1970-01-01T00:00:50.000Z..1970-01-01T00:00:50.000Z order.created #1 no answer to 1"#]]
        .assert_eq(&told.join("\n"));
        assert_eq!(other, 1);
    }

    #[test]
    fn totals_count_what_was_given_up_on_lately() {
        use millstream_stages::headers::{DEAD_AT, EDITED_AT, PERMANENT, STAGE};
        let day = 86_400;
        let mut stats = Stats::new(SystemTime::UNIX_EPOCH + Duration::from_secs(2 * day));
        for (seq, second) in [(1, day / 2), (2, day + 1), (3, 2 * day - 60)] {
            stats.add(&of(seq, "aa", "order.created", second));
        }
        stats.add(&letter(
            4,
            &[
                (STAGE, "email"),
                (DEAD_AT, "rubbish"),
                (EDITED_AT, &at(1)),
                (PERMANENT, "no tenant"),
            ],
        ));
        expect_test::expect![[r#"
            {
              "letters": 4,
              "payloadBytes": 8,
              "stages": {
                "email": {
                  "": 1
                },
                "orders": {
                  "exhausted": 3
                }
              },
              "classes": {
                "": 1,
                "TimeoutError": 3
              },
              "permanent": 1,
              "edited": 1,
              "completedLate": 0,
              "redriven": 0,
              "lastHour": 1,
              "lastDay": 2,
              "oldest": "1970-01-01T12:00:00.000Z",
              "newest": "1970-01-02T23:59:00.000Z"
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&stats).unwrap());
    }

    proptest! {
        #[test]
        fn every_letter_is_counted_once_whatever_the_bound(
            prints in prop::collection::vec(0_u8..12, 0..200), groups_max in 0_usize..15,
        ) {
            let mut groups = Groups::new(groups_max);
            for (seq, print) in prints.iter().enumerate() {
                groups.add(&of(seq as u64, &print.to_string(), "t", u64::from(*print)));
            }
            let (found, other) = groups.finish();
            prop_assert!(found.len() <= groups_max);
            let counted = found.iter().map(|group| group.count).sum::<u64>() + other;
            prop_assert_eq!(counted, prints.len() as u64);
            prop_assert!(found.is_sorted_by(|a, b| a.count >= b.count));
        }
    }
}

//! Timeline: attempts, redrives and edits of the event of one letter, over all its lives, in order.

use std::{
    collections::VecDeque,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use futures_util::StreamExt as _;
use millstream_stages::headers;
use serde::Serialize;
use serde_json::Value;

use super::stored::LetterRecord;
use crate::{
    broker::{AdminError, Broker, Scan, StoredMessage, get, unix_ms},
    limits,
    wire::{Names, Place, rfc3339},
};

/// Failed attempt, as its error event has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Attempt {
    /// Time of the failure, RFC 3339.
    pub at: String,
    /// The stage.
    pub stage: String,
    /// Number of the attempt, from 1, where it is known.
    pub attempt: Option<u64>,
    /// The class of the failure.
    pub class: String,
    /// Message of the failure, in full.
    pub message: String,
    /// Outcome: `retry`, `park`, `defer`, or the reason of a dead letter.
    pub outcome: String,
    /// Wait before the next attempt, in milliseconds.
    pub wait_ms: Option<u64>,
    /// Redrives of the event by then.
    pub redrives: u64,
}

/// Entry of a timeline.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Moment {
    /// Time, RFC 3339.
    pub at: String,
    /// The entry, by its kind.
    #[serde(flatten)]
    pub what: What,
}

/// Kinds of entries.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "what", rename_all = "camelCase")]
pub enum What {
    /// The event was published, and stored as this.
    Stored {
        /// Source: `<stream>:<seq>@<ms>`.
        source: String,
    },
    /// An attempt failed.
    Failed {
        /// The attempt.
        attempt: Attempt,
    },
    /// The event was redriven; at this time it had failed again.
    Redriven {
        /// Redrives by then.
        redrives: u64,
    },
    /// This letter was written.
    Dead {
        /// Reason for giving up.
        reason: String,
    },
    /// The payload was edited.
    Edited {
        /// Editor.
        by: Option<String>,
    },
    /// The event was completed all the same.
    CompletedLate,
}

/// Failed attempts of an event, oldest first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct History {
    /// The last [`limits::HISTORY_MAX`].
    pub attempts: Vec<Attempt>,
    /// Number of those before.
    pub earlier: u64,
}

/// Reads the failed attempts of the event of a letter, at whatever stage, over all its lives.
///
/// # Errors
/// The stream of failed attempts could not be read.
pub async fn history(
    broker: &Broker,
    names: &Names,
    letter: &LetterRecord,
) -> Result<History, AdminError> {
    let Some(source) = Place::parse(&letter.source) else { return Ok(History::default()) };
    let (stream, mut history) = (names.failed_stream(), Recent::default());
    // Those of older versions first: nothing is written there any more.
    let old = names.failed_before(None, &source, None);
    let mut messages = Box::pin(broker.scan(&stream, &old, 1));
    while let Some(message) = messages.next().await.transpose()? {
        // What is older than the event is of another life of its stream.
        if unix_ms(message.stored_at) >= source.at_ms {
            history.add(attempt(&message));
        }
    }
    let since = UNIX_EPOCH + Duration::from_millis(source.at_ms);
    let scan = Scan {
        filter: names.failed_anywhere(&source),
        from_seq: 1,
        since: since.checked_sub(limits::CLOCKS_APART_MAX),
        ..Scan::default()
    };
    let mut messages = Box::pin(broker.scan_some(&stream, scan));
    while let Some(message) = messages.next().await.transpose()? {
        if get(&message.headers, headers::SOURCE).and_then(Place::parse).as_ref() == Some(&source) {
            history.add(attempt(&message));
        }
    }
    Ok(History { attempts: history.attempts.into(), earlier: history.earlier })
}

/// Last attempts of many.
#[derive(Default)]
struct Recent {
    attempts: VecDeque<Attempt>,
    earlier: u64,
}

impl Recent {
    fn add(&mut self, attempt: Attempt) {
        self.attempts.push_back(attempt);
        if self.attempts.len() > limits::HISTORY_MAX {
            self.attempts.pop_front();
            self.earlier += 1;
        }
    }
}

/// Reads an error event, from its body and its headers.
pub fn attempt(message: &StoredMessage) -> Attempt {
    let body: Value = serde_json::from_slice(&message.body).unwrap_or_default();
    let metadata = &body["metadata"];
    let header = |name| get(&message.headers, name);
    let text = |value: &Value| value.as_str().map(ToOwned::to_owned);
    let number = |name| header(name).and_then(|value| value.parse().ok());
    Attempt {
        at: text(&body["timestamp"]).unwrap_or_else(|| rfc3339(message.stored_at)),
        stage: text(&metadata["stage"]).unwrap_or_default(),
        attempt: number(headers::ATTEMPTS).or(metadata["attempt"].as_u64()),
        class: text(&body["errorCode"]).unwrap_or_default(),
        message: text(&body["message"]).unwrap_or_default(),
        outcome: header(headers::OUTCOME)
            .map(ToOwned::to_owned)
            .or_else(|| text(&metadata["outcome"]))
            .unwrap_or_default(),
        wait_ms: metadata["waitMs"].as_u64(),
        redrives: number(headers::REDRIVES).unwrap_or(0),
    }
}

/// Timeline of an event, in order. `stored_at` is when it was published, if its message is still
/// there.
pub fn timeline(
    letter: &LetterRecord,
    edited_by: Option<&str>,
    stored_at: Option<SystemTime>,
    attempts: &[Attempt],
) -> Vec<Moment> {
    let mut moments = Vec::new();
    let mut add = |at: &str, what: What| moments.push(Moment { at: at.to_owned(), what });
    if let Some(stored_at) = stored_at {
        add(&rfc3339(stored_at), What::Stored { source: letter.source.clone() });
    }
    let mut redrives = 0;
    for attempt in attempts {
        if attempt.redrives > redrives {
            redrives = attempt.redrives;
            add(&attempt.at, What::Redriven { redrives });
        }
        add(&attempt.at, What::Failed { attempt: attempt.clone() });
    }
    add(&letter.dead_at, What::Dead { reason: letter.reason.clone() });
    if let Some(at) = &letter.edited_at {
        add(at, What::Edited { by: edited_by.map(ToOwned::to_owned) });
    }
    if let Some(at) = &letter.completed_at {
        add(at, What::CompletedLate);
    }
    // A stable sort: what happened within a millisecond stays in the order above. A worker knows
    // the broker's time to some milliseconds, so nothing is sorted before what it follows from.
    let mut latest = String::new();
    let mut by_time: Vec<(String, Moment)> = Vec::with_capacity(moments.len());
    for moment in moments {
        let follows = matches!(
            moment.what,
            What::Stored { .. } | What::Redriven { .. } | What::Failed { .. }
        );
        if follows {
            latest = latest.max(moment.at.clone());
        }
        let at = if follows { latest.clone() } else { moment.at.clone() };
        by_time.push((at, moment));
    }
    by_time.sort_by(|(a, _), (b, _)| a.cmp(b));
    by_time.into_iter().map(|(_, moment)| moment).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::broker::{Headers, set};

    fn error_event(seq: u64, body: &str, of: &[(&'static str, &str)]) -> StoredMessage {
        let mut all = Headers::new();
        for (name, value) in of {
            set(&mut all, name, *value);
        }
        StoredMessage {
            subject: String::new(),
            headers: all,
            body: body.to_owned().into(),
            seq,
            stored_at: SystemTime::UNIX_EPOCH,
            malformed: None,
        }
    }

    #[test]
    fn a_timeline_joins_lives_and_edits_in_order() {
        let attempts: Vec<Attempt> = [
            (
                concat!(
                    r#"{"timestamp":"2026-11-21T08:00:01.000Z","errorCode":"TimeoutError","#,
                    r#""message":"slow","metadata":{"stage":"orders","attempt":1,"#,
                    r#""outcome":"retry","waitMs":900}}"#,
                ),
                None,
            ),
            (
                concat!(
                    r#"{"timestamp":"2026-11-21T08:00:02.000Z","errorCode":"TimeoutError","#,
                    r#""message":"slow","metadata":{"stage":"orders","attempt":2,"#,
                    r#""outcome":"exhausted"}}"#,
                ),
                None,
            ),
            ("rubbish", Some("1")),
        ]
        .into_iter()
        .map(|(body, redrives)| {
            let redriven = redrives.map(|redrives| (headers::REDRIVES, redrives));
            let of: Vec<_> = redriven.into_iter().collect();
            let mut event = error_event(1, body, &of);
            event.stored_at += std::time::Duration::from_secs(1_795_248_600);
            attempt(&event)
        })
        .collect();
        let mut letter = error_event(9, "", &[]);
        for (name, value) in [
            (headers::REASON, "exhausted"),
            (headers::DEAD_AT, "2026-11-21T09:30:00.001Z"),
            (headers::EDITED_AT, "2026-11-21T10:00:00.000Z"),
            (headers::COMPLETED_AT, "2026-11-21T09:45:00.000Z"),
            (headers::SOURCE, "shop-in-events:3"),
        ] {
            set(&mut letter.headers, name, value);
        }
        let moments = timeline(
            &LetterRecord::of(&letter),
            Some("ann@desk"),
            Some(SystemTime::UNIX_EPOCH),
            &attempts,
        );
        let told: Vec<String> =
            moments.iter().map(|moment| serde_json::to_string(moment).unwrap()).collect();
        expect_test::expect![[r#"
            {"at":"1970-01-01T00:00:00.000Z","what":"stored","source":"shop-in-events:3"}
            {"at":"2026-11-21T08:00:01.000Z","what":"failed","attempt":{"at":"2026-11-21T08:00:01.000Z","stage":"orders","attempt":1,"class":"TimeoutError","message":"slow","outcome":"retry","waitMs":900,"redrives":0}}
            {"at":"2026-11-21T08:00:02.000Z","what":"failed","attempt":{"at":"2026-11-21T08:00:02.000Z","stage":"orders","attempt":2,"class":"TimeoutError","message":"slow","outcome":"exhausted","waitMs":null,"redrives":0}}
            {"at":"2026-11-21T08:10:00.000Z","what":"redriven","redrives":1}
            {"at":"2026-11-21T08:10:00.000Z","what":"failed","attempt":{"at":"2026-11-21T08:10:00.000Z","stage":"","attempt":null,"class":"","message":"","outcome":"","waitMs":null,"redrives":1}}
            {"at":"2026-11-21T09:30:00.001Z","what":"dead","reason":"exhausted"}
            {"at":"2026-11-21T09:45:00.000Z","what":"completedLate"}
            {"at":"2026-11-21T10:00:00.000Z","what":"edited","by":"ann@desk"}"#]]
        .assert_eq(&told.join("\n"));
    }
}

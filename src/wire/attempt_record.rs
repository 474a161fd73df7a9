//! Attempt record: the error event of a failed attempt, written, and read back later.

use std::time::{Duration, SystemTime};

use futures_util::TryStreamExt as _;
use millstream_stages::{Event, Failure, headers};
use serde::Deserialize;
use serde_json::json;

use super::{
    origin::Origin,
    place::Place,
    rfc3339::{parse_rfc3339, rfc3339},
    subjects::Names,
};
use crate::{
    broker::{
        AdminError, Broker, Expects, Headers, Outgoing, Scan, StoredMessage, get, header, set,
    },
    limits,
};

/// Failed attempt to write down.
#[derive(Debug)]
pub struct AttemptReport<'a> {
    /// Stage that failed; in a chain not always the one that was delivered to.
    pub stage: &'a str,
    /// Failure of the attempt.
    pub failure: &'a Failure,
    /// Outcome of the attempt: `retry`, `park`, `defer`, or the reason of the dead letter.
    pub outcome: &'a str,
    /// Wait until the event comes back, from now; `None` where it does not.
    pub wait: Option<Duration>,
    /// Delivery: `<place>:<deliveries>`. (Deferred attempts repeat their number, this does not.)
    pub delivery_id: &'a str,
    /// Number of the attempt.
    pub attempt: u32,
    /// Attempts spent, this one included where it counts.
    pub spent: Spent,
    /// Origin of the event.
    pub origin: &'a Origin,
    /// Identity of the event, as far as it is known.
    pub who: Who<'a>,
    /// Trace it belongs to.
    pub traceparent: Option<&'a str>,
}

/// Attempts that an event has spent at a stage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Spent {
    /// Attempts on record.
    pub attempts: u32,
    /// Time the first of them failed.
    pub first_failed_at: Option<SystemTime>,
}

/// Identity of an event as an error event gives it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Who<'a> {
    /// Id of the event.
    pub id: Option<&'a str>,
    /// Type of the event.
    pub event_type: Option<&'a str>,
    /// Tenant of the event.
    pub tenant: Option<&'a str>,
}

impl<'a> From<&'a Event> for Who<'a> {
    fn from(event: &'a Event) -> Self {
        Self {
            id: Some(&event.id),
            event_type: Some(&event.event_type),
            tenant: event.tenant.as_deref(),
        }
    }
}

impl AttemptReport<'_> {
    /// Returns the error event, as of `now`. Its id names the delivery: a publish that is repeated
    /// because its answer was lost is dropped by the server. Its subject is one of few, by the
    /// source; its headers name source and life.
    pub fn message(&self, names: &Names, now: SystemTime) -> Outgoing {
        let body = json!({
            "errorCode": self.failure.class,
            "severity": if self.wait.is_some() { "low" } else { "medium" },
            "message": cut(&self.failure.message, limits::ERROR_TEXT_BYTES_MAX),
            "serviceName": format!("{}/{}", names.pipeline(), self.stage),
            "timestamp": rfc3339(now),
            "metadata": {
                "eventId": self.who.id,
                "eventType": self.who.event_type,
                "tenantId": self.who.tenant,
                "stage": self.stage,
                "attempt": self.attempt,
                "outcome": self.outcome,
                "waitMs": self.wait.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
                "source": self.origin.source.to_string(),
            },
        });
        let id = format!("{}:{}", self.delivery_id, self.stage);
        let mut all = Headers::new();
        set(&mut all, headers::EVENT_ID, id.as_str());
        set(&mut all, headers::EVENT_TYPE, header(&self.failure.class));
        set(&mut all, headers::ENVELOPE, "error");
        set(&mut all, headers::ATTEMPTS, u64::from(self.spent.attempts));
        set(&mut all, headers::OUTCOME, self.outcome);
        if let Some(at) = self.spent.first_failed_at {
            set(&mut all, headers::FIRST_FAILED_AT, rfc3339(at).as_str());
        }
        self.origin.write_source(&mut all);
        set(&mut all, headers::LIFE, self.origin.life.to_string().as_str());
        if let Some(traceparent) = self.traceparent {
            set(&mut all, headers::TRACEPARENT, header(traceparent));
        }
        Outgoing {
            subject: names.failed_subject(self.stage, &self.origin.source),
            headers: all,
            body: body.to_string().into(),
            expects: Expects::Anything,
        }
        .id(&id)
    }
}

/// Error event that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Delivery: `<place>:<deliveries>:<stage>`.
    pub delivery: String,
    /// Attempts the event had spent then.
    pub spent: Spent,
    /// Outcome of the attempt: `retry`, `park`, `defer`, or the reason of the dead letter.
    pub outcome: String,
    /// Class of the failure.
    pub class: String,
    /// Message of the failure.
    pub message: String,
    /// Wait until the event comes back; zero where it does not.
    pub wait: Duration,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct AttemptBody {
    error_code: String,
    message: String,
    metadata: Metadata,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct Metadata {
    wait_ms: Option<u64>,
}

impl AttemptRecord {
    /// Last error event of one life of an event at any of these stages; `None` if there is none.
    ///
    /// Those that were stored before `since`, the time of the message that failed, are not looked
    /// for: what parked the message wrote on it how many attempts there were.
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn last(
        broker: &Broker,
        names: &Names,
        stages: &[&str],
        origin: &Origin,
        since: SystemTime,
    ) -> Result<Option<Self>, AdminError> {
        let (stream, mut last) = (names.failed_stream(), None);
        for stage in stages {
            let subject = names.failed_subject(stage, &origin.source);
            let found = last_of_life(broker, &stream, &subject, &origin.life, since).await?;
            last = later(last, found);
        }
        if last.is_none() {
            for stage in stages {
                let old = names.failed_before(Some(stage), &origin.source, Some(&origin.life));
                let found = broker.last_on_subject(&stream, &old).await?;
                // Another life of a stream may have had this sequence.
                last = later(last, found.filter(|record| record.stored_at >= since));
            }
        }
        Ok(last.as_ref().map(Self::of))
    }

    /// First error event of one life of an event at `stage` that is stored after the sequence
    /// `after`; `None` if there is none, or none among the first [`limits::RECORD_SCAN_MAX`].
    ///
    /// # Errors
    /// [`AdminError::Read`].
    pub async fn first_after(
        broker: &Broker,
        names: &Names,
        stage: &str,
        origin: (&Place, &Place),
        after: u64,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let ((source, life), stream, mut from) = (origin, names.failed_stream(), after + 1);
        let subject = names.failed_subject(stage, source);
        for _ in 0..limits::RECORD_SCAN_MAX {
            let Some(record) = broker.next_on_subject(&stream, &subject, from).await? else {
                break;
            };
            if life.may_be(get(&record.headers, headers::LIFE)) {
                return Ok(Some(record));
            }
            from = record.seq + 1;
        }
        // A worker of an older version may have run it.
        let old = names.failed_before(Some(stage), source, None);
        broker.next_on_subject(&stream, &old, after + 1).await
    }

    /// Number of deliveries by then, and the stage, of a record of the message at `place`; `None`
    /// if it is another message's.
    pub fn delivery_of(&self, place: &Place) -> Option<&str> {
        let rest = |place: &Place| self.delivery.strip_prefix(&format!("{place}:"));
        // As older versions wrote it.
        rest(place).or_else(|| rest(&place.without_time()))
    }

    fn of(message: &StoredMessage) -> Self {
        let text = |name| get(&message.headers, name).unwrap_or_default();
        let body: AttemptBody = serde_json::from_slice(&message.body).unwrap_or_default();
        let first_failed_at =
            parse_rfc3339(text(headers::FIRST_FAILED_AT)).unwrap_or(message.stored_at);
        Self {
            delivery: text(headers::MSG_ID).to_owned(),
            spent: Spent {
                attempts: text(headers::ATTEMPTS).parse().unwrap_or(0),
                first_failed_at: Some(first_failed_at),
            },
            outcome: text(headers::OUTCOME).to_owned(),
            class: body.error_code,
            message: body.message,
            wait: Duration::from_millis(body.metadata.wait_ms.unwrap_or(0)),
        }
    }

    /// True if the event comes back by itself, from the retry stream.
    pub fn comes_back(&self) -> bool {
        self.outcome == "park" || self.outcome == "defer"
    }
}

/// Last record of a life on a subject that it shares with others, stored since this time.
///
/// Mostly it is the last on the subject. If not, what is there since is gone through: by single
/// reads, and where it is much, by its headers.
async fn last_of_life(
    broker: &Broker,
    stream: &str,
    subject: &str,
    life: &Place,
    since: SystemTime,
) -> Result<Option<StoredMessage>, AdminError> {
    let life = life.to_string();
    let is_ours =
        |record: &StoredMessage| get(&record.headers, headers::LIFE) == Some(life.as_str());
    let Some(last) = broker.last_on_subject(stream, subject).await? else { return Ok(None) };
    if is_ours(&last) {
        return Ok(Some(last));
    }
    // The stream of the message may have another leader, with another clock.
    let since = since.checked_sub(limits::CLOCKS_APART_MAX).unwrap_or(SystemTime::UNIX_EPOCH);
    let (mut found, mut from) = (None, 0);
    for _ in 0..limits::RECORD_WALK_MAX {
        let next = match from {
            0 => broker.next_since(stream, subject, since).await?,
            _ => broker.next_on_subject(stream, subject, from).await?,
        };
        let Some(record) = next.filter(|record| record.seq < last.seq) else { return Ok(found) };
        from = record.seq + 1;
        found = Some(record).filter(is_ours).or(found);
    }
    let scan = Scan {
        filter: subject.to_owned(),
        from_seq: from,
        to_seq: Some(last.seq),
        headers_only: true,
        ..Scan::default()
    };
    let (mut records, mut looks) = (Box::pin(broker.scan_some(stream, scan)), 0);
    let mut later = None;
    while let Some(record) = records.try_next().await? {
        later = Some(record.seq).filter(|_| is_ours(&record)).or(later);
        looks += 1;
        if looks >= limits::RECORD_SCAN_MAX {
            break;
        }
    }
    Ok(match later {
        Some(seq) => broker.message(stream, seq).await?.or(found),
        None => found,
    })
}

/// The one that was stored last.
fn later(one: Option<StoredMessage>, other: Option<StoredMessage>) -> Option<StoredMessage> {
    [one, other].into_iter().flatten().max_by_key(|record| record.seq)
}

/// Start of a text, at most `bytes_max` bytes of it, as it is: a JSON string may hold any
/// character.
fn cut(text: &str, bytes_max: usize) -> &str {
    let end = (0..=bytes_max.min(text.len())).rev().find(|at| text.is_char_boundary(*at));
    &text[..end.unwrap_or(0)]
}

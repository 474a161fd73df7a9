//! Outbox: sender to one channel, within its rate, urgent messages first, and the rest in a digest.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::limit::{Limit, Urgency};
use crate::{
    ChannelTerms, Emission,
    fingerprint::{hash, hex},
    incident::{Change, Incident, Severity, timestamp},
    notification::{Digest, GROUP_INCIDENTS_MAX, Grouped, Held, Notification, Why},
};

/// Least wait of a digest, so that a flood becomes few of them.
const DIGEST_WAIT_MS: u64 = 15_000;
/// Longest wait of a digest that something urgent has joined.
const URGENT_WAIT_MS: u64 = 1_000;
/// Wait after which a digest is urgent itself.
const PATIENCE_MS: u64 = 60_000;

/// Outbox of one channel; one key of the state.
pub(super) struct Outbox {
    channel: String,
    limit: Limit,
    /// True where the channel is sent ends.
    pub(super) send_resolved: bool,
    waiting: Option<Waiting>,
}

/// Digest of the messages that exceeded the rate, and its times.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Waiting {
    since_ms: u64,
    not_before_ms: u64,
    urgent: bool,
    /// Hash of the ids of all messages that joined it.
    content: u64,
    digest: Digest,
}

/// Stored form of an outbox.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Stored {
    taken: u64,
    waiting: Option<Waiting>,
}

/// A message of a group to a channel.
#[derive(Debug, Clone)]
pub(super) struct Message {
    /// Life of the group, in hexadecimal digits.
    pub(super) life: String,
    /// Number of the message in its group.
    pub(super) number: u64,
    pub(super) why: Why,
    /// Labels by which the group is one.
    pub(super) by: BTreeMap<String, String>,
    /// Incidents with news, as they are sent.
    pub(super) news: Vec<Incident>,
    /// Number of changes in `news`, without those sent late, which were counted before.
    pub(super) changes: u64,
    /// Others that go on, each without new errors.
    pub(super) rest: Vec<Incident>,
    pub(super) held: Held,
}

/// Outcome of sending a message.
pub(super) enum Sent {
    /// Sent by itself.
    Alone(Emission),
    /// Added to the waiting digest.
    Waits,
}

impl Outbox {
    pub(super) fn new(terms: &ChannelTerms) -> Self {
        Self {
            channel: terms.name.clone(),
            limit: Limit::of(terms.rate, 0),
            send_resolved: terms.send_resolved,
            waiting: None,
        }
    }

    /// Reads a stored outbox. Of one stored by an earlier version, the digest is kept if it can be
    /// read.
    pub(super) fn restored(terms: &ChannelTerms, value: &[u8]) -> Result<Self, serde_json::Error> {
        let mut outbox = Self::new(terms);
        let read: serde_json::Value = serde_json::from_slice(value)?;
        if read.get("ordinary").is_some() {
            let digest = serde_json::from_value::<Digest>(read["waiting"]["digest"].clone());
            outbox.waiting = digest.ok().map(|digest| {
                let since_ms = u64::try_from(digest.since.as_millisecond()).unwrap_or(0);
                let content = hash(&[&digest.first_incident_id, &since_ms.to_string()]);
                Waiting {
                    since_ms,
                    not_before_ms: since_ms + DIGEST_WAIT_MS,
                    urgent: false,
                    content,
                    digest,
                }
            });
            return Ok(outbox);
        }
        let Stored { taken, waiting } = serde_json::from_value(read)?;
        Ok(Self { limit: Limit::of(terms.rate, taken), waiting, ..outbox })
    }

    pub(super) fn stored(&self) -> Vec<u8> {
        let stored = Stored { taken: self.limit.taken(), waiting: self.waiting.clone() };
        serde_json::to_vec(&stored).expect("an outbox is plain data")
    }

    /// Sends a message, or adds it to the digest. While a digest waits, all that is ordinary joins
    /// it, so that nobody reads of an end before the beginning; and while an urgent one waits, all
    /// joins it, so that nothing delays it.
    pub(super) fn send(&mut self, message: Message, now_ms: u64) -> Sent {
        let need = message.need();
        let passes = match &self.waiting {
            None => true,
            Some(waiting) => need == Urgency::Urgent && !waiting.is_urgent(now_ms),
        };
        if passes && self.limit.take(need, now_ms) {
            return Sent::Alone(emission(message.notification(&self.channel, now_ms)));
        }
        let first = message.news.first().or(message.rest.first());
        let Some(first) = first else { return Sent::Waits };
        let waiting = self.waiting.get_or_insert_with(|| Waiting {
            since_ms: now_ms,
            not_before_ms: now_ms.saturating_add(DIGEST_WAIT_MS),
            urgent: false,
            content: 0,
            digest: Digest::since(first, timestamp(now_ms)),
        });
        if need == Urgency::Urgent && !waiting.urgent {
            waiting.urgent = true;
            waiting.not_before_ms =
                waiting.not_before_ms.min(now_ms.saturating_add(URGENT_WAIT_MS));
        }
        waiting.content = hash(&[&hex(waiting.content), &message.id(&self.channel)]);
        waiting.digest.add_all(&message.news, message.changes, &message.rest, &message.held);
        Sent::Waits
    }

    /// Time at which the digest may go, if nothing is sent before.
    pub(super) fn due_ms(&self) -> Option<u64> {
        let waiting = self.waiting.as_ref()?;
        let soonest = |need, not_before: u64| not_before.max(self.limit.earliest_ms(need));
        let urgent = |not_before| soonest(Urgency::Urgent, not_before);
        Some(if waiting.urgent {
            urgent(waiting.not_before_ms)
        } else {
            soonest(Urgency::Ordinary, waiting.not_before_ms)
                .min(urgent(waiting.since_ms.saturating_add(PATIENCE_MS)))
        })
    }

    /// Sends the digest if it is due.
    pub(super) fn flush(&mut self, now_ms: u64) -> Option<Emission> {
        if self.due_ms()? > now_ms {
            return None;
        }
        let need = if self.waiting.as_ref()?.is_urgent(now_ms) {
            Urgency::Urgent
        } else {
            Urgency::Ordinary
        };
        if !self.limit.take(need, now_ms) {
            return None;
        }
        let Waiting { content, digest, .. } = self.waiting.take()?;
        let mut notification = Notification::of_digest(&self.channel, timestamp(now_ms), digest);
        notification.notification_id = format!("{}.digest.{}", self.channel, hex(content));
        notification.group = hex(hash(&["digest", &notification.notification_id]));
        Some(emission(notification))
    }
}

impl Waiting {
    fn is_urgent(&self, now_ms: u64) -> bool {
        self.urgent || now_ms.saturating_sub(self.since_ms) >= PATIENCE_MS
    }
}

impl Message {
    fn need(&self) -> Urgency {
        let critical = |incident: &Incident| {
            incident.severity == Severity::Critical
                && (incident.event.begins() || incident.event == Change::Escalated)
        };
        if self.why == Why::Unacknowledged || self.news.iter().any(critical) {
            Urgency::Urgent
        } else if self.news.iter().any(|incident| incident.event.begins()) {
            Urgency::Opening
        } else {
            Urgency::Ordinary
        }
    }

    /// Id of the notification: the same for the same news, however often it is worked out, and for
    /// nothing else.
    fn id(&self, channel: &str) -> String {
        let mut news = vec![self.why.as_str().to_owned()];
        for incident in &self.news {
            let Incident { incident_id, event, severity, count, .. } = incident;
            news.push(format!("{incident_id} {} {} {count}", event.as_str(), severity.as_str()));
        }
        let news: Vec<&str> = news.iter().map(String::as_str).collect();
        format!("{channel}.{}.{}.{}", self.life, self.number, hex(hash(&news)))
    }

    fn notification(self, channel: &str, now_ms: u64) -> Notification {
        let (id, at, changes) = (self.id(channel), timestamp(now_ms), self.changes);
        let Self { life, why, by, news, mut rest, held, .. } = self;
        let mut list = news;
        list.append(&mut rest);
        let mut notification = if list.len() == 1 {
            let incident = list.pop().expect("there is one");
            let about = Notification::of_incident(id, channel, at, why, &life, incident, held);
            Notification { by, ..about }
        } else {
            let (resolved, errors) = (
                list.iter().filter(|incident| incident.is_over()).count(),
                list.iter().map(|i| i.count).sum(),
            );
            let firing = list.len() - resolved;
            list.sort_by_cached_key(|incident| {
                let Incident { severity, count, incident_id, .. } = incident;
                (incident.is_over(), std::cmp::Reverse((*severity, *count)), incident_id.clone())
            });
            list.truncate(GROUP_INCIDENTS_MAX);
            let grouped =
                Grouped { by, firing: firing as u64, resolved: resolved as u64, errors, list };
            Notification::of_group(id, channel, at, why, &life, grouped, held)
        };
        notification.news = changes;
        notification
    }
}

fn emission(notification: Notification) -> Emission {
    let body = serde_json::to_vec(&notification).expect("a notification is plain data");
    Emission::new(notification.notification_id, notification.channel, body)
}

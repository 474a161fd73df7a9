//! Report: what the keeper tells: findings and logs, each once, and the record that `status` shows.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use millstream_stages::incident::Severity;
use serde::{Deserialize, Serialize};

use super::telling::{Condition, Telling};
use crate::{
    broker::{AdminError, Broker},
    limits,
    wire::Names,
};

/// Record of the keeper, as the value of one key of the state bucket.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct KeeperRecord {
    /// Conditions that hold, each a line for people.
    pub conditions: Vec<String>,
    /// Events that were lost unread.
    pub lost: Vec<Lost>,
}

/// Events of one stream that were lost before a stage had read them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lost {
    /// Stream that lost them.
    pub stream: String,
    /// Stage that had not read them.
    pub stage: String,
    /// Number of them, ever.
    pub events: u64,
    /// Time the last were found gone, RFC 3339.
    pub at: String,
}

impl KeeperRecord {
    /// Key of the record.
    pub const KEY: &str = "keeper.record";

    /// Record as it was last written; the default if there is none.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn load(broker: &Broker, names: &Names) -> Result<Self, AdminError> {
        let found = broker.kv_get(&names.state_bucket(), Self::KEY).await?;
        Ok(found.and_then(|(value, _)| serde_json::from_slice(&value).ok()).unwrap_or_default())
    }
}

/// Report of one keeper.
#[derive(Debug)]
pub(super) struct Report {
    broker: Broker,
    names: Names,
    telling: Telling,
    /// Losses that no finding has told yet, by stream and stage.
    untold: BTreeMap<(String, String), u64>,
    told_loss_at: Option<Instant>,
    record: KeeperRecord,
    written: Option<KeeperRecord>,
}

impl Report {
    /// Report that goes on with the losses on record.
    pub(super) async fn load(broker: &Broker, names: &Names) -> Result<Self, AdminError> {
        let record = KeeperRecord::load(broker, names).await?;
        Ok(Self {
            broker: broker.clone(),
            names: names.clone(),
            telling: Telling::new(broker, names, Duration::ZERO),
            untold: BTreeMap::new(),
            told_loss_at: None,
            written: Some(record.clone()),
            record,
        })
    }

    /// Notes that a condition holds in this round; `key` tells it from others.
    pub(super) fn holds(&mut self, key: &str, condition: Condition) {
        let (about, text) = (condition.about.clone(), condition.text.clone());
        if self.telling.holds(key, condition) {
            tracing::warn!(about, condition = text, "the keeper found something to look at");
        }
    }

    /// Keeps a condition that is not looked at in this round.
    pub(super) fn still_holds(&mut self, prefix: &str) {
        self.telling.still_holds(prefix);
    }

    /// Notes events lost unread.
    pub(super) fn lost(&mut self, stream: &str, stage: &str, events: u64) {
        tracing::error!(stream, stage, events, "events were lost before the stage had read them");
        *self.untold.entry((stream.to_owned(), stage.to_owned())).or_default() += events;
        let at = self.broker.timestamp().to_string();
        let has_room = self.record.lost.len() < limits::KEEPER_RECORD_MAX;
        let known =
            self.record.lost.iter_mut().find(|lost| lost.stream == stream && lost.stage == stage);
        match known {
            Some(lost) => {
                lost.events += events;
                lost.at = at;
            }
            None if has_room => {
                self.record.lost.push(Lost {
                    stream: stream.to_owned(),
                    stage: stage.to_owned(),
                    events,
                    at,
                });
            }
            None => {}
        }
    }

    /// Ends a round: tells what is new or due again, forgets what no longer holds, and writes the
    /// record if it changed.
    pub(super) async fn end(&mut self) {
        for Condition { about, text, .. } in self.telling.end().await {
            tracing::info!(about, condition = text, "what the keeper found is over");
        }
        let now = self.broker.timestamp().as_millisecond();
        let is_due = self.told_loss_at.is_none_or(|at| at.elapsed() >= limits::LOSS_TOLD_EVERY);
        let losses = if is_due { std::mem::take(&mut self.untold) } else { BTreeMap::new() };
        if !losses.is_empty() {
            self.told_loss_at = Some(Instant::now());
        }
        for (n, ((stream, stage), events)) in losses.into_iter().enumerate() {
            let condition = Condition {
                code: "EventsLostUnread",
                severity: Severity::Critical,
                about: stage.clone(),
                text: format!(
                    "{events} events of stream \"{stream}\" expired or were dropped before stage \
                     \"{stage}\" had read them"
                ),
            };
            if !self.telling.publish(&condition, &format!("{now}.{n}")).await {
                *self.untold.entry((stream, stage)).or_default() += events;
                self.told_loss_at = None;
            }
        }
        self.write().await;
    }

    /// Tells something that has happened, once.
    pub(super) async fn happened(&self, condition: &Condition) {
        tracing::warn!(about = condition.about, what = condition.text, "the keeper acted");
        let at = self.broker.timestamp().as_millisecond().to_string();
        self.telling.publish(condition, &at).await;
    }

    async fn write(&mut self) {
        self.record.conditions = self.telling.texts();
        if self.written.as_ref() == Some(&self.record) {
            return;
        }
        let value = serde_json::to_vec(&self.record).expect("a record is plain data");
        match self.broker.kv_put(&self.names.state_bucket(), KeeperRecord::KEY, value).await {
            Ok(_) => self.written = Some(self.record.clone()),
            Err(error) => tracing::debug!(error = %error, "could not write the keeper's record"),
        }
    }
}

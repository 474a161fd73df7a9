//! Afterwards: the dead letter of an event whose workers are gone, made from the stored message and its last record.

use std::{sync::Arc, time::Duration, time::SystemTime};

use millstream_stages::{Failure, failure::class, headers, settle::Reason, units::Period};

use super::{Letter, Origin, letter::Identity, letter::parse_rfc3339};
use crate::{
    broker::{AdminError, Broker, PublishError, StoredMessage, get},
    config::Pipeline,
    limits,
    observe::metrics::Metrics,
};

/// Writes dead letters on behalf of stages: what the router and the sweep share.
#[derive(Debug, Clone)]
pub struct Afterwards {
    /// The connection.
    pub broker: Broker,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
}

/// Why an event is given up on by someone else than its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// The server said that it was delivered so often.
    Deliveries(u64),
    /// The server gave it up and said nothing that was heard.
    Unnoticed,
    /// It waited in the retry stream for longer than this.
    Expired(Duration),
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buried {
    /// Its letter was written.
    Written,
    /// There was a letter of this life already.
    Known,
    /// It is parked: its worker died between parking it and settling it. It comes again by itself.
    LivesOn,
}

/// A letter that could not be written; the event is where it was.
#[derive(Debug, thiserror::Error)]
pub enum AfterwardsError {
    /// The broker could not be asked, or refused.
    #[error("could not read or settle the message")]
    Admin(#[from] AdminError),
    /// The letter was not stored.
    #[error("could not write the dead letter")]
    Publish(#[from] PublishError),
}

impl AfterwardsError {
    /// What lies under it, for the log.
    pub(super) fn cause(&self) -> String {
        let mut causes = std::iter::successors(std::error::Error::source(self), |error| error.source());
        let first = causes.next().map(ToString::to_string).unwrap_or_default();
        causes.fold(first, |all, error| format!("{all}: {error}"))
    }
}

/// The last error event of one life of an event at a stage.
#[derive(Debug)]
pub(super) struct Record {
    class: String,
    message: String,
    attempts: Option<u32>,
    outcome: String,
    first_failed_at: SystemTime,
}

impl Afterwards {
    /// Writes the letter of a stored message on behalf of `stage`, unless the event has one or lives on. Settles nothing.
    pub(super) async fn bury(
        &self,
        stage: &str,
        stream: &str,
        message: &StoredMessage,
        why: Why,
    ) -> Result<Buried, AfterwardsError> {
        let names = self.pipeline.names();
        let (origin, identity) = Identity::stored(&self.pipeline, stream, message);
        let expired = matches!(why, Why::Expired(_));
        if !expired {
            let parked = names.parked_subject(stage, &origin.life.stream, origin.life.seq);
            if self.broker.last_on_subject(&names.retry_stream(), &parked).await?.is_some() {
                tracing::info!(stage, source = %origin.source, "an event that was given up on is parked; it comes again");
                return Ok(Buried::LivesOn);
            }
        }
        let record = self.record(stage, stream, message.seq, &origin).await;
        let (reason, failure) = verdict(why, record.as_ref());
        let now = SystemTime::now();
        let attempts_max = self.pipeline.stage(stage).map_or(1, |stage| stage.policy.attempts_max());
        let known = record.as_ref().and_then(|record| record.attempts).unwrap_or(0).max(origin.attempts_spent);
        let first_failed_at = record.as_ref().map(|record| record.first_failed_at).or(origin.first_failed_at);
        let letter = Letter {
            stage,
            reason,
            failure: &failure,
            attempts: if known > 0 || expired { known } else { attempts_max },
            first_failed_at: first_failed_at.unwrap_or(if expired { message.stored_at } else { now }),
            dead_at: now,
            origin: &origin,
            identity,
            traceparent: message.headers.get(headers::TRACEPARENT).map(|value| value.as_str()),
            config: &self.pipeline.config_hash,
            body: message.body.clone(),
        };
        if !letter.publish(&self.broker, &names).await? {
            return Ok(Buried::Known);
        }
        self.metrics.stage(stage).dead_lettered(reason);
        let (source, reason) = (&origin.source, reason.as_str());
        match why {
            Why::Deliveries(_) => tracing::info!(stage, %source, reason, "dead letter, written by the router"),
            Why::Unnoticed => tracing::warn!(
                stage, %source, reason,
                "dead letter, written by the sweep: the server gave the event up and its notice was not heard; it may have completed"
            ),
            Why::Expired(_) => tracing::warn!(stage, %source, reason, "dead letter: {}", failure.message),
        }
        Ok(Buried::Written)
    }

    /// Whether there is a letter of this message's life at `stage`.
    pub(super) async fn has_letter(
        &self,
        stage: &str,
        stream: &str,
        message: &StoredMessage,
    ) -> Result<bool, AdminError> {
        let names = self.pipeline.names();
        let (Origin { life, .. }, _) = Identity::stored(&self.pipeline, stream, message);
        let subject = names.dlq_subject(stage, &life.stream, life.seq);
        Ok(self.broker.last_on_subject(&names.dlq_stream(), &subject).await?.is_some())
    }

    /// Whether the last that is known of this message at `stage` is a failure after which the event did not move on.
    pub(super) async fn failed_there(&self, stage: &str, stream: &str, message: &StoredMessage) -> bool {
        let (origin, _) = Identity::stored(&self.pipeline, stream, message);
        let record = self.record(stage, stream, message.seq, &origin).await;
        record.is_some_and(|record| !["park", "defer"].contains(&record.outcome.as_str()))
    }

    /// The last error event of this life at `stage`, or at a stage chained to it. That it cannot be read makes a letter
    /// say less and holds none up.
    async fn record(&self, stage: &str, stream: &str, seq: u64, origin: &Origin) -> Option<Record> {
        let mut last: Option<StoredMessage> = None;
        for stage in self.line(stage) {
            match self.last_record(stage, stream, seq, origin).await {
                Ok(found) => last = [last, found].into_iter().flatten().max_by_key(|message| message.seq),
                Err(error) => {
                    tracing::debug!(stage, error = %error, "could not read what is known of a failed event");
                }
            }
        }
        last.map(|message| Record::of(&message))
    }

    async fn last_record(
        &self,
        stage: &str,
        stream: &str,
        seq: u64,
        origin: &Origin,
    ) -> Result<Option<StoredMessage>, AdminError> {
        let names = self.pipeline.names();
        let (failed, filter) =
            (names.failed_stream(), names.failed_of(Some(stage), &origin.source.stream, origin.source.seq));
        let Some(last) = self.broker.last_on_subject(&failed, &filter).await? else { return Ok(None) };
        if is_of_life(&last, stream, seq, origin) {
            return Ok(Some(last));
        }
        // Several events of one source, or several lives: look at each.
        let (mut from, mut found) = (1, None);
        for _ in 0..limits::RECORDS_READ_MAX {
            let Some(record) = self.broker.next_on_subject(&failed, &filter, from).await? else { break };
            from = record.seq + 1;
            if is_of_life(&record, stream, seq, origin) {
                found = Some(record);
            }
        }
        Ok(found)
    }

    /// A stage and those that run inside its worker.
    fn line<'a>(&'a self, stage: &'a str) -> Vec<&'a str> {
        let mut line = vec![stage];
        loop {
            let reads_it = |input: &crate::config::pipeline::Input| match input {
                crate::config::pipeline::Input::Results(from) => line.contains(&from.as_str()),
                crate::config::pipeline::Input::Source(_) | crate::config::pipeline::Input::Failed(_) => false,
            };
            let mut chained = self.pipeline.stages.iter().filter(|stage| stage.chain);
            let next = chained.find(|stage| !line.contains(&stage.name.as_str()) && stage.inputs.iter().any(reads_it));
            match next {
                Some(next) => line.push(&next.name),
                None => return line,
            }
        }
    }
}

impl Record {
    fn of(message: &StoredMessage) -> Self {
        let header = |name| get(&message.headers, name);
        let body: serde_json::Value = serde_json::from_slice(&message.body).unwrap_or_default();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        let (attempt, outcome) = (body["metadata"]["attempt"].as_u64(), body["metadata"]["outcome"].as_str());
        Self {
            class: text("errorCode"),
            message: text("message"),
            attempts: header(headers::ATTEMPTS)
                .and_then(|text| text.parse().ok())
                .or_else(|| u32::try_from(attempt?).ok()),
            outcome: header(headers::OUTCOME).or(outcome).unwrap_or_default().to_owned(),
            first_failed_at: header(headers::FIRST_FAILED_AT).and_then(parse_rfc3339).unwrap_or(message.stored_at),
        }
    }
}

/// Whether an error event is about this life, stored now as `stream` and `seq`.
fn is_of_life(record: &StoredMessage, stream: &str, seq: u64, origin: &Origin) -> bool {
    let header = |name| get(&record.headers, name);
    if let Some(life) = header(headers::LIFE) {
        return life == origin.life.to_string();
    }
    let Some(id) = header(headers::MSG_ID) else { return false };
    // It names the delivery: of the message as it is, or as it was before it was parked.
    [format!("{stream}:{seq}:"), format!("{}:", origin.life)].iter().any(|place| id.starts_with(place))
}

/// What a letter says, from why it is written and what was recorded last.
fn verdict(why: Why, record: Option<&Record>) -> (Reason, Failure) {
    if let Why::Expired(age) = why {
        let waited = format!("waited in the retry stream for longer than {}", Period(age));
        return (Reason::Expired, Failure::reject(class::EXPIRED, waited));
    }
    // Its worker had decided, and died before the letter was there.
    if let Some(record) = record
        && let Some(reason) = Reason::named(&record.outcome)
    {
        return (reason, Failure::reject(record.class.clone(), record.message.clone()));
    }
    let what = match why {
        Why::Deliveries(deliveries) => format!("{deliveries} deliveries and no settlement"),
        Why::Unnoticed | Why::Expired(_) => {
            "the server gave it up without a notice that was heard; it may have completed".to_owned()
        }
    };
    let before = record.map(|record| format!("; before that {}: {}", record.class, record.message));
    (Reason::Crashed, Failure::reject(class::CRASHED, what + &before.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: &str) -> Record {
        Record {
            class: "TimeoutError".into(),
            message: "no answer in 5s".into(),
            attempts: Some(2),
            outcome: outcome.into(),
            first_failed_at: SystemTime::UNIX_EPOCH,
        }
    }

    fn told(why: Why, record: Option<&Record>) -> String {
        let (reason, failure) = verdict(why, record);
        format!("{reason} {failure}")
    }

    #[test]
    fn a_letter_says_what_the_worker_had_decided_or_else_how_it_was_found() {
        let all = [
            told(Why::Deliveries(9), Some(&record("exhausted"))),
            told(Why::Deliveries(9), Some(&record("retry"))),
            told(Why::Deliveries(9), None),
            told(Why::Unnoticed, Some(&record("rejected"))),
            told(Why::Unnoticed, None),
            told(Why::Expired(Duration::from_secs(7 * 86_400)), Some(&record("exhausted"))),
        ];
        expect_test::expect![[r#"
            exhausted TimeoutError: no answer in 5s
            crashed WorkerCrashed: 9 deliveries and no settlement; before that TimeoutError: no answer in 5s
            crashed WorkerCrashed: 9 deliveries and no settlement
            rejected TimeoutError: no answer in 5s
            crashed WorkerCrashed: the server gave it up without a notice that was heard; it may have completed
            expired ExpiredError: waited in the retry stream for longer than 7d"#]]
        .assert_eq(&all.join("\n"));
    }
}

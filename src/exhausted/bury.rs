//! Burial: dead letter of an event whose worker is gone, from its stored message and last record.

use std::{
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use millstream_stages::{Failure, failure::class, headers, settle::Reason};

use crate::{
    broker::{AdminError, Broker, PublishError, StoredMessage, get},
    config::{Pipeline, pipeline::Input},
    dead_letter::{Letter, aliases, letter::Identity, store},
    observe::Metrics,
    wire::{
        Origin, Place,
        attempt_record::{AttemptRecord, AttemptReport, Spent},
    },
};

/// Writer of dead letters on behalf of stages, which the router and the sweep share.
#[derive(Debug, Clone)]
pub struct Burial {
    /// The connection.
    pub broker: Broker,
    /// The pipeline.
    pub pipeline: Arc<Pipeline>,
    /// Counters.
    pub metrics: Arc<Metrics>,
}

/// Reason why an event is given up on by someone else than its worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    /// Delivered so often, as the server reported.
    Deliveries(u64),
    /// Given up on by the server, whose advisory was not heard.
    Unnoticed,
    /// In the retry stream for longer than this.
    Expired(Duration),
}

/// Outcome of the burial.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buried {
    /// The letter was written.
    Written,
    /// There was a letter of this life already.
    Known,
    /// The event is parked, and comes again: its worker died between parking and settling it.
    LivesOn,
}

/// A letter that could not be written; the event is where it was.
#[derive(Debug, thiserror::Error)]
pub enum BuryError {
    /// The broker could not be asked, or refused.
    #[error("could not read or settle the message")]
    Admin(#[from] AdminError),
    /// The letter was not stored.
    #[error("could not write the dead letter")]
    Publish(#[from] PublishError),
}

impl Burial {
    /// Writes the letter of a stored message on behalf of `stage`, unless the event has one or
    /// lives on. Settles nothing.
    pub(super) async fn bury(
        &self,
        stage: &str,
        stream: &str,
        message: &StoredMessage,
        why: Why,
    ) -> Result<Buried, BuryError> {
        let names = self.pipeline.names();
        // What its old consumer was given up for is the business of the stage as it is called now.
        let stage = self.pipeline.heir(stage).map_or(stage, |heir| &heir.name);
        let (origin, identity) = Identity::stored(&self.pipeline, stream, message);
        let expired = matches!(why, Why::Expired(_));
        if !expired && self.is_parked(stage, &origin, message).await? {
            tracing::info!(
                stage,
                source = %origin.source,
                "an event that was given up on is parked; it comes again"
            );
            return Ok(Buried::LivesOn);
        }
        if self.has_letter(stage, stream, message).await? {
            return Ok(Buried::Known);
        }
        let record = self.record(stage, &origin, message).await;
        let (reason, failure) = verdict(why, record.as_ref());
        let now = self.broker.now();
        let spent = record.as_ref().map(|record| record.spent).unwrap_or_default();
        let known = spent.attempts.max(origin.attempts_spent);
        let attempts_max =
            self.pipeline.stage(stage).map_or(1, |stage| stage.policy.attempts_max());
        let first_failed_at = spent.first_failed_at.or(origin.first_failed_at);
        let first_failed_at =
            first_failed_at.unwrap_or(if expired { message.stored_at } else { now });
        let spent = Spent {
            attempts: if known > 0 || expired { known } else { attempts_max },
            first_failed_at: Some(first_failed_at),
        };
        let traceparent = get(&message.headers, headers::TRACEPARENT);
        if record.as_ref().is_none_or(|record| record.outcome != reason.as_str()) {
            // Its worker did not live to report it. By the message id only the first is stored.
            let place = Place::new(stream, message.seq, message.stored_at);
            let report = AttemptReport {
                stage,
                failure: &failure,
                outcome: reason.as_str(),
                wait: None,
                delivery_id: &format!("{place}:given-up"),
                attempt: spent.attempts,
                spent,
                origin: &origin,
                who: identity.who(),
                traceparent,
            };
            self.broker.publish(report.message(&names, now)).await?;
        }
        let letter = Letter {
            stage,
            reason,
            failure: &failure,
            attempts: spent.attempts,
            first_failed_at,
            dead_at: now,
            origin: &origin,
            identity,
            traceparent,
            config: &self.pipeline.config_hash,
            body: message.body.clone(),
            malformed: message.malformed.as_ref(),
        };
        if !letter.publish(&self.broker, &names).await? {
            return Ok(Buried::Known);
        }
        self.metrics.stage(stage).dead_lettered(reason);
        let (source, reason) = (&origin.source, reason.as_str());
        match why {
            Why::Deliveries(_) => {
                tracing::info!(stage, %source, reason, "dead letter, written by the router")
            }
            Why::Unnoticed => tracing::warn!(
                stage,
                %source,
                reason,
                "dead letter, written by the sweep: the server gave the event up and its notice \
                 was not heard; it may have completed"
            ),
            Why::Expired(_) => {
                tracing::warn!(stage, %source, reason, "dead letter: {}", failure.message)
            }
        }
        Ok(Buried::Written)
    }

    /// True if this life is parked, by a worker of this version or an older one.
    async fn is_parked(
        &self,
        stage: &str,
        origin: &Origin,
        message: &StoredMessage,
    ) -> Result<bool, AdminError> {
        let names = self.pipeline.names();
        let mut known_as = aliases::of(&self.broker, &names, stage).await;
        known_as.push(stage.to_owned());
        for stage in &known_as {
            for life in [&origin.life, &origin.life.without_time()] {
                let subject = names.parked_subject(stage, life);
                let parked = self.broker.last_on_subject(&names.retry_stream(), &subject).await?;
                // An older version's name may be that of another life of the stream.
                if parked.is_some_and(|parked| {
                    *life == origin.life || parked.stored_at >= message.stored_at
                }) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }

    /// True if there is a letter of this message's life at `stage`.
    pub(super) async fn has_letter(
        &self,
        stage: &str,
        stream: &str,
        message: &StoredMessage,
    ) -> Result<bool, AdminError> {
        let (origin, identity) = Identity::stored(&self.pipeline, stream, message);
        let (names, id) = (self.pipeline.names(), identity.event_id());
        store::is_there(&self.broker, &names, stage, &origin, id, &message.body).await
    }

    /// True if the last record of this message at `stage` is of a failure after which the event did
    /// not move on.
    pub(super) async fn failed_there(
        &self,
        stage: &str,
        stream: &str,
        message: &StoredMessage,
    ) -> bool {
        let (origin, _) = Identity::stored(&self.pipeline, stream, message);
        let record = self.record(stage, &origin, message).await;
        record.is_some_and(|record| !record.comes_back())
    }

    /// Last error event of this life at `stage`, or at a stage chained to it. One that cannot be
    /// read makes a letter say less and holds none up.
    async fn record(
        &self,
        stage: &str,
        origin: &Origin,
        message: &StoredMessage,
    ) -> Option<AttemptRecord> {
        let (names, line) = (self.pipeline.names(), self.line(stage));
        // Its last attempt may have been before it was parked.
        let since = UNIX_EPOCH + Duration::from_millis(origin.life.at_ms);
        let since = since.min(message.stored_at);
        let found = AttemptRecord::last(&self.broker, &names, &line, origin, since).await;
        found.unwrap_or_else(|error| {
            tracing::debug!(
                stage,
                error = %error,
                "could not read what is known of a failed event"
            );
            None
        })
    }

    /// Stage, under each of its names, and those that are chained to it.
    fn line<'a>(&'a self, stage: &'a str) -> Vec<&'a str> {
        let mut line = vec![stage];
        let declared = self.pipeline.stage(stage);
        line.extend(declared.iter().flat_map(|it| &it.renamed_from).map(String::as_str));
        loop {
            let reads_it = |input: &Input| match input {
                Input::Results(from) => line.contains(&from.as_str()),
                Input::Source(_) | Input::Failed(_) | Input::Findings => false,
            };
            let mut chained = self.pipeline.stages.iter().filter(|stage| stage.chain);
            let next = chained.find(|stage| {
                !line.contains(&stage.name.as_str()) && stage.inputs.iter().any(reads_it)
            });
            match next {
                Some(next) => line.push(&next.name),
                None => return line,
            }
        }
    }
}

/// Reason and failure of a letter, from why it is written and from the last record.
fn verdict(why: Why, record: Option<&AttemptRecord>) -> (Reason, Failure) {
    if let Why::Expired(age) = why {
        return (Reason::Expired, Failure::expired(age));
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
            "the server gave it up without a notice that was heard; it may have completed"
                .to_owned()
        }
    };
    let before = record.map(|record| format!("; before that {}: {}", record.class, record.message));
    (Reason::Crashed, Failure::reject(class::CRASHED, what + &before.unwrap_or_default()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(outcome: &str) -> AttemptRecord {
        AttemptRecord {
            delivery: "shop-out-first:1:2:work".into(),
            spent: Spent { attempts: 2, first_failed_at: Some(UNIX_EPOCH) },
            outcome: outcome.into(),
            class: "TimeoutError".into(),
            message: "no answer in 5s".into(),
            wait: Duration::ZERO,
        }
    }

    fn shown(why: Why, record: Option<&AttemptRecord>) -> String {
        let (reason, failure) = verdict(why, record);
        format!("{reason} {failure}")
    }

    #[test]
    fn a_letter_says_what_the_worker_had_decided_or_else_how_it_was_found() {
        let all = [
            shown(Why::Deliveries(9), Some(&record("exhausted"))),
            shown(Why::Deliveries(9), Some(&record("retry"))),
            shown(Why::Deliveries(9), None),
            shown(Why::Unnoticed, Some(&record("rejected"))),
            shown(Why::Unnoticed, None),
            shown(Why::Expired(Duration::from_secs(7 * 86_400)), Some(&record("exhausted"))),
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

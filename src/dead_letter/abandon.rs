//! Abandon: dead letters of what is kept for a stage that is gone, when an operator says so.

use futures_util::TryStreamExt as _;
use millstream_stages::{Failure, headers, settle::Reason};

use super::{Letter, letter::Identity};
use crate::{
    broker::{AdminError, Broker, PublishError, StoredMessage, get},
    config::Pipeline,
    topology::{
        Held,
        leftovers::{Queued, Unread},
    },
};

/// Error class of a letter of an event whose stage is gone.
pub const CLASS: &str = "StageGone";

/// Events that could not be given up; what was not is where it was.
#[derive(Debug, thiserror::Error)]
pub enum AbandonError {
    /// The broker could not be asked, or refused.
    #[error("could not read or remove what a stage that is gone holds")]
    Admin(#[from] AdminError),
    /// A letter was not stored.
    #[error("could not write the dead letter of an event of a stage that is gone")]
    Publish(#[from] PublishError),
}

/// Makes dead letters of all events that are kept for a stage, then removes them, and its
/// consumers. Returns how many. Done again it goes on: an event has one letter.
///
/// # Errors
/// [`AbandonError`].
pub async fn abandon(
    broker: &Broker,
    pipeline: &Pipeline,
    held: &Held,
) -> Result<u64, AbandonError> {
    let (names, stage) = (pipeline.names(), held.stage.as_str());
    let (retry, notify) = (names.retry_stream(), names.notify_stream());
    let mut events = 0;
    let is_queue = |unread: &&Unread| unread.stream == retry || unread.stream == notify;
    for unread in held.consumers.iter().filter(|unread| !is_queue(unread)) {
        events += settle(broker, pipeline, held, unread).await?;
        broker.delete_consumer(&unread.stream, &unread.name).await?;
    }
    if held.is_declared {
        // What waits in a work queue is for the stage as it is now.
        return Ok(events);
    }
    for unread in held.consumers.iter().filter(is_queue) {
        broker.delete_consumer(&unread.stream, &unread.name).await?;
    }
    let mut queued = Queued::of(&names, broker, stage);
    while let Some((stream, message)) = queued.next().await? {
        bury(broker, pipeline, held, &stream, &message).await?;
        broker.delete_message(&stream, message.seq).await?;
        events += 1;
    }
    Ok(events)
}

/// Makes letters of what a consumer has not settled.
async fn settle(
    broker: &Broker,
    pipeline: &Pipeline,
    held: &Held,
    unread: &Unread,
) -> Result<u64, AbandonError> {
    let all = [String::new()];
    let filters = if unread.filters.is_empty() { &all[..] } else { &unread.filters };
    let mut events = 0;
    for filter in filters.iter().filter(|_| unread.unsettled > 0) {
        let mut found = std::pin::pin!(broker.scan(&unread.stream, filter, unread.floor + 1));
        while let Some(message) = found.try_next().await? {
            bury(broker, pipeline, held, &unread.stream, &message).await?;
            events += 1;
        }
    }
    Ok(events)
}

/// Writes the letter of one event, unless this life of it has one.
async fn bury(
    broker: &Broker,
    pipeline: &Pipeline,
    held: &Held,
    stream: &str,
    message: &StoredMessage,
) -> Result<(), AbandonError> {
    let (origin, identity) = Identity::stored(pipeline, stream, message);
    let stage = held.stage.as_str();
    let why = match held.is_declared {
        true => format!("stage \"{stage}\" no longer reads stream \"{stream}\""),
        false => format!("stage \"{stage}\" is not in the configuration"),
    };
    let failure = Failure::reject(CLASS, why);
    let now = broker.now();
    let letter = Letter {
        stage,
        reason: Reason::Abandoned,
        failure: &failure,
        attempts: origin.attempts_spent,
        first_failed_at: origin.first_failed_at.unwrap_or(message.stored_at),
        dead_at: now,
        origin: &origin,
        identity,
        traceparent: get(&message.headers, headers::TRACEPARENT),
        config: &pipeline.config_hash,
        body: message.body.clone(),
        malformed: message.malformed.as_ref(),
    };
    letter.publish(broker, &pipeline.names()).await?;
    Ok(())
}

//! Resend: event of a letter sent back to the stage that failed, and only there.

use futures_util::Stream;
use millstream_stages::headers;

use crate::{
    broker::{
        AdminError, Broker, Expects, Headers, Outgoing, PublishError, Refusal, Stored,
        StoredMessage, get, header, set, unix_ms,
    },
    dead_letter::stored,
    limits,
    wire::{Names, Origin, Place, parse_rfc3339, rfc3339},
};

/// Redrive that did not succeed. The letter is still there.
#[derive(Debug, thiserror::Error)]
pub enum RedriveError {
    /// The dead-letter stream could not be read or written.
    #[error("could not read or remove a dead letter")]
    Letters(#[from] AdminError),
    /// The event could not be published to its stage.
    #[error("could not send the event of letter {seq} back to stage \"{stage}\"")]
    Publish {
        /// The letter.
        seq: u64,
        /// The stage.
        stage: String,
        /// Cause.
        source: PublishError,
    },
    /// No consumer brings the stage what is sent back to it: the event would be on its way for
    /// ever.
    #[error(
        "letter {seq} cannot be redriven: nothing brings stage \"{stage}\" its redriven events (a \
         reduce stage takes none; for any other, `millstream apply` creates the consumer)"
    )]
    NobodyReads {
        /// The letter.
        seq: u64,
        /// The stage.
        stage: String,
    },
    /// The letter was too large to hold its payload, and that is gone.
    #[error(
        "letter {seq} cannot be redriven: its payload, which was kept apart on \"{subject}\", is \
         gone"
    )]
    PayloadGone {
        /// The letter.
        seq: u64,
        /// Subject of the payload.
        subject: String,
    },
    /// The event, with the headers of a redriven one, is larger than the server takes.
    #[error(
        "letter {seq} cannot be redriven: its event is {bytes} bytes with the headers it needs, \
         and the server takes {max_payload}; raise max_payload of the server to {needed} at least, \
         or edit the event to be smaller"
    )]
    TooLarge {
        /// The letter.
        seq: u64,
        /// Size of the event as it would be sent.
        bytes: usize,
        /// Limit of the server.
        max_payload: usize,
        /// Limit that it would need.
        needed: usize,
    },
}

impl RedriveError {
    /// Reason that letters stay, the same for all that it concerns; `None` if it is not the letter
    /// itself, so that others cannot be sent either.
    pub(super) fn of_the_letter(&self) -> Option<String> {
        match self {
            Self::PayloadGone { .. } => {
                Some("letters stay: their payloads, which were kept apart, are gone".to_owned())
            }
            Self::TooLarge { .. } | Self::Publish { source: PublishError::TooLarge { .. }, .. } => {
                const WHY: &str = "letters stay: with the headers that they need their events \
                                   are larger than the server takes: raise its max_payload, or \
                                   edit them";
                Some(WHY.to_owned())
            }
            Self::NobodyReads { stage, .. } => Some(format!(
                "letters of stage \"{stage}\" stay: nothing brings it what is redriven; \
                 `millstream apply` creates the consumer"
            )),
            Self::Letters(_)
            | Self::Publish {
                source: PublishError::Failed { .. } | PublishError::NotFirst { .. },
                ..
            } => None,
        }
    }

    /// Refusal that is the cause, if one is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Letters(error) => error.refusal(),
            Self::Publish { source, .. } => source.refusal(),
            Self::NobodyReads { .. } | Self::PayloadGone { .. } | Self::TooLarge { .. } => None,
        }
    }
}

/// Makes sure that letters may be removed, before one is sent that could not be: by asking to
/// remove one that is not there, and, `by_runs`, those of a stage that has no name.
///
/// # Errors
/// [`RedriveError::Letters`], with the refusal. What else fails shows later.
pub(super) async fn may_remove(
    broker: &Broker,
    names: &Names,
    by_runs: bool,
) -> Result<(), RedriveError> {
    let stream = names.dlq_stream();
    if let Err(error) = broker.delete_message(&stream, 0).await
        && error.refusal().is_some()
    {
        return Err(error.into());
    }
    // Sequence 0 would stand for all.
    if by_runs
        && let Err(error) = broker.purge_up_to(&stream, &names.dlq_filter(Some("-")), 1).await
        && error.refusal().is_some()
    {
        return Err(error.into());
    }
    Ok(())
}

/// Letters of a stage, or all, oldest first.
pub fn letters(
    broker: &Broker,
    names: &Names,
    stage: Option<&str>,
) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
    broker.scan(&names.dlq_stream(), &names.dlq_filter(stage), 1)
}

/// Sends the event of one letter back to its stage, then removes the letter.
///
/// If the process dies in between, the letter stays and the event is on its way: it may run twice,
/// it is never lost.
///
/// # Errors
/// [`RedriveError`]; the letter is still there.
pub async fn redrive(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
) -> Result<(), RedriveError> {
    is_read(broker, names, stage_of(letter), letter.seq).await?;
    may_remove(broker, names, false).await?;
    send(broker, names, letter, stage_of(letter)).await?;
    stored::remove(broker, names, letter).await?;
    Ok(())
}

/// Stage that gave up on the event of a letter; empty where it does not say, or its headers are
/// malformed, so that what can be read of them may be anything.
pub(crate) fn stage_of(letter: &StoredMessage) -> &str {
    if letter.malformed.is_some() {
        return "";
    }
    get(&letter.headers, headers::STAGE).unwrap_or_default()
}

/// Number of redrives of the event of a letter.
pub(super) fn redrives_of(letter: &StoredMessage) -> u32 {
    get(&letter.headers, headers::REDRIVES).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// Makes sure that the stage of a letter has a consumer of what is sent back to it.
pub(super) async fn is_read(
    broker: &Broker,
    names: &Names,
    stage: &str,
    seq: u64,
) -> Result<(), RedriveError> {
    match broker.consumer_state(&names.retry_stream(), &names.stage_consumer(stage)).await {
        Ok(_) => Ok(()),
        Err(AdminError::NoConsumer { .. } | AdminError::NoStream { .. }) => {
            Err(RedriveError::NobodyReads { seq, stage: stage.to_owned() })
        }
        Err(error) => Err(error.into()),
    }
}

/// Sends the event of a letter back to its stage, or the one that took over; the place of the
/// event. The letter stays: remove it.
///
/// Sent twice within [`crate::limits::DEDUP`], the server keeps one.
///
/// # Errors
/// [`RedriveError`].
pub(super) async fn send(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
    stage: &str,
) -> Result<Stored, RedriveError> {
    let value = |name| get(&letter.headers, name);
    let place = Place::new(names.dlq_stream(), letter.seq, letter.stored_at);
    let mut origin = Origin::read(place.clone(), &letter.subject, value);
    origin.redrives += 1;
    // Services that know the event by its key must not take what is new for what they refused.
    if let Some(edited_at) = value(headers::EDITED_AT).and_then(parse_rfc3339) {
        origin.edit = Some(unix_ms(edited_at));
    }

    let payload = stored::payload(broker, names, letter).await?;
    let gone = || RedriveError::PayloadGone {
        seq: letter.seq,
        subject: stored::apart(&letter.subject, &letter.headers).unwrap_or_default(),
    };
    let body = payload.ok_or_else(gone)?;
    let queued_at = rfc3339(broker.now());
    let outgoing = || {
        let mut all = Headers::new();
        for name in [
            headers::EVENT_ID,
            headers::EVENT_TYPE,
            headers::EVENT_VERSION,
            headers::TENANT,
            headers::ENVELOPE,
            headers::FIRST_FAILED_AT,
            headers::TRACEPARENT,
        ] {
            if let Some(value) = value(name) {
                set(&mut all, name, header(value));
            }
        }
        origin.write_source(&mut all);
        set(&mut all, headers::QUEUED_AT, queued_at.as_str());
        // A new life, which is known before the event is stored: whoever sends it looks by it for
        // what became of it.
        set(&mut all, headers::LIFE, place.to_string().as_str());
        set(&mut all, headers::MSG_ID, format!("redrive:{place}").as_str());
        let subject = names.retry_subject(stage);
        Outgoing { subject, headers: all, body: body.clone(), expects: Expects::Anything }
    };
    let max_payload = broker.max_payload();
    // What is near the limit is measured; the rest is not made twice for it.
    if body.len() + limits::LETTER_RESERVE > max_payload && outgoing().bytes() > max_payload {
        let bytes = outgoing().bytes();
        // With some room for what a retry adds to the headers.
        let needed = bytes + limits::LETTER_RESERVE;
        return Err(RedriveError::TooLarge { seq: letter.seq, bytes, max_payload, needed });
    }
    let failed =
        |source| RedriveError::Publish { seq: letter.seq, stage: stage.to_owned(), source };
    broker.publish_made(outgoing).await.map_err(failed)
}

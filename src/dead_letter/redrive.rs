//! Redrive: sends letters back to the stage that failed, and only there.

use std::collections::BTreeSet;

use futures_util::{Stream, StreamExt as _, stream::FuturesUnordered};
use millstream_stages::headers;

use super::{LetterRecord, Origin, letter};
use crate::{
    broker::{AdminError, Broker, Expects, Headers, Outgoing, PublishError, StoredMessage, header},
    limits,
    topology::Names,
};

/// A redrive that did not succeed. The letter is still there.
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
        /// Why.
        source: PublishError,
    },
    /// No consumer brings the stage what is sent back to it: the event would be on its way for ever.
    #[error(
        "letter {seq} cannot be redriven: nothing brings stage \"{stage}\" its redriven events (a reduce stage \
         takes none; for any other, `millstream apply` creates the consumer)"
    )]
    NobodyReads {
        /// The letter.
        seq: u64,
        /// The stage.
        stage: String,
    },
    /// The letter was too large to hold its payload, and that is gone.
    #[error("letter {seq} cannot be redriven: its payload, which was kept apart on \"{subject}\", is gone")]
    PayloadGone {
        /// The letter.
        seq: u64,
        /// Where the payload was.
        subject: String,
    },
    /// With the headers of a redriven event it is larger than the server takes.
    #[error(
        "letter {seq} cannot be redriven: its event is {bytes} bytes with the headers it needs, and the server takes \
         {max_payload}; raise max_payload of the server to {needed} at least, or edit the event to be smaller"
    )]
    TooLarge {
        /// The letter.
        seq: u64,
        /// The size of the event as it would be sent.
        bytes: usize,
        /// What the server takes.
        max_payload: usize,
        /// What it would have to take.
        needed: usize,
    },
}

/// The letters of a stage, or all, oldest first.
pub fn letters(
    broker: &Broker,
    names: &Names,
    stage: Option<&str>,
) -> impl Stream<Item = Result<StoredMessage, AdminError>> + Send + use<> {
    broker.scan(&names.dlq_stream(), &names.dlq_filter(stage), 1)
}

/// Sends the event of one letter back to its stage, then removes the letter.
///
/// If the process dies in between, the letter stays and the event is on its way: it may run twice, it is never lost.
///
/// # Errors
/// [`RedriveError`]; the letter is still there.
pub async fn redrive(broker: &Broker, names: &Names, letter: &StoredMessage) -> Result<(), RedriveError> {
    let record = LetterRecord::of(letter);
    is_read(broker, names, &record).await?;
    send_back(broker, names, letter, record).await
}

/// Makes sure that the stage of a letter reads what is sent back to it.
async fn is_read(broker: &Broker, names: &Names, letter: &LetterRecord) -> Result<(), RedriveError> {
    match broker.consumer_state(&names.retry_stream(), &names.stage_consumer(&letter.stage)).await {
        Ok(_) => Ok(()),
        Err(AdminError::NoConsumer { .. } | AdminError::NoStream { .. }) => {
            Err(RedriveError::NobodyReads { seq: letter.seq, stage: letter.stage.clone() })
        }
        Err(error) => Err(error.into()),
    }
}

async fn send_back(
    broker: &Broker,
    names: &Names,
    letter: &StoredMessage,
    record: LetterRecord,
) -> Result<(), RedriveError> {
    let value = |name: &'static str| letter.headers.get(name).map(|value| value.as_str());
    let mut origin = Origin::read(names.dlq_stream(), letter.seq, &letter.subject, value);
    origin.redrives += 1;

    let payload = letter::payload(broker, names, letter).await?;
    let gone = || RedriveError::PayloadGone { seq: letter.seq, subject: Names::dlq_body(&letter.subject) };
    let body = payload.ok_or_else(gone)?;
    let mut all = Headers::new();
    for name in [
        headers::EVENT_ID,
        headers::EVENT_TYPE,
        headers::EVENT_VERSION,
        headers::TENANT,
        headers::ENVELOPE,
        headers::TRACEPARENT,
    ] {
        if let Some(value) = value(name) {
            all.insert(name, header(value));
        }
    }
    origin.write_source(&mut all);
    let outgoing =
        Outgoing { subject: names.retry_subject(&record.stage), headers: all, body, expects: Expects::Anything }
            .id(&format!("redrive:{}", letter.seq));
    let (bytes, max_payload) = (outgoing.bytes(), broker.max_payload());
    if bytes > max_payload {
        // With some room for what a retry adds to the headers.
        let needed = bytes + limits::LETTER_RESERVE;
        return Err(RedriveError::TooLarge { seq: letter.seq, bytes, max_payload, needed });
    }
    let failed = |source| RedriveError::Publish { seq: letter.seq, stage: record.stage.clone(), source };
    broker.publish(outgoing).await.map_err(failed)?;
    letter::remove(broker, names, letter).await?;
    Ok(())
}

/// Redrives every letter of a stage, or all, that is there now; calls `done` after each. Returns how many.
///
/// # Errors
/// The first [`RedriveError`]; its letter is still there, and so are those that were not begun.
pub async fn redrive_all(
    broker: &Broker,
    names: &Names,
    stage: Option<&str>,
    mut done: impl FnMut(u64),
) -> Result<u64, RedriveError> {
    let mut letters = Box::pin(letters(broker, names, stage));
    let (mut under_way, mut read, mut count) = (FuturesUnordered::new(), BTreeSet::new(), 0);
    loop {
        let letter = letters.next().await.transpose()?;
        let wait_for = if letter.is_some() { limits::REDRIVES_IN_FLIGHT_MAX - 1 } else { 0 };
        while under_way.len() > wait_for
            && let Some(sent) = under_way.next().await
        {
            let () = sent?;
            count += 1;
            done(count);
        }
        let Some(letter) = letter else { return Ok(count) };
        let record = LetterRecord::of(&letter);
        if !read.contains(&record.stage) {
            is_read(broker, names, &record).await?;
            read.insert(record.stage.clone());
        }
        under_way.push(async move { send_back(broker, names, &letter, record).await });
    }
}

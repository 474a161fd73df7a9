//! Amend: a stored letter replaced by another, in one write.

use bytes::Bytes;

use crate::broker::{Broker, Expects, Headers, Outgoing, PublishError, Stored, StoredMessage};

/// Puts a letter with these headers and this payload in the place of `letter`, which is as it was
/// read; its new sequence, or `None` if someone else has amended, redriven or dropped it since.
///
/// One message with a roll-up of its subject: there is never no letter and never two.
///
/// # Errors
/// The publish did not succeed. If it was a time-out, it may have happened.
pub async fn amend(
    broker: &Broker,
    letter: &StoredMessage,
    headers: Headers,
    body: Bytes,
) -> Result<Option<u64>, PublishError> {
    let expects = Expects::Replaced(letter.seq);
    let outgoing = Outgoing { subject: letter.subject.clone(), headers, body, expects };
    match broker.publish(outgoing).await {
        Ok(Stored { seq, .. }) => Ok(Some(seq)),
        Err(PublishError::NotFirst { .. }) => Ok(None),
        Err(error @ (PublishError::TooLarge { .. } | PublishError::Failed { .. })) => Err(error),
    }
}

/// Writes one header on a letter: see [`amend`].
///
/// # Errors
/// As [`amend`].
pub async fn mark(
    broker: &Broker,
    letter: &StoredMessage,
    name: &'static str,
    value: &str,
) -> Result<Option<u64>, PublishError> {
    let mut headers = letter.headers.clone();
    crate::broker::set(&mut headers, name, crate::broker::header(value));
    amend(broker, letter, headers, letter.body.clone()).await
}

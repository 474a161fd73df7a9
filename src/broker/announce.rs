//! Announce: one core NATS message to whoever listens now, without an answer.

use super::{Broker, Outgoing, connection::Sending, refusal::Refusal};
use crate::limits;

/// Message that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("could not send to \"{subject}\"")]
pub struct AnnounceError {
    subject: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl AnnounceError {
    /// Refusal that is the cause, if one is.
    pub fn refusal(&self) -> Option<&Refusal> {
        self.source.downcast_ref()
    }
}

impl Broker {
    /// Sends one message to whoever listens on its subject now, and waits until the server has it.
    ///
    /// # Errors
    /// [`AnnounceError`] if the connection does not take it, or the server refuses the subject.
    pub async fn announce(&self, outgoing: Outgoing) -> Result<(), AnnounceError> {
        let Outgoing { subject, headers, body, .. } = outgoing;
        let failed = |source| AnnounceError { subject: subject.clone(), source };
        let sending =
            Sending { subject: &subject, headers: Some(&headers), extra: &[], body: &body };
        let mut refusals = self.each_refusal();
        let sent = self.connection.send(&sending, None).await;
        sent.map_err(|error| failed(error.into()))?;
        let flushed = self.connection.flush(limits::REQUEST_TIMEOUT).await;
        flushed.map_err(|error| failed(error.into()))?;
        // A refusal comes before the answer to what was sent after it; without one, it was taken.
        match refusals.of(&subject) {
            Some(refusal) => Err(failed(refusal.into())),
            None => {
                self.answered(&subject);
                Ok(())
            }
        }
    }
}

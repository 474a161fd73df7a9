//! Announce: one core NATS message to whoever listens now, without an answer.

use super::{Broker, Outgoing};

/// Message that could not be sent.
#[derive(Debug, thiserror::Error)]
#[error("could not send to \"{subject}\"")]
pub struct AnnounceError {
    subject: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl Broker {
    /// Sends one message to whoever listens on its subject now, and waits until the server has it.
    ///
    /// # Errors
    /// [`AnnounceError`] if the connection does not take it.
    pub async fn announce(&self, outgoing: Outgoing) -> Result<(), AnnounceError> {
        let Outgoing { subject, headers, body, .. } = outgoing;
        let failed = |source| AnnounceError { subject: subject.clone(), source };
        let sent = self.client.publish_with_headers(subject.clone(), headers, body).await;
        sent.map_err(|error| failed(error.into()))?;
        self.client.flush().await.map_err(|error| failed(error.into()))
    }
}

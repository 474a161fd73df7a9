//! Listen: core NATS messages on a subject as they come, without a stream.
//!
//! A subscriber that is not connected misses them.

use bytes::Bytes;
use futures_util::StreamExt as _;

use super::Broker;

/// Subject that could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("could not listen on \"{subject}\"")]
pub struct ListenError {
    subject: String,
    source: Box<dyn std::error::Error + Send + Sync>,
}

/// Subscription to a subject. A lost connection is made again underneath; what came meanwhile is
/// missed.
#[derive(Debug)]
pub struct Listening(async_nats::Subscriber);

impl Broker {
    /// Listens on a subject, with wildcards. When it returns, the server knows of the subscription.
    ///
    /// # Errors
    /// [`ListenError`] if the subject is none, or the connection is closed for good.
    pub async fn listen(&self, subject: &str) -> Result<Listening, ListenError> {
        let failed = |source| ListenError { subject: subject.to_owned(), source };
        let subscriber = self
            .client
            .subscribe(subject.to_owned())
            .await
            .map_err(|error| failed(error.into()))?;
        self.client.flush().await.map_err(|error| failed(error.into()))?;
        Ok(Listening(subscriber))
    }
}

impl Listening {
    /// Body of the next message; `None` when the connection is closed for good. Nothing is lost if
    /// the future is dropped.
    pub async fn next(&mut self) -> Option<Bytes> {
        Some(self.0.next().await?.payload)
    }
}

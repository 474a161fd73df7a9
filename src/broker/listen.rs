//! Listen: core NATS messages on a subject as they come, without a stream.
//!
//! A subscriber that is not connected misses them.

use bytes::Bytes;

use super::{
    Broker,
    connection::{self, Subscription},
};
use crate::limits;

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
pub struct Listening(Subscription);

impl Broker {
    /// Listens on a subject, with wildcards. When it returns, the server knows of the subscription.
    ///
    /// # Errors
    /// [`ListenError`] if the subject is none, or the connection is closed for good.
    pub async fn listen(&self, subject: &str) -> Result<Listening, ListenError> {
        let failed = |source| ListenError { subject: subject.to_owned(), source };
        if !connection::is_subject(subject) {
            return Err(failed("it is not a subject".into()));
        }
        let subscriber =
            self.connection.subscribe(&[subject.to_owned()], limits::LISTENED_BYTES_MAX);
        let flushed = self.connection.flush(limits::REQUEST_TIMEOUT).await;
        flushed.map_err(|error| failed(error.into()))?;
        Ok(Listening(subscriber))
    }
}

impl Listening {
    /// Body of the next message; `None` once the server refuses the subject. Nothing is lost if
    /// the future is dropped.
    pub async fn next(&mut self) -> Option<Bytes> {
        Some(self.0.next().await?.body())
    }
}

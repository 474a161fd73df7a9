//! Request: one message to a NATS service, and its answer.

use std::time::Duration;

use bytes::Bytes;

use super::{
    Broker, Headers,
    connection::{Block, SendError, Sending, Unsendable},
    refusal::Refusal,
};

/// Answer of a service.
#[derive(Debug, Clone)]
pub struct Answer {
    /// Headers of the answer.
    pub headers: Headers,
    /// Payload of the answer.
    pub body: Bytes,
}

/// Request that got no answer.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Subject on which nobody listens.
    #[error("no service listens on \"{subject}\"")]
    NoResponders {
        /// Subject of the request.
        subject: String,
    },
    /// Service that listens, and did not answer in time.
    #[error("no answer from \"{subject}\" in {timeout:?}")]
    TimedOut {
        /// Subject of the request.
        subject: String,
        /// Time that was waited.
        timeout: Duration,
    },
    /// Request that with its headers is larger than the server takes.
    #[error("the request to \"{subject}\" is larger than the server's max_payload")]
    TooLarge {
        /// Subject of the request.
        subject: String,
    },
    /// Answer whose headers are malformed: nobody can say what it means.
    #[error("the answer from \"{subject}\" cannot be read: its headers are malformed: {why}")]
    Malformed {
        /// Subject of the request.
        subject: String,
        /// Reason, in words without anything of the answer.
        why: String,
    },
    /// Subject that cannot be published to, or connection that broke meanwhile.
    #[error("could not send a request to \"{subject}\"")]
    Failed {
        /// Subject of the request.
        subject: String,
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl RequestError {
    /// Refusal that is the cause, if one is.
    pub fn refusal(&self) -> Option<&Refusal> {
        match self {
            Self::Failed { source, .. } => source.downcast_ref::<SendError>()?.refusal(),
            Self::NoResponders { .. }
            | Self::TimedOut { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. } => None,
        }
    }
}

impl Broker {
    /// Sends a request and waits for the first answer.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        subject: &str,
        headers: Headers,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, RequestError> {
        let sending = Sending { subject, headers: Some(&headers), extra: &[], body: &body };
        let answer = self.connection.request(&sending, timeout).await;
        let subject = subject.to_owned();
        let answer = answer.map_err(|error| match error {
            SendError::Unsendable(Unsendable::TooLarge { .. }) => {
                RequestError::TooLarge { subject: subject.clone() }
            }
            SendError::TimedOut(timeout) => {
                RequestError::TimedOut { subject: subject.clone(), timeout }
            }
            SendError::Unsendable(_) | SendError::Lost(_) => {
                RequestError::Failed { subject: subject.clone(), source: error.into() }
            }
        })?;
        let Block { headers, status, malformed, .. } = Block::read(answer.head());
        match (status, malformed) {
            (Some(503), None) if answer.body().is_empty() => {
                Err(RequestError::NoResponders { subject })
            }
            (_, Some(why)) => Err(RequestError::Malformed { subject, why }),
            (_, None) => Ok(Answer { headers, body: answer.body() }),
        }
    }
}

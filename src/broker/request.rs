//! Request: one message to a NATS service, and its answer.

use std::time::Duration;

use async_nats::client::{Request, RequestErrorKind};
use bytes::Bytes;

use super::{Broker, Headers};

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
    /// Subject that cannot be published to, or connection that is closed for good.
    #[error("could not send a request to \"{subject}\"")]
    Failed {
        /// Subject of the request.
        subject: String,
        /// Error of the client.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

impl Broker {
    /// Sends a request and waits for the first answer.
    ///
    /// # Errors
    /// [`RequestError`]. A subject that we may not publish to shows as a timeout: the server
    /// reports it to the connection, not to the request.
    pub async fn request(
        &self,
        subject: &str,
        headers: Headers,
        body: Bytes,
        timeout: Duration,
    ) -> Result<Answer, RequestError> {
        let request = Request::new().payload(body).headers(headers).timeout(Some(timeout));
        let answer =
            self.client.send_request(subject.to_owned(), request).await.map_err(|error| {
                let subject = subject.to_owned();
                match error.kind() {
                    RequestErrorKind::NoResponders => RequestError::NoResponders { subject },
                    RequestErrorKind::TimedOut => RequestError::TimedOut { subject, timeout },
                    RequestErrorKind::MaxPayloadExceeded => RequestError::TooLarge { subject },
                    RequestErrorKind::InvalidSubject | RequestErrorKind::Other => {
                        RequestError::Failed { subject, source: error.into() }
                    }
                }
            })?;
        Ok(Answer { headers: answer.headers.unwrap_or_default(), body: answer.payload })
    }
}

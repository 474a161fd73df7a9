//! Failure: reason why an event was not handled, its class, and its disposition.

use std::{borrow::Cow, time::Duration};

/// Classes that Millstream itself gives. A handler may use its own.
pub mod class {
    /// The handler did not answer in time.
    pub const TIMEOUT: &str = "TimeoutError";
    /// The handler could not be reached.
    pub const CONNECTION: &str = "ConnectionError";
    /// The event does not have the shape it should have.
    pub const VALIDATION: &str = "ValidationError";
    /// The handler asked to be called less often (HTTP 429).
    pub const RATE_LIMITED: &str = "RateLimited";
    /// The handler answered with HTTP 5xx.
    pub const HTTP_SERVER: &str = "HttpServerError";
    /// The handler answered with an HTTP 4xx that repeating will not change.
    pub const HTTP_CLIENT: &str = "HttpClientError";
    /// The handler broke: it panicked, died, or answered with what cannot be read.
    pub const HANDLER: &str = "HandlerError";
    /// The payload is not an event in the declared envelope.
    pub const DECODE: &str = "DecodeError";
    /// The `when` of a stage could not be decided for the event.
    pub const CONDITION: &str = "ConditionError";
    /// The event waited in the retry stream for longer than it may.
    pub const EXPIRED: &str = "ExpiredError";
    /// An event with the same key was seen within the window of a `dedupe` stage.
    pub const DUPLICATE: &str = "Duplicate";
    /// The worker had no descriptors, memory, disk, processes or ports left to handle it with.
    pub const SHORTAGE: &str = "WorkerShortage";
    /// The workers that ran the event died of it.
    pub const CRASHED: &str = "WorkerCrashed";
}

/// Reason why an event was not handled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct Failure {
    /// Class of the failure; retry rules and metrics go by it.
    pub class: Cow<'static, str>,
    /// One line for people. May hold text from outside: sanitise before it goes into a header or a
    /// log.
    pub message: String,
    /// Disposition: retry, reject or defer.
    pub disposition: Disposition,
}

/// Disposition: retry, reject or defer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// A later attempt may work. `after` is a wait the handler asked for (`Retry-After`).
    Retry {
        /// Wait that was asked for; the policy decides where there is none.
        after: Option<Duration>,
    },
    /// No attempt will work.
    Reject,
    /// The handler's dependency is down: later, and no attempt is spent.
    Defer {
        /// Wait that was asked for; the policy decides where there is none.
        after: Option<Duration>,
    },
}

impl Failure {
    /// Returns a failure that may go away.
    pub fn retry(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: message.into(),
            disposition: Disposition::Retry { after: None },
        }
    }

    /// Returns a failure that will not go away.
    pub fn reject(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { class: class.into(), message: message.into(), disposition: Disposition::Reject }
    }

    /// Returns a failure of the handler's dependency; it costs the event no attempt.
    pub fn defer(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: message.into(),
            disposition: Disposition::Defer { after: None },
        }
    }

    /// Returns the failure of an event that was in the retry stream for longer than `most`.
    pub fn expired(most: Duration) -> Self {
        let message =
            format!("waited in the retry stream for longer than {}", crate::units::Period(most));
        Self::reject(class::EXPIRED, message)
    }

    /// Returns the failure with the wait that was asked for. A rejection stays a rejection.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        match &mut self.disposition {
            Disposition::Retry { after } | Disposition::Defer { after } => *after = Some(wait),
            Disposition::Reject => {}
        }
        self
    }
}

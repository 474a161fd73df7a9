//! Failure: why an event was not handled, and whether trying again can help.

use std::{borrow::Cow, time::Duration};

/// The classes that Millstream itself gives. A handler may use its own.
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
    /// The workers that ran the event died of it.
    pub const CRASHED: &str = "WorkerCrashed";
}

/// Why an event was not handled.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class}: {message}")]
pub struct Failure {
    /// What sort of failure it is; retry rules and metrics go by it.
    pub class: Cow<'static, str>,
    /// One line for people. May hold text from outside: sanitise before it goes into a header or a
    /// log.
    pub message: String,
    /// Whether trying again can help.
    pub disposition: Disposition,
}

/// Whether trying again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Disposition {
    /// It may work later. `after` is a wait the handler asked for (`Retry-After`).
    Retry {
        /// The wait that was asked for; the policy decides where there is none.
        after: Option<Duration>,
    },
    /// It never will.
    Reject,
    /// What the handler depends on is down: later, and no attempt is spent.
    Defer {
        /// The wait that was asked for; the policy decides where there is none.
        after: Option<Duration>,
    },
}

impl Failure {
    /// A failure that may go away.
    pub fn retry(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: message.into(),
            disposition: Disposition::Retry { after: None },
        }
    }

    /// A failure that will not go away.
    pub fn reject(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self { class: class.into(), message: message.into(), disposition: Disposition::Reject }
    }

    /// A failure of what the handler depends on; it costs the event no attempt.
    pub fn defer(class: impl Into<Cow<'static, str>>, message: impl Into<String>) -> Self {
        Self {
            class: class.into(),
            message: message.into(),
            disposition: Disposition::Defer { after: None },
        }
    }

    /// That an event was in the retry stream for longer than `most`.
    pub fn expired(most: Duration) -> Self {
        let message =
            format!("waited in the retry stream for longer than {}", crate::units::Period(most));
        Self::reject(class::EXPIRED, message)
    }

    /// The same failure with the wait that was asked for. A rejection stays a rejection.
    #[must_use]
    pub fn after(mut self, wait: Duration) -> Self {
        match &mut self.disposition {
            Disposition::Retry { after } | Disposition::Defer { after } => *after = Some(wait),
            Disposition::Reject => {}
        }
        self
    }
}

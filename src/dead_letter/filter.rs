//! Filter: conditions on letters, by their headers and by jq over their payload.

use std::{sync::Arc, time::SystemTime};

use millstream_stages::{
    Envelope, Event,
    event::{FIRST_VERSION, Identity},
    headers,
    jq::{self, Fault, JqError},
    retry::glob_matches,
};
use serde::{Deserialize, Serialize};

use crate::{
    broker::{AdminError, Broker, StoredMessage, get},
    dead_letter::stored,
    filters::{self, NoAnswer},
    wire::{Names, parse_rfc3339, rfc3339},
};

/// Conditions on letters: a letter matches if all that are given hold. Kept in a job's record.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LetterFilter {
    /// Sequences of the letters; empty: any.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub letters: Vec<u64>,
    /// The stage that gave up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<String>,
    /// The class of the last failure; `*` stands for any text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub class: Option<String>,
    /// The type of the event; `*` stands for any text.
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    pub event_type: Option<String>,
    /// The tenant of the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tenant: Option<String>,
    /// Reason for giving up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The fingerprint, or the beginning of one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// Start, inclusive, of the time of giving up, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<String>,
    /// End, exclusive, of the time of giving up, RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// jq filter that must be true for the payload. A payload that it cannot read does not match.
    #[serde(rename = "where", skip_serializing_if = "Option::is_none")]
    pub condition: Option<String>,
}

/// Compiled [`LetterFilter`].
#[derive(Debug)]
pub struct Selecting {
    filter: LetterFilter,
    since: Option<SystemTime>,
    until: Option<SystemTime>,
    condition: Option<Arc<jq::Filter>>,
}

/// Reason why a filter cannot be compiled.
#[derive(Debug, thiserror::Error)]
pub enum FilterError {
    /// Not a jq filter.
    #[error("not a jq filter (at character {at})", at = .source.offset + 1)]
    Condition {
        /// Error of the jq compiler.
        #[from]
        source: JqError,
    },
    /// Not a time.
    #[error("\"{0}\" is not a time: write it as RFC 3339, such as 2026-11-21T08:00:00Z")]
    Time(String),
}

impl LetterFilter {
    /// Compiles the filter.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn compile(&self) -> Result<Selecting, FilterError> {
        let time = |text: &Option<String>| match text {
            None => Ok(None),
            Some(text) => {
                parse_rfc3339(text).map(Some).ok_or_else(|| FilterError::Time(text.clone()))
            }
        };
        Ok(Selecting {
            since: time(&self.since)?,
            until: time(&self.until)?,
            condition: self
                .condition
                .as_deref()
                .map(|text| jq::Filter::compile(text).map(Arc::new))
                .transpose()?,
            filter: self.clone(),
        })
    }

    /// True if every letter matches.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    /// True if nothing but the stage is asked for: then the server can count the matches.
    pub fn is_by_stage(&self) -> bool {
        *self == Self { stage: self.stage.clone(), ..Self::default() }
    }
}

impl Selecting {
    /// Time before which no letter matches.
    pub fn since(&self) -> Option<SystemTime> {
        self.since
    }

    /// Stage whose letters match, where one is given.
    pub fn stage(&self) -> Option<&str> {
        self.filter.stage.as_deref()
    }

    /// True if the payload is needed: otherwise headers are enough.
    pub fn needs_body(&self) -> bool {
        self.condition.is_some()
    }

    /// True if a letter matches, wherever its payload is.
    ///
    /// # Errors
    /// [`AdminError`]: its payload is kept apart, is needed, and could not be read.
    pub async fn takes(
        &self,
        broker: &Broker,
        names: &Names,
        letter: &StoredMessage,
    ) -> Result<bool, AdminError> {
        if !self.takes_headers(letter) {
            return Ok(false);
        }
        let Some(condition) = &self.condition else { return Ok(true) };
        if stored::apart(&letter.subject, &letter.headers).is_none() {
            return Ok(is_met(condition, letter).await);
        }
        let payload = stored::payload(broker, names, letter).await?;
        let Some(body) = payload else { return Ok(false) };
        Ok(is_met(condition, &StoredMessage { body, ..letter.clone() }).await)
    }

    /// True if a letter matches by all but the condition on its payload.
    fn takes_headers(&self, letter: &StoredMessage) -> bool {
        let LetterFilter { letters, stage, class, event_type, tenant, reason, fingerprint, .. } =
            &self.filter;
        let header = |name| get(&letter.headers, name);
        let is = |wanted: &Option<String>, name| {
            wanted.as_deref().is_none_or(|wanted| header(name) == Some(wanted))
        };
        let fits = |glob: &Option<String>, name| {
            glob.as_deref().is_none_or(|glob| glob_matches(glob, header(name).unwrap_or_default()))
        };
        (letters.is_empty() || letters.contains(&letter.seq))
            && is(stage, headers::STAGE)
            && is(tenant, headers::TENANT)
            && is(reason, headers::REASON)
            && fits(class, headers::ERROR_CLASS)
            && fits(event_type, headers::EVENT_TYPE)
            && fingerprint.as_deref().is_none_or(|start| {
                header(headers::FINGERPRINT).is_some_and(|whole| whole.starts_with(start))
            })
            && self.is_in_time(|| header(headers::DEAD_AT))
    }

    fn is_in_time<'a>(&self, dead_at: impl Fn() -> Option<&'a str>) -> bool {
        if self.since.is_none() && self.until.is_none() {
            return true;
        }
        dead_at().and_then(parse_rfc3339).is_some_and(|dead_at| {
            self.since.is_none_or(|since| dead_at >= since)
                && self.until.is_none_or(|until| dead_at < until)
        })
    }
}

/// True if a letter's payload meets a condition. One that it cannot be decided for does not; where
/// that is for a bound, and so no answer, it is said.
async fn is_met(condition: &Arc<jq::Filter>, letter: &StoredMessage) -> bool {
    match filters::truthy(condition, &event(letter)).await {
        Ok(is_met) => is_met,
        Err(NoAnswer::Fault(Fault::Error(_))) => false,
        Err(error) => {
            let (letter, error) = (letter.seq, error.to_string());
            tracing::warn!(letter, error, "a letter is left out: its condition gave no answer");
            false
        }
    }
}

/// Event of a letter, with the identity in its headers.
pub fn event(letter: &StoredMessage) -> Event {
    let header = |name| get(&letter.headers, name);
    let text = |name| header(name).unwrap_or_default().to_owned();
    let identity = Identity {
        id: text(headers::EVENT_ID),
        event_type: text(headers::EVENT_TYPE),
        version: header(headers::EVENT_VERSION).unwrap_or(FIRST_VERSION).to_owned(),
        tenant: header(headers::TENANT).map(ToOwned::to_owned),
    };
    let envelope = header(headers::ENVELOPE).and_then(Envelope::named).unwrap_or(Envelope::Raw);
    Event::new(identity, envelope, letter.body.clone())
}

/// Parses a time of a filter, RFC 3339 or how long ago (`24h`), into RFC 3339.
pub fn moment(text: &str, now: SystemTime) -> Result<String, FilterError> {
    if let Ok(ago) = text.parse::<millstream_stages::units::Period>() {
        return Ok(rfc3339(now.checked_sub(ago.0).unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    parse_rfc3339(text).map(rfc3339).ok_or_else(|| FilterError::Time(text.to_owned()))
}

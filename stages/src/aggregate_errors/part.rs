//! Part: one thing that a fingerprint is made of, and its value in an error.

use std::borrow::Cow;

use super::report::Report;
use crate::{fingerprint::Hasher, incident::Severity};

/// Longest key of `metadata` that may be part of a fingerprint, in bytes.
const KEY_BYTES_MAX: usize = 64;

/// One thing that a fingerprint is made of.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Part {
    Code,
    Service,
    Message,
    Stage,
    Type,
    Tenant,
    Severity,
    User,
    /// A text or a number in `metadata`.
    Metadata(String),
}

impl Part {
    /// Names of all parts but [`Part::Metadata`].
    pub(super) const NAMES: [&str; 8] =
        ["code", "service", "message", "stage", "type", "tenant", "severity", "user"];

    /// Returns the part of this name.
    pub(super) fn named(name: &str) -> Option<Self> {
        const NAMED: [Part; 8] = [
            Part::Code,
            Part::Service,
            Part::Message,
            Part::Stage,
            Part::Type,
            Part::Tenant,
            Part::Severity,
            Part::User,
        ];
        if let Some(key) = name.strip_prefix("metadata.") {
            let fits = |c: char| c.is_ascii_alphanumeric() || "_.-".contains(c);
            return ((1..=KEY_BYTES_MAX).contains(&key.len()) && key.chars().all(fits))
                .then(|| Self::Metadata(key.to_owned()));
        }
        let at = Self::NAMES.iter().position(|known| *known == name)?;
        Some(NAMED[at].clone())
    }

    /// Name of the part, which is also the label it becomes.
    pub(super) fn name(&self) -> Cow<'static, str> {
        Cow::Borrowed(match self {
            Self::Code => "code",
            Self::Service => "service",
            Self::Message => "message",
            Self::Stage => "stage",
            Self::Type => "type",
            Self::Tenant => "tenant",
            Self::Severity => "severity",
            Self::User => "user",
            Self::Metadata(key) => return Cow::Owned(format!("metadata.{key}")),
        })
    }

    /// True where the part becomes a label that other incidents lack.
    pub(super) const fn is_extra(&self) -> bool {
        matches!(self, Self::Type | Self::Tenant | Self::User | Self::Metadata(_))
    }

    /// Value of the part in an error; empty where absent.
    pub(super) fn value<'a>(&self, report: &'a Report<'_>, message: &'a str) -> Cow<'a, str> {
        Cow::Borrowed(match self {
            Self::Code => &report.error_code,
            Self::Service => &report.service_name,
            Self::Message => message,
            Self::Stage => report.stage().unwrap_or_default(),
            Self::Type => report.metadata.event_type.text().unwrap_or_default(),
            Self::Tenant => report.tenant().unwrap_or_default(),
            Self::Severity => report.severity().map_or("", Severity::as_str),
            Self::User => report.user().unwrap_or_default(),
            Self::Metadata(key) => return Cow::Owned(report.in_metadata(key).unwrap_or_default()),
        })
    }
}

/// Returns the fingerprint that these parts of an error make. That of code, service and message is
/// [`crate::fingerprint::fingerprint`].
pub(super) fn key(parts: &[Part], report: &Report<'_>, message: &str) -> u64 {
    let mut hasher = Hasher::new();
    let usual = matches!(parts, [Part::Code, Part::Service, Part::Message]);
    for part in parts {
        if !usual {
            hasher.add(&part.name());
        }
        hasher.add(&part.value(report, message));
    }
    hasher.finish()
}

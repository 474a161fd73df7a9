//! Rules: which exception holds for an error, and what makes errors the same error.

use std::borrow::Cow;

use super::{
    ms,
    options::{Options, Rule},
    report::Report,
};
use crate::{fingerprint::Hasher, incident::Severity, retry::glob_matches};

/// The longest key of `metadata` that may be part of a fingerprint, in bytes.
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
    /// The names of those that have one.
    pub(super) const NAMES: [&str; 8] =
        ["code", "service", "message", "stage", "type", "tenant", "severity", "user"];

    /// The part of this name.
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

    /// Its name, which is also the label it becomes.
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

    /// Whether it becomes a label that every incident does not have anyway.
    pub(super) const fn is_extra(&self) -> bool {
        matches!(self, Self::Type | Self::Tenant | Self::User | Self::Metadata(_))
    }

    /// Its value in an error; absent is empty.
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

/// What holds for the incidents of a fingerprint.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) threshold: usize,
    pub(super) window_ms: u64,
    pub(super) quiet_ms: u64,
    /// The severity that a rule sets.
    pub(super) severity: Option<Severity>,
    /// The severity where nothing else says.
    pub(super) otherwise: Severity,
    pub(super) escalate: u64,
    pub(super) channels: Vec<String>,
}

/// What rules go by: of an error that comes in, or of a fingerprint that is kept.
#[derive(Debug, Clone, Copy)]
pub(super) struct About<'a> {
    pub(super) code: &'a str,
    pub(super) service: &'a str,
    /// The stage, of a failed attempt.
    pub(super) stage: Option<&'a str>,
    pub(super) tenant: Option<&'a str>,
    /// What was said of how bad it is.
    pub(super) severity: Option<Severity>,
}

/// The rules of a stage, ready to be asked.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    /// The terms of each rule, and at the end those that hold where no rule does.
    terms: Vec<Terms>,
    /// The fingerprint of each rule in the same way.
    parts: Vec<Vec<Part>>,
    /// Whether a rule has a fingerprint of its own.
    parts_differ: bool,
}

impl Rules {
    pub(super) fn new(options: &Options) -> Self {
        let rules = options.rule.clone();
        let none = Rule::default();
        let all = || rules.iter().chain([&none]);
        let terms = |rule: &Rule| Terms {
            threshold: rule.threshold.unwrap_or(options.threshold),
            window_ms: ms(rule.window.unwrap_or(options.window)),
            quiet_ms: ms(rule.quiet.unwrap_or(options.quiet)),
            severity: rule.severity,
            otherwise: options.severity,
            escalate: u64::from(rule.escalate.unwrap_or(options.escalate)),
            channels: rule.channels.clone(),
        };
        // In one order, so that how the list is written makes no other fingerprint.
        let parts = |rule: &Rule| {
            let names = rule.fingerprint.as_ref().unwrap_or(&options.fingerprint);
            let mut parts: Vec<Part> = names.iter().filter_map(|name| Part::named(name)).collect();
            parts.sort();
            parts.dedup();
            parts
        };
        Self {
            terms: all().map(terms).collect(),
            parts: all().map(parts).collect(),
            parts_differ: rules.iter().any(|rule| rule.fingerprint.is_some()),
            rules,
        }
    }

    /// The number of the first rule that matches; past the last rule where none does.
    pub(super) fn number(&self, about: &About<'_>) -> usize {
        self.rules.iter().position(|rule| rule.matches(about)).unwrap_or(self.rules.len())
    }

    /// What holds by rule number `number`.
    pub(super) fn terms(&self, number: usize) -> &Terms {
        &self.terms[number]
    }

    /// The parts that an error's fingerprint is made of.
    pub(super) fn parts(&self, report: &Report<'_>) -> &[Part] {
        let number =
            if self.parts_differ { self.number(&report.about()) } else { self.rules.len() };
        &self.parts[number]
    }
}

impl Rule {
    fn matches(&self, about: &About<'_>) -> bool {
        let fits = |globs: &[String], text: Option<&str>| {
            globs.is_empty()
                || text.is_some_and(|text| globs.iter().any(|glob| glob_matches(glob, text)))
        };
        fits(&self.code, Some(about.code))
            && fits(&self.class, about.stage.map(|_| about.code))
            && fits(&self.stage, about.stage)
            && fits(&self.service, Some(about.service))
            && fits(&self.tenant, about.tenant)
            && (self.reported.is_empty()
                || about.severity.is_some_and(|said| self.reported.contains(&said)))
    }
}

/// The fingerprint that these parts of an error make. That of code, service and message is
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

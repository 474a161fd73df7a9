//! Options: the keys of an `aggregate-errors` stage, and everything that can be wrong with them.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::part::Part;
use crate::{Problem, World, channel_names::channel_problems, incident::Severity, units::Period};

/// The largest threshold: so many times are kept per fingerprint.
const THRESHOLD_MAX: usize = 1000;
/// Parts of one fingerprint, at the most.
const PARTS_MAX: usize = 16;
/// Fingerprints that may be remembered at once. Each takes about 1 KiB.
const FINGERPRINTS: std::ops::RangeInclusive<usize> = 100..=FINGERPRINTS_MAX;
/// The largest `fingerprints_max`.
pub(super) const FINGERPRINTS_MAX: usize = 200_000;

/// The keys of an `aggregate-errors` stage.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Options {
    /// Errors of one fingerprint within the window that open an incident.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) threshold: usize,
    /// The window, which slides.
    pub(super) window: Period,
    /// An incident resolves when no error came for so long.
    pub(super) quiet: Period,
    /// Severity of an incident where neither a rule nor the errors say.
    pub(super) severity: Severity,
    /// Parts of the fingerprint, by which errors are the same error: "code", "service", "message"
    /// (without what varies in it), "stage", "type", "tenant", "severity", "user", "metadata.KEY".
    pub(super) fingerprint: Vec<String>,
    /// An incident is one step worse when it has so many times its threshold, and again at so many
    /// times that; 0: never.
    pub(super) escalate: u32,
    /// Fingerprints that are remembered at once. Past it the one longest idle is forgotten, and
    /// counted.
    #[schemars(range(min = 100, max = 200_000))]
    pub(super) fingerprints_max: usize,
    /// Exceptions; the first that matches wins.
    pub(super) rule: Vec<Rule>,
}

/// An exception: the errors it is for, and what then holds instead.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(inline)]
pub(super) struct Rule {
    /// Error codes it is for, with `*` for any text; empty: all.
    pub(super) code: Vec<String>,
    /// Failure classes of attempts it is for, with `*` for any text; empty: all, and what services
    /// report too.
    pub(super) class: Vec<String>,
    /// Stages whose failed attempts it is for, with `*` for any text; empty: all, and what services
    /// report too.
    pub(super) stage: Vec<String>,
    /// Services it is for, with `*` for any text; empty: all.
    pub(super) service: Vec<String>,
    /// Tenants it is for, with `*` for any text; empty: all, and errors without one too.
    pub(super) tenant: Vec<String>,
    /// Severities it is for, as the errors report them, by the worst since it was last quiet;
    /// empty: whatever they report.
    pub(super) reported: Vec<Severity>,
    /// Severity of its incidents, whatever the errors say.
    pub(super) severity: Option<Severity>,
    /// Errors within the window that open an incident.
    #[schemars(range(min = 1, max = 1000))]
    pub(super) threshold: Option<usize>,
    /// The window, which slides.
    pub(super) window: Option<Period>,
    /// An incident resolves when no error came for so long.
    pub(super) quiet: Option<Period>,
    /// An incident is one step worse when it has so many times its threshold, and again at so many
    /// times that; 0: never.
    pub(super) escalate: Option<u32>,
    /// Parts of its errors' fingerprint, instead of the stage's `fingerprint`.
    pub(super) fingerprint: Option<Vec<String>>,
    /// Channels its incidents are sent to, before any route of the alert stage.
    pub(super) channels: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            threshold: 5,
            window: Period::seconds(300),
            quiet: Period::seconds(600),
            severity: Severity::Medium,
            fingerprint: ["code", "service", "message"].map(str::to_owned).to_vec(),
            escalate: 10,
            fingerprints_max: 20_000,
            rule: Vec::new(),
        }
    }
}

impl Options {
    /// The options as they are written, or everything that is wrong with them.
    pub(super) fn checked(options: &Value, world: &dyn World) -> Result<Self, Vec<Problem>> {
        let read: Self = serde_json::from_value(options.clone())
            .map_err(|e| vec![Problem::new(&[], e.to_string())])?;
        let mut problems = Vec::new();
        let stage = Rule {
            threshold: Some(read.threshold),
            window: Some(read.window),
            quiet: Some(read.quiet),
            escalate: Some(read.escalate),
            fingerprint: Some(read.fingerprint.clone()),
            ..Rule::default()
        };
        stage.check(&[], &mut problems);
        if !FINGERPRINTS.contains(&read.fingerprints_max) {
            let (least, most) = (FINGERPRINTS.start(), FINGERPRINTS.end());
            problems.push(Problem::new(
                &["fingerprints_max"],
                format!("expected a number from {least} to {most}"),
            ));
        }
        for (n, rule) in read.rule.iter().enumerate() {
            let n = n.to_string();
            rule.check(&["rule", &n], &mut problems);
            problems.extend(channel_problems(&["rule", &n, "channels"], &rule.channels, world));
        }
        if problems.is_empty() { Ok(read) } else { Err(problems) }
    }
}

impl Rule {
    /// Adds what is wrong with the values that a rule and the stage itself have in common.
    fn check(&self, at: &[&str], problems: &mut Vec<Problem>) {
        let problem = |key: &[&str], message: String| {
            let at: Vec<&str> = at.iter().chain(key).copied().collect();
            Problem::new(&at, message)
        };
        if self.threshold.is_some_and(|n| !(1..=THRESHOLD_MAX).contains(&n)) {
            problems.push(problem(
                &["threshold"],
                format!("expected a threshold from 1 to {THRESHOLD_MAX}"),
            ));
        }
        if self.window.is_some_and(|window| window.0 == Duration::ZERO) {
            problems.push(problem(&["window"], "expected a window longer than nothing".to_owned()));
        }
        if self.quiet.is_some_and(|quiet| quiet.0 == Duration::ZERO) {
            problems.push(problem(
                &["quiet"],
                "expected a quiet period longer than nothing".to_owned(),
            ));
        }
        if self.escalate == Some(1) {
            let wrong = problem(&["escalate"], "expected a multiple from 2, or 0".to_owned());
            problems.push(wrong.hint(
                "10: worse at ten times the threshold, and again at a hundred times; 0: never",
            ));
        }
        let Some(parts) = &self.fingerprint else { return };
        if !(1..=PARTS_MAX).contains(&parts.len()) {
            problems.push(problem(&["fingerprint"], format!("expected 1 to {PARTS_MAX} parts")));
        }
        for (n, part) in parts.iter().enumerate().filter(|(_, part)| Part::named(part).is_none()) {
            let wrong = problem(
                &["fingerprint", &n.to_string()],
                format!("no part of a fingerprint is called \"{part}\""),
            );
            problems.push(
                wrong.hint(format!("expected one of {} or metadata.KEY", Part::NAMES.join(", "))),
            );
        }
    }
}

//! Rules: exceptions by their conditions, and the terms and fingerprint parts of each.

use super::{
    options::{Options, Rule},
    part::Part,
    report::Facts,
};
use crate::{incident::Severity, retry::glob_matches, units::ms};

/// Terms of a fingerprint: when its incidents open and resolve, how severe, to which channels.
#[derive(Debug, Clone)]
pub(super) struct Terms {
    pub(super) threshold: usize,
    pub(super) window_ms: u64,
    pub(super) quiet_ms: u64,
    /// Severity that a rule sets.
    pub(super) severity: Option<Severity>,
    /// Severity where neither a rule nor an error sets one.
    pub(super) otherwise: Severity,
    pub(super) escalate: u64,
    pub(super) channels: Vec<String>,
}

/// Rules of a stage, ready to be matched.
#[derive(Debug)]
pub(super) struct Rules {
    rules: Vec<Rule>,
    /// Terms of each rule, and last those that hold where no rule matches.
    terms: Vec<Terms>,
    /// Fingerprint parts of each rule, in the same order.
    parts: Vec<Vec<Part>>,
    /// True where some rule has a fingerprint of its own.
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

    /// Returns the number of the first rule that matches; one past the last where none does.
    pub(super) fn number(&self, about: &Facts<'_>) -> usize {
        self.rules.iter().position(|rule| rule.matches(about)).unwrap_or(self.rules.len())
    }

    /// Returns the terms of rule number `number`.
    pub(super) fn terms(&self, number: usize) -> &Terms {
        &self.terms[number]
    }

    /// Returns the parts that an error's fingerprint is made of.
    pub(super) fn parts(&self, about: &Facts<'_>) -> &[Part] {
        let number = if self.parts_differ { self.number(about) } else { self.rules.len() };
        &self.parts[number]
    }
}

impl Rule {
    fn matches(&self, about: &Facts<'_>) -> bool {
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

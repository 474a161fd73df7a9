//! Labels: label names and matchers in the options of an `alert` stage, read and checked.

use std::collections::BTreeSet;

use serde_json::Value;

use super::options::{Options, RouteOptions};
use crate::{
    Problem,
    matcher::{Matchers, is_label, labels_hint},
};

/// Reads the matchers at `at`; adds the problem of each that is none, and of those that no incident
/// can ever fit.
pub(super) fn matchers(texts: &[String], at: &[&str], problems: &mut Vec<Problem>) -> Matchers {
    let mut read = Matchers::default();
    let before = problems.len();
    for (n, text) in texts.iter().enumerate() {
        let n = n.to_string();
        let at = [at, &[&n]].concat();
        match text.parse::<Matchers>() {
            Ok(matchers) => {
                if let Some((why, hint)) = matchers.never() {
                    problems.push(Problem::new(&at, why).hint(hint));
                }
                read.0.extend(matchers.0);
            }
            Err(why) => problems.push(Problem::new(&at, why)),
        }
    }
    if let (true, Some((why, hint))) = (problems.len() == before, read.never()) {
        problems.push(Problem::new(at, why).hint(hint));
    }
    read
}

/// Returns a problem for each label in the options of an `alert` stage that no incident has:
/// conditions on it never hold, or always.
pub fn unknown_labels(options: &Value, known: &BTreeSet<String>) -> Vec<Problem> {
    let Ok(options) = serde_json::from_value::<Options>(options.clone()) else { return Vec::new() };
    let mut unknown = Unknown { known, problems: Vec::new() };
    unknown.names(&options.group_by, &["group_by"]);
    unknown.routes(&options.route, &[]);
    for (n, rule) in options.inhibit.iter().enumerate() {
        let n = n.to_string();
        unknown.matchers(&rule.source, &["inhibit", &n, "source"]);
        unknown.matchers(&rule.target, &["inhibit", &n, "target"]);
        unknown.names(&rule.equal, &["inhibit", &n, "equal"]);
    }
    unknown.problems
}

struct Unknown<'a> {
    known: &'a BTreeSet<String>,
    problems: Vec<Problem>,
}

impl Unknown<'_> {
    fn routes(&mut self, routes: &[RouteOptions], at: &[&str]) {
        for (n, route) in routes.iter().enumerate() {
            let n = n.to_string();
            let at = [at, &["route", &n]].concat();
            self.matchers(&route.matchers, &[&at[..], &["matchers"]].concat());
            self.names(
                route.group_by.as_deref().unwrap_or_default(),
                &[&at[..], &["group_by"]].concat(),
            );
            self.routes(&route.route, &at);
        }
    }

    fn matchers(&mut self, texts: &[String], at: &[&str]) {
        for (n, text) in texts.iter().enumerate() {
            let matchers: Matchers = text.parse().unwrap_or_default();
            for label in matchers.unknown(self.known) {
                self.one(label, &[at, &[&n.to_string()]].concat());
            }
        }
    }

    fn names(&mut self, names: &[String], at: &[&str]) {
        for (n, name) in names.iter().enumerate() {
            if name != "..." && is_label(name) && !self.known.contains(name) {
                self.one(name, &[at, &[&n.to_string()]].concat());
            }
        }
    }

    fn one(&mut self, label: &str, at: &[&str]) {
        let problem = Problem::new(at, format!("no incident has the label \"{label}\""));
        let hint = if label == "alertname" {
            format!("what Alertmanager calls alertname is code; {}", labels_hint(self.known))
        } else {
            labels_hint(self.known)
        };
        self.problems.push(problem.hint(hint));
    }
}

/// Returns the problems of the label names at `at`.
pub(super) fn label_problems(at: &[&str], labels: &[String], all_allowed: bool) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (n, label) in labels.iter().enumerate() {
        let all = all_allowed && label == "...";
        if !all && !is_label(label) {
            let problem = Problem::new(
                &[at, &[&n.to_string()]].concat(),
                format!("\"{label}\" is not the name of a label"),
            );
            problems.push(problem.hint("such as code, service, severity, stage or fingerprint"));
        }
        if all && labels.len() > 1 {
            problems.push(Problem::new(at, "\"...\" is every label, and stands alone"));
        }
    }
    problems
}

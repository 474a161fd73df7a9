//! Labels: label names and matchers in the options of an `alert` stage, read and checked.

use crate::{
    Problem,
    matcher::{Matcher, Matchers, is_label},
};

/// Reads the matchers at `at`; adds the problem of each that is none.
pub(super) fn matchers(texts: &[String], at: &[&str], problems: &mut Vec<Problem>) -> Matchers {
    let mut read = Vec::new();
    for (n, text) in texts.iter().enumerate() {
        match text.parse::<Matcher>() {
            Ok(matcher) => read.push(matcher),
            Err(why) => problems.push(Problem::new(&[at, &[&n.to_string()]].concat(), why)),
        }
    }
    Matchers(read)
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

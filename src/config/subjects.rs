//! Subjects: checks of subject patterns, and of the sources that capture them.

use crate::wire::subject_pattern::overlap;
use millstream_stages::units::{Period, Size};

use super::{Finder, KeyPath, pipeline::Source, written::SourceTable};

/// Fault of a subject pattern, and the hint for it; `None`: the pattern is valid.
pub fn fault(subject: &str) -> Option<(&'static str, &'static str)> {
    if subject.is_empty() {
        return Some(("it is empty", "a subject is names with dots between, such as \"orders.>\""));
    }
    if subject.chars().any(|c| c.is_whitespace() || c.is_control()) {
        return Some(("it has white space in it", "subjects have none"));
    }
    let tokens: Vec<&str> = subject.split('.').collect();
    for (n, token) in tokens.iter().enumerate() {
        match *token {
            "" => {
                return Some((
                    "two of its dots have nothing between them, or it begins or ends with one",
                    "write one dot between two names",
                ));
            }
            ">" if n + 1 < tokens.len() => {
                return Some((
                    "\">\" stands before its end",
                    "\">\" means all that follows; for one token write \"*\"",
                ));
            }
            "*" | ">" => {}
            token if token.contains(['*', '>']) => {
                return Some((
                    "a wildcard is only part of a token",
                    "\"*\" stands for a whole token, as in \"orders.*.created\"",
                ));
            }
            _ => {}
        }
    }
    None
}

/// Checks the sources as written, and returns them. Each subject must be valid, and overlap neither
/// another nor the pipeline's own.
pub fn check(
    sources: &[(KeyPath, String, SourceTable)],
    pipeline: &str,
    finder: &mut Finder,
) -> Vec<Source> {
    let own = format!("{pipeline}.>");
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for (at, name, table) in sources {
        let subjects = at.join("subjects");
        if table.subjects.is_empty() && table.external.is_none() && !finder.is_spoilt(&subjects) {
            finder.error_on(at, format!("source \"{name}\" captures nothing")).hint(
                "add subjects = [\"…\"], or external = \"STREAM\" to read a stream that exists \
                 already",
            );
        }
        for (n, subject) in table.subjects.iter().enumerate() {
            let at = subjects.join(n.to_string());
            let shown = finder.shown(&at, subject);
            if let Some((why, hint)) = fault(subject) {
                finder.error_at(&at, format!("{shown} is no subject: {why}")).hint(hint);
            } else if table.external.is_some() {
                // The stream is not ours: NATS has already said what it may capture.
            } else if subject.starts_with('$') || overlap(subject, "$JS.API.>") {
                finder
                    .error_at(
                        &at,
                        format!(
                            "source \"{name}\" cannot capture {shown}: NATS keeps subjects with \
                             \"$\" for itself"
                        ),
                    )
                    .hint("begin with a name of your own, such as \"events.>\"");
            } else if overlap(subject, &own) {
                finder
                    .error_at(
                        &at,
                        format!(
                            "source \"{name}\" would capture the pipeline's own subjects: {shown} \
                             overlaps \"{own}\""
                        ),
                    )
                    .hint("use another first token, or rename the pipeline");
            } else if let Some((other, theirs)) =
                seen.iter().find(|(_, theirs)| overlap(subject, theirs))
            {
                let (message, hint) = if other == name {
                    (
                        format!(
                            "source \"{name}\" captures {shown} and \"{theirs}\", which overlap"
                        ),
                        "NATS takes each subject once; drop the narrower one",
                    )
                } else {
                    (
                        format!(
                            "sources \"{other}\" and \"{name}\" overlap: \"{theirs}\" and {shown}"
                        ),
                        "NATS lets one stream capture a subject; tell them apart, or read one \
                         source from several stages",
                    )
                };
                finder.error_at(&at, message).hint(hint);
            } else {
                seen.push((name, subject));
            }
        }
        if let Some(stream) = &table.external {
            external(at, name, stream, table, finder);
        }
    }
    sources.iter().map(|(_, name, table)| source(name, table)).collect()
}

fn external(at: &KeyPath, name: &str, stream: &str, table: &SourceTable, finder: &mut Finder) {
    if stream.is_empty()
        || stream.contains(['.', '*', '>', '/', '\\'])
        || stream.contains(char::is_whitespace)
    {
        let at = at.join("external");
        let shown = finder.shown(&at, stream);
        finder
            .error_at(&at, format!("{shown} is no name of a stream"))
            .hint("stream names have no dots, wildcards, slashes or spaces");
    }
    let written = SourceTable::default();
    for (key, set) in [
        ("max_age", table.max_age != written.max_age),
        ("max_bytes", table.max_bytes.is_some()),
        ("on_full", table.on_full != written.on_full),
    ] {
        if set {
            finder
                .warn_at(
                    &at.join(key),
                    format!(
                        "\"{key}\" of source \"{name}\" has no effect: stream \"{stream}\" is not \
                         ours"
                    ),
                )
                .hint("remove it, or set it where the stream is made");
        }
    }
}

fn source(name: &str, table: &SourceTable) -> Source {
    let Period(max_age) = table.max_age;
    Source {
        name: name.to_owned(),
        subjects: table.subjects.clone(),
        envelope: table.envelope,
        max_age,
        max_bytes: table.max_bytes.map(|Size(bytes)| bytes),
        on_full: table.on_full,
        external: table.external.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn faults_of_subjects_are_found() {
        for subject in ["orders.>", "*.a", ">", "a-b._INBOX"] {
            assert_eq!(fault(subject), None, "{subject}");
        }
        for subject in ["", "a..b", ".a", "a.", "a.>.b", "a.b*", "a b", "a.\r"] {
            assert!(fault(subject).is_some(), "{subject}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_overlaps_itself(tokens in prop::collection::vec("[a-z*]", 1..5)) {
            let subject = tokens.join(".");
            prop_assert!(overlap(&subject, &subject));
        }
    }
}

//! Fingerprints over a corpus of messages as real services log them: which merge, and which must
//! not.

use std::collections::{BTreeMap, BTreeSet};

use millstream_stages::fingerprint::{fingerprint, normalise};

/// Extra fingerprints that the groups may have, all together.
const SPLITS_MAX: usize = 2;

/// One line of the corpus: the group that a person puts it in, and an error.
struct Line {
    group: &'static str,
    code: &'static str,
    service: &'static str,
    message: String,
}

fn corpus() -> Vec<Line> {
    let line = |line: &'static str| {
        let mut fields = line.split('\t');
        let mut next = || {
            fields.next().unwrap_or_else(|| panic!("a line of the corpus has four fields: {line}"))
        };
        let (group, code, service, message) = (next(), next(), next(), next());
        Line { group, code, service, message: unescaped(message) }
    };
    include_str!("fingerprints.tsv").lines().map(line).collect()
}

/// A message with its `\n`, `\t` and `\\` read.
fn unescaped(text: &str) -> String {
    let (mut out, mut chars) = (String::new(), text.chars());
    while let Some(c) = chars.next() {
        out.push(match c {
            '\\' => match chars.next() {
                Some('n') => '\n',
                Some('t') => '\t',
                other => other.expect("a backslash escapes something"),
            },
            other => other,
        });
    }
    out
}

#[test]
fn the_corpus_is_grouped_as_a_person_would() {
    let lines = corpus();
    let (mut by_print, mut by_group) =
        (BTreeMap::<_, BTreeSet<_>>::new(), BTreeMap::<_, BTreeMap<_, _>>::new());
    for line in &lines {
        let print = fingerprint(line.code, line.service, &line.message);
        by_print.entry(print.clone()).or_default().insert(line.group);
        by_group.entry(line.group).or_default().entry(print).or_insert(&line.message);
    }
    assert_eq!((lines.len(), by_group.len()), (200, 40));
    let (mut wrong, mut splits) = (String::new(), 0);
    for groups in by_print.values().filter(|groups| groups.len() > 1) {
        wrong += &format!("merged: {groups:?}\n");
    }
    for (group, prints) in by_group.iter().filter(|(_, prints)| prints.len() > 1) {
        splits += prints.len() - 1;
        wrong += &format!("split: {group}\n");
        for message in prints.values() {
            wrong += &format!("  {}\n", normalise(message));
        }
    }
    println!("{wrong}{splits} splits");
    assert!(
        by_print.values().all(|groups| groups.len() == 1),
        "groups that differ are one:\n{wrong}"
    );
    assert!(splits <= SPLITS_MAX, "{splits} splits:\n{wrong}");
}

//! Fingerprints over a corpus of messages as real services log them: which merge, and which must
//! not.

use std::collections::{BTreeMap, BTreeSet};

use millstream_stages::fingerprint::{fingerprint, normalise};

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
    assert_eq!(splits, 0, "groups that are one differ:\n{wrong}");
}

/// Pairs of `fingerprint_pairs.txt` that are not told apart, or not put together, as a person
/// would.
const LEFT: &[&str] = &["ids: user without quotes"];

/// A pair of the second corpus: its name, whether a person says they are one, and the messages.
struct Pair {
    name: &'static str,
    same: bool,
    messages: [String; 2],
}

fn pairs() -> Vec<Pair> {
    let read = |block: &'static str| {
        let mut lines = block.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        let (label, name) = lines.next()?.split_once("] ").expect("a label, then a name");
        let message =
            |line: Option<&'static str>| unescaped(line.expect("a pair has two messages"));
        let messages = [message(lines.next()), message(lines.next())];
        assert!(lines.next().is_none(), "{name}: a pair has two messages");
        let same = match label {
            "[same" => true,
            "[not" => false,
            other => panic!("{name}: no label: {other}"),
        };
        Some(Pair { name, same, messages })
    };
    include_str!("fingerprint_pairs.txt").split("\n\n").filter_map(read).collect()
}

#[test]
fn pairs_of_other_ecosystems_are_grouped_as_a_person_would() {
    let pairs = pairs();
    let names: BTreeSet<_> = pairs.iter().map(|pair| pair.name).collect();
    assert_eq!((pairs.len(), names.len()), (221, 221));
    let (mut wrong, mut shown) = (Vec::new(), String::new());
    for Pair { name, same, messages } in &pairs {
        let [a, b] = messages.each_ref().map(|message| normalise(message));
        if (a == b) != *same {
            wrong.push(*name);
            let what = if *same { "split" } else { "merged" };
            shown += &format!("{what}: {name}\n  {a}\n  {b}\n");
        }
    }
    println!("{shown}{} of {} right", pairs.len() - wrong.len(), pairs.len());
    assert_eq!(wrong, LEFT, "{} of {} wrong:\n{shown}", wrong.len(), pairs.len());
}

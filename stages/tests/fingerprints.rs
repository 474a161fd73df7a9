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

/// Pairs of `fingerprint_pairs.txt` that are not told apart, or not put together, as a person
/// would.
const LEFT: &[&str] = &[
    "java: hash of an object",
    "java: method on null",
    "java: variable that is null",
    "spring: bean",
    "spring: placeholder of a setting",
    "spring: value that does not convert",
    "dotnet: key of a dictionary",
    "dotnet: assembly",
    "dotnet: source",
    "go: host of a quoted URL",
    "go: route of a quoted URL",
    "go: size of a type",
    "go: file of the configuration",
    "go: environment variable",
    "go: plural form",
    "python: key",
    "python: key in a repr",
    "python: module",
    "python: name to import",
    "python: codec",
    "python: encoding without quotes",
    "python: type that lacks an attribute",
    "python: types of an operation",
    "python: undefined name",
    "python: file of a frame",
    "python: boolean",
    "python: boolean of a repr",
    "python: host of a pool",
    "python: cause in a repr",
    "node: module that does not resolve",
    "node: token of bad JSON",
    "node: path of a validation",
    "node: code of Prisma",
    "node: call of Prisma",
    "node: route that is missing",
    "rust: file of a panic",
    "rust: what is unwrapped",
    "rust: type that is expected",
    "rust: import",
    "postgres: value of a key that has spaces",
    "postgres: row",
    "postgres: role",
    "postgres: database",
    "mysql: key of a duplicate",
    "oracle: column",
    "sqlserver: value of a key",
    "sqlserver: column",
    "grpc: method",
    "grpc: details of python",
    "kubernetes: suffix of a daemon set, without digits",
    "kubernetes: suffixes of a deployment, without digits",
    "kubernetes: config map",
    "kubernetes: container",
    "kubernetes: namespace",
    "browser: one error in the words of two engines",
    "browser: one failure to fetch in the words of two engines",
    "browser: one warning in the words of two versions",
    "browser: property, in Safari",
    "browser: route of a page",
    "cloud: request ids in base64",
    "cloud: id of a ray",
    "ids: JWT",
    "ids: bearer",
    "ids: nanoid",
    "ids: base64",
    "ids: UUID within a name",
    "ids: prefixed",
    "ids: version of a protocol",
    "ids: family of addresses",
    "ids: user after an equals sign",
    "ids: user without quotes",
    "ids: IPv6 with a zone",
    "ids: version of a route",
    "ids: route",
    "times: weekday and month",
    "times: as of date(1)",
    "times: AM and PM",
    "times: long names",
    "times: day first",
    "amounts: currency before",
    "amounts: signs of currencies",
    "amounts: sign behind",
    "amounts: exponent",
    "amounts: percent and rate",
    "amounts: type of a medium",
    "chinese: full-width digits",
    "chinese: title in its quotes",
    "chinese: field",
    "chinese: table",
    "japanese: quoted name and number",
    "japanese: field",
    "japanese: field that follows",
    "japanese: time",
    "korean: quoted name and number",
    "arabic: digits",
    "quotes: reversed guillemets",
];

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
    assert_eq!((pairs.len(), names.len()), (213, 213));
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

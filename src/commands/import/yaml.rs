//! YAML: a file as a tree in which every value knows its line.

use saphyr_parser::{Event, Parser, ScalarStyle};

/// Values of a file, at the most, aliases written out.
const NODES_MAX: usize = 200_000;
/// Deepest nesting.
const DEPTH_MAX: usize = 64;

/// A value and its line, from 1.
#[derive(Debug, Clone)]
pub(super) struct Node {
    pub(super) line: usize,
    pub(super) kind: Kind,
}

#[derive(Debug, Clone)]
pub(super) enum Kind {
    Null,
    Text(String),
    List(Vec<Node>),
    /// Keys in the order of the file, each with its line.
    Map(Vec<(String, usize, Node)>),
}

impl Node {
    /// The value of a key.
    pub(super) fn get(&self, key: &str) -> Option<&Self> {
        self.entries().iter().find(|(name, ..)| name == key).map(|(.., node)| node)
    }

    /// Keys, lines and values; none where it is no map.
    pub(super) fn entries(&self) -> &[(String, usize, Self)] {
        if let Kind::Map(entries) = &self.kind { entries } else { &[] }
    }

    /// Values of a list; none where it is no list.
    pub(super) fn items(&self) -> &[Self] {
        if let Kind::List(items) = &self.kind { items } else { &[] }
    }

    /// Text of a scalar.
    pub(super) fn text(&self) -> Option<&str> {
        if let Kind::Text(text) = &self.kind { Some(text) } else { None }
    }

    /// Texts of a list of scalars, or of one.
    pub(super) fn texts(&self) -> Vec<&str> {
        self.text().into_iter().chain(self.items().iter().filter_map(Self::text)).collect()
    }

    /// Text of a key.
    pub(super) fn text_of(&self, key: &str) -> Option<&str> {
        self.get(key).and_then(Self::text)
    }
}

/// A list or map that is being read.
enum Open {
    List(Vec<Node>),
    Map(Vec<(String, usize, Node)>, Option<(String, usize)>),
}

/// Reads the first document of a file.
///
/// # Errors
/// Line, and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Node, (usize, String)> {
    let mut open: Vec<(Open, usize, usize)> = Vec::new();
    let mut anchors: Vec<(usize, Node)> = Vec::new();
    let mut count = 0;
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| (e.marker().line(), e.info().to_owned()))?;
        let line = span.start.line();
        if open.len() > DEPTH_MAX || count > NODES_MAX {
            return Err((line, "it is nested too deep, or too large".to_owned()));
        }
        let (node, anchor) = match event {
            Event::SequenceStart(anchor, _) => {
                open.push((Open::List(Vec::new()), line, anchor));
                continue;
            }
            Event::MappingStart(anchor, _) => {
                open.push((Open::Map(Vec::new(), None), line, anchor));
                continue;
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some((done, line, anchor)) = open.pop() else { continue };
                let kind = match done {
                    Open::List(items) => Kind::List(items),
                    Open::Map(entries, _) => Kind::Map(merged(entries)),
                };
                (Node { line, kind }, anchor)
            }
            Event::Scalar(value, style, anchor, _) => {
                let null = style == ScalarStyle::Plain && matches!(&*value, "" | "~" | "null");
                let kind = if null { Kind::Null } else { Kind::Text(value.into_owned()) };
                (Node { line, kind }, anchor)
            }
            Event::Alias(anchor) => {
                let known = anchors.iter().rev().find(|(id, _)| *id == anchor);
                let (_, node) = known.ok_or((line, "there is no such anchor".to_owned()))?;
                count += size(node);
                if count > NODES_MAX {
                    return Err((line, "it is too large with its aliases written out".to_owned()));
                }
                (node.clone(), 0)
            }
            Event::DocumentEnd | Event::StreamEnd => break,
            Event::Nothing | Event::StreamStart | Event::DocumentStart(_) => continue,
        };
        count += 1;
        if anchor > 0 {
            anchors.push((anchor, node.clone()));
        }
        match open.last_mut() {
            None => return Ok(node),
            Some((Open::List(items), ..)) => items.push(node),
            Some((Open::Map(entries, key), ..)) => match key.take() {
                Some((key, line)) => entries.push((key, line, node)),
                None => {
                    let name = node.text().ok_or((line, "a key has to be text".to_owned()))?;
                    *key = Some((name.to_owned(), line));
                }
            },
        }
    }
    Ok(Node { line: 1, kind: Kind::Null })
}

/// Number of values in a tree.
fn size(node: &Node) -> usize {
    let below = node.entries().iter().map(|(.., node)| node).chain(node.items());
    1 + below.map(size).sum::<usize>()
}

/// Entries with those that `<<` names, which its own go before.
fn merged(entries: Vec<(String, usize, Node)>) -> Vec<(String, usize, Node)> {
    let (merges, mut own): (Vec<_>, Vec<_>) =
        entries.into_iter().partition(|(key, ..)| key == "<<");
    for (_, _, node) in merges {
        let maps = if node.items().is_empty() { std::slice::from_ref(&node) } else { node.items() };
        for (key, line, node) in maps.iter().flat_map(Node::entries) {
            if !own.iter().any(|(name, ..)| name == key) {
                own.push((key.clone(), *line, node.clone()));
            }
        }
    }
    own
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_know_their_lines_and_anchors_are_written_out() {
        let node =
            parse("a: &x\n  b: 'null'\n  c: [1, \"two\"]\nd:\n  <<: *x\n  b: ~\ne: |\n  text\n")
                .unwrap();
        let d = node.get("d").unwrap();
        assert_eq!(node.get("a").unwrap().text_of("b"), Some("null"));
        assert!(matches!(d.get("b").unwrap().kind, Kind::Null));
        assert_eq!(d.get("c").unwrap().texts(), ["1", "two"]);
        assert_eq!(node.entries().iter().map(|(_, line, _)| *line).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!(node.text_of("e"), Some("text\n"));
        assert_eq!(parse("a:\n- [}").unwrap_err().0, 2);
        assert!(parse(&"[".repeat(100)).is_err());
        let bomb = (1..9).fold("a0: &a0 [x]\n".to_owned(), |all, n| {
            all + &format!("a{n}: &a{n} [{}]\n", vec![format!("*a{}", n - 1); 50].join(","))
        });
        assert!(parse(&bomb).is_err());
    }
}

//! Finder: findings of all checks, each at its place in the file, secrets masked.

use std::{collections::BTreeMap, ops::Range};

use serde_json::Value;

use super::{
    place::{Document, KeyPath, Spot},
    report::{Report, Severity},
    secrets,
};
use crate::channels::MASK;

/// Findings so far, and what it takes to place them and to mask secrets.
#[derive(Debug)]
pub struct Finder {
    file: String,
    text: String,
    spots: BTreeMap<KeyPath, Spot>,
    /// Values from elsewhere than the file, with their origins; the last of a path holds.
    origins: Vec<(KeyPath, String)>,
    /// Values that hold filled-in text.
    hidden: Vec<KeyPath>,
    /// Texts that must not appear in a message.
    secret_texts: Vec<String>,
    /// Places of secrets in the file, in bytes.
    secret_spans: Vec<Range<usize>>,
    /// Values that are known to be wrong and are looked at no further.
    spoilt: Vec<KeyPath>,
    reports: Vec<Report>,
}

/// Length from which a secret text is masked wherever it appears; a shorter one would take half of
/// every sentence with it.
const SECRET_BYTES_MIN: usize = 3;

impl Finder {
    /// A finder without findings, for the file of this name and text.
    pub fn new(file: &str, text: &str) -> Self {
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            spots: BTreeMap::new(),
            origins: Vec::new(),
            hidden: Vec::new(),
            secret_texts: Vec::new(),
            secret_spans: Vec::new(),
            spoilt: Vec::new(),
            reports: Vec::new(),
        }
    }

    /// Takes over the places of a document, and reports its syntax problems.
    pub fn take(&mut self, document: &mut Document) {
        self.spots = std::mem::take(&mut document.spots);
        self.spoilt.append(&mut document.odd);
        let root = Value::Object(document.root.clone());
        for (path, spot) in &self.spots {
            let shown = path.find(&root);
            if shown.is_some_and(|value| !value.is_object() && self.is_secret_value(path, value)) {
                self.secret_spans.push(spot.value.clone());
            }
        }
        for (span, message, hint) in document.problems.drain(..) {
            // What cannot be parsed has no path: go by what stands before the "=" of its line.
            let start = self.text[..span.start].rfind('\n').map_or(0, |at| at + 1);
            let end = self.text[start..].find('\n').map_or(self.text.len(), |at| start + at);
            if let Some((key, rest)) = self.text[start..end].split_once('=')
                && secrets::may_hold_one(&self.text[start..end])
            {
                let blank = rest.len() - rest.trim_start().len();
                self.secret_spans.push(start + key.len() + 1 + blank..end);
            }
            let mut report = self.at_span(Severity::Error, span, message);
            report.hint = hint;
            self.reports.push(report);
        }
    }

    fn is_secret_value(&self, path: &KeyPath, value: &Value) -> bool {
        let keys = path.keys();
        let address = keys.starts_with(&["nats", "url"])
            && value.as_str().is_some_and(|url| url.contains('@'));
        secrets::is_secret(&keys) || address
    }

    /// Records that the value at `path` and below comes from `origin`, not from the file.
    pub fn came_from(&mut self, path: KeyPath, origin: String) {
        self.origins.push((path, origin));
    }

    /// Records that the value at `path` was filled in, and must not be shown.
    pub fn hide(&mut self, path: KeyPath, texts: impl IntoIterator<Item = String>) {
        self.hidden.push(path);
        self.secret_texts.extend(texts.into_iter().filter(|text| text.len() >= SECRET_BYTES_MIN));
        self.secret_texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
    }

    /// Hides every secret of the finished tree.
    pub fn hide_secrets(&mut self, value: &Value, at: &KeyPath) {
        match value {
            Value::Object(table) => {
                table.iter().for_each(|(key, value)| self.hide_secrets(value, &at.join(key)))
            }
            Value::Array(list) => {
                list.iter()
                    .enumerate()
                    .for_each(|(n, value)| self.hide_secrets(value, &at.join(n.to_string())));
            }
            Value::String(text) if self.is_secret_value(at, value) => {
                self.hide(at.clone(), [text.clone()])
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        }
    }

    /// Marks the value at `path` as wrong: later checks pass over it.
    pub fn spoil(&mut self, path: KeyPath) {
        self.spoilt.push(path);
    }

    /// True if something was reported at `path`, above it or below it.
    pub fn is_spoilt(&self, path: &KeyPath) -> bool {
        self.spoilt.iter().any(|spoilt| spoilt.holds(path) || path.holds(spoilt))
    }

    /// The values that are known to be wrong.
    pub fn spoilt(&self) -> &[KeyPath] {
        &self.spoilt
    }

    /// The value as a message may show it: text in quotes, tables and lists by name, secrets as
    /// `***`.
    pub fn show(&self, path: &KeyPath, value: &Value) -> String {
        if self.hidden.iter().any(|hidden| hidden.holds(path)) {
            return MASK.to_owned();
        }
        match value {
            Value::String(text) if text.chars().count() > 60 => {
                format!("\"{}…\"", text.chars().take(60).collect::<String>())
            }
            Value::String(text) => format!("\"{text}\""),
            Value::Array(_) => "a list".to_owned(),
            Value::Object(_) => "a table".to_owned(),
            Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
        }
    }

    /// A text of the value at `path`, as a message may show it.
    pub fn shown(&self, path: &KeyPath, text: &str) -> String {
        self.show(path, &Value::String(text.to_owned()))
    }

    /// Reports an error in the value at `path`.
    pub fn error_at(&mut self, path: &KeyPath, message: impl Into<String>) -> Hinted<'_> {
        self.add(Severity::Error, path, false, message.into())
    }

    /// Reports an error in the key at `path`: it should not be there, or its value lacks something.
    pub fn error_on(&mut self, path: &KeyPath, message: impl Into<String>) -> Hinted<'_> {
        self.add(Severity::Error, path, true, message.into())
    }

    /// Reports a warning about the value at `path`.
    pub fn warn_at(&mut self, path: &KeyPath, message: impl Into<String>) -> Hinted<'_> {
        self.add(Severity::Warning, path, false, message.into())
    }

    /// Reports a warning about the thing that the key at `path` names.
    pub fn warn_on(&mut self, path: &KeyPath, message: impl Into<String>) -> Hinted<'_> {
        self.add(Severity::Warning, path, true, message.into())
    }

    /// Reports a note on the value at `path`.
    pub fn note_at(&mut self, path: &KeyPath, message: impl Into<String>) -> Hinted<'_> {
        self.add(Severity::Note, path, false, message.into())
    }

    /// Reports on a place that is not in the file.
    pub fn elsewhere(
        &mut self,
        severity: Severity,
        place: &str,
        message: impl Into<String>,
    ) -> Hinted<'_> {
        self.push(Report::on_file(severity, place, message))
    }

    fn add(
        &mut self,
        severity: Severity,
        path: &KeyPath,
        key: bool,
        message: String,
    ) -> Hinted<'_> {
        let origin = self
            .origins
            .iter()
            .rev()
            .find(|(from, _)| from.holds(path) || (key && path.holds(from)));
        let report = match origin {
            Some((_, origin)) if !(key && self.spots.contains_key(path)) => {
                Report::on_file(severity, origin, message)
            }
            _ => match self.spot(path) {
                Some((spot, exact)) => {
                    let span = if key || !exact { spot.key.clone() } else { spot.value.clone() };
                    self.at_span(severity, span, message)
                }
                None => Report::on_file(severity, &self.file, message),
            },
        };
        self.push(report)
    }

    /// The place of `path`, or of what holds it if it stands nowhere itself.
    fn spot(&self, path: &KeyPath) -> Option<(&Spot, bool)> {
        let mut at = Some(path.clone());
        while let Some(here) = at {
            if let Some(spot) = self.spots.get(&here) {
                return Some((spot, here == *path));
            }
            at = here.parent();
        }
        None
    }

    /// Position of `path` in the file, for sorting by it.
    pub fn order(&self, path: &KeyPath) -> usize {
        self.spots.get(path).map_or(usize::MAX, |spot| spot.key.start)
    }

    fn at_span(&self, severity: Severity, span: Range<usize>, message: String) -> Report {
        let text = &self.text;
        let start = floor(text, span.start);
        let line_start = text[..start].rfind('\n').map_or(0, |at| at + 1);
        let line_end = text[line_start..].find('\n').map_or(text.len(), |at| line_start + at);
        let end = floor(text, span.end).clamp(start, line_end.max(start));
        let mut shown = text[line_start..line_end].trim_end_matches('\r').to_owned();
        let mut mark = (start - line_start, end - line_start);
        // From the right, so that what stands to the left keeps its place.
        let mut secrets: Vec<_> =
            self.secret_spans.iter().filter(|s| s.start < line_end && s.end > line_start).collect();
        secrets.sort_by_key(|secret| std::cmp::Reverse(secret.start));
        for secret in secrets {
            let from = secret.start.max(line_start) - line_start;
            let to = (secret.end.min(line_end) - line_start).min(shown.len());
            shown.replace_range(from..to, MASK);
            let moved = |at: usize| match at {
                at if at >= to => at - (to - from) + MASK.len(),
                at if at > from => from + MASK.len(),
                at => at,
            };
            mark = (if mark.0 > from && mark.0 < to { from } else { moved(mark.0) }, moved(mark.1));
        }
        mark = (mark.0.min(shown.len()), mark.1.min(shown.len()));
        Report {
            line: Some(text[..start].matches('\n').count() + 1),
            column: Some(text[line_start..start].chars().count() + 1),
            text: Some(shown),
            mark,
            ..Report::on_file(severity, &self.file, message)
        }
    }

    fn push(&mut self, mut report: Report) -> Hinted<'_> {
        report.message = self.blot(&report.message);
        self.reports.push(report);
        Hinted { finder: self }
    }

    fn blot(&self, text: &str) -> String {
        self.secret_texts
            .iter()
            .fold(text.to_owned(), |text, secret| text.replace(secret.as_str(), MASK))
    }

    /// True if an error was found.
    pub fn has_errors(&self) -> bool {
        super::report::has_errors(&self.reports)
    }

    /// True if nothing was found.
    pub fn is_empty(&self) -> bool {
        self.reports.is_empty()
    }

    /// The reports: errors, then warnings, then notes, each in the order of the file; none twice.
    pub fn finish(mut self) -> Vec<Report> {
        self.reports
            .sort_by_key(|report| (report.severity, report.line.unwrap_or(0), report.column));
        self.reports.dedup();
        self.reports
    }
}

/// The report just made, open for a hint.
#[derive(Debug)]
pub struct Hinted<'a> {
    finder: &'a mut Finder,
}

impl Hinted<'_> {
    /// Adds a hint: what to do about it.
    pub fn hint(self, hint: impl Into<String>) {
        let hint = self.finder.blot(&hint.into());
        if let Some(report) = self.finder.reports.last_mut() {
            report.hint = Some(hint);
        }
    }

    /// Adds a hint, if there is one.
    pub fn maybe(self, hint: Option<String>) {
        if let Some(hint) = hint {
            self.hint(hint);
        }
    }
}

/// The character boundary at or before `at`.
fn floor(text: &str, at: usize) -> usize {
    (0..=at.min(text.len())).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0)
}

//! Report: one finding about a configuration, as data and as shown to people.

use annotate_snippets::{AnnotationKind, Level, Origin, Renderer, Snippet};
use serde::Serialize;

/// Severity of a report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Fault: the configuration cannot be used.
    Error,
    /// Hazard: the configuration can be used, and something will hurt.
    Warning,
    /// Fact worth knowing.
    Note,
}

/// One finding about a configuration. Holds no secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Severity of the finding.
    pub severity: Severity,
    /// The finding: lower case, no full stop.
    pub message: String,
    /// Place: the file, the environment variable or the flag.
    pub file: String,
    /// Line in the file, from 1.
    pub line: Option<usize>,
    /// Column, from 1, in characters.
    pub column: Option<usize>,
    /// Text of the line, secrets masked.
    pub text: Option<String>,
    /// Hint: what to do about it.
    pub hint: Option<String>,
    /// Part of `text` that is marked, in bytes.
    #[serde(skip)]
    pub mark: (usize, usize),
}

impl Report {
    /// A report on a whole file.
    pub fn on_file(severity: Severity, file: &str, message: impl Into<String>) -> Self {
        let (message, file) = (message.into(), file.to_owned());
        Self {
            severity,
            message,
            file,
            line: None,
            column: None,
            text: None,
            hint: None,
            mark: (0, 0),
        }
    }

    fn render(&self, renderer: &Renderer) -> String {
        let level = match self.severity {
            Severity::Error => Level::ERROR,
            Severity::Warning => Level::WARNING,
            Severity::Note => Level::NOTE,
        };
        let title = level.primary_title(self.message.as_str());
        let mut group = match (&self.text, self.line) {
            (Some(text), Some(line)) => title.element(
                Snippet::source(text.as_str())
                    .path(self.file.as_str())
                    .line_start(line)
                    .annotation(AnnotationKind::Primary.span(self.mark.0..self.mark.1)),
            ),
            _ => title.element(Origin::path(self.file.as_str())),
        };
        if let Some(hint) = &self.hint {
            group = group.element(Level::HELP.message(hint.as_str()));
        }
        renderer.render(&[group])
    }
}

/// Text of the reports for people, one below the other.
pub fn render(reports: &[Report], colour: bool) -> String {
    let renderer = if colour { Renderer::styled() } else { Renderer::plain() };
    reports.iter().map(|report| report.render(&renderer) + "\n").collect::<Vec<_>>().join("\n")
}

/// True if one of the reports is an error.
pub fn has_errors(reports: &[Report]) -> bool {
    reports.iter().any(|report| report.severity == Severity::Error)
}

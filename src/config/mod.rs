//! Config: makes of `pipeline.toml` a checked [`Pipeline`], or a report of every problem. Reads
//! files; touches no broker.
//!
//! The steps: [`place`] parses the file, [`layers`] puts environment and flags over it and fills in
//! `${…}`, [`shape`] holds every section against its schema, [`names`], [`subjects`], [`policies`],
//! [`inputs`], [`breakers`], [`recover`], [`renames`] and [`build`] check the meaning, [`warnings`]
//! looks at the result, and [`finder`] puts the findings at their places in the file.

pub mod breakers;
pub mod build;
pub mod finder;
pub mod inputs;
pub mod layers;
pub mod names;
pub mod pipeline;
pub mod place;
pub mod policies;
pub mod recover;
pub mod renames;
pub mod report;
pub mod schema;
pub mod secrets;
pub mod shape;
pub mod subjects;
pub mod warnings;
pub mod world;
pub mod written;

use std::{io::ErrorKind, path::Path, sync::Arc};

use millstream_stages::{Handler, KINDS, Kind, Problem};
use schemars::Schema;
use serde_json::Value;

use crate::{
    bounded_file,
    channels::{self, CHANNELS, ChannelContext},
    handlers::{self, HANDLERS, HandlerContext},
    limits::CONFIG_BYTES_MAX,
};

pub use finder::Finder;
pub use pipeline::Pipeline;
pub use place::{Document, KeyPath};
pub use report::{Report, Severity, render};

/// Names that a file may use: the kinds of stages, channels and handlers.
pub struct Catalogue {
    /// Every kind of stage.
    pub kinds: &'static [Kind],
    /// Every kind of channel.
    pub channels: Vec<Entry>,
    /// Every handler.
    pub handlers: Vec<Entry>,
    /// Builds the handler that a `handler = { … }` table describes.
    pub handler: Box<HandlerBuilder>,
    /// Problems of a channel's own keys; relative paths start from the folder.
    pub channel: fn(kind: &str, options: &Value, base: &Path) -> Vec<Problem>,
}

/// Builder of the handler that a `handler = { … }` table describes; relative paths start from the
/// folder.
pub type HandlerBuilder =
    dyn Fn(&Value, &Path) -> Result<Arc<dyn Handler>, Vec<Problem>> + Send + Sync;

/// A kind of channel, or a handler.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Name in the file.
    pub name: &'static str,
    /// Description, one sentence.
    pub about: &'static str,
    /// JSON Schema of its own keys.
    pub options: fn() -> Schema,
}

impl Catalogue {
    /// The catalogue of every kind of stage, channel and handler.
    ///
    /// Handlers are built as in `context`, their relative paths starting from the folder of the
    /// file.
    pub fn new(context: HandlerContext) -> Self {
        let entry = |(name, about, options)| Entry { name, about, options };
        let handler = move |options: &Value, base: &Path| {
            handlers::build(options, &HandlerContext { base: base.to_owned(), ..context.clone() })
        };
        Self {
            kinds: KINDS,
            channels: CHANNELS
                .iter()
                .map(|kind| entry((kind.name, kind.about, kind.options)))
                .collect(),
            handlers: HANDLERS
                .iter()
                .map(|kind| entry((kind.name, kind.about, kind.options)))
                .collect(),
            handler: Box::new(handler),
            channel: |kind, options, base| {
                let context = ChannelContext { base: base.to_owned(), ..ChannelContext::default() };
                channels::build(kind, options, &context).err().unwrap_or_default()
            },
        }
    }
}

impl std::fmt::Debug for Catalogue {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = |entries: &[Entry]| entries.iter().map(|entry| entry.name).collect::<Vec<_>>();
        f.debug_struct("Catalogue")
            .field("channels", &names(&self.channels))
            .field("handlers", &names(&self.handlers))
            .finish_non_exhaustive()
    }
}

/// Result of loading a file.
#[derive(Debug)]
pub struct Loaded {
    /// The pipeline, if the file has no error.
    pub pipeline: Option<Pipeline>,
    /// Errors, then warnings, then notes, each in the order of the file.
    pub reports: Vec<Report>,
}

/// Reads `path`, puts `env` and then `flags` (key path with dots, value) over it, and checks the
/// whole.
pub fn load(
    path: &Path,
    flags: &[(String, String)],
    env: &[(String, String)],
    catalogue: &Catalogue,
) -> Loaded {
    match read(path) {
        Ok(text) => load_text(&text, path, flags, env, catalogue),
        Err(report) => Loaded { pipeline: None, reports: vec![*report] },
    }
}

/// Checks `text` as if it stood in the file `path`: relative paths start from its folder.
pub fn load_text(
    text: &str,
    path: &Path,
    flags: &[(String, String)],
    env: &[(String, String)],
    catalogue: &Catalogue,
) -> Loaded {
    let base = path.parent().filter(|base| !base.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if is_alertmanager(text) {
        let file = path.display().to_string();
        let message = format!("\"{file}\" is a configuration of Alertmanager, in YAML");
        let report = Report::on_file(Severity::Error, &file, message);
        let hint = format!("`millstream import alertmanager {file}` prints it as TOML");
        return Loaded { pipeline: None, reports: vec![Report { hint: Some(hint), ..report }] };
    }
    let mut finder = Finder::new(&path.display().to_string(), text);
    let mut document = Document::parse(text);
    finder.take(&mut document);
    if !document.whole {
        return Loaded { pipeline: None, reports: finder.finish() };
    }
    let mut root = layers::merge(Value::Object(document.root), env, flags, &mut finder);
    layers::fill(&mut root, &KeyPath::default(), base, env, &mut finder);
    finder.hide_secrets(&root, &KeyPath::default());
    let schemas = schema::Schemas::new(catalogue);
    shape::check(&mut root, &schemas, &mut finder);
    let pipeline = build::pipeline(&root, text, base, catalogue, &mut finder);
    let pipeline = pipeline.filter(|_| !finder.has_errors());
    Loaded { pipeline, reports: finder.finish() }
}

/// True if a text is a configuration of Alertmanager: it has its sections, which TOML has not.
fn is_alertmanager(text: &str) -> bool {
    let has = |section: &str| text.lines().any(|line| line.starts_with(section));
    has("route:") && has("receivers:")
}

fn read(path: &Path) -> Result<String, Box<Report>> {
    let file = path.display().to_string();
    let wrong = |why: String, hint: Option<&str>| {
        let report =
            Report::on_file(Severity::Error, &file, format!("could not read \"{file}\": {why}"));
        Box::new(Report { hint: hint.map(str::to_owned), ..report })
    };
    let start = Some("`millstream init` writes one to start from");
    let bytes = bounded_file::read(path, CONFIG_BYTES_MAX).map_err(|error| {
        let start = start.filter(|_| error.kind() == ErrorKind::NotFound);
        wrong(io_words(&error), start)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        wrong(format!("line {line} is not UTF-8"), Some("save the file as UTF-8"))
    })
}

/// Text of a read error, without the number the system gives it.
fn io_words(error: &std::io::Error) -> String {
    let known = [
        (ErrorKind::NotFound, "there is no such file"),
        (ErrorKind::PermissionDenied, "permission denied"),
        (ErrorKind::IsADirectory, "it is a folder"),
    ];
    let words =
        known.iter().find(|(kind, _)| *kind == error.kind()).map(|(_, words)| (*words).to_owned());
    words.unwrap_or_else(|| error.to_string())
}

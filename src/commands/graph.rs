//! `millstream graph`: the pipeline drawn as text, Mermaid or Graphviz.

use std::{collections::BTreeSet, fmt::Write as _, process::ExitCode};

use clap::ValueEnum;

use super::{
    App,
    width::{columns, pad},
};
use crate::config::{
    Pipeline, Severity,
    inputs::MONITOR,
    pipeline::{Input, Stage},
    render, warnings,
};

/// Draw the pipeline
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  millstream graph
  millstream graph --format dot | dot -Tsvg > pipeline.svg")]
pub struct Args {
    /// Output format
    #[arg(long, value_enum, default_value_t = Format::Text)]
    pub format: Format,
}

/// Output format of a drawn pipeline.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// A tree for the terminal
    Text,
    /// A flowchart for Markdown
    Mermaid,
    /// Graphviz
    Dot,
}

/// Runs the command.
///
/// # Errors
/// Never today; the signature is that of every command.
pub fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let loaded = app.load();
    let Some(pipeline) = loaded.pipeline else {
        let errors: Vec<_> = loaded
            .reports
            .into_iter()
            .filter(|report| report.severity == Severity::Error)
            .collect();
        eprint!("{}", render(&errors, true));
        return Ok(ExitCode::from(2));
    };
    print!("{}", draw(&pipeline, args.format));
    Ok(ExitCode::SUCCESS)
}

/// Drawing of the pipeline.
pub fn draw(pipeline: &Pipeline, format: Format) -> String {
    match format {
        Format::Text => text(pipeline),
        Format::Mermaid => mermaid(pipeline),
        Format::Dot => dot(pipeline),
    }
}

/// A tree from the sources down; a stage that is read from several places is drawn at the first,
/// and named at the others.
fn text(pipeline: &Pipeline) -> String {
    let mut out = Vec::from([(pipeline.name.clone(), String::new())]);
    let mut drawn = BTreeSet::new();
    for source in &pipeline.sources {
        let what = source
            .external
            .as_ref()
            .map_or_else(|| source.subjects.join(", "), |stream| format!("stream {stream}"));
        out.push(Default::default());
        out.push((format!("source.{}", source.name), what));
        let readers: Vec<&Stage> = readers(pipeline, &Input::Source(source.name.clone()));
        branches(pipeline, &readers, "", &mut drawn, &mut out);
    }
    for (names, readers) in failures(pipeline) {
        out.push(Default::default());
        out.push((format!("failures of {}", names.join(", ")), String::new()));
        branches(pipeline, &readers, "", &mut drawn, &mut out);
    }
    let readers: Vec<&Stage> = readers(pipeline, &Input::Findings);
    if !readers.is_empty() {
        out.push(Default::default());
        out.push((MONITOR.to_owned(), "what the monitor finds".to_owned()));
        branches(pipeline, &readers, "", &mut drawn, &mut out);
    }
    let width =
        out.iter().filter(|row| !row.1.is_empty()).map(|row| columns(&row.0)).max().unwrap_or(0);
    out.iter()
        .map(|(left, right)| format!("{}   {right}", pad(left, width)).trim_end().to_owned() + "\n")
        .collect()
}

fn readers<'a>(pipeline: &'a Pipeline, input: &Input) -> Vec<&'a Stage> {
    pipeline.stages.iter().filter(|stage| stage.inputs.contains(input)).collect()
}

/// The stages whose failures are read, those read by the same stages together.
fn failures(pipeline: &Pipeline) -> Vec<(Vec<&str>, Vec<&Stage>)> {
    let mut groups: Vec<(Vec<&str>, Vec<&Stage>)> = Vec::new();
    for stage in &pipeline.stages {
        let readers: Vec<&Stage> = readers(pipeline, &Input::Failed(stage.name.clone()));
        let same = |group: &&mut (Vec<&str>, Vec<&Stage>)| {
            group.1.iter().map(|stage| &stage.name).eq(readers.iter().map(|stage| &stage.name))
        };
        match groups.iter_mut().find(same) {
            _ if readers.is_empty() => {}
            Some((names, _)) => names.push(&stage.name),
            None => groups.push((vec![&stage.name], readers)),
        }
    }
    groups
}

fn branches<'a>(
    pipeline: &'a Pipeline,
    stages: &[&'a Stage],
    indent: &str,
    drawn: &mut BTreeSet<&'a str>,
    out: &mut Vec<(String, String)>,
) {
    for (n, stage) in stages.iter().enumerate() {
        let last = n + 1 == stages.len();
        let (turn, below) = if last { ("└", "    ") } else { ("├", "│   ") };
        let arrow = if stage.chain { "══▶" } else { "──▶" };
        let again = !drawn.insert(&stage.name);
        let note = if again { "(drawn above)".to_owned() } else { about(stage) };
        out.push((format!("{indent}{turn}{arrow} {}", stage.name), note));
        if again {
            continue;
        }
        let indent = format!("{indent}{below}");
        let readers: Vec<&Stage> = readers(pipeline, &Input::Results(stage.name.clone()));
        branches(pipeline, &readers, &indent, drawn, out);
        let channels = channels(pipeline, stage);
        for (n, channel) in channels.iter().enumerate() {
            let turn = if n + 1 == channels.len() { "└" } else { "├" };
            out.push((format!("{indent}{turn}──▶ channel.{channel}"), String::new()));
        }
    }
}

/// Kind of a stage, its handler, its event types and its chain, in a line.
fn about(stage: &Stage) -> String {
    let mut about = stage.kind.name.to_owned();
    if let Some(handler) = handler(stage) {
        _ = write!(about, " by {handler}");
    }
    if !stage.types.is_empty() {
        _ = write!(about, "   {}", stage.types.join(", "));
    }
    if stage.chain {
        about.push_str("   chained");
    }
    about
}

/// The handler of a stage: its name, not its address, which may hold a secret.
fn handler(stage: &Stage) -> Option<&str> {
    let table = stage.options.get("handler")?.as_object()?;
    let names = crate::handlers::HANDLERS.iter().map(|kind| kind.name);
    names.into_iter().find(|name| table.contains_key(*name))
}

/// The channels that a stage's notifications may go to.
fn channels<'a>(pipeline: &'a Pipeline, stage: &Stage) -> Vec<&'a str> {
    if !stage.notifies() {
        return Vec::new();
    }
    let named = |name: &str| {
        pipeline.stages.iter().any(|stage| warnings::names_channel(&stage.options, name))
    };
    let named: Vec<&str> = pipeline
        .channels
        .iter()
        .map(|channel| channel.name.as_str())
        .filter(|name| named(name))
        .collect();
    if named.is_empty() { vec!["log"] } else { named }
}

/// One edge: from, to, its label, true if it is a chain.
type Edge = (String, String, &'static str, bool);

fn edges(pipeline: &Pipeline) -> Vec<Edge> {
    let mut edges = Vec::new();
    for stage in &pipeline.stages {
        for input in &stage.inputs {
            let (from, label) = match input {
                Input::Source(name) => (format!("source.{name}"), ""),
                Input::Results(name) => (name.clone(), ""),
                Input::Failed(name) => (name.clone(), "failed"),
                Input::Findings => (MONITOR.to_owned(), ""),
            };
            edges.push((from, stage.name.clone(), label, stage.chain));
        }
        let channels = channels(pipeline, stage).into_iter();
        edges.extend(
            channels.map(|channel| (stage.name.clone(), format!("channel.{channel}"), "", false)),
        );
    }
    edges
}

fn mermaid(pipeline: &Pipeline) -> String {
    // Mermaid gives `end` and dots a meaning of its own; a prefix and no dots keep clear of it.
    let id = |name: &str| format!("n_{}", name.replace('.', "_2e_").replace('-', "_2d_"));
    let mut out = "flowchart LR\n".to_owned();
    for source in &pipeline.sources {
        let name = format!("source.{}", source.name);
        _ = writeln!(out, "  {}([\"{name}<br/>{}\"])", id(&name), source.subjects.join(", "));
    }
    if !readers(pipeline, &Input::Findings).is_empty() {
        _ = writeln!(out, "  {}([\"{MONITOR}\"])", id(MONITOR));
    }
    for stage in &pipeline.stages {
        _ = writeln!(out, "  {}[\"{}<br/>{}\"]", id(&stage.name), stage.name, stage.kind.name);
    }
    for (from, to, label, chained) in edges(pipeline) {
        let arrow = match (label, chained) {
            ("", false) => "-->".to_owned(),
            ("", true) => "==>|chained|".to_owned(),
            (label, _) => format!("-. {label} .->"),
        };
        let to =
            if to.starts_with("channel.") { format!("{}[/\"{to}\"/]", id(&to)) } else { id(&to) };
        _ = writeln!(out, "  {} {arrow} {to}", id(&from));
    }
    out
}

fn dot(pipeline: &Pipeline) -> String {
    let mut out = format!("digraph \"{}\" {{\n  rankdir=LR;\n  node [shape=box];\n", pipeline.name);
    for source in &pipeline.sources {
        let subjects = source.subjects.join(", ").replace('\\', "\\\\").replace('"', "\\\"");
        _ = writeln!(
            out,
            "  \"source.{}\" [shape=ellipse, label=\"source.{}\\n{subjects}\"];",
            source.name, source.name
        );
    }
    for stage in &pipeline.stages {
        _ = writeln!(out, "  \"{}\" [label=\"{}\\n{}\"];", stage.name, stage.name, stage.kind.name);
    }
    for (from, to, label, chained) in edges(pipeline) {
        let style = match (label, chained) {
            ("", false) => "",
            ("", true) => " [style=bold, label=\"chained\"]",
            _ => " [style=dashed, label=\"failed\"]",
        };
        _ = writeln!(out, "  \"{from}\" -> \"{to}\"{style};");
    }
    out + "}\n"
}

//! `millstream import`: configurations of other programs, as parts of a `pipeline.toml`.

mod receivers;
mod routes;
mod silences;
mod yaml;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use jiff::Timestamp;

use super::{count, printable};
use crate::{bounded_file, limits::CONFIG_BYTES_MAX};

/// Arguments of `import`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream import alertmanager alertmanager.yml >> pipeline.toml")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Print routes, receivers, inhibitions and times of an Alertmanager as TOML
    #[command(after_help = "Examples:
  millstream import alertmanager alertmanager.yml >> pipeline.toml
  amtool silence query -o json > silences.json
  millstream import alertmanager alertmanager.yml --silences silences.json

Secrets are not printed: fill in the variables that are named. What has no \
counterpart is named with its line.

Exit status: 0 all of it is printed, 1 something was left out, 2 could not read it.")]
    Alertmanager {
        /// Configuration of the Alertmanager
        #[arg(value_name = "FILE")]
        file: PathBuf,
        /// Silences, as `amtool silence query -o json` prints them
        #[arg(long, value_name = "FILE")]
        silences: Option<PathBuf>,
        /// Name of the alert stage
        #[arg(long, value_name = "NAME", default_value = "alerts")]
        stage: String,
        /// Stage whose incidents it reads
        #[arg(long, value_name = "STAGE", default_value = "errors")]
        input: String,
    },
}

/// Result of an import, as it is written.
#[derive(Default)]
struct Import {
    out: String,
    /// Variables to fill in.
    variables: BTreeSet<String>,
    /// What has no counterpart, and what is otherwise, each with its line.
    notes: Vec<(usize, String)>,
    left_out: usize,
}

impl Import {
    /// Names something that has no counterpart.
    fn left_out(&mut self, line: usize, text: &str) {
        self.left_out += 1;
        self.notes.push((line, format!("left out: {text}")));
    }

    /// Names something that is written otherwise.
    fn note(&mut self, line: usize, text: &str) {
        self.notes.push((line, text.to_owned()));
    }
}

/// Runs the command.
///
/// # Errors
/// A file cannot be read, or is not what it should be.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let Command::Alertmanager { file, silences, stage, input } = &args.command;
    let text = read(file)?;
    let silences = silences.as_deref().map(read).transpose()?;
    let import = alertmanager(&text, silences.as_deref(), stage, input, Timestamp::now())
        .with_context(|| format!("could not import \"{}\"", file.display()))?;
    print!("{}", import.out);
    for (line, note) in &import.notes {
        let at = if *line > 0 { format!(":{line}") } else { String::new() };
        eprintln!("{}{at}: {}", file.display(), printable(note));
    }
    if !import.variables.is_empty() {
        let names: Vec<&str> = import.variables.iter().map(String::as_str).collect();
        eprintln!("fill in: {}", names.join(", "));
    }
    if import.left_out == 0 {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!("{} left out", count(import.left_out, "thing"));
    Ok(ExitCode::from(1))
}

fn read(file: &Path) -> anyhow::Result<String> {
    bounded_file::read_text(file, CONFIG_BYTES_MAX)
        .with_context(|| format!("could not read \"{}\"", file.display()))
}

/// Imports a configuration of Alertmanager, and silences.
fn alertmanager(
    text: &str,
    silences: Option<&str>,
    stage: &str,
    input: &str,
    now: Timestamp,
) -> anyhow::Result<Import> {
    let root = match yaml::parse(text) {
        Ok(root) => root,
        Err((line, why)) => bail!("line {line} is not YAML: {why}"),
    };
    if root.get("route").is_none() || root.get("receivers").is_none() {
        bail!("it is no configuration of Alertmanager: it has no route, or no receivers");
    }
    let mut import = Import::default();
    let read =
        ["global", "route", "receivers", "inhibit_rules", "time_intervals", "mute_time_intervals"];
    for (key, line, _) in root.entries().iter().filter(|(key, ..)| !read.contains(&key.as_str())) {
        import.left_out(*line, &format!("{key} has no counterpart"));
    }
    import.out.push_str("\n# Imported from Alertmanager.\n\n");
    let channels = receivers::write(&mut import, &root);
    routes::write(&mut import, &root, &channels, stage, input);
    if let Some(silences) = silences {
        silences::write(&mut import, silences, now)?;
    }
    import.notes.sort_by_key(|(line, _)| *line);
    Ok(import)
}

/// A text in TOML, literally where that is easier to read.
fn quoted(text: &str) -> String {
    if text.contains(['"', '\\']) && !text.contains('\'') && !text.contains(char::is_control) {
        return format!("'{text}'");
    }
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            c if c.is_control() => out.push_str(&format!("\\u{:04X}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests;

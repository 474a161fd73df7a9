//! `millstream init`: a commented configuration to start from.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::{Context as _, bail};
use ring::rand::SecureRandom as _;

use crate::config::names;

/// Write a commented pipeline.toml, and the schemas it names, to start from
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  millstream init
  millstream init shop && cd shop && millstream check    a pipeline called \"shop\"")]
pub struct Args {
    /// The folder to write into; made if it is not there
    #[arg(value_name = "PATH", default_value = ".")]
    pub path: PathBuf,
    /// Write over files that are there already
    #[arg(long)]
    pub force: bool,
}

/// Name of the pipeline in the files.
const NAME: &str = "shop";

/// Files to write, each with its path in the folder.
pub const FILES: &[(&str, &str)] = &[
    ("pipeline.toml", include_str!("init/pipeline.toml")),
    ("schemas/order.created.1.json", include_str!("init/order.created.1.json")),
];

/// Runs the command.
///
/// # Errors
/// Where a file is there already, or cannot be written.
pub fn run(args: &Args) -> anyhow::Result<ExitCode> {
    write(&args.path, args.force)?;
    for (name, _) in FILES {
        println!("{}", args.path.join(name).display());
    }
    let cd = if args.path == Path::new(".") {
        String::new()
    } else {
        format!("cd {} && ", args.path.display())
    };
    eprintln!("next: {cd}millstream check, then millstream dev");
    Ok(ExitCode::SUCCESS)
}

/// Writes the files into a folder. None is written if one of them is there already, unless `force`.
///
/// # Errors
/// Where a file is there already, or cannot be written.
pub fn write(folder: &Path, force: bool) -> anyhow::Result<()> {
    if let Some((name, _)) = FILES.iter().find(|(name, _)| !force && folder.join(name).exists()) {
        bail!("\"{}\" is there already; --force writes over it", folder.join(name).display());
    }
    let name = name_of(folder);
    let before = std::fs::read_to_string(folder.join(FILES[0].0)).unwrap_or_default();
    let id = id_of(&before).map(str::to_owned).or_else(new_id);
    let named = |text: &str| {
        let text = text.replace(&format!("\"{NAME}\" "), &format!("\"{name}\" "));
        let text = text.replace(&format!("/{NAME}.creds"), &format!("/{name}.creds"));
        id.as_ref().map_or_else(|| text.clone(), |id| with_id(&text, id))
    };
    let texts: Vec<(&str, String)> =
        FILES.iter().map(|(name, text)| (*name, named(text))).collect();
    let files: Vec<(&str, &str)> =
        texts.iter().map(|(name, text)| (*name, text.as_str())).collect();
    write_files(folder, &files)
}

/// Name of the pipeline of a folder: that of the folder, where it can be one.
fn name_of(folder: &Path) -> String {
    let whole = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    let name = whole.file_name().map(|name| names::fitted(&name.to_string_lossy()));
    name.filter(|name| names::is_name(name)).unwrap_or_else(|| NAME.to_owned())
}

/// Id that the pipeline in a file has; written over, it is the same pipeline.
fn id_of(text: &str) -> Option<&str> {
    let line = text.lines().find_map(|line| line.strip_prefix("id = \""))?;
    line.split('"').next()
}

/// Id unlike any other: two folders with the same text are two pipelines.
fn new_id() -> Option<String> {
    let mut id = [0; 8];
    ring::rand::SystemRandom::new().fill(&mut id).ok()?;
    Some(super::hex(&id))
}

/// A file with an id for the pipeline in it.
fn with_id(text: &str, id: &str) -> String {
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        out.push_str(line);
        if line.starts_with("name = ") {
            let id = format!("id = \"{id}\"");
            out.push_str(&format!("{id:<34} # tells it from another of this name\n"));
        }
    }
    out
}

/// Writes files into a folder, over what is there; each by its path in the folder.
pub(super) fn write_files(folder: &Path, files: &[(&str, &str)]) -> anyhow::Result<()> {
    for (name, text) in files {
        let path = folder.join(name);
        let parent = path.parent().unwrap_or(folder);
        std::fs::create_dir_all(parent)
            .with_context(|| format!("could not make the folder \"{}\"", parent.display()))?;
        std::fs::write(&path, text)
            .with_context(|| format!("could not write \"{}\"", path.display()))?;
    }
    Ok(())
}

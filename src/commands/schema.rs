//! `millstream schema`: a JSON Schema of `pipeline.toml`, for editors.

use std::process::ExitCode;

use super::App;
use crate::config::schema::Schemas;

/// Print a JSON Schema (2020-12) of the configuration file, for editors
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = "Examples:
  millstream schema > pipeline.schema.json

Then begin pipeline.toml with the line
  #:schema ./pipeline.schema.json
and an editor with TOML support completes keys and marks slips.")]
pub struct Args {}

/// Runs the command.
///
/// # Errors
/// Where the schema cannot be printed.
pub fn run(app: &App, _: &Args) -> anyhow::Result<ExitCode> {
    println!("{}", serde_json::to_string_pretty(&Schemas::new(&app.catalogue()).whole())?);
    Ok(ExitCode::SUCCESS)
}

//! `alert render`: a notification for a sample incident, as a channel would send it.

use std::process::ExitCode;

use millstream_stages::notification::Notification;

use super::test::Sample;
use crate::commands::{App, lines, printable};

/// Arguments of `alert render`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream alert render                     as any channel is given it
  millstream alert render oncall              as channel \"oncall\" sends it, secrets blotted out
  millstream alert render mail --about digest
  millstream alert render oncall --about resolved --severity critical")]
pub(super) struct Args {
    /// The channel; none: the notification before any channel's own words
    channel: Option<String>,
    #[command(flatten)]
    sample: Sample,
    /// JSON: the notification that templates see
    #[arg(long)]
    json: bool,
}

/// Prints a notification for a sample incident.
///
/// # Errors
/// There is no such channel.
pub(super) fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let name = args.channel.as_deref().unwrap_or("log");
    let channel = super::channel(&pipeline, name)?;
    let notification = args.sample.notification(&pipeline.name, name);
    if args.json {
        lines::print(&serde_json::to_string_pretty(&notification)?)?;
    } else if args.channel.is_none() {
        let Notification { title, text, .. } = &notification;
        lines::print(&printable(&format!("{title}\n\n{}", text.trim_end())))?;
    } else {
        let deliver = super::deliver(&pipeline, channel, None)?;
        let shown =
            deliver.preview(&notification).map_err(|failure| anyhow::anyhow!("{failure}"))?;
        lines::print(&printable(shown.trim_end()))?;
    }
    Ok(ExitCode::SUCCESS)
}

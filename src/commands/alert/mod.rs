//! `alert`: subcommands that try channels and rules: test, route, render, simulate.

mod render;
mod route;
mod simulate;
mod test;

use std::process::ExitCode;

use anyhow::bail;

use super::App;
use crate::{
    broker::Broker,
    channels::Deliver,
    config::{Pipeline, pipeline::Channel},
};

/// Arguments of `alert`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream alert test oncall                             send a sample to a channel
  millstream alert route severity=critical code=DB_DOWN    which way it would go
  millstream alert render oncall                           what exactly would be sent
  millstream alert simulate --since 24h                    what the rules would have sent
  millstream alert simulate --since 7d --config new.toml   what others would have")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Send a sample notification to a channel, now and past every rule
    Test(test::Args),
    /// Show which way an incident with these labels goes through the routes
    Route(route::Args),
    /// Print a notification for a sample incident, as a channel would send it
    Render(render::Args),
    /// Run stored errors through the rules in memory: what would have been sent, and what held back
    Simulate(simulate::Args),
}

/// Runs one of the subcommands.
///
/// # Errors
/// There is no such channel, or the broker cannot be read.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Test(args) => test::run(app, args).await,
        Command::Route(args) => route::run(app, &args),
        Command::Render(args) => render::run(app, &args),
        Command::Simulate(args) => simulate::run(app, args).await,
    }
}

/// The channel of this name.
fn channel<'a>(pipeline: &'a Pipeline, name: &str) -> anyhow::Result<&'a Channel> {
    let known: Vec<&str> = pipeline.channels.iter().map(|channel| channel.name.as_str()).collect();
    match pipeline.channels.iter().find(|channel| channel.name == name) {
        Some(channel) => Ok(channel),
        None => bail!(
            "there is no channel \"{}\"\n hint: {}",
            super::printable(name),
            crate::suggest::suggest(name, "the channels are", known)
        ),
    }
}

/// Sender to a channel, as a worker would build it.
fn deliver(
    pipeline: &Pipeline,
    channel: &Channel,
    broker: Option<Broker>,
) -> anyhow::Result<Deliver> {
    pipeline.deliver(channel, broker).map_err(|problems| {
        let first = problems.first().map_or("no reason given", |problem| problem.message.as_str());
        anyhow::anyhow!("channel \"{}\" cannot be built: {}", channel.name, super::printable(first))
    })
}

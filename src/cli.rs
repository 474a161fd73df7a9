//! Command line: arguments as clap reads them, then the one command that they name.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};
use millstream_stages::{Delivery, Event, Failure, Reply};

use crate::{
    commands::{self, flags::Common},
    handlers::{Registry, handler_fn},
    observe::logs,
};

const EXAMPLES: &str = "\
Examples:
  millstream demo                     see it work: a server, a pipeline, failures, an alert
  millstream init shop                write a commented pipeline.toml to start from
  millstream check                    every problem in pipeline.toml, and when each stage gives up
  millstream dev                      run it here, with a server of its own, reloading on edit
  millstream apply && millstream run  create what it needs in NATS, then run a worker
  millstream dlq ls                   what was given up on, and why
  millstream incidents ls             what goes wrong now
  millstream alert simulate           what the rules would have sent in the last 24 hours

Exit status: 0 fine, 1 found something, 2 could not do it.";

/// Event pipelines that survive failure, on NATS JetStream.
#[derive(Debug, Parser)]
#[command(name = "millstream", version, about, after_help = EXAMPLES, max_term_width = 100)]
struct Cli {
    #[command(flatten)]
    common: Common,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the whole thing at work in ten seconds: failures, retries, dead letters, an alert
    Demo(commands::demo::Args),
    /// Run the pipeline here with a server of its own, and reload it on edit
    Dev(commands::dev::Args),
    /// Run a worker of the fleet
    Run(commands::run::Args),
    /// Write a commented pipeline.toml to start from
    Init(commands::init::Args),
    /// Print the configuration of an Alertmanager as parts of a pipeline.toml
    Import(commands::import::Args),
    /// Report every problem in the configuration, and when each stage gives up
    Check(commands::check::Args),
    /// Print a JSON Schema of the configuration, for editors
    Schema(commands::schema::Args),
    /// Draw the pipeline
    Graph(commands::graph::Args),
    /// Show what `apply` would change in NATS
    Plan(commands::plan::Args),
    /// Create and update the streams and consumers that the pipeline needs
    Apply(commands::apply::Args),
    /// Publish events, one per line
    Publish(commands::publish::Args),
    /// Show how the pipeline is doing
    Status(commands::status::Args),
    /// List, show and redrive dead letters
    Dlq(Box<commands::dlq::Args>),
    /// List, show, acknowledge and resolve incidents
    Incidents(commands::incidents::Args),
    /// Hold back notifications for a while: add, list and remove silences
    Silence(commands::silence::Args),
    /// Try channels and rules: test, route, render, simulate
    Alert(commands::alert::Args),
    /// Print completions of this command line for a shell
    Completions(commands::artefacts::CompletionsArgs),
    /// Print the man page, or write one for each command
    Man(commands::artefacts::ManArgs),
    /// Print the version
    Version(commands::artefacts::VersionArgs),
}

/// The command line, with the Rust handlers that a program adds to it.
///
/// A program of your own that registers handlers is the whole of Millstream plus those handlers;
/// see `examples/rust_handler.rs`.
#[derive(Debug, Default)]
pub struct Millstream {
    registry: Registry,
}

impl Millstream {
    /// The command line without handlers of its own.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler that `pipeline.toml` names as `handler = { rust = "name" }`.
    #[must_use]
    pub fn handler<F, Fut>(self, name: &str, handle: F) -> Self
    where
        F: Fn(Event, Delivery) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Reply, Failure>> + Send + 'static,
    {
        Self { registry: self.registry.with(name, handler_fn(handle)) }
    }

    /// Reads the arguments, runs the command, prints what went wrong, and gives the exit status.
    pub fn main(self) -> ExitCode {
        let Cli { common, command } = Cli::parse();
        let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => {
                let error = anyhow::Error::new(error).context("could not start the runtime");
                commands::print_error(&error);
                return ExitCode::from(2);
            }
        };
        let done = runtime.block_on(self.run(common, command));
        // A read of standard input cannot be cancelled; do not wait for one.
        runtime.shutdown_background();
        match done {
            Ok(code) => commands::output::status(code),
            Err(error) => {
                commands::print_error(&error);
                ExitCode::from(2)
            }
        }
    }

    async fn run(self, common: Common, command: Command) -> anyhow::Result<ExitCode> {
        crate::tls::install_provider();
        let app = commands::App { common, registry: self.registry };
        if !command.starts_its_own_logs() {
            logs::init(&app.log_options("warn"), None)?;
        }
        match command {
            Command::Run(args) => commands::run::run(&app, args).await,
            Command::Dev(args) => commands::dev::run(&app, args).await,
            Command::Demo(args) => commands::demo::run(&app, args).await,
            Command::Init(args) => commands::init::run(&args),
            Command::Import(args) => commands::import::run(&args),
            Command::Check(args) => commands::check::run(&app, &args),
            Command::Schema(args) => commands::schema::run(&app, &args),
            Command::Graph(args) => commands::graph::run(&app, &args),
            Command::Plan(args) => commands::plan::run(&app, &args).await,
            Command::Apply(args) => commands::apply::run(&app, &args).await,
            Command::Publish(args) => commands::publish::run(&app, args).await,
            Command::Status(args) => commands::status::run(&app, args).await,
            Command::Dlq(args) => commands::dlq::run(&app, *args).await,
            Command::Incidents(args) => commands::incidents::run(&app, args).await,
            Command::Silence(args) => commands::silence::run(&app, args).await,
            Command::Alert(args) => commands::alert::run(&app, args).await,
            Command::Completions(args) => {
                Ok(commands::artefacts::completions(Cli::command(), &args))
            }
            Command::Man(args) => commands::artefacts::man(Cli::command(), &args),
            Command::Version(args) => Ok(commands::artefacts::version(&args)),
        }
    }
}

impl Command {
    /// True for a command that starts its logs itself, once it knows where spans go.
    fn starts_its_own_logs(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Dev(_) | Self::Demo(_))
    }
}

//! Flags: command-line flags that every command takes.

use std::path::PathBuf;

use crate::observe::LogFormat;

/// Arguments of every command.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// The pipeline's file
    #[arg(short, long, global = true, value_name = "FILE", default_value = "pipeline.toml")]
    pub config: PathBuf,
    /// Set one key of it, such as `nats.url=nats://127.0.0.1:4222`; may be repeated
    #[arg(long, global = true, value_name = "KEY=VALUE", value_parser = key_value)]
    pub set: Vec<(String, String)>,
    /// The nats-server program that `demo` and `dev` start
    #[arg(long, global = true, value_name = "FILE", env = "MILLSTREAM_NATS_SERVER")]
    pub nats_server: Option<PathBuf>,
    /// Log level: error, warn, info, debug, or a tracing filter
    #[arg(long, global = true, value_name = "FILTER", env = "MILLSTREAM_LOG")]
    pub log: Option<String>,
    /// Log format
    #[arg(
        long,
        global = true,
        value_enum,
        default_value = "console",
        env = "MILLSTREAM_LOG_FORMAT"
    )]
    pub log_format: LogFormat,
}

/// Parses a `KEY=VALUE` of the command line.
pub(crate) fn key_value(text: &str) -> Result<(String, String), String> {
    let (key, value) =
        text.split_once('=').ok_or("expected KEY=VALUE, such as nats.url=nats://127.0.0.1:4222")?;
    Ok((key.trim().to_owned(), value.trim().to_owned()))
}

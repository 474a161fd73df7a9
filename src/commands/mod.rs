//! Commands: one file per command; with the command line over it, the only room that prints.

// Its macros take the place of the standard ones in what follows.
#[macro_use]
pub(crate) mod output;

pub mod alert;
pub mod apply;
pub mod artefacts;
pub mod check;
pub mod demo;
pub mod dev;
pub mod dlq;
pub mod flags;
pub mod graph;
pub mod import;
pub mod incidents;
pub mod init;
mod lines;
mod local;
mod people;
pub mod plan;
pub mod publish;
pub mod run;
pub mod schema;
mod signals;
pub mod silence;
pub mod status;
mod stub;
mod table;
mod width;

use std::{ffi::OsString, fmt::Write as _, io::IsTerminal as _, path::Path, process::ExitCode};

use anyhow::{Context as _, bail};

use self::signals::Signals;
use super::commands::flags::Common;
use crate::{
    broker::{AdminError, BROKER_REMEDY, Broker, ConnectError, Nats},
    config::{self, Catalogue, Loaded, Pipeline, Severity},
    error_chain::chain,
    handlers::{HandlerContext, Registry},
    observe::{Conditions, LogOptions, Trouble},
};

/// Context of every command: the flags that all share, and the Rust handlers of this program.
#[derive(Debug, Clone)]
pub struct App {
    /// The flags that all commands share.
    pub common: Common,
    /// Rust handlers by name.
    pub registry: Registry,
}

impl App {
    /// Catalogue of all that a configuration may name in this program.
    pub fn catalogue(&self) -> Catalogue {
        Catalogue::new(HandlerContext {
            registered: self.registry.clone(),
            ..HandlerContext::default()
        })
    }

    /// Reads the configuration, with every problem found.
    pub fn load(&self) -> Loaded {
        // A variable that is not text cannot be named in a file, so it is passed over.
        let text = |(key, value): (OsString, OsString)| {
            Some((key.into_string().ok()?, value.into_string().ok()?))
        };
        let env: Vec<(String, String)> = std::env::vars_os().filter_map(text).collect();
        config::load(&self.common.config, &self.common.set, &env, &self.catalogue())
    }

    /// The configuration, if it has no problems; else they are printed.
    ///
    /// # Errors
    /// There are problems, or there is no such file.
    pub fn pipeline(&self) -> anyhow::Result<Pipeline> {
        let loaded = self.load();
        if let Some(pipeline) = loaded.pipeline {
            return Ok(pipeline);
        }
        let errors = loaded
            .reports
            .into_iter()
            .filter(|report| report.severity == Severity::Error)
            .collect::<Vec<_>>();
        eprint!("{}", config::render(&errors, colour_on_stderr()));
        match errors.len() {
            1 => bail!("{} has a problem", self.common.config.display()),
            n => bail!("{} has {n} problems", self.common.config.display()),
        }
    }

    /// The configuration, read on a thread of its own, so that a signal is heard meanwhile: large
    /// schemas take a while. `None`: the command is to end.
    ///
    /// # Errors
    /// As [`App::pipeline`].
    async fn pipeline_unless(&self, signals: &Signals) -> anyhow::Result<Option<Pipeline>> {
        let app = self.clone();
        let read = tokio::task::spawn_blocking(move || app.pipeline());
        match signals.unless_stopped(read).await {
            Some(read) => Ok(Some(read.context("the configuration could not be read")??)),
            None => Ok(None),
        }
    }

    /// A connection to the pipeline's broker, now or not at all, which knows the broker's time.
    ///
    /// # Errors
    /// The configuration names no server, or the server is not there or not fit.
    pub async fn connect(&self, pipeline: &Pipeline) -> anyhow::Result<Broker> {
        let nats = server_of(pipeline)?;
        let broker = Broker::connect(&nats, &client_name(pipeline)).await?;
        // Where there is no such stream there is nothing yet whose time could matter.
        broker.read_clock(&pipeline.names().state_stream()).await.ok();
        Ok(broker)
    }

    /// A connection to the pipeline's broker, whenever it is there; says that it waits, also as a
    /// condition.
    ///
    /// # Errors
    /// The configuration names no server, or the server is there and not fit.
    pub async fn connect_patiently(
        &self,
        pipeline: &Pipeline,
        conditions: &Conditions,
    ) -> anyhow::Result<Broker> {
        let nats = server_of(pipeline)?;
        let waiting = |error: &ConnectError| {
            let cause = std::error::Error::source(error).map(ToString::to_string);
            tracing::warn!(error = %error, cause, "no connection yet; trying again");
            conditions.noted("broker", Trouble::with_remedy(chain(error), BROKER_REMEDY));
        };
        Ok(Broker::connect_patiently(&nats, &client_name(pipeline), waiting).await?)
    }

    /// Options of the log; `default_filter` holds where the user gave no filter.
    pub fn log_options(&self, default_filter: &str) -> LogOptions {
        LogOptions {
            format: self.common.log_format,
            filter: Some(self.common.log.clone().unwrap_or_else(|| default_filter.to_owned())),
        }
    }
}

fn client_name(pipeline: &Pipeline) -> String {
    format!("millstream {}", pipeline.name)
}

/// Server of a pipeline: the one that it names, else the one that `dev` runs in this folder.
fn server_of(pipeline: &Pipeline) -> anyhow::Result<Nats> {
    if !pipeline.nats.url.is_empty() {
        return Ok(pipeline.nats.clone());
    }
    let Some(url) = local::running(&local::data_of(Path::new(local::DATA))) else {
        bail!(
            "the configuration names no NATS server\n hint: set nats.url in it, \
             or MILLSTREAM_NATS__URL, or --set nats.url=nats://127.0.0.1:4222; \
             `millstream dev` starts a server of its own, which other commands in its folder find"
        );
    };
    Ok(Nats { url: vec![url], ..pipeline.nats.clone() })
}

/// Makes sure that a stream of the pipeline is there.
///
/// # Errors
/// It is not, or the server cannot be asked.
pub async fn must_exist(broker: &Broker, stream: &str) -> anyhow::Result<()> {
    match broker.stream_state(stream).await {
        Ok(_) => Ok(()),
        Err(AdminError::NoStream { .. }) => {
            bail!(
                "stream \"{stream}\" does not exist\n \
                 hint: `millstream apply` creates what the pipeline needs"
            )
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints an error and its causes on stderr.
pub fn print_error(error: &anyhow::Error) {
    let (label, reset) =
        if colour_on_stderr() { ("\u{1b}[1;31merror\u{1b}[0m", "") } else { ("error", "") };
    eprintln!("{label}{reset}: {}", printable(&error.to_string()));
    let mut said = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        // Errors from outside often repeat their cause.
        if !said.contains(&cause) {
            eprintln!(" because: {}", printable(&cause));
            said = cause;
        }
    }
}

/// True if stderr is a terminal that shows colours.
pub fn colour_on_stderr() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// True if stdout is a terminal that shows colours.
pub fn colour_on_stdout() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Width of the terminal that stdout is, in columns; `None` if it is no terminal.
pub fn terminal_width() -> Option<usize> {
    if !std::io::stdout().is_terminal() {
        return None;
    }
    terminal_size::terminal_size().map(|(width, _)| usize::from(width.0))
}

/// Text from outside, made fit for a terminal: control characters, and those that turn the
/// direction of the text around them, are shown as escapes; line ends stay.
pub fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => out.push('\n'),
            character if character.is_control() || is_bidi_control(character) => {
                out.extend(character.escape_unicode());
            }
            character => out.push(character),
        }
    }
    out
}

/// True for a character that is not seen and changes the order in which others are shown.
///
/// Source: `Bidi_Control` of Unicode 16, `PropList.txt`.
const fn is_bidi_control(character: char) -> bool {
    matches!(
        character,
        '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
    )
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    let mut out = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        _ = write!(out, "{byte:02x}");
    }
    out
}

/// "1 stage", "2 stages".
fn count(number: usize, what: &str) -> String {
    if number == 1 { format!("1 {what}") } else { format!("{number} {what}s") }
}

/// Exit status 0, or 1 where something was found.
pub fn found(something: bool) -> ExitCode {
    if something { ExitCode::from(1) } else { ExitCode::SUCCESS }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_can_neither_steer_a_terminal_nor_turn_the_order_of_what_is_read() {
        assert_eq!(printable("a\u{1b}[2J\tb\nc\u{9b}"), "a\\u{1b}[2J\\u{9}b\nc\\u{9b}");
        assert_eq!(printable("user\u{202e}gpj.exe\u{2069}"), "user\\u{202e}gpj.exe\\u{2069}");
        for control in ["\u{61c}", "\u{200e}", "\u{200f}", "\u{202a}", "\u{2066}"] {
            assert!(printable(control).is_ascii());
        }
        // Letters that are read from right to left stay, and so do joined emoji.
        for text in ["שלום", "مرحبا", "余额不足", "👩\u{200d}🚀"] {
            assert_eq!(printable(text), text);
        }
    }
}

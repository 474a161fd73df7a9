//! Logs: log lines to stderr, in which text from outside cannot forge a line or reach the terminal.

use std::{
    fmt::{self, Write as _},
    io::{self, IsTerminal as _},
};

use tracing::{Subscriber, field::Field};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    field::MakeExt as _,
    filter::{FilterExt as _, LevelFilter, filter_fn},
    fmt::{MakeWriter, format},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use super::otlp::Exporter;

/// The environment variable that sets the filter where `--log` does not.
pub const FILTER_VARIABLE: &str = "MILLSTREAM_LOG";
/// Default level: our own life cycle, and others' warnings.
const DEFAULT: LevelFilter = LevelFilter::INFO;

/// Format of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub enum LogFormat {
    /// For people.
    #[default]
    Console,
    /// One JSON object a line, for collectors.
    Json,
}

/// Filter and format of the logs.
#[derive(Debug, Clone, Default)]
pub struct LogOptions {
    /// Format of a line.
    pub format: LogFormat,
    /// A level (`debug`: ours; others keep to warnings) or tracing directives
    /// (`millstream::map=trace,async_nats=info`). `None`: `MILLSTREAM_LOG`, or `info`.
    pub filter: Option<String>,
}

/// Failure to set up logging.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// Filter that cannot be read.
    #[error(
        "could not read the log filter \"{filter}\": expected a level such as \"debug\", or \
         \"millstream::map=trace\""
    )]
    Filter {
        /// The filter.
        filter: String,
        /// Fault of the filter.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging that this process has started already.
    #[error("could not start logging: it runs already")]
    Running,
}

/// Starts logging to stderr and, with an exporter, the export of spans. Once for the process.
///
/// # Errors
/// [`LogError`].
pub fn init(options: &LogOptions, exporter: Option<&Exporter>) -> Result<(), LogError> {
    let colours =
        io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|set| set.is_empty());
    let logs = layer(options, colours, io::stderr)?;
    let subscriber = Registry::default().with(logs);
    // Each layer has its own filter: per-event spans are exported however quiet the logs are.
    // Without an exporter there is no second layer, not even an empty one: `None` as a layer is
    // interested in everything, and would enable spans.
    let started = match exporter {
        Some(exporter) => subscriber.with(exporter.layer()).try_init(),
        None => subscriber.try_init(),
    };
    started.map_err(|_| LogError::Running)
}

/// The layer that writes log lines to `writer`.
///
/// # Errors
/// [`LogError::Filter`].
pub fn layer<S, W>(
    options: &LogOptions,
    colours: bool,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, LogError>
where
    S: Subscriber + for<'span> LookupSpan<'span>,
    W: for<'writer> MakeWriter<'writer> + Send + Sync + 'static,
{
    // A line has all its fields; spans are for the exporter.
    let filter = filter_fn(|metadata| metadata.is_event()).and(filter(options)?);
    Ok(match options.format {
        LogFormat::Console => {
            let fields = format::debug_fn(|writer, field, value| write_field(writer, field, value))
                .delimited(" ");
            let lines = tracing_subscriber::fmt::layer()
                .with_ansi(colours)
                .fmt_fields(fields)
                .with_writer(writer);
            lines.with_filter(filter).boxed()
        }
        LogFormat::Json => {
            let writer = EscapingJson(writer);
            let lines =
                tracing_subscriber::fmt::layer().json().flatten_event(true).with_writer(writer);
            lines.with_current_span(false).with_span_list(false).with_filter(filter).boxed()
        }
    })
}

fn filter(options: &LogOptions) -> Result<EnvFilter, LogError> {
    let variable = || std::env::var(FILTER_VARIABLE).ok().filter(|text| !text.is_empty());
    let text = options.filter.clone().or_else(variable).unwrap_or_else(|| DEFAULT.to_string());
    let directives = match text.parse::<LevelFilter>() {
        Ok(level) => {
            format!("{},millstream={level},millstream_stages={level}", level.min(LevelFilter::WARN))
        }
        Err(_) => text.clone(),
    };
    EnvFilter::builder()
        .parse(directives)
        .map_err(|source| LogError::Filter { filter: text, source })
}

/// Writes one field of a console line. tracing-subscriber escapes strings and the message, but
/// neither newlines in the message nor anything in a `%field` (0.3.23, `fmt/format/mod.rs`,
/// `DefaultVisitor`); here everything is escaped.
fn write_field(
    writer: &mut format::Writer<'_>,
    field: &Field,
    value: &dyn fmt::Debug,
) -> fmt::Result {
    if field.name() != "message" {
        write!(writer, "{}=", field.name())?;
    }
    write!(Escaping(writer), "{value:?}")
}

/// True for what may not reach a terminal or forge a line: control characters, line separators, and
/// what reorders text.
fn is_dangerous(character: char) -> bool {
    character.is_control()
        || matches!(
            character,
            '\u{2028}' | '\u{2029}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        )
}

/// Writer that passes text on, dangerous characters in Rust's escaped form, such as `\u{1b}`.
struct Escaping<'a, 'b>(&'a mut format::Writer<'b>);

impl fmt::Write for Escaping<'_, '_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        text.chars().try_for_each(|character| match is_dangerous(character) {
            true => write!(self.0, "{}", character.escape_default()),
            false => self.0.write_char(character),
        })
    }
}

/// Writer that passes JSON lines on, and escapes what serde_json leaves dangerous in strings (it
/// escapes only up to U+001F).
struct EscapingJson<W>(W);

impl<'a, M: MakeWriter<'a>> MakeWriter<'a> for EscapingJson<M> {
    type Writer = EscapingJson<M::Writer>;

    fn make_writer(&'a self) -> Self::Writer {
        EscapingJson(self.0.make_writer())
    }
}

impl<W: io::Write> io::Write for EscapingJson<W> {
    /// Takes a whole line at a time, as tracing-subscriber writes it.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let mut escaped = String::with_capacity(line.len());
        for character in String::from_utf8_lossy(line).chars() {
            if is_dangerous(character) && character != '\n' {
                // All of them are in the first plane, so one escape holds each.
                _ = write!(escaped, "\\u{:04x}", u32::from(character));
            } else {
                escaped.push(character);
            }
        }
        self.0.write_all(escaped.as_bytes())?;
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

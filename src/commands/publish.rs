//! `publish`: events of a file or of standard input, with a progress bar.

mod values;

use std::{
    fmt::Write as _,
    fs::File,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use millstream_stages::{
    Envelope, Event,
    envelope::{self, Carrier},
};
use tokio::sync::mpsc;

use self::values::{Value, Values};
use super::App;
use crate::{
    broker::{Broker, Outgoing, PublishError},
    config::{Pipeline, pipeline::Source},
    error_chain::chain,
    limits,
    wire::subjects::tokens,
};

const EXAMPLES: &str = "\
Examples:
  millstream publish < events.jsonl
  millstream publish --file events.jsonl --source events
  echo '{\"eventId\":\"o-1\",\"eventType\":\"order.created\",\"eventData\":{\"amount\":5}}' \
      | millstream publish
  millstream publish --subject events.test --file rubbish.txt    # as it is, whatever it is

Events may be one per line, in one JSON array, or one after the other over many lines; packed \
by gzip or Zstandard;
UTF-8, or UTF-16 with a byte order mark. Each goes to the source's subject with its event type, \
and carries its event id,
so that publishing the same file twice within two minutes stores each event once. A file with a \
value that is no event
is not published at all; with --subject each line is sent as it is, whatever it is.";

/// Arguments of `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file of events; standard input without it
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The source to publish to; the first one without it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The subject to publish on, for every line as it is
    #[arg(long, value_name = "SUBJECT")]
    subject: Option<String>,
}

/// Publishes every line and prints how many events were stored.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let source = choose(&pipeline, args.source.as_deref())?;
    let broker = app.connect(&pipeline).await?;
    let stream =
        source.external.clone().unwrap_or_else(|| pipeline.names().source_stream(&source.name));
    super::must_exist(&broker, &stream).await?;
    let target = Target {
        source: source.clone(),
        subject: args.subject,
        bytes_max: broker.max_payload().saturating_sub(limits::LETTER_RESERVE),
    };
    let (input, bytes): (Box<dyn Read + Send>, Option<u64>) = match &args.file {
        Some(path) => {
            let path = path.clone();
            let open = {
                let target = target.clone();
                move || open_checked(&path, &target)
            };
            let (file, bytes) = tokio::task::spawn_blocking(open).await??;
            (Box::new(file), bytes)
        }
        None => (Box::new(io::stdin()), None),
    };
    let tally = publish(&broker, &target, input, &bar(bytes)).await?;
    println!(
        "published {} to source \"{}\"{}",
        super::count(usize::try_from(tally.stored)?, "event"),
        source.name,
        match tally.duplicates {
            0 => String::new(),
            n => format!(", {n} of them were there already"),
        }
    );
    Ok(if tally.failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[derive(Debug, Default)]
struct Tally {
    stored: u64,
    duplicates: u64,
    failed: u64,
}

fn choose<'a>(pipeline: &'a Pipeline, name: Option<&str>) -> anyhow::Result<&'a Source> {
    let found = match name {
        None => pipeline.sources.first(),
        Some(name) => pipeline.sources.iter().find(|source| source.name == name),
    };
    let Some(source) = found else {
        let known: Vec<&str> = pipeline.sources.iter().map(|source| source.name.as_str()).collect();
        bail!(
            "there is no source \"{}\"; the sources are {}",
            name.unwrap_or_default(),
            known.join(", ")
        );
    };
    Ok(source)
}

/// Source and subject that events go to.
#[derive(Debug, Clone)]
struct Target {
    source: Source,
    /// Subject that every line goes to, as it is.
    subject: Option<String>,
    /// Size of an event that the server takes, and has room for as a letter.
    bytes_max: usize,
}

impl Target {
    /// True if whatever is on a line is an event.
    fn takes_lines(&self) -> bool {
        self.subject.is_some() || self.source.envelope == Envelope::Raw
    }

    /// Event of a value.
    ///
    /// # Errors
    /// What is wrong with it, as one clause.
    fn event(&self, value: &Value) -> Result<Event, String> {
        let carrier = Carrier { subject: "unknown", message_id: None, fallback_id: "" };
        envelope::decode(self.source.envelope, value.bytes.clone(), &carrier)
            .map_err(|failure| failure.message)
    }

    /// Message of a value: under its event type, with its id; a line that is sent as it is under
    /// its subject.
    ///
    /// # Errors
    /// What is wrong with it, as one clause.
    fn outgoing(&self, value: &Value) -> Result<Outgoing, String> {
        if value.bytes.len() > self.bytes_max {
            let (bytes, most) = (value.bytes.len(), self.bytes_max);
            return Err(format!("{bytes} bytes, where the server has room for {most}"));
        }
        let event = match self.event(value) {
            Ok(event) => Some(event),
            Err(_) if self.takes_lines() => None,
            Err(why) => return Err(why),
        };
        let pattern = self.source.subjects.first().map_or("events", String::as_str);
        let event_type = event.as_ref().map_or("unreadable", |event| event.event_type.as_str());
        let to = self.subject.clone().unwrap_or_else(|| fill(pattern, event_type));
        let outgoing = Outgoing::new(to, value.bytes.clone());
        Ok(match event {
            Some(event) if !event.id.is_empty() => outgoing.id(&event.id),
            Some(_) | None => outgoing,
        })
    }
}

/// Opens a file, after all that is in it was looked at: nothing is sent of one that holds what is
/// no event. Blocking.
fn open_checked(path: &Path, target: &Target) -> anyhow::Result<(File, Option<u64>)> {
    let open =
        || File::open(path).with_context(|| format!("could not open \"{}\"", path.display()));
    let file = open()?;
    let about = file.metadata().ok().filter(std::fs::Metadata::is_file);
    let Some(about) = about else { return Ok((file, None)) };
    let read = || format!("could not read \"{}\"", path.display());
    let opened = values::open(file).with_context(read)?;
    let mut values = Values::new(opened, target.takes_lines()).with_context(read)?;
    let (mut wrong, mut count) = (String::new(), 0);
    while let Some(value) = values.next().with_context(read)? {
        if let Err(why) = target.outgoing(&value) {
            count += 1;
            if count <= WRONG_SHOWN {
                _ = write!(wrong, "\n  line {}: {why}", value.line);
            }
        }
    }
    if count > 0 {
        let more = count.saturating_sub(WRONG_SHOWN);
        let more = if more > 0 { format!("\n  and {more} more") } else { String::new() };
        bail!(
            "{} in \"{}\" {} no event of source \"{}\" ({}); nothing was published{wrong}{more}\n \
             hint: mend them, or send each line as it is: --subject SUBJECT",
            super::count(count, "value"),
            path.display(),
            if count == 1 { "is" } else { "are" },
            target.source.name,
            target.source.envelope.as_str(),
        );
    }
    Ok((open()?, Some(about.len())))
}

/// Reader that counts what is read of it.
struct Counted<R>(R, Arc<AtomicU64>);

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.0.read(buffer)?;
        self.1.fetch_add(count as u64, Ordering::Relaxed);
        Ok(count)
    }
}

async fn publish(
    broker: &Broker,
    target: &Target,
    input: Box<dyn Read + Send>,
    bar: &ProgressBar,
) -> anyhow::Result<Tally> {
    let read = Arc::new(AtomicU64::new(0));
    let (sender, mut values) = mpsc::channel(limits::PUBLISH_WINDOW);
    let (counted, lines) = (Counted(input, Arc::clone(&read)), target.takes_lines());
    let reading = tokio::task::spawn_blocking(move || -> io::Result<()> {
        let mut values = Values::new(values::open(counted)?, lines)?;
        while let Some(value) = values.next()? {
            if sender.blocking_send(value).is_err() {
                break;
            }
        }
        Ok(())
    });
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    while let Some(value) = values.recv().await {
        bar.set_position(read.load(Ordering::Relaxed));
        let line = value.line;
        match target.outgoing(&value) {
            Ok(outgoing) => {
                under_way.push(async move { (line, broker.publish(outgoing).await) });
            }
            Err(why) => tally.failed(bar, line, &why),
        }
        if under_way.len() >= limits::PUBLISH_WINDOW
            && let Some((line, stored)) = under_way.next().await
        {
            tally.count(bar, line, stored);
        }
    }
    while let Some((line, stored)) = under_way.next().await {
        tally.count(bar, line, stored);
    }
    reading.await?.context("could not read the events")?;
    bar.finish_and_clear();
    let more = tally.failed.saturating_sub(WRONG_SHOWN as u64);
    if more > 0 {
        eprintln!("error: and {more} more");
    }
    Ok(tally)
}

/// Values that are not published which are named one by one.
const WRONG_SHOWN: usize = 10;

impl Tally {
    fn count(
        &mut self,
        bar: &ProgressBar,
        line: u64,
        stored: Result<crate::broker::Stored, PublishError>,
    ) {
        match stored {
            Ok(stored) => {
                self.stored += 1;
                self.duplicates += u64::from(stored.duplicate);
                bar.set_message(format!("{} events", self.stored));
            }
            Err(error) => self.failed(bar, line, &chain(&error)),
        }
    }

    fn failed(&mut self, bar: &ProgressBar, line: u64, why: &str) {
        self.failed += 1;
        if self.failed <= WRONG_SHOWN as u64 {
            bar.suspend(|| eprintln!("error: line {line}: {why}"));
        }
    }
}

/// A subject pattern with its wildcards filled in by the event type.
fn fill(pattern: &str, event_type: &str) -> String {
    let filled = tokens(event_type);
    let mut parts = filled.split('.');
    let tokens: Vec<String> = pattern
        .split('.')
        .map(|token| match token {
            "*" => parts.next().unwrap_or("event").to_owned(),
            ">" => {
                let rest: Vec<&str> = parts.by_ref().collect();
                if rest.is_empty() { "event".to_owned() } else { rest.join(".") }
            }
            token => token.to_owned(),
        })
        .collect();
    tokens.join(".")
}

fn bar(bytes: Option<u64>) -> ProgressBar {
    let bar = bytes.map_or_else(ProgressBar::new_spinner, ProgressBar::new);
    let template = match bytes {
        Some(_) => "{bar:30} {percent:>3} %  {msg}  {elapsed}, {eta} to go",
        None => "{spinner} {msg}  {elapsed}",
    };
    bar.set_style(
        ProgressStyle::with_template(template).expect("the template is a constant that parses"),
    );
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wildcards_of_the_source_are_filled_in_by_the_event_type() {
        assert_eq!(fill("events.>", "order.created"), "events.order.created");
        assert_eq!(fill("events.*", "order.created"), "events.order");
        assert_eq!(fill("in.*.x", "a b"), "in.a%20b.x");
        assert_eq!(fill("events", "order.created"), "events");
    }
}

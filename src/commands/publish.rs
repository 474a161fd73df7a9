//! `publish`: events from lines of standard input or a file, with a progress bar.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Context as _, bail};
use futures_util::{StreamExt as _, stream::FuturesUnordered};
use indicatif::{ProgressBar, ProgressStyle};
use millstream_stages::envelope::{self, Carrier};
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};

use super::App;
use crate::{
    broker::{Broker, Outgoing, PublishError},
    config::{Pipeline, pipeline::Source},
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

A line whose envelope can be read goes to the source's subject with its event type, \
and carries its event id,
so that publishing the same file twice within two minutes stores each event once.";

/// Arguments of `publish`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// A file of events, one per line; standard input without it
    #[arg(short, long, value_name = "FILE")]
    file: Option<PathBuf>,
    /// The source to publish to; the first one without it
    #[arg(long, value_name = "NAME")]
    source: Option<String>,
    /// The subject to publish on, for every line
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
    let (reader, bytes): (Box<dyn AsyncRead + Unpin + Send>, Option<u64>) = match &args.file {
        Some(path) => {
            let file = tokio::fs::File::open(path)
                .await
                .with_context(|| format!("could not open \"{}\"", path.display()))?;
            let bytes = file.metadata().await.ok().map(|about| about.len());
            (Box::new(file), bytes)
        }
        None => (Box::new(tokio::io::stdin()), None),
    };
    let tally = publish(&broker, source, args.subject.as_deref(), reader, &bar(bytes)).await?;
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

async fn publish(
    broker: &Broker,
    source: &Source,
    subject: Option<&str>,
    reader: impl AsyncRead + Unpin,
    bar: &ProgressBar,
) -> anyhow::Result<Tally> {
    let mut lines = BufReader::new(reader);
    let (mut line, mut number) = (Vec::new(), 0_u64);
    let mut tally = Tally::default();
    let mut under_way = FuturesUnordered::new();
    loop {
        line.clear();
        let read = lines.read_until(b'\n', &mut line).await.context("could not read the events")?;
        if read == 0 {
            break;
        }
        number += 1;
        bar.inc(read as u64);
        while line.last().is_some_and(u8::is_ascii_whitespace) {
            line.pop();
        }
        if line.is_empty() {
            continue;
        }
        let outgoing = outgoing(source, subject, &line);
        under_way.push(async move { (number, broker.publish(outgoing).await) });
        if under_way.len() >= limits::PUBLISH_WINDOW
            && let Some((number, stored)) = under_way.next().await
        {
            tally.count(bar, number, stored);
        }
    }
    while let Some((number, stored)) = under_way.next().await {
        tally.count(bar, number, stored);
    }
    bar.finish_and_clear();
    Ok(tally)
}

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
            Err(error) => {
                self.failed += 1;
                bar.suspend(|| eprintln!("error: line {line}: {:#}", anyhow::Error::from(error)));
            }
        }
    }
}

/// The message of one line: under its event type with its id if its envelope can be read, else as
/// it is.
fn outgoing(source: &Source, subject: Option<&str>, line: &[u8]) -> Outgoing {
    let body = bytes::Bytes::copy_from_slice(line);
    let carrier = Carrier { subject: "unknown", message_id: None, fallback_id: "" };
    let event = envelope::decode(source.envelope, body.clone(), &carrier).ok();
    let pattern = source.subjects.first().map_or("events", String::as_str);
    let event_type = event.as_ref().map_or("unreadable", |event| event.event_type.as_str());
    let to = subject.map_or_else(|| fill(pattern, event_type), ToOwned::to_owned);
    let outgoing = Outgoing::new(to, body);
    match event {
        Some(event) if !event.id.is_empty() => outgoing.id(&event.id),
        Some(_) | None => outgoing,
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

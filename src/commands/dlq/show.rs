//! `dlq show`: one letter, what happened to its event, and its payload.

use std::{fmt::Write as _, process::ExitCode};

use bytes::Bytes;
use millstream_stages::headers;
use serde_json::{Value, json, value::RawValue};

use super::{Dlq, lines};
use crate::{
    broker::{AdminError, StoredMessage, get},
    commands::{count, hex, printable, terminal_width, width::columns},
    dead_letter::{
        LetterRecord,
        splice::respaced,
        stored,
        timeline::{self, Attempt, History, Moment, What},
    },
    wire::Place,
};

/// Arguments of `dlq show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream dlq show 17
  millstream dlq show 17 --json | jq .payload
  millstream dlq show 17 --json | jq '.history.attempts[].message'

In JSON the payload is `payload` if it is JSON, else `payloadText`, \
or `payloadBase16` if it is not text.

Exit status: 0 it is shown, 2 there is no such letter, or it could not be read.")]
pub(super) struct Args {
    /// Letter number, as `ls` prints it
    letter: u64,
    /// JSON, with everything that is known
    #[arg(long)]
    json: bool,
}

/// Message that an event was published as, if it is still stored.
enum Source {
    Stored(StoredMessage),
    Gone,
    Unknown(AdminError),
}

/// Everything that is known of one letter.
struct Known {
    letter: StoredMessage,
    record: LetterRecord,
    source: Source,
    history: History,
    /// The payload before it was edited, if it was and that is still there.
    original: Option<Bytes>,
    timeline: Vec<Moment>,
    /// The payload, unless it was kept apart and is gone.
    payload: Option<Bytes>,
}

/// Shows a letter.
///
/// # Errors
/// It is not there, or could not be read.
pub(super) async fn run(dlq: &Dlq, args: Args) -> anyhow::Result<ExitCode> {
    let known = know(dlq, args.letter).await?;
    lines::print(&if args.json { known.json()? } else { known.text()? })?;
    Ok(ExitCode::SUCCESS)
}

async fn know(dlq: &Dlq, seq: u64) -> anyhow::Result<Known> {
    let (broker, names) = (&dlq.letters.broker, &dlq.letters.names);
    let letter = super::letter(broker, names, seq).await?;
    let record = LetterRecord::of(&letter);
    let source = source(dlq, &record).await;
    let history = match timeline::history(broker, names, &record).await {
        // A pipeline need not keep them.
        Err(AdminError::NoStream { .. }) => History::default(),
        history => history?,
    };
    let original = match record.edited_at {
        Some(_) => {
            broker
                .last_on_subject(&names.dlq_stream(), &names.dlq_original(&letter.subject))
                .await?
        }
        None => None,
    };
    let original = match &original {
        Some(original) => stored::payload_at(broker, names, &letter.subject, original).await?,
        None => None,
    };
    let stored_at = match &source {
        Source::Stored(message) => Some(message.stored_at),
        Source::Gone | Source::Unknown(_) => None,
    };
    let payload = stored::payload(broker, names, &letter).await?;
    let edited_by = get(&letter.headers, headers::EDITED_BY);
    let timeline = timeline::timeline(&record, edited_by, stored_at, &history.attempts);
    Ok(Known { record, source, history, original, timeline, payload, letter })
}

async fn source(dlq: &Dlq, record: &LetterRecord) -> Source {
    let Some(place) = Place::parse(&record.source) else { return Source::Gone };
    match dlq.letters.broker.stream_state(&place.stream).await {
        Ok(_) => {}
        Err(AdminError::NoStream { .. }) => return Source::Gone,
        Err(error) => return Source::Unknown(error),
    }
    match dlq.letters.broker.message(&place.stream, place.seq).await {
        Ok(Some(message)) if place.is(&message) => Source::Stored(message),
        // There is none, or one of another life of the stream.
        Ok(_) => Source::Gone,
        Err(error) => Source::Unknown(error),
    }
}

impl Known {
    fn json(&self) -> anyhow::Result<String> {
        let mut value = json!({ "letter": &self.record, "headers": all_headers(&self.letter) });
        value["sourceStored"] = match &self.source {
            Source::Stored(_) => true.into(),
            Source::Gone => false.into(),
            Source::Unknown(_) => Value::Null,
        };
        value["history"] = serde_json::to_value(&self.history)?;
        value["timeline"] = serde_json::to_value(&self.timeline)?;
        let mut members = members(&value)?;
        members.extend(self.payload.as_ref().map(|payload| part("payload", payload)));
        members.extend(self.original.as_ref().map(|original| part("original", original)));
        let joined = format!("{{{}}}", members.join(","));
        Ok(respaced(&joined, true).unwrap_or(joined))
    }

    fn text(&self) -> anyhow::Result<String> {
        let Self { record, history, .. } = self;
        let mut out = String::new();
        let tries = count(usize::try_from(record.attempts)?, "attempt");
        let head = format!(
            "letter {}: {} at stage \"{}\" after {tries}",
            record.seq, record.reason, record.stage
        );
        writeln!(out, "{}", printable(&head).replace('\n', " "))?;
        let last = history.attempts.iter().rev().find(|attempt| attempt.stage == record.stage);
        // The letter has 512 bytes of it; its error event has it in full.
        let message = last.filter(|attempt| {
            attempt.class == record.error_class && attempt.outcome == record.reason
        });
        let message = message.map_or(&record.error_message, |attempt| &attempt.message);
        let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
        let source = match &self.source {
            Source::Stored(_) => "still stored".to_owned(),
            Source::Gone => "no longer stored".to_owned(),
            Source::Unknown(error) => format!("{error}"),
        };
        let mut line = |name: &str, value: &str| {
            // What comes from outside does not begin a line.
            writeln!(out, "  {name:<12} {}", printable(value).replace('\n', "\n               "))
        };
        line("error", &format!("{}: {message}", record.error_class))?;
        line(
            "event",
            &format!("{} of type {}", or_dash(&record.event_id), or_dash(&record.event_type)),
        )?;
        if let Some(tenant) = &record.tenant {
            line("tenant", tenant)?;
        }
        line("dead at", &record.dead_at)?;
        line("source", &format!("{} on {}, {source}", record.source, record.source_subject))?;
        if record.redrives > 0 {
            line("redrives", &record.redrives.to_string())?;
        }
        line("trace", &or_dash(&record.trace_id))?;
        line("fingerprint", &record.fingerprint)?;
        line("config", &or_dash(&record.config))?;
        if let Some(why) = &record.permanent {
            line("permanent", why)?;
        }
        writeln!(out, "\nwhat happened")?;
        if history.earlier > 0 {
            writeln!(
                out,
                "  {} before that",
                count(usize::try_from(history.earlier)?, "failed attempt")
            )?;
        }
        out.push_str(&timeline_text(&self.timeline));
        match &self.payload {
            Some(payload) if record.apart => {
                writeln!(
                    out,
                    "\n{}",
                    body("payload, kept apart since it is too large for a letter", payload)
                )?;
            }
            Some(payload) => writeln!(out, "\n{}", body("payload", payload))?,
            None => {
                writeln!(out, "\npayload: gone; it was too large for a letter, and kept apart")?
            }
        }
        if let Some(original) = &self.original {
            writeln!(out, "\n{}", body("payload before it was edited", original))?;
        }
        write!(out, "\n{}", self.next())?;
        Ok(out)
    }

    /// Next commands for the letter.
    fn next(&self) -> String {
        let seq = self.record.seq;
        if self.record.completed_at.is_some() {
            return format!(
                "its event was completed all the same; \
                 when you have seen it: millstream dlq drop {seq}"
            );
        }
        if self.payload.is_none() {
            return format!(
                "it cannot be redriven without its payload; \
                 with a copy of it: millstream dlq edit {seq} --file payload.json\n\
                 without one: millstream dlq drop {seq}"
            );
        }
        let edit = match self.record.reason.as_str() {
            "rejected" | "undecodable" => format!("mend the event: millstream dlq edit {seq}\n"),
            _ => String::new(),
        };
        format!("{edit}mend what failed, then: millstream dlq redrive {seq}")
    }
}

/// Moments shown from the beginning of many: the first and the last say the most.
const MOMENTS_FIRST: usize = 5;
/// Moments shown from the end of many.
const MOMENTS_LAST: usize = 15;

fn timeline_text(timeline: &[Moment]) -> String {
    let mut out = String::new();
    let mut before: Option<&Attempt> = None;
    let left_out = timeline.len().saturating_sub(MOMENTS_FIRST + MOMENTS_LAST);
    for (n, Moment { at, what }) in timeline.iter().enumerate() {
        if left_out > 0 && (MOMENTS_FIRST..MOMENTS_FIRST + left_out).contains(&n) {
            if n == MOMENTS_FIRST {
                out.push_str(&format!("  … {left_out} more; --json has them\n"));
            }
            continue;
        }
        let text = match what {
            What::Stored { source } => format!("published, stored as {source}"),
            What::Failed { attempt } => {
                let number = attempt.attempt.map(|number| format!(" {number}")).unwrap_or_default();
                let text = format!(
                    "attempt{number} at {}: {}{}",
                    attempt.stage,
                    attempt.class,
                    outcome(attempt)
                );
                let is_new = before.is_none_or(|before| before.message != attempt.message);
                before = Some(attempt);
                if is_new { format!("{text}\n{}", attempt.message) } else { text }
            }
            What::Redriven { redrives } => format!("failed again after redrive {redrives}:"),
            What::Dead { reason } => format!("this letter was written: {reason}"),
            What::Edited { by } => format!("edited by {}", by.as_deref().unwrap_or("-")),
            What::CompletedLate => "completed all the same".to_owned(),
        };
        let line = format!("{at}  {text}");
        let room = terminal_width().map_or(usize::MAX, |width| width.saturating_sub(HANGING));
        let folded = folded(&printable(&line), room.max(HANGING));
        out.push_str(&format!(
            "  {}\n",
            folded.replace('\n', &format!("\n{}", " ".repeat(HANGING)))
        ));
    }
    out
}

/// Columns to the left of a moment's text.
const HANGING: usize = 30;

/// The lines of a text, each no wider than `room` where there is a space to end it at; the first
/// begins `HANGING - 2` before.
fn folded(text: &str, room: usize) -> String {
    let mut out = String::new();
    for (n, line) in text.split('\n').enumerate() {
        out.push_str(if n == 0 { "" } else { "\n" });
        // The first line has the room of its time, too.
        let (mut used, mut left) =
            (0, if n == 0 { room.saturating_add(HANGING - 2) } else { room });
        for (n, word) in line.split(' ').enumerate() {
            let wide = columns(word);
            if n > 0 && wide.saturating_add(used + 1) > left {
                out.push('\n');
                (used, left) = (0, room);
            } else if n > 0 {
                out.push(' ');
                used += 1;
            }
            out.push_str(word);
            used += wide;
        }
    }
    out
}

fn outcome(attempt: &Attempt) -> String {
    let wait = attempt.wait_ms.map(|ms| {
        let period = millstream_stages::units::Period(std::time::Duration::from_millis(ms));
        format!(" in {period}")
    });
    let wait = wait.unwrap_or_default();
    match attempt.outcome.as_str() {
        "" => String::new(),
        "retry" => format!("; retried{wait}"),
        "park" => format!("; parked, retried{wait}"),
        "defer" => format!("; deferred, no attempt spent, tried again{wait}"),
        reason => format!("; given up on: {reason}"),
    }
}

/// A payload under a heading: JSON indented with its values as they are, text as it is, else its
/// bytes.
fn body(name: &str, payload: &Bytes) -> String {
    let size = count(payload.len(), "byte");
    match std::str::from_utf8(payload) {
        Ok(text) => match respaced(text, true) {
            Some(json) => format!("{name} ({size})\n{}", printable(&json)),
            None => format!("{name} ({size}, not JSON)\n{}", printable(text)),
        },
        Err(_) => format!("{name} ({size}, not UTF-8, in hexadecimal)\n{}", hex(payload)),
    }
}

/// A payload as one member of a JSON object: as it is if it is JSON, and with a name that says so
/// if it is not.
pub(super) fn part(name: &str, payload: &[u8]) -> String {
    let (name, value) = match std::str::from_utf8(payload) {
        Ok(text) => match respaced(text, false) {
            Some(json) => (name.to_owned(), json),
            None => (format!("{name}Text"), Value::from(text).to_string()),
        },
        Err(_) => (format!("{name}Base16"), Value::from(hex(payload)).to_string()),
    };
    format!("\"{name}\":{value}")
}

/// The members of a JSON object, each as text: what is put beside them may then be text as well.
pub(super) fn members(object: &Value) -> anyhow::Result<Vec<String>> {
    let raw: std::collections::BTreeMap<String, Box<RawValue>> =
        serde_json::from_str(&object.to_string())?;
    Ok(raw
        .into_iter()
        .map(|(name, value)| format!("{}:{}", Value::from(name), value.get()))
        .collect())
}

/// The headers of a letter, each with its first value: none of ours has two.
pub(super) fn all_headers(letter: &StoredMessage) -> Value {
    let pairs = letter.headers.iter().filter_map(|(name, values)| {
        let name: &str = name.as_ref();
        Some((name.to_owned(), Value::from(values.first()?.as_str())))
    });
    Value::Object(pairs.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_lines_are_folded_between_words_and_only_there() {
        let text = format!(
            "{}  attempt 1 at orders: ValidationError; given up on: rejected\nhttp 422: no",
            "t".repeat(24)
        );
        expect_test::expect![[r#"
            tttttttttttttttttttttttt  attempt 1 at orders:
            ValidationError; given up
            on: rejected
            http 422: no"#]]
        .assert_eq(&folded(&text, 26));
        assert_eq!(folded(&text, usize::MAX), text);
        assert_eq!(folded("averylongword", 3), "averylongword");
    }
}

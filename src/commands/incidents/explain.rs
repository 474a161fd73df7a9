//! `incidents explain`: the fingerprint of a message, and whether two messages are one failure.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use millstream_stages::fingerprint::{self, Note, SCANNED_BYTES_MAX};
use serde::Serialize;

use crate::{
    bounded_file,
    commands::{
        App, colour_on_stdout, lines, printable,
        table::Table,
        terminal_width,
        width::{columns, shorten},
    },
    config::Pipeline,
    incidents::snapshot,
    limits,
    suggest::suggest,
};

/// Widest part of a message that the table shows, in columns.
const PART_MAX: usize = 48;

/// Arguments of `incidents explain`.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// A message; `-` reads it from standard input
    #[arg(required = true, num_args = 1..=2, value_name = "MESSAGE")]
    messages: Vec<String>,
    /// Error code, or class of failed attempts
    #[arg(long, visible_alias = "class", value_name = "TEXT")]
    code: Option<String>,
    /// Service that reports it
    #[arg(long, value_name = "NAME", conflicts_with = "stage")]
    service: Option<String>,
    /// Stage whose attempts fail: the service is then PIPELINE/STAGE
    #[arg(long, value_name = "NAME")]
    stage: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Message, and what the fingerprint is made of.
#[derive(Serialize)]
struct Explained {
    message: String,
    normalised: String,
    fingerprint: String,
    rules: Vec<Rule>,
}

/// Part of a message that a rule replaced or kept.
#[derive(Serialize)]
struct Rule {
    part: String,
    becomes: Option<String>,
    rule: &'static str,
}

/// Error that the messages belong to.
struct About {
    code: String,
    service: String,
    stage: Option<String>,
    /// Parts of a fingerprint of the pipeline's own, and the stage that says so.
    own: Option<(String, Vec<String>)>,
}

/// Explains one message, or says whether two are one failure.
///
/// # Errors
/// Standard input cannot be read, or there is no such stage.
pub(super) fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let messages = read(&args.messages)?;
    let about = about(app, args)?;
    let all: Vec<Explained> = messages.into_iter().map(|text| explained(text, &about)).collect();
    let difference = match all.as_slice() {
        [one, other] => difference(&one.normalised, &other.normalised),
        _ => None,
    };
    let differ = difference.is_some();
    if args.json {
        let value = serde_json::json!({
            "code": about.code,
            "service": about.service,
            "same": (all.len() == 2).then_some(!differ),
            "difference": difference,
            "messages": all,
        });
        lines::print(&serde_json::to_string_pretty(&value)?)?;
    } else {
        print(&render(&all, difference.as_ref(), &about))?;
    }
    Ok(crate::commands::found(differ))
}

/// The messages, of which one may be on standard input.
fn read(given: &[String]) -> anyhow::Result<Vec<String>> {
    if given.iter().filter(|text| *text == "-").count() > 1 {
        bail!("standard input holds one message\n hint: give the other as an argument");
    }
    let message = |text: &String| {
        if text != "-" {
            return Ok(text.clone());
        }
        let bytes = bounded_file::read_all(std::io::stdin().lock(), limits::EXPLAINED_BYTES_MAX)
            .context("could not read the message from standard input")?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(text.trim_end_matches(['\r', '\n']).to_owned())
    };
    given.iter().map(message).collect()
}

fn about(app: &App, args: &Args) -> anyhow::Result<About> {
    let code = args.code.clone().unwrap_or_default();
    let (mut service, stage) = (args.service.clone().unwrap_or_default(), args.stage.clone());
    // Without a pipeline, or with a broken one, the usual parts are meant.
    let pipeline = match &stage {
        Some(_) => Some(app.pipeline()?),
        None => app.load().pipeline,
    };
    let Some(pipeline) = pipeline else { return Ok(About { code, service, stage, own: None }) };
    if let Some(stage) = &stage {
        must_be_known(stage, &pipeline)?;
        service = format!("{}/{stage}", pipeline.name);
    }
    let mut own = None;
    for aggregate in snapshot::aggregates(&pipeline) {
        let parts = snapshot::build_aggregate(&pipeline, aggregate)?.fingerprint_parts(
            &code,
            &service,
            stage.as_deref(),
        );
        if parts != ["code", "service", "message"] {
            own = Some((aggregate.name.clone(), parts));
            break;
        }
    }
    Ok(About { code, service, stage, own })
}

/// Makes sure that the pipeline has such a stage.
fn must_be_known(stage: &str, pipeline: &Pipeline) -> anyhow::Result<()> {
    let known: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
    if known.contains(&stage) {
        return Ok(());
    }
    let hint = suggest(stage, "the stages are", known);
    bail!("there is no stage \"{}\"\n hint: {hint}", printable(stage))
}

fn explained(message: String, about: &About) -> Explained {
    let (normalised, notes) = fingerprint::explain(&message);
    let rule =
        |Note { part, with, rule, kept }| Rule { part, becomes: (!kept).then_some(with), rule };
    Explained {
        fingerprint: fingerprint::fingerprint(&about.code, &about.service, &message),
        rules: notes.into_iter().map(rule).collect(),
        message,
        normalised,
    }
}

/// First difference of two normalised messages, word by word; an empty word is the end.
#[derive(Debug, PartialEq, Eq, Serialize)]
struct Difference {
    first: String,
    second: String,
    /// Bytes that the messages share before it.
    #[serde(skip)]
    at: usize,
}

fn difference(first: &str, second: &str) -> Option<Difference> {
    if first == second {
        return None;
    }
    let words = first.split(' ').zip(second.split(' '));
    let at = words.take_while(|(a, b)| a == b).map(|(word, _)| word.len() + 1).sum();
    let word = |text: &str| {
        let rest = text.get(at..).unwrap_or_default();
        rest.split(' ').next().unwrap_or_default().to_owned()
    };
    Some(Difference { first: word(first), second: word(second), at })
}

/// Lines for people, the normalised texts marked as such.
fn render(
    all: &[Explained],
    difference: Option<&Difference>,
    about: &About,
) -> Vec<(bool, String)> {
    let mut out = Vec::new();
    if let Some(Difference { first, second, .. }) = difference {
        let shown = |word: &str| {
            if word.is_empty() { "its end".to_owned() } else { shorten(word, PART_MAX) }
        };
        out.push((
            false,
            format!(
                "two failures: the first difference is {} against {}",
                shown(first),
                shown(second)
            ),
        ));
    } else if all.len() == 2 {
        out.push((false, "one failure: what differs varies".to_owned()));
    }
    for (number, one) in all.iter().enumerate() {
        if number > 0 || all.len() == 2 {
            out.push((false, String::new()));
        }
        out.push((false, format!("fingerprint  {}", one.fingerprint)));
        let lead = "message      ";
        out.push((true, format!("{lead}{}", one.normalised)));
        if let Some(Difference { first, second, at }) = difference {
            let shared = one.normalised.get(..*at).unwrap_or(&one.normalised);
            let before = lead.len() + columns(shared) + usize::from(shared.len() < *at);
            let word = if number == 0 { first } else { second };
            let mark = "^".repeat(columns(word).max(1));
            out.push((false, format!("{}{mark}", " ".repeat(before))));
        }
        if one.message.len() > SCANNED_BYTES_MAX {
            out.push((false, format!("             of its first {SCANNED_BYTES_MAX} bytes")));
        }
        if one.rules.is_empty() {
            continue;
        }
        out.push((false, String::new()));
        let mut table = Table::new(&["  PART", "BECOMES", "RULE"]);
        for Rule { part, becomes, rule } in &one.rules {
            let part = shorten(&part.replace(['\n', '\t'], " "), PART_MAX);
            let becomes = match becomes.as_deref() {
                None => "stays".to_owned(),
                Some("") => "goes".to_owned(),
                Some(with) => with.to_owned(),
            };
            table.row([format!("  {part}"), becomes, (*rule).to_owned()]);
        }
        out.extend(table.lines(terminal_width()).into_iter().map(|line| (false, line)));
    }
    out.push((false, String::new()));
    out.push((false, made_of(about)));
    out
}

/// Sentences on what the fingerprints are made of.
fn made_of(About { code, service, stage, own }: &About) -> String {
    let mut said = match (code.is_empty(), service.is_empty()) {
        (true, true) => "Made of the message alone. The error has a code and a service, too:\n\
                         give --code and --service, or --class and --stage."
            .to_owned(),
        (false, true) => format!("Made of code {code} and the message, without a service."),
        (true, false) => format!("Made of service {service} and the message, without a code."),
        (false, false) => format!("Made of code {code}, service {service} and the message."),
    };
    if stage.is_some() && !code.is_empty() {
        said += "\nDead letters of this failure have the same.";
    }
    if let Some((name, parts)) = own {
        said += &format!(
            "\nIncidents of stage \"{name}\" have fingerprints of their own, made of {}.",
            parts.join(", ")
        );
    }
    said
}

fn print(shown: &[(bool, String)]) -> anyhow::Result<()> {
    let colour = colour_on_stdout();
    let line = |(is_message, line): &(bool, String)| {
        let line = printable(line);
        if colour && *is_message { coloured(&line) } else { line }
    };
    let text = shown.iter().map(line).collect::<Vec<_>>().join("\n");
    if !colour {
        return lines::print(&text);
    }
    println!("{text}");
    Ok(())
}

/// Text with its placeholders in colour.
fn coloured(text: &str) -> String {
    let mut out = text.to_owned();
    for placeholder in fingerprint::PLACEHOLDERS {
        out = out.replace(placeholder, &format!("\u{1b}[36m{placeholder}\u{1b}[0m"));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_a_word_of_each() {
        let found = |a, b| difference(a, b).map(|found| (found.first, found.second, found.at));
        let words = |a: &str, b: &str, at| Some((a.to_owned(), b.to_owned(), at));
        assert_eq!(found("no 'a' here", "no 'b' here"), words("'a'", "'b'", 3));
        assert_eq!(found("no key", "no key at all"), words("", "at", 7));
        assert_eq!(found("余额 不足", "余额 正常"), words("不足", "正常", 7));
        assert_eq!(found("same", "same"), None);
    }
}

//! `dlq`: list, show and redrive what was given up on.

mod redrive;

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use futures_util::StreamExt as _;

use super::{App, table::Table};
use crate::{
    broker::{Broker, StoredMessage},
    config::{Pipeline, pipeline::Channel},
    dead_letter::{LetterRecord, redrive::letters},
    topology::Names,
};

const EXAMPLES: &str = "\
Examples:
  millstream dlq ls                       all dead letters, oldest first
  millstream dlq ls --stage orders --json
  millstream dlq show 17                  one letter: what, why, and its payload
  millstream dlq redrive 17               send its event back to the stage that failed
  millstream dlq redrive --stage orders   all of a stage, once it is mended";

/// What `dlq` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List dead letters, oldest first
    #[command(after_help = "Examples:
  millstream dlq ls
  millstream dlq ls --stage orders --json | jq .eventId

Exit status: 0 there are none, 1 there are some, 2 could not tell.")]
    Ls {
        /// Only those of this stage
        #[arg(long)]
        stage: Option<String>,
        /// How many at the most
        #[arg(long, default_value_t = 50)]
        limit: usize,
        /// JSON, one letter per line
        #[arg(long)]
        json: bool,
    },
    /// Show one letter and its payload
    #[command(after_help = "Examples:
  millstream dlq show 17
  millstream dlq show 17 --json | jq -r .payload")]
    Show {
        /// Its number, as `ls` prints it
        letter: u64,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Send events back to the stage that failed, and only there
    Redrive(redrive::Args),
}

/// Runs one of the subcommands. Exit status 1: there are dead letters.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let broker = app.connect(&pipeline).await?;
    let names = pipeline.names();
    super::must_exist(&broker, &names.dlq_stream()).await?;
    match args.command {
        Command::Ls { stage: Some(stage), .. } | Command::Redrive(redrive::Args { stage: Some(stage), .. })
            if !letters_may_name(&pipeline, &stage)
                && broker.subjects_count(&names.dlq_stream(), &names.dlq_filter(Some(&stage))).await? == 0 =>
        {
            let stages: Vec<&str> = pipeline.stages.iter().map(|stage| stage.name.as_str()).collect();
            bail!("there is no stage \"{stage}\", and no letter of one; the stages are {}", stages.join(", "))
        }
        Command::Ls { stage, limit, json } => ls(&broker, &names, stage.as_deref(), limit, json).await,
        Command::Show { letter, json } => show(&broker, &names, letter, json).await,
        Command::Redrive(args) => redrive::run(&broker, &names, args).await,
    }
}

/// Whether the configuration has a stage of this name, or a channel whose deliveries are settled under it.
fn letters_may_name(pipeline: &Pipeline, stage: &str) -> bool {
    let channel = |channel: &Channel| Names::channel_stage(&channel.name) == stage;
    pipeline.stage(stage).is_some() || pipeline.channels.iter().any(channel)
}

async fn ls(broker: &Broker, names: &Names, stage: Option<&str>, limit: usize, json: bool) -> anyhow::Result<ExitCode> {
    let total = broker.subjects_count(&names.dlq_stream(), &names.dlq_filter(stage)).await?;
    let mut letters = Box::pin(letters(broker, names, stage).take(limit));
    let mut table = Table::new(&["LETTER", "DEAD AT", "STAGE", "REASON", "CLASS", "EVENT", "TYPE", "TRIES", "ERROR"]);
    let mut shown = 0;
    while let Some(letter) = letters.next().await {
        let letter = LetterRecord::of(&letter?);
        shown += 1;
        if json {
            println!("{}", serde_json::to_string(&letter)?);
        } else {
            table.row([
                letter.seq.to_string(),
                letter.dead_at,
                letter.stage,
                letter.reason,
                letter.error_class,
                letter.event_id.unwrap_or_else(|| "-".into()),
                letter.event_type.unwrap_or_else(|| "-".into()),
                letter.attempts.to_string(),
                letter.error_message,
            ]);
        }
    }
    if !json {
        if shown == 0 {
            println!("no dead letters{}", stage.map(|stage| format!(" of stage \"{stage}\"")).unwrap_or_default());
        } else {
            table.print();
            if total > shown {
                println!("{shown} of {total}; --limit shows more");
            }
        }
    }
    Ok(if shown == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

async fn letter(broker: &Broker, names: &Names, seq: u64) -> anyhow::Result<StoredMessage> {
    let found = broker.message(&names.dlq_stream(), seq).await?;
    found.with_context(|| format!("there is no dead letter {seq}; `millstream dlq ls` lists them"))
}

async fn show(broker: &Broker, names: &Names, seq: u64, json: bool) -> anyhow::Result<ExitCode> {
    let message = letter(broker, names, seq).await?;
    let record = LetterRecord::of(&message);
    if json {
        let mut value = serde_json::to_value(&record)?;
        value["payload"] = match std::str::from_utf8(&message.body) {
            Ok(text) => text.into(),
            Err(_) => serde_json::json!({ "base16": super::hex(&message.body) }),
        };
        println!("{}", serde_json::to_string_pretty(&value)?);
        return Ok(ExitCode::SUCCESS);
    }
    println!(
        "letter {}: {} at stage \"{}\" after {}",
        record.seq,
        record.reason,
        record.stage,
        super::count(usize::try_from(record.attempts)?, "attempt")
    );
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".into());
    for (name, value) in [
        ("error", format!("{}: {}", record.error_class, record.error_message)),
        ("event", format!("{} of type {}", or_dash(&record.event_id), or_dash(&record.event_type))),
        ("tenant", or_dash(&record.tenant)),
        ("first failed", record.first_failed_at.clone()),
        ("dead at", record.dead_at.clone()),
        ("source", format!("{} on {}", record.source, record.source_subject)),
        ("redrives", record.redrives.to_string()),
        ("trace", or_dash(&record.trace_id)),
        ("fingerprint", record.fingerprint.clone()),
        ("config", or_dash(&record.config)),
    ] {
        println!("  {name:<13} {}", super::printable(&value));
    }
    println!("  payload       {} bytes", message.body.len());
    println!("{}", super::printable(&String::from_utf8_lossy(&message.body)));
    println!("\nmend what failed, then: millstream dlq redrive {}", record.seq);
    Ok(ExitCode::SUCCESS)
}

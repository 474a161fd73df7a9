//! `incidents`: what goes wrong now: list, show, acknowledge, resolve.

mod show;

use std::{
    io::IsTerminal as _,
    process::ExitCode,
    time::{Duration, Instant, SystemTime},
};

use anyhow::bail;
use millstream_stages::{
    incident::{Change, Incident},
    operator::Action,
};
use serde::Serialize;

use super::{App, count, found, people, people::when, printable, table::Table, terminal_width};
use crate::{
    broker::Broker,
    config::Pipeline,
    incidents::{actions::say, history, snapshot},
    limits,
    wire::parse_rfc3339,
};

/// What `incidents` takes.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream incidents ls                      what goes on now, the worst first
  millstream incidents ls --all --since 7d     with what is over
  millstream incidents show 1fd18fd1           one: its numbers, its story, its samples
  millstream incidents ack 1fd18fd1            I have it: no repeats, no escalation
  millstream incidents resolve 1fd18fd1 --reason 'rolled back'")]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// List incidents, the worst first
    #[command(after_help = "Examples:
  millstream incidents ls
  millstream incidents ls --severity critical --severity high
  millstream incidents ls --all --since 24h
  millstream incidents ls --json | jq -r 'select(.acknowledged == null) | .incidentId'

Exit status: 0 none goes on, 1 some do, 2 could not tell.")]
    Ls(Ls),
    /// Show one incident: its numbers, what became of it, its samples
    #[command(after_help = "Examples:
  millstream incidents show 1fd18fd1
  millstream incidents show 1fd18fd1 --json | jq .incident.samples")]
    Show {
        /// Its id, as `ls` prints it; the beginning of its fingerprint is enough
        incident: String,
        /// JSON
        #[arg(long)]
        json: bool,
    },
    /// Say that someone has taken it on: it is no longer repeated, nor escalated to others
    #[command(after_help = "Examples:
  millstream incidents ack 1fd18fd1
  millstream incidents ack 1fd18fd1 --by ada --reason 'looking at the database'

It holds until the incident is worse, over, or back.")]
    Ack(Said),
    /// Say that it is over: what comes is counted anew, and is a regression
    #[command(after_help = "Examples:
  millstream incidents resolve 1fd18fd1 --reason 'rolled back'")]
    Resolve(Said),
}

#[derive(Debug, clap::Args)]
struct Ls {
    /// Those that are over, too
    #[arg(long)]
    all: bool,
    /// With --all: only those that were over at this time or later: RFC 3339, or how long ago
    #[arg(long, value_name = "TIME", default_value = "24h")]
    since: String,
    /// Only those of this severity: low, medium, high or critical; may be repeated
    #[arg(long, value_parser = ["low", "medium", "high", "critical"])]
    severity: Vec<String>,
    /// Only those of this code
    #[arg(long)]
    code: Option<String>,
    /// JSON, one incident per line
    #[arg(long)]
    json: bool,
}

#[derive(Debug, clap::Args)]
struct Said {
    /// Its id, as `ls` prints it; the beginning of its fingerprint is enough
    incident: String,
    /// Who says so; who is at the keyboard unless told
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Why, for those who read it
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Runs one of the subcommands.
///
/// # Errors
/// The broker cannot be read, or there is no such incident.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    if snapshot::aggregates(&pipeline).next().is_none() {
        bail!("the pipeline has no incidents\n hint: add a stage of kind = \"aggregate-errors\"");
    }
    let broker = app.connect(&pipeline).await?;
    for stage in snapshot::aggregates(&pipeline) {
        super::must_exist(&broker, &pipeline.names().out_stream(&stage.name)).await?;
    }
    match args.command {
        Command::Ls(args) => ls(&broker, &pipeline, &args).await,
        Command::Show { incident, json } => show::run(&broker, &pipeline, &incident, json).await,
        Command::Ack(args) => tell(&broker, &pipeline, Action::Acknowledge, args).await,
        Command::Resolve(args) => tell(&broker, &pipeline, Action::Resolve, args).await,
    }
}

/// An incident as `--json` prints it.
#[derive(Serialize)]
struct Line<'a> {
    stage: &'a str,
    #[serde(flatten)]
    incident: &'a Incident,
}

async fn ls(broker: &Broker, pipeline: &Pipeline, args: &Ls) -> anyhow::Result<ExitCode> {
    let fits = |incident: &Incident| {
        (args.severity.is_empty()
            || args.severity.iter().any(|severity| severity == incident.severity.as_str()))
            && args.code.as_ref().is_none_or(|code| *code == incident.code)
    };
    let mut incidents = snapshot::open(broker, pipeline).await?;
    incidents.retain(|(_, incident)| fits(incident));
    let open = incidents.len();
    if args.all {
        let since = parse_rfc3339(&people::moment(&args.since, "--since", SystemTime::now())?);
        let mut over = history::told(broker, pipeline, Some(Change::Resolved), since, fits).await?;
        over.reverse();
        incidents.extend(over);
    }
    if args.json {
        let mut lines = super::lines::Lines::stdout();
        for (stage, incident) in &incidents {
            if !lines.line(&serde_json::to_string(&Line { stage, incident })?)? {
                break;
            }
        }
        lines.flush()?;
        return Ok(found(open > 0));
    }
    if incidents.is_empty() {
        let flags = !args.severity.is_empty() || args.code.is_some();
        println!("no incidents{}", if flags { " that these flags mean" } else { "" });
        return Ok(found(false));
    }
    let shown = incidents.len().min(limits::TABLE_ROWS_MAX);
    table(&incidents[..shown]).print();
    println!();
    println!("{} open{}", count(open, "incident"), over_of(&incidents, open));
    if let Some((_, first)) = incidents.first().filter(|_| open > 0) {
        let id = short_id(first);
        println!("look:   millstream incidents show {id}");
        if first.acknowledged.is_none() {
            println!("mine?   millstream incidents ack {id}");
        }
    }
    Ok(found(open > 0))
}

fn over_of(incidents: &[(String, Incident)], open: usize) -> String {
    if incidents.len() > open {
        format!(", {} over", incidents.len() - open)
    } else {
        String::new()
    }
}

fn table(incidents: &[(String, Incident)]) -> Table {
    let now = std::io::stdout().is_terminal().then(SystemTime::now);
    let mut table = Table::new(&[
        "INCIDENT", "SEVERITY", "COUNT", "A MINUTE", "TREND", "USERS", "SINCE", "LAST", "STATE",
        "CODE", "SERVICE", "MESSAGE",
    ]);
    for (_, incident) in incidents {
        table.row([
            short_id(incident),
            incident.severity.as_str().to_owned(),
            incident.count.to_string(),
            incident.rate_per_minute.to_string(),
            incident.trend.as_str().to_owned(),
            if incident.users == 0 { String::new() } else { incident.users.to_string() },
            when(&incident.opened_at.to_string(), now),
            when(&incident.last_seen.to_string(), now),
            state(incident),
            incident.code.clone(),
            incident.services.join(", "),
            incident.message.clone(),
        ]);
    }
    table.without_empty("USERS");
    if terminal_width().is_some_and(|width| width < WIDE) {
        for heading in ["TREND", "SINCE", "A MINUTE", "SERVICE", "USERS"] {
            table.without(heading);
        }
    }
    table
}

/// A terminal of fewer columns has room for what an incident is, not for how it goes.
const WIDE: usize = 130;

/// What a person has to know of its state: a word or two.
fn state(incident: &Incident) -> String {
    match (&incident.acknowledged, incident.is_over()) {
        (_, true) => "over".to_owned(),
        (Some(said), false) => format!("ack by {}", said.by),
        (None, false) if incident.generation > 1 => "open again".to_owned(),
        (None, false) => "open".to_owned(),
    }
}

/// An id that is short enough to be typed: the first digits of its fingerprint, and its generation.
fn short_id(incident: &Incident) -> String {
    let fingerprint = incident.fingerprint.get(..8).unwrap_or(&incident.fingerprint);
    format!("{fingerprint}-{}", incident.generation)
}

/// Whether `text`, as someone typed it, means this incident.
fn is_meant(text: &str, incident: &Incident) -> bool {
    let (fingerprint, generation) = match text.split_once('-') {
        Some((fingerprint, generation)) => (fingerprint, generation.parse().ok()),
        None => (text, Some(incident.generation)),
    };
    !fingerprint.is_empty()
        && incident.fingerprint.starts_with(&fingerprint.to_lowercase())
        && generation == Some(incident.generation)
}

/// The one incident that goes on and that is meant.
///
/// # Errors
/// There is none, or there are several.
fn the_one<'a>(
    text: &str,
    incidents: &'a [(String, Incident)],
) -> anyhow::Result<&'a (String, Incident)> {
    let meant: Vec<_> = incidents.iter().filter(|(_, incident)| is_meant(text, incident)).collect();
    match meant.as_slice() {
        [one] => Ok(one),
        [] => bail!(
            "no incident that goes on is \"{}\"\n hint: `millstream incidents ls` lists them",
            printable(text)
        ),
        several => {
            let ids: Vec<_> =
                several.iter().map(|(_, incident)| incident.incident_id.as_str()).collect();
            bail!("\"{}\" could be {}\n hint: type more of it", printable(text), ids.join(", "))
        }
    }
}

async fn tell(
    broker: &Broker,
    pipeline: &Pipeline,
    action: Action,
    args: Said,
) -> anyhow::Result<ExitCode> {
    let incidents = snapshot::open(broker, pipeline).await?;
    let (stage, incident) = the_one(&args.incident, &incidents)?;
    let (id, by) = (&incident.incident_id, args.by.unwrap_or_else(people::who));
    say(broker, &pipeline.names(), id, action, &by, args.reason).await?;
    let taken_in = taken_in(broker, pipeline, action, id, &by).await?;
    let word = match action {
        Action::Acknowledge => "acknowledged",
        Action::Resolve => "resolved",
    };
    if args.json {
        println!(
            "{}",
            serde_json::json!({ "incidentId": id, "action": action, "by": by, "takenIn": taken_in })
        );
    } else if taken_in {
        println!("{} {word} by {}", short_id(incident), printable(&by));
    } else {
        println!(
            "{} will be {word}, as soon as a worker runs stage \"{stage}\": none has taken it in yet",
            short_id(incident)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Whether the stage has taken in what was said, waiting for it a little.
async fn taken_in(
    broker: &Broker,
    pipeline: &Pipeline,
    action: Action,
    id: &str,
    by: &str,
) -> anyhow::Result<bool> {
    let began = Instant::now();
    loop {
        let incidents = snapshot::open(broker, pipeline).await?;
        let incident = incidents
            .iter()
            .map(|(_, incident)| incident)
            .find(|incident| incident.incident_id == id);
        let is = match action {
            Action::Acknowledge => {
                incident.is_none_or(|i| i.acknowledged.as_ref().is_some_and(|said| said.by == by))
            }
            Action::Resolve => incident.is_none(),
        };
        if is || began.elapsed() >= limits::SAID_WAIT {
            return Ok(is);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

//! `incidents`: lists, shows, acknowledges, resolves and explains incidents.

mod explain;
mod ls;
mod show;

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use anyhow::bail;
use millstream_stages::{incident::Incident, operator::Action};

use super::{App, people, printable};
use crate::{
    broker::Broker,
    config::Pipeline,
    incidents::{actions, snapshot},
    limits,
};

/// Arguments of `incidents`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  millstream incidents ls                      what goes on now, the worst first
  millstream incidents ls --all --since 7d     with what is over
  millstream incidents show 1fd18fd1           one: its numbers, its story, its samples
  millstream incidents ack 1fd18fd1            I have it: no repeats, no escalation
  millstream incidents resolve 1fd18fd1 --reason 'rolled back'
  millstream incidents explain 'no order 17' 'no order 9'    one failure, or two, and why")]
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
    Ls(ls::Args),
    /// Show one incident: its numbers, what became of it, its samples
    #[command(after_help = "Examples:
  millstream incidents show 1fd18fd1
  millstream incidents show 1fd18fd1 --json | jq .incident.samples")]
    Show {
        /// Incident id, as `ls` prints it; the beginning of its fingerprint is enough
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
    /// Show the fingerprint of a message, or why two are one failure or not
    #[command(after_help = "Examples:
  millstream incidents explain \"KeyError: 'amount'\"
  millstream incidents explain \"KeyError: 'amount'\" \"KeyError: 'currency'\"
  millstream incidents explain 'connect ECONNREFUSED 10.0.0.7:6379' --class IoError --stage cart
  millstream dlq show 17 --json | jq -r .letter.errorMessage | millstream incidents explain -
  millstream incidents explain --json 'no order 17' | jq -r '.messages[].normalised'

No server is asked, and no pipeline is needed but for --stage.

Exit status: 0 one message, or two that are one failure; 1 two that are not; 2 could not tell.")]
    Explain(explain::Args),
}

#[derive(Debug, clap::Args)]
struct Said {
    /// Incident id, as `ls` prints it; the beginning of its fingerprint is enough
    incident: String,
    /// Name to record; by default, the user at the keyboard
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
    /// Reason, for those who read it
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
    if let Command::Explain(args) = &args.command {
        return explain::run(app, args);
    }
    let pipeline = app.pipeline()?;
    if snapshot::aggregates(&pipeline).next().is_none() {
        bail!("the pipeline has no incidents\n hint: add a stage of kind = \"aggregate-errors\"");
    }
    let broker = app.connect(&pipeline).await?;
    for stage in snapshot::aggregates(&pipeline) {
        super::must_exist(&broker, &pipeline.names().out_stream(&stage.name)).await?;
    }
    match args.command {
        Command::Ls(args) => ls::run(&broker, &pipeline, &args).await,
        Command::Show { incident, json } => show::run(&broker, &pipeline, &incident, json).await,
        Command::Ack(args) => act(&broker, &pipeline, Action::Acknowledge, args).await,
        Command::Resolve(args) => act(&broker, &pipeline, Action::Resolve, args).await,
        Command::Explain(args) => explain::run(app, &args),
    }
}

/// State of an incident in a word or two, with who acknowledged it.
fn state(incident: &Incident) -> String {
    match (&incident.acknowledged, incident.is_over()) {
        (_, true) => "over".to_owned(),
        (Some(said), false) => format!("ack by {}", said.by),
        (None, false) if incident.generation > 1 => "open again".to_owned(),
        (None, false) => "open".to_owned(),
    }
}

/// Short id, to be typed: the first digits of the fingerprint, and the generation.
fn short_id(incident: &Incident) -> String {
    let fingerprint = incident.fingerprint.get(..8).unwrap_or(&incident.fingerprint);
    format!("{fingerprint}-{}", incident.generation)
}

/// True if `text`, as someone typed it, means this incident.
fn is_meant(text: &str, incident: &Incident) -> bool {
    let (fingerprint, generation) = match text.split_once('-') {
        Some((fingerprint, generation)) => (fingerprint, generation.parse().ok()),
        None => (text, Some(incident.generation)),
    };
    !fingerprint.is_empty()
        && incident.fingerprint.starts_with(&fingerprint.to_lowercase())
        && generation == Some(incident.generation)
}

/// The one open incident that `text` means.
///
/// # Errors
/// There is none, or there are several.
fn open_incident<'a>(
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

async fn act(
    broker: &Broker,
    pipeline: &Pipeline,
    action: Action,
    args: Said,
) -> anyhow::Result<ExitCode> {
    let incidents = snapshot::open(broker, pipeline).await?;
    let (stage, incident) = open_incident(&args.incident, &incidents)?;
    let (id, by) = (&incident.incident_id, args.by.unwrap_or_else(people::who));
    actions::write(broker, &pipeline.names(), id, action, &by, args.reason).await?;
    let wait_until_applied = wait_until_applied(broker, pipeline, action, id, &by).await?;
    let word = match action {
        Action::Acknowledge => "acknowledged",
        Action::Resolve => "resolved",
    };
    if args.json {
        println!(
            "{}",
            serde_json::json!({
                "incidentId": id,
                "action": action,
                "by": by,
                "takenIn": wait_until_applied,
            })
        );
    } else if wait_until_applied {
        println!("{} {word} by {}", short_id(incident), printable(&by));
    } else {
        println!(
            "{} will be {word}, as soon as a worker runs stage \"{stage}\": \
             none has taken it in yet",
            short_id(incident)
        );
    }
    Ok(ExitCode::SUCCESS)
}

/// Waits up to [`limits::OPERATOR_WAIT`] for the stage to apply the action; true if it has.
async fn wait_until_applied(
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
        if is || began.elapsed() >= limits::OPERATOR_WAIT {
            return Ok(is);
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

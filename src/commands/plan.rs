//! `plan`: changes that `apply` would make on the broker; makes none.

use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::{Value, json};

use super::App;
use crate::{
    broker::Broker,
    config::Pipeline,
    topology::{Change, ChangeKind, Leftovers, Object, Plan, Topology, diff},
};

const EXAMPLES: &str = "\
Examples:
  millstream plan
  millstream plan --json

Exit status: 0 nothing to do, 1 something to do, 2 could not compare.";

/// Arguments of `plan`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
}

/// Compares the broker with what the pipeline needs, and prints the difference.
///
/// # Errors
/// The broker cannot be reached or asked.
pub async fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let broker = app.connect(&pipeline).await?;
    let plan = compare(&pipeline, &broker).await?;
    if args.json {
        println!("{:#}", as_json(&plan));
    } else if plan.to_string().is_empty() {
        println!("nothing to do: the broker is what pipeline \"{}\" needs", pipeline.name);
        plan.notes.iter().for_each(|note| println!("  note: {note}"));
    } else {
        print!("{plan}");
        plan.notes.iter().for_each(|note| println!("  note: {note}"));
        eprintln!("\n{}", summary(&plan));
    }
    Ok(if plan.is_done() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The difference between the broker and what the pipeline needs.
pub(super) async fn compare(pipeline: &Pipeline, broker: &Broker) -> anyhow::Result<Plan> {
    let plan = diff(&Topology::of(pipeline), broker).await;
    plan.with_context(|| {
        format!("could not compare the broker with pipeline \"{}\"", pipeline.name)
    })
}

/// Number of changes of each kind, in a line.
pub(super) fn summary(plan: &Plan) -> String {
    let count =
        |of: fn(&ChangeKind) -> bool| plan.changes.iter().filter(|change| of(&change.kind)).count();
    let create = count(|kind| matches!(kind, ChangeKind::Create | ChangeKind::CreateFrom(_)));
    let change = count(|kind| matches!(kind, ChangeKind::Update(_)));
    let decide = count(|kind| matches!(kind, ChangeKind::Immutable(_) | ChangeKind::Lossy(..)));
    let extra = count(|kind| matches!(kind, ChangeKind::Extra { .. }));
    let decide = decide + plan.problems.len();
    let mut line = format!(
        "{create} to create, {change} to change, {decide} to decide, {extra} no longer named"
    );
    if !plan.moves.is_empty() {
        line.push_str(&format!(", {} to hand over", plan.moves.len()));
    }
    line
}

/// The plan as JSON.
pub(super) fn as_json(plan: &Plan) -> Value {
    let change = |Change { object, kind }: &Change| {
        let (action, fields, why) = match kind {
            ChangeKind::Create => ("create", json!([]), None),
            ChangeKind::CreateFrom(beginning) => ("create", json!([]), Some(beginning.to_string())),
            ChangeKind::Update(fields) => ("update", json!(fields), None),
            ChangeKind::Immutable(fields) => ("immutable", json!(fields), None),
            ChangeKind::Lossy(fields, why) => ("lossy", json!(fields), Some(why.clone())),
            ChangeKind::Extra { holds } => ("extra", json!([]), Some(format!("{holds} messages"))),
        };
        let (stream, consumer) = match object {
            Object::Stream(spec) => (&spec.name, None),
            Object::Consumer(spec) => (&spec.stream, Some(&spec.name)),
        };
        json!({
            "action": action,
            "stream": stream,
            "consumer": consumer,
            "fields": fields,
            "why": why,
        })
    };
    let changes: Vec<Value> = plan.changes.iter().map(change).collect();
    let problems: Vec<String> = plan.problems.iter().map(ToString::to_string).collect();
    let moves: Vec<Value> = plan
        .moves
        .iter()
        .map(|moved| {
            json!({
                "from": moved.held.stage,
                "to": moved.to,
                "events": moved.held.events(),
                "letters": moved.held.letters,
            })
        })
        .collect();
    json!({
        "done": plan.is_done(),
        "changes": changes,
        "moves": moves,
        "leftovers": leftovers(&plan.leftovers),
        "problems": problems,
        "notes": plan.notes,
    })
}

/// What is kept for nobody, as JSON.
pub(super) fn leftovers(leftovers: &Leftovers) -> Value {
    let held = leftovers.held.iter().map(|held| {
        json!({
            "stage": held.stage,
            "renamed": held.heir,
            "events": held.events(),
            "unsettled": held.unread(),
            "waiting": held.waiting,
            "parked": held.parked,
            "letters": held.letters,
        })
    });
    let streams = leftovers
        .streams
        .iter()
        .map(|(stream, messages)| json!({ "stream": stream, "messages": messages }));
    json!({ "stages": held.collect::<Vec<_>>(), "streams": streams.collect::<Vec<_>>() })
}

//! `apply`: brings the broker's streams and consumers to what the pipeline needs.

mod told;

use std::process::ExitCode;

use told::Told;

use super::{App, plan};
use crate::topology::{self, Allowed, Object};

const EXAMPLES: &str = "\
Examples:
  millstream plan && millstream apply
  millstream apply --delete-extra     # delete what is no longer named, if it is empty
  millstream apply --allow-lossy      # shrink a limit below what is stored
  millstream apply --move orders=fulfil      # what is kept for a stage that is gone: to another
  millstream apply --to-letters orders       # ... to dead letters
  millstream apply --drop orders             # ... or away

It refuses what would lose messages, or what the server would refuse, says all of it at once, and \
changes nothing then.
Should it be cut off half-way, applying again goes on.";

/// Arguments of `apply`.
#[derive(Debug, Clone, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Print JSON
    #[arg(long)]
    pub json: bool,
    /// Do what loses messages, too
    #[arg(long)]
    pub allow_lossy: bool,
    /// Delete what the configuration no longer names, if it is empty (with --allow-lossy in any
    /// case)
    #[arg(long)]
    pub delete_extra: bool,
    /// Rewrite a pipeline of this name that is another one
    #[arg(long)]
    pub take_over: bool,
    #[command(flatten)]
    told: told::Flags,
}

/// Compares the broker with what the pipeline needs, carries out the difference, and prints it.
///
/// # Errors
/// The broker cannot be reached or refuses, or something must be decided first; then nothing was
/// done.
pub async fn run(app: &App, args: &Args) -> anyhow::Result<ExitCode> {
    let pipeline = app.pipeline()?;
    let broker = app.connect(&pipeline).await?;
    let mut plan = plan::compare(&pipeline, &broker).await?;
    let told = Told::read(&args.told, &mut plan, &broker).await?;
    let allowed = Allowed {
        lossy: args.allow_lossy,
        delete_extra: args.delete_extra,
        take_over: args.take_over,
    };
    if args.json {
        println!("{:#}", plan::as_json(&plan));
    } else {
        let dropped = |object: &Object| told.drops(object);
        plan.notes.iter().for_each(|note| println!("  note: {note}"));
        print!("{}", plan.render(&|object, holds| fate(allowed, dropped(object), holds)));
    }
    topology::check(&plan, allowed)?;
    // A stream that goes may be in the way of one that is to be made.
    let mut done = told.drop_streams(&broker).await?;
    let is_dropped = |change: &topology::Change| {
        matches!(change.object, Object::Stream(_)) && told.drops(&change.object)
    };
    plan.changes.retain(|change| !is_dropped(change));
    done.extend(topology::apply(&plan, &broker, allowed).await?);
    done.extend(told.carry_out(&plan, &pipeline, &broker).await?);
    if !args.json {
        done.iter().for_each(|line| println!("{}", super::printable(line)));
    }
    eprintln!("applied: {}", plan::summary(&plan));
    notes(&pipeline, &broker, &plan).await;
    Ok(ExitCode::SUCCESS)
}

/// What becomes of an object that is no longer named, and holds so many messages.
fn fate(allowed: Allowed, is_dropped: bool, holds: u64) -> String {
    if is_dropped || allowed.deletes(holds) {
        format!("deleted ({holds} messages)")
    } else if allowed.delete_extra {
        format!("left as it is: it holds {holds} messages (--allow-lossy deletes it in any case)")
    } else {
        format!("left as it is ({holds} messages)")
    }
}

/// Says what the server made lower than was wanted, which shows only now.
async fn notes(
    pipeline: &crate::config::Pipeline,
    broker: &crate::broker::Broker,
    before: &topology::Plan,
) {
    let Ok(after) = plan::compare(pipeline, broker).await else { return };
    for note in after.notes.iter().filter(|note| !before.notes.contains(note)) {
        eprintln!("note: {}", super::printable(note));
    }
}

//! Told: what to do with what is kept for nobody, as the flags of `apply` say.

use anyhow::bail;

use crate::{
    broker::Broker,
    config::Pipeline,
    dead_letter::abandon::abandon,
    topology::{ChangeKind, Held, Move, Object, Plan, Problem},
};

/// Flags about what is kept for stages and streams that the configuration does not name.
#[derive(Debug, Clone, Default, clap::Args)]
pub(super) struct Flags {
    /// Hand what is kept for a stage that is gone over to another (or to itself, where it no longer
    /// reads a stream)
    #[arg(long = "move", value_name = "OLD=NEW", value_parser = pair)]
    moves: Vec<(String, String)>,
    /// Make dead letters of the events that are kept for a stage that is gone
    #[arg(long, value_name = "STAGE")]
    to_letters: Vec<String>,
    /// Drop what is kept for a stage that is gone, or a stream or consumer that nothing names
    /// (`STREAM`, `STREAM/CONSUMER`)
    #[arg(long, value_name = "WHAT")]
    drop: Vec<String>,
}

/// What to do, checked against what is there.
#[derive(Debug, Default)]
pub(super) struct Told {
    moves: Vec<Move>,
    letters: Vec<Held>,
    drops: Vec<Dropped>,
}

/// Thing to drop.
#[derive(Debug)]
enum Dropped {
    Stage(Held),
    Stream(String, u64),
    Consumer(String, String, u64),
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => Ok((old.into(), new.into())),
        _ => Err("write the name of the stage that is gone, =, and that of the other".to_owned()),
    }
}

impl Told {
    /// Reads the flags, and adds to the plan where consumers that take over start.
    ///
    /// # Errors
    /// Something that is named is not there, or is needed.
    pub(super) async fn read(
        flags: &Flags,
        plan: &mut Plan,
        broker: &Broker,
    ) -> anyhow::Result<Self> {
        let mut told = Self::default();
        for (old, new) in &flags.moves {
            if !plan.topology.takes_retries(new) {
                bail!(
                    "could not move what stage \"{old}\" holds: there is no stage \"{new}\" that takes \
                     single events"
                );
            }
            let held = held(plan, old)?;
            if held.is_declared && old != new {
                bail!(
                    "could not move what stage \"{old}\" holds to \"{new}\": \"{old}\" is there; what it \
                     no longer reads goes to itself (--move {old}={old})"
                );
            }
            let planned = Move::plan(&plan.topology, broker, &plan.leftovers, old, new).await?;
            let Some(planned) = planned else { continue };
            planned.check(&plan.topology)?;
            plan.starts.extend(planned.starts(&plan.topology));
            told.moves.push(planned);
        }
        for stage in &flags.to_letters {
            told.letters.push(held(plan, stage)?.clone());
        }
        // What is told goes before what the configuration says.
        for stage in flags.to_letters.iter().chain(&flags.drop) {
            plan.moves.retain(|planned| planned.held.stage != *stage);
            let is_other =
                |problem: &Problem| !matches!(problem, Problem::Move { from, .. } if from == stage);
            plan.problems.retain(is_other);
        }
        for what in &flags.drop {
            let dropped = dropped(plan, what)?;
            if let Dropped::Stream(stream, _) = &dropped {
                plan.problems.retain(|problem| {
                    !matches!(problem, Problem::Overlap { theirs, .. } if theirs == stream)
                });
                plan.changes.retain(|change| match (&change.kind, &change.object) {
                    (ChangeKind::Extra { .. }, Object::Consumer(spec)) => spec.stream != *stream,
                    _ => true,
                });
            }
            told.drops.push(dropped);
        }
        Ok(told)
    }

    /// True if the object is to be dropped.
    pub(super) fn drops(&self, object: &Object) -> bool {
        self.drops.iter().any(|dropped| match (dropped, object) {
            (Dropped::Stream(stream, _), Object::Stream(spec)) => spec.name == *stream,
            (Dropped::Consumer(stream, name, _), Object::Consumer(spec)) => {
                spec.stream == *stream && spec.name == *name
            }
            (Dropped::Stage(held), Object::Consumer(spec)) => held
                .consumers
                .iter()
                .any(|unread| unread.stream == spec.stream && unread.name == spec.name),
            _ => false,
        })
    }

    /// Deletes the streams that are to be dropped; a line about each.
    ///
    /// # Errors
    /// The broker did not do it; doing it again goes on.
    pub(super) async fn drop_streams(&self, broker: &Broker) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        for dropped in &self.drops {
            if let Dropped::Stream(stream, messages) = dropped {
                broker.delete_stream(stream).await?;
                done.push(format!("dropped stream \"{stream}\" with {messages} messages"));
            }
        }
        Ok(done)
    }

    /// Does the rest; a line about each thing that was done.
    ///
    /// # Errors
    /// The broker did not do something; doing it again goes on.
    pub(super) async fn carry_out(
        &self,
        plan: &Plan,
        pipeline: &Pipeline,
        broker: &Broker,
    ) -> anyhow::Result<Vec<String>> {
        let mut done = Vec::new();
        for planned in &self.moves {
            let moved = planned.carry_out(&plan.topology, broker).await?;
            done.push(moved.line(&planned.held.stage, &planned.to));
        }
        for held in &self.letters {
            let events = abandon(broker, pipeline, held).await?;
            done.push(format!(
                "made dead letters of {events} events of stage \"{}\" (reason abandoned)",
                held.stage
            ));
        }
        for dropped in &self.drops {
            done.push(match dropped {
                Dropped::Stage(held) => {
                    let (events, consumers) = held.drop_all(&plan.topology, broker).await?;
                    format!(
                        "dropped {events} events and {consumers} consumers of stage \"{}\"",
                        held.stage
                    )
                }
                Dropped::Stream(..) => continue,
                Dropped::Consumer(stream, name, unsettled) => {
                    broker.delete_consumer(stream, name).await?;
                    format!(
                        "dropped consumer \"{name}\" on stream \"{stream}\" with {unsettled} messages \
                         not settled"
                    )
                }
            });
        }
        for (stream, _) in &plan.leftovers.streams {
            if self.reads(stream) && broker.stream_state(stream).await?.consumers == 0 {
                // All that is in it was settled, or is dealt with by now.
                broker.delete_stream(stream).await?;
                done.push(format!("removed stream \"{stream}\", which nothing reads any more"));
            }
        }
        Ok(done)
    }

    /// True if something that is told is about a consumer of this stream.
    fn reads(&self, stream: &str) -> bool {
        let of = |held: &Held| held.consumers.iter().any(|unread| unread.stream == stream);
        self.moves.iter().any(|planned| of(&planned.held))
            || self.letters.iter().any(of)
            || self.drops.iter().any(|dropped| match dropped {
                Dropped::Stage(held) => of(held),
                Dropped::Consumer(on, ..) => on == stream,
                Dropped::Stream(..) => false,
            })
    }
}

fn held<'a>(plan: &'a Plan, stage: &str) -> anyhow::Result<&'a Held> {
    if let Some(held) = plan.leftovers.of(stage) {
        return Ok(held);
    }
    let stages: Vec<&str> = plan.leftovers.held.iter().map(|held| held.stage.as_str()).collect();
    match stages.is_empty() {
        true => bail!("nothing is kept for a stage \"{stage}\" that is gone, nor for any other"),
        false => bail!(
            "nothing is kept for a stage \"{stage}\" that is gone; something is for {}",
            stages.join(", ")
        ),
    }
}

fn dropped(plan: &Plan, what: &str) -> anyhow::Result<Dropped> {
    if let Some(held) = plan.leftovers.of(what) {
        return Ok(Dropped::Stage(held.clone()));
    }
    if let Some((stream, messages)) =
        plan.leftovers.streams.iter().find(|(stream, _)| stream == what)
    {
        return Ok(Dropped::Stream(stream.clone(), *messages));
    }
    let consumers = plan.leftovers.held.iter().flat_map(|held| &held.consumers);
    let named = |stream: &str, name: &str| {
        what == name || what.split_once('/').is_some_and(|(on, it)| on == stream && it == name)
    };
    let found: Vec<_> = consumers.filter(|unread| named(&unread.stream, &unread.name)).collect();
    match found.as_slice() {
        [one] => Ok(Dropped::Consumer(one.stream.clone(), one.name.clone(), one.unsettled)),
        [] => bail!(
            "could not drop \"{what}\": it is no stage that is gone, and no stream or consumer that \
             nothing names; `millstream plan` lists them"
        ),
        several => {
            let all: Vec<String> =
                several.iter().map(|unread| format!("{}/{}", unread.stream, unread.name)).collect();
            bail!("could not drop \"{what}\": it may be any of {}", all.join(", "))
        }
    }
}

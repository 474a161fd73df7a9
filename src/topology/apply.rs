//! Apply: changes of a plan, made on the server.

use super::{
    compare::diff,
    mover::MoveError,
    plan::{Change, ChangeKind, Object, Plan},
    preflight,
    problem::{ID, Problem},
    topology::Topology,
};
use crate::{
    broker::{AdminError, Broker, CommitError},
    wire::{AliasRecord, AppliedRecord, Names},
};

/// Permissions of [`apply`] beyond safe changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Changes that lose messages.
    pub lossy: bool,
    /// Deletion of what the configuration no longer names, where it is empty; with `lossy` in any
    /// case.
    pub delete_extra: bool,
    /// Changes of a pipeline of the same name that is another one.
    pub take_over: bool,
}

/// Reason that a plan was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Changes that the server, or we, refuse. Nothing was done.
    #[error("{}", listed(problems))]
    Refused {
        /// All that was found.
        problems: Vec<Problem>,
    },
    /// Failed comparison: nothing was done.
    #[error("could not compare the broker with pipeline \"{pipeline}\"")]
    Compare {
        /// Name of the pipeline.
        pipeline: String,
        /// Answer of the broker.
        source: AdminError,
    },
    /// Failed request: the server could not be asked, or refused. Changes before it in the plan are
    /// made; applying again goes on from there.
    #[error("could not apply the change to {object}{}", so_far(done, left))]
    Broker {
        /// The object.
        object: String,
        /// Objects whose change is made.
        done: Vec<String>,
        /// Objects whose change is not made, after this one.
        left: Vec<String>,
        /// Answer of the broker.
        source: AdminError,
    },
    /// Hand-over of what a renamed stage holds, which did not come to its end. All other changes
    /// are made; applying again goes on.
    #[error("the streams and consumers are made; apply again to go on")]
    Move(#[from] MoveError),
    /// The list of consumers could not be written. What was to be made is made; nothing was removed
    /// or handed over.
    #[error("could not write down which consumers there are; apply again to go on")]
    Announce(#[from] CommitError),
}

fn listed(problems: &[Problem]) -> String {
    match problems {
        [one] => one.to_string(),
        all => {
            let lines: Vec<String> = all.iter().map(|problem| format!("\n - {problem}")).collect();
            format!(
                "{} things have to be decided first; nothing was done:{}",
                all.len(),
                lines.concat()
            )
        }
    }
}

fn so_far(done: &[String], left: &[String]) -> String {
    let list = |objects: &[String]| match objects {
        [] => "nothing".to_owned(),
        objects => objects.join(", "),
    };
    format!("; made before it: {}; not made: {}; apply again to go on", list(done), list(left))
}

impl Allowed {
    /// True if an object that is no longer named, and holds so many messages, is deleted.
    pub fn deletes(&self, holds: u64) -> bool {
        self.delete_extra && (holds == 0 || self.lossy)
    }
}

/// Makes sure that nothing of a plan is refused.
///
/// # Errors
/// [`ApplyError::Refused`].
pub fn check(plan: &Plan, allowed: Allowed) -> Result<(), ApplyError> {
    let mut problems = preflight::refusals(plan, allowed.lossy);
    if allowed.take_over {
        problems.retain(|problem| !matches!(problem, Problem::Owner { .. }));
    }
    if problems.is_empty() { Ok(()) } else { Err(ApplyError::Refused { problems }) }
}

/// Carries out a plan. A plan that holds anything refused is not begun. A line is returned for each
/// hand-over that was done.
///
/// Idempotent, and two that run at once do the same thing twice, which does no harm.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(
    plan: &Plan,
    broker: &Broker,
    allowed: Allowed,
) -> Result<Vec<String>, ApplyError> {
    let topology = &plan.topology;
    check(plan, allowed)?;
    let (mut is_announced, mut is_aliased) = (false, false);
    for (at, Change { object, kind }) in plan.changes.iter().enumerate() {
        if matches!(object, Object::Consumer(_)) && !is_aliased {
            // Whoever reads for a stage from here on may have company under another name.
            alias(topology, broker).await?;
            is_aliased = true;
        }
        // What a renamed stage takes over goes before a floor.
        let after = plan.start_of(object).map(|start| start.saturating_sub(1));
        if matches!(kind, ChangeKind::Extra { .. }) && !is_announced {
            // What is removed from here on is not to be made anew by workers that still name it.
            announce(topology, broker).await?;
            is_announced = true;
        }
        let done = match (kind, object) {
            (ChangeKind::Create | ChangeKind::CreateFrom(_), Object::Stream(spec)) => {
                broker.create_stream_lent(spec, preflight::lent_to(plan, spec)).await
            }
            (ChangeKind::Create, Object::Consumer(spec)) => {
                broker.create_consumer_after(spec, after).await
            }
            (ChangeKind::CreateFrom(beginning), Object::Consumer(spec)) => {
                broker.create_consumer_after(spec, after.or(beginning.after)).await
            }
            (ChangeKind::Update(_) | ChangeKind::Lossy(..), Object::Stream(spec)) => {
                broker.update_stream_lent(spec, preflight::lent_to(plan, spec)).await
            }
            (ChangeKind::Update(_) | ChangeKind::Lossy(..), Object::Consumer(spec)) => {
                broker.update_consumer(spec).await
            }
            (ChangeKind::Extra { holds }, object)
                if allowed.deletes(*holds) && !plan.is_moved(object) =>
            {
                match object {
                    Object::Stream(spec) => broker.delete_stream(&spec.name).await,
                    Object::Consumer(spec) => {
                        broker.delete_consumer(&spec.stream, &spec.name).await
                    }
                }
            }
            (ChangeKind::Extra { .. } | ChangeKind::Immutable(_), _) => Ok(()),
        };
        let named = |changes: &[Change]| -> Vec<String> {
            let meant = |change: &&Change| !matches!(change.kind, ChangeKind::Extra { .. });
            changes.iter().filter(meant).map(|change| change.object.to_string()).collect()
        };
        done.map_err(|source| ApplyError::Broker {
            object: object.to_string(),
            done: named(&plan.changes[..at]),
            left: named(&plan.changes[at + 1..]),
            source,
        })?;
    }
    mark(topology, broker).await.map_err(|source| ApplyError::Broker {
        object: format!("the id of pipeline \"{}\"", topology.pipeline),
        done: vec!["every stream and consumer".to_owned()],
        left: Vec::new(),
        source,
    })?;
    if !is_aliased {
        alias(topology, broker).await?;
    }
    if !is_announced {
        announce(topology, broker).await?;
    }
    let mut done = Vec::new();
    for planned in &plan.moves {
        let moved = planned.carry_out(topology, broker).await?;
        done.push(moved.line(&planned.held.stage, &planned.to));
    }
    Ok(done)
}

/// Writes down which consumers the configuration has, where that has changed.
async fn announce(topology: &Topology, broker: &Broker) -> Result<(), ApplyError> {
    let consumers = topology.consumers.iter().map(|spec| (spec.stream.clone(), spec.name.clone()));
    let record = AppliedRecord::of(consumers).written();
    let bucket = Names::new(&topology.pipeline).state_bucket();
    let found = broker.kv_get(&bucket, AppliedRecord::KEY).await;
    let found = found.map_err(|source| ApplyError::Broker {
        object: format!("bucket \"{bucket}\""),
        done: Vec::new(),
        left: Vec::new(),
        source,
    })?;
    if found.is_none_or(|(value, _)| value != record) {
        broker.kv_put(&bucket, AppliedRecord::KEY, record).await?;
    }
    Ok(())
}

/// Writes down which stages have, and had, several names, where that has changed.
async fn alias(topology: &Topology, broker: &Broker) -> Result<(), ApplyError> {
    let bucket = Names::new(&topology.pipeline).state_bucket();
    let mut wanted = AliasRecord::all(&topology.renamed);
    let found = match broker.kv_entries(&bucket, AliasRecord::PREFIX).await {
        // It comes with a later change, if anything is kept there.
        Err(AdminError::NoStream { .. }) if wanted.is_empty() => return Ok(()),
        found => found.map_err(|source| ApplyError::Broker {
            object: format!("bucket \"{bucket}\""),
            done: Vec::new(),
            left: Vec::new(),
            source,
        })?,
    };
    for (key, value, _) in found {
        match wanted.get(&key) {
            Some(record) if record.written() == value => _ = wanted.remove(&key),
            Some(_) => {}
            None => broker.kv_delete(&bucket, &key).await?,
        }
    }
    for (key, record) in wanted {
        broker.kv_put(&bucket, &key, record.written()).await?;
    }
    Ok(())
}

/// Writes the id of the pipeline beside its state, where it is not there.
async fn mark(topology: &Topology, broker: &Broker) -> Result<(), AdminError> {
    let stream = Names::new(&topology.pipeline).state_stream();
    if broker.mark_of(&stream, ID).await? != topology.id {
        broker.set_mark(&stream, ID, topology.id.as_deref()).await?;
    }
    Ok(())
}

/// Creates and changes what `topology` needs, and hands over what renamed stages hold; a change
/// that would lose messages is refused.
///
/// # Errors
/// [`ApplyError`].
pub async fn make(broker: &Broker, topology: &Topology) -> Result<(), ApplyError> {
    let compared = diff(topology, broker).await;
    let pipeline = || topology.pipeline.clone();
    let plan = compared.map_err(|source| ApplyError::Compare { pipeline: pipeline(), source })?;
    for line in apply(&plan, broker, Allowed::default()).await? {
        tracing::info!("{line}");
    }
    Ok(())
}

//! Apply: changes of a plan, made on the server.

use super::{
    plan::{Change, ChangeKind, Object, Plan, diff},
    topology::Topology,
};
use crate::broker::{AdminError, Broker};

/// Permissions of [`apply`] beyond safe changes.
#[derive(Debug, Clone, Copy, Default)]
pub struct Allowed {
    /// Changes that lose messages.
    pub lossy: bool,
    /// Deletion of what the configuration no longer names, where it is empty; with `lossy` in any
    /// case.
    pub delete_extra: bool,
}

/// Reason that a plan was not carried out, or not to its end.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// Change of a setting that the server never changes. Nothing was done.
    #[error(
        "{object} cannot be changed in place: {what}; put the setting back, or drain it, delete it \
         (`nats stream rm` or `nats consumer rm`) and apply again"
    )]
    Immutable {
        /// The object.
        object: String,
        /// The settings that differ.
        what: String,
    },
    /// Change that would lose messages. Nothing was done.
    #[error(
        "{object} would lose messages: {why}; apply with --allow-lossy if that is what you want"
    )]
    Lossy {
        /// The object.
        object: String,
        /// Reason that messages would be lost.
        why: String,
    },
    /// Failed request: the server could not be asked, or refused. Changes before it in the plan are
    /// made; applying again goes on from there.
    #[error("could not apply the change to {object}")]
    Broker {
        /// The object.
        object: String,
        /// Answer of the broker.
        source: AdminError,
    },
}

/// Carries out a plan. A plan that holds a refused change is not begun.
///
/// Idempotent, and two that run at once do the same thing twice, which does no harm.
///
/// # Errors
/// [`ApplyError`].
pub async fn apply(plan: &Plan, broker: &Broker, allowed: Allowed) -> Result<(), ApplyError> {
    for Change { object, kind } in &plan.changes {
        match kind {
            ChangeKind::Immutable(differences) => {
                let what =
                    differences.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
                return Err(ApplyError::Immutable { object: object.to_string(), what });
            }
            ChangeKind::Lossy(_, why) if !allowed.lossy => {
                return Err(ApplyError::Lossy { object: object.to_string(), why: why.clone() });
            }
            ChangeKind::Create
            | ChangeKind::CreateFrom(_)
            | ChangeKind::Update(_)
            | ChangeKind::Lossy(..)
            | ChangeKind::Extra { .. } => {}
        }
    }
    for Change { object, kind } in &plan.changes {
        let done = match (kind, object) {
            (ChangeKind::Create, Object::Stream(spec)) => broker.create_stream(spec).await,
            (ChangeKind::Create, Object::Consumer(spec)) => broker.create_consumer(spec).await,
            (ChangeKind::CreateFrom(beginning), Object::Consumer(spec)) => {
                broker.create_consumer_after(spec, beginning.after).await
            }
            (ChangeKind::CreateFrom(_), Object::Stream(spec)) => broker.create_stream(spec).await,
            (ChangeKind::Update(_) | ChangeKind::Lossy(..), Object::Stream(spec)) => {
                broker.update_stream(spec).await
            }
            (ChangeKind::Update(_) | ChangeKind::Lossy(..), Object::Consumer(spec)) => {
                broker.update_consumer(spec).await
            }
            (ChangeKind::Extra { holds }, object)
                if allowed.delete_extra && (*holds == 0 || allowed.lossy) =>
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
        done.map_err(|source| ApplyError::Broker { object: object.to_string(), source })?;
    }
    Ok(())
}

/// Creates and changes what `topology` needs; a change that would lose messages is refused.
///
/// # Errors
/// [`ApplyError`].
pub async fn make(broker: &Broker, topology: &Topology) -> Result<(), ApplyError> {
    let compared = diff(topology, broker).await;
    let object = || format!("pipeline \"{}\"", topology.pipeline);
    let plan = compared.map_err(|source| ApplyError::Broker { object: object(), source })?;
    apply(&plan, broker, Allowed::default()).await
}

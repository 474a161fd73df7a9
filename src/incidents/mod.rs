//! Incidents: state of incidents and alerts, read from checkpoints; operators' actions, written.
//!
//! Touches the broker only, and runs a stage in memory only, for a simulation. What is read is at
//! most one commit old; an action is a key that the stage reads like any input.
//!
//! - [`snapshot`]: incidents and numbers of a checkpoint
//! - [`history`]: changes of incidents, from the streams of them
//! - [`actions`]: an incident acknowledged or resolved
//! - [`silences`]: silences made, listed and ended
//! - [`simulate`]: stored failures run through the rules of a configuration, in memory

pub mod actions;
pub mod history;
pub mod silences;
pub mod simulate;
pub mod snapshot;

use millstream_stages::{ChannelTerms, Problem, World};

use crate::{
    broker::{AdminError, CommitError},
    config::{Pipeline, pipeline::Channel, world::ConfigWorld},
};

/// Failure to read incidents, or to write an action.
#[derive(Debug, thiserror::Error)]
pub enum IncidentsError {
    /// The broker could not be read.
    #[error("could not read what stage \"{stage}\" knows")]
    Read {
        /// The stage.
        stage: String,
        /// Error of the broker.
        source: AdminError,
    },
    /// A stage's state is not one that this version writes.
    #[error("cannot read what stage \"{stage}\" knows: {why}")]
    State {
        /// The stage.
        stage: String,
        /// Key, and what is wrong with it.
        why: String,
    },
    /// A stage cannot be built from its options, which `check` would report with lines.
    #[error("stage \"{stage}\" cannot be built: {problem}")]
    Stage {
        /// The stage.
        stage: String,
        /// The first problem.
        problem: String,
    },
    /// A key could not be written.
    #[error(transparent)]
    Write(#[from] CommitError),
    /// The broker could not be asked.
    #[error(transparent)]
    Ask(#[from] AdminError),
}

/// Lends `with` the world that reduce stages are built in: they ask for channels only.
fn in_world<T>(pipeline: &Pipeline, with: impl FnOnce(&dyn World) -> T) -> T {
    let channels: Vec<ChannelTerms> = pipeline.channels.iter().map(Channel::terms).collect();
    with(&ConfigWorld {
        base: &pipeline.base,
        handler: &|_, _| Err(Vec::new()),
        channels: &channels,
    })
}

fn cannot_build(stage: &str, problems: &[Problem]) -> IncidentsError {
    let problem = problems.first().map_or_else(String::new, |problem| problem.message.clone());
    IncidentsError::Stage { stage: stage.to_owned(), problem }
}

//! Targets: stages that letters can be sent back to, by the stage that gave them up.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use millstream_stages::text::excerpt;

use crate::{config::Pipeline, limits, topology::Topology};

/// Stages that letters can be sent back to. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Targets(Arc<Stages>);

#[derive(Debug, Default)]
struct Stages {
    /// Stages that take single events.
    take: BTreeSet<String>,
    /// Stages that do not.
    others: BTreeSet<String>,
    /// Names that stages had before, with those that they have.
    renamed: BTreeMap<String, String>,
}

/// Reason that the letters of a stage cannot be sent back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Nowhere {
    /// The stage is not in the configuration.
    #[error(
        "the stage is not in the configuration; renamed_from on the stage that took over sends them \
         there"
    )]
    Gone,
    /// The stage keeps state, or is chained to another.
    #[error(
        "the stage takes no single events: it keeps state, or is chained to another; export them \
         (`millstream dlq export`), publish what is to be read again, and drop them"
    )]
    TakesNone,
    /// The letter names no stage.
    #[error("they name no stage: Millstream did not write them, or they cannot be read")]
    Unread,
}

impl Nowhere {
    /// Reason that the letters of a stage stay.
    pub fn reason(self, stage: &str) -> String {
        let stage = excerpt(stage, limits::STAGE_SHOWN_BYTES);
        match self {
            Self::Unread => format!("letters stay: {self}"),
            Self::Gone | Self::TakesNone => format!("letters of stage \"{stage}\" stay: {self}"),
        }
    }
}

impl Targets {
    /// Targets of the letters of a pipeline.
    pub fn of(pipeline: &Pipeline) -> Self {
        let topology = Topology::of(pipeline);
        let names = topology.stages.iter().cloned();
        let (take, others) = names.partition(|name| topology.takes_retries(name));
        let renamed = topology.renamed.into_iter().collect();
        Self(Arc::new(Stages { take, others, renamed }))
    }

    /// Stage that the letters of `stage` are sent to: itself, or the one that took over.
    ///
    /// # Errors
    /// [`Nowhere`].
    pub fn of_letters<'a>(&'a self, stage: &'a str) -> Result<&'a str, Nowhere> {
        if stage.is_empty() {
            return Err(Nowhere::Unread);
        }
        let Stages { take, others, renamed } = &*self.0;
        let to = renamed.get(stage).map_or(stage, String::as_str);
        match (take.contains(to), others.contains(to)) {
            (true, _) => Ok(to),
            (false, true) => Err(Nowhere::TakesNone),
            (false, false) => Err(Nowhere::Gone),
        }
    }
}

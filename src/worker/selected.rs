//! Selected: stages that a worker runs.

use super::error::WorkerError;
use crate::config::{Pipeline, pipeline::Stage};

/// Stages that a worker runs; `None`: all.
pub(super) struct Selected(Option<Vec<String>>);

impl Selected {
    /// Stages of these names; of a chained one, the stage in which it runs.
    pub(super) fn of(pipeline: &Pipeline, names: Option<&[String]>) -> Result<Self, WorkerError> {
        let Some(names) = names else { return Ok(Self(None)) };
        let mut selected = Vec::new();
        for name in names {
            let Some(stage) = pipeline.stage(name) else {
                let all: Vec<_> = pipeline.stages.iter().map(|it| it.name.as_str()).collect();
                let (stage, known) = (name.clone(), all.join(", "));
                return Err(WorkerError::UnknownStage { stage, known });
            };
            let head = head(pipeline, stage);
            if head.name != *name {
                let (stage, runs) = (name, &head.name);
                tracing::info!(stage, runs, "a chained stage runs inside the one it reads");
            }
            selected.push(head.name.clone());
        }
        Ok(Self(Some(selected)))
    }

    pub(super) fn is_all(&self) -> bool {
        self.0.is_none()
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|stage| stage == name))
    }
}

/// Stage at the head of the chain that a stage is in: itself, if it is in none.
fn head<'a>(pipeline: &'a Pipeline, stage: &'a Stage) -> &'a Stage {
    let mut head = stage;
    // Bounded all the same, though a chain has no circle.
    for _ in 0..pipeline.stages.len() {
        let chains = |it: &&Stage| pipeline.chained_to(&it.name).any(|next| next.name == head.name);
        let Some(before) = pipeline.stages.iter().find(chains) else { break };
        head = before;
    }
    head
}

//! Error: reason why a worker could not start.

use millstream_stages::Problem;

use crate::observe;

/// Reason why a worker could not start.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A stage could not be built from its options; `check` reports the same with lines.
    #[error("stage \"{stage}\" cannot be built: {problem}")]
    Stage {
        /// The stage.
        stage: String,
        /// The first problem.
        problem: String,
    },
    /// `--stage` names a stage that is not there.
    #[error("there is no stage \"{stage}\"; the stages are {known}")]
    UnknownStage {
        /// Name that was asked for.
        stage: String,
        /// Names of the stages.
        known: String,
    },
    /// The address for metrics and health could not be opened.
    #[error(transparent)]
    Listen(#[from] observe::http::ServeError),
}

impl WorkerError {
    /// Error of a stage that has these problems.
    pub(super) fn cannot_build(stage: &str, problems: &[Problem]) -> Self {
        Self::Stage { stage: stage.to_owned(), problem: first(problems) }
    }
}

/// First of some problems, in one clause.
pub(super) fn first(problems: &[Problem]) -> String {
    problems.first().map_or_else(|| "no reason given".to_owned(), |problem| problem.message.clone())
}

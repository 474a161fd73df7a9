//! Step down: reasons why a leader stops before `stop`.

use crate::broker::{AdminError, CommitError, PublishError};

/// Reason why a leader stopped before `stop`.
#[derive(Debug, thiserror::Error)]
pub(super) enum StepDown {
    #[error("the lease was lost")]
    Lease,
    #[error("could not write the checkpoint")]
    Commit(#[from] CommitError),
    #[error("could not read the checkpoint")]
    Read(#[from] AdminError),
    #[error("could not publish")]
    Publish(#[from] PublishError),
    #[error("could not read the state: {0}")]
    State(String),
}

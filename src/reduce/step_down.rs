//! Step down: the reasons why a leader stops before it is told to.

use crate::broker::{AdminError, CommitError, PublishError};

/// Why a leader stopped before it was told to.
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

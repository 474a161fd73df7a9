//! Shows: what a reduce stage shows of itself: counters and a condition.

use std::sync::Arc;

use crate::observe::{Conditions, ReduceMetrics};

/// What a stage shows of itself.
#[derive(Debug, Clone)]
pub struct Shows {
    /// Counters of the stage.
    pub metrics: Arc<ReduceMetrics>,
    /// Conditions of the worker; that of the stage is `stage NAME`.
    pub conditions: Arc<Conditions>,
}

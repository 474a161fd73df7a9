//! Topology: the streams and consumers that a pipeline needs (pure), and the reconciler that makes
//! them so.

pub mod names;
pub mod plan;
pub mod reconcile;

pub use names::Names;
pub use plan::{Feed, FeedInput, Read, Topology};
pub use reconcile::{
    Allowed, ApplyError, Change, ChangeKind, Difference, Object, Plan, apply, diff, make,
};

//! Topology: the streams and consumers that a pipeline needs, and what makes the broker have them.
//!
//! - [`mod@topology`]: a pipeline as streams and consumers. Pure
//! - [`plan`]: what the broker has against what the pipeline needs
//! - [`apply`](mod@apply): carries out a plan

pub mod apply;
pub mod plan;
#[expect(clippy::module_inception, reason = "the file has the name of its type")]
pub mod topology;

pub use apply::{Allowed, ApplyError, apply, make};
pub use plan::{Change, ChangeKind, Difference, Object, Plan, diff};
pub use topology::{Feed, FeedInput, Read, Topology};

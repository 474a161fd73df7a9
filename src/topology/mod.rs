//! Topology: works out the streams and consumers that a pipeline needs, and makes the broker have
//! them. Touches the broker only.
//!
//! - [`mod@topology`]: a pipeline as streams and consumers. Pure
//! - [`beginning`]: where a consumer that is made anew begins
//! - [`plan`]: differences between the server and what the pipeline needs
//! - [`apply`](mod@apply): changes of a plan, made on the server

pub mod apply;
pub mod beginning;
pub mod plan;
#[expect(clippy::module_inception, reason = "the file has the name of its type")]
pub mod topology;

pub use apply::{Allowed, ApplyError, apply, make};
pub use beginning::Beginning;
pub use plan::{Change, ChangeKind, Difference, Object, Plan, diff};
pub use topology::{Feed, FeedInput, Read, Topology};

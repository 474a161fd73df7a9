//! Topology: works out the streams and consumers that a pipeline needs, and makes the broker have
//! them. Touches the broker only.
//!
//! - `streams`: streams that a pipeline needs, with their settings. Pure
//! - [`mod@topology`]: a pipeline as streams and consumers. Pure
//! - [`beginning`]: where a consumer that is made anew begins
//! - [`plan`]: differences between the server and what the pipeline needs
//! - [`compare`]: the plan, with what renamed stages hold, and what would be refused
//! - [`problem`]: reasons that a plan is not begun
//! - [`preflight`]: what the server would refuse of a plan, found before anything is done
//! - [`apply`](mod@apply): changes of a plan, made on the server
//! - [`leftovers`]: what is kept for stages and streams that the configuration does not name
//! - `mover`: the steps of a hand-over
//! - [`moving`]: what a stage of another name holds, handed to the stage that took over

pub mod apply;
pub mod beginning;
pub mod compare;
pub mod leftovers;
mod mover;
pub mod moving;
pub mod plan;
pub mod preflight;
pub mod problem;
mod streams;
#[expect(clippy::module_inception, reason = "the file has the name of its type")]
pub mod topology;

pub use apply::{Allowed, ApplyError, apply, check, make};
pub use beginning::Beginning;
pub use compare::diff;
pub use leftovers::{Held, Leftovers};
pub use mover::MoveError;
pub use moving::Move;
pub use plan::{Change, ChangeKind, Difference, Object, Plan};
pub use problem::Problem;
pub use topology::{Feed, FeedInput, Read, Topology};

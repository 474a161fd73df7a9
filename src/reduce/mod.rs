//! Reduce: the reduce worker: stands by, leads, and steps down.
//!
//! Touches the broker only: reads by offset; writes checkpoints, leases, emissions, dead letters.
//!
//! One worker of the fleet runs a stage at a time, whoever holds its lease (`broker::Lease`). The
//! lease only keeps two from working at once; what keeps the counts exact is the checkpoint
//! (`checkpoint`): offsets and state are one write, and it is refused to whoever did not make the
//! one before.
//!
//! - [`run`](mod@run): a stage in one worker: stands by, leads, steps down
//! - `lead`: loop of the worker that leads
//! - `batch`: inputs applied since the last commit, and outputs to publish before the next
//! - `checkpoint`: offsets and state as one write
//! - `restarted`: what is told of a stream that is another one than before
//! - `shows`: counters and the condition of a stage
//! - `step_down`: reasons why a leader stops

mod batch;
mod checkpoint;
mod lead;
mod restarted;
pub mod run;
mod shows;
mod step_down;

pub use run::{ReduceError, run};
pub use shows::Shows;

//! Redrive: dead letters sent back to the stage that gave up: one, a job of many, or at recovery.
//!
//! Reads and removes letters; touches the broker, and the services that health checks ask.
//!
//! - [`targets`]: stages that letters can be sent back to
//! - [`resend`]: one letter published again to its stage
//! - [`job`]: durable record of a redrive of many letters
//! - [`above`]: letters above a job's cursor whose fate is on record
//! - [`context`]: connection, progress and errors of a run of a job
//! - [`store`]: records of jobs, and the claim that one process holds on a job
//! - `judge`: verdict on one letter of a job
//! - [`canary`]: first letters of a job, and their outcomes
//! - `verdict`: outcome of a letter of a canary, as the streams show it
//! - `step`: one letter sent, removed or marked, when its record says so
//! - `pump`: letters of a job sent, many at once
//! - [`run`](mod@run): carries one job from its cursor to its end
//! - [`fleet`]: a worker's part in the jobs that nobody runs
//! - [`recovery`]: jobs that begin by themselves when a stage is up again

pub mod above;
pub mod canary;
pub mod context;
pub mod fleet;
pub mod job;
mod judge;
mod pump;
pub mod recovery;
pub mod resend;
pub mod run;
mod step;
pub mod store;
pub mod targets;
mod verdict;

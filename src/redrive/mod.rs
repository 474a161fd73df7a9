//! Redrive: sends dead letters back to the stage that gave up: one letter, a job of many, or by
//! itself when the stage is up again. Reads letters; touches the broker only.
//!
//! - [`resend`]: one letter published again to its stage
//! - [`job`]: durable record of a redrive of many letters
//! - [`context`]: what a job is run with
//! - [`store`]: records of jobs, and the claim that one process holds on a job
//! - `judge`: verdict on one letter of a job
//! - `canary`: first letters of a job, and what became of them
//! - `verdict`: what became of the letters of a canary, as the broker tells
//! - `pump`: sends the letters of a job, many at once
//! - [`run`](mod@run): carries one job from its cursor to its end
//! - [`fleet`]: a worker's part in the jobs that nobody runs
//! - [`recovery`]: jobs that begin by themselves when a breaker closes

pub mod canary;
pub mod context;
pub mod fleet;
pub mod job;
mod judge;
mod pump;
pub mod recovery;
pub mod resend;
pub mod run;
pub mod store;
mod verdict;

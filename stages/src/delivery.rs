//! Delivery: one handing-over of an event to a stage.

use std::time::SystemTime;

/// One handing-over of an event to a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// Stage it is handed to.
    pub stage: String,
    /// Number of the attempt, from 1. Deferrals are not counted.
    pub attempt: u32,
    /// Time it was handed over, by the worker's clock.
    pub now: SystemTime,
    /// W3C trace context to pass on to what is called, as a `traceparent` header.
    pub traceparent: Option<String>,
    /// Edit that gave the event its payload, in Unix milliseconds; `None`: it is as published.
    pub edit: Option<u64>,
}

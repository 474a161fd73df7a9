//! Observe: counts and reports the work of a worker: metrics, spans, logs, conditions. Changes the
//! outcome of no event.

mod bounded;
pub mod conditions;
mod counters;
pub mod durations;
mod families;
pub mod front;
mod gauges;
pub mod heartbeat;
pub mod http;
pub mod kinds;
pub mod lacks;
pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod roll_call;
mod skew;
pub mod span;
mod tallies;
pub mod worker_record;

pub use conditions::{Condition, ConditionRecord, Conditions, Trouble};
pub use counters::{ActiveEvent, Outcome, ReduceMetrics, StageMetrics, StageSnapshot, Verdict};
pub use front::Front;
pub use http::{Endpoints, bind};
pub use logs::{LogFormat, LogOptions};
pub use metrics::Metrics;
pub use otlp::Exporter;
pub use roll_call::{Returned, RollCall};
pub use worker_record::{Recorder, WorkerRecord};

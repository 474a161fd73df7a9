//! Observe: metrics, spans, logs, health. It looks on: nothing here changes what becomes of an
//! event.

pub mod alerting;
pub mod beat;
mod bounded;
mod counters;
pub mod durations;
pub mod finding;
pub mod health;
pub mod http;
pub mod logs;
pub mod metrics;
pub mod otlp;
pub mod span;
pub mod status;
mod tallies;
pub mod trace;

pub use health::{Recorder, WorkerRecord};
pub use http::{Readiness, serve};
pub use logs::{LogFormat, LogOptions};
pub use metrics::{Metrics, Outcome, ReduceMetrics, StageMetrics};
pub use otlp::Exporter;
pub use status::{BreakerStatus, FeedStatus, Status};
pub use trace::TraceContext;

//! Wire: the stored forms that several rooms write and read. Decides nothing.
//!
//! - [`subjects`]: the name of every stream, subject, consumer and key of a pipeline
//! - [`identity`]: an event's id, type, version and tenant as headers
//! - [`place`]: name of a message, beyond the life of its stream
//! - [`offsets`]: how far a reduce stage has read each stream
//! - [`origin`]: source of an event, and its life at a stage
//! - [`alias`]: names that a stage has and had, while workers of both are at work
//! - [`applied`]: consumers of the configuration that was applied last
//! - [`attempt_record`]: error event of a failed attempt
//! - [`breaker_record`]: state of one circuit breaker, shared by the fleet
//! - [`finding`]: error event of the monitor
//! - [`floor`]: sequence up to which a consumer has settled everything
//! - [`subject_pattern`]: subjects with wildcards: match, cover, overlap
//! - [`trace_context`]: W3C trace context
//! - [`mod@rfc3339`]: times as text

pub mod alias;
pub mod applied;
pub mod attempt_record;
pub mod breaker_record;
pub mod finding;
pub mod floor;
pub mod identity;
pub mod offsets;
pub mod origin;
pub mod place;
pub mod rfc3339;
pub mod subject_pattern;
pub mod subjects;
pub mod trace_context;

pub use alias::AliasRecord;
pub use applied::AppliedRecord;
pub use finding::Finding;
pub use floor::FloorRecord;
pub use identity::write_identity;
pub use offsets::Offsets;
pub use origin::Origin;
pub use place::Place;
pub use rfc3339::{parse_rfc3339, rfc3339};
pub use subjects::Names;
pub use trace_context::TraceContext;

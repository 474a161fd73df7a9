//! Exhausted: events that the server delivers to nobody again, found and dead-lettered.
//!
//! The nets under the workers; they touch the broker only.
//!
//! - [`router`]: events by the server's advisories of exhausted deliveries
//! - [`sweep`]: events that the router did not hear of, or that waited too long
//! - [`orphans`]: count of stored events that nobody will be given
//! - [`bury`]: dead letter of an event whose worker is gone

pub mod bury;
pub mod orphans;
pub mod router;
pub mod sweep;

//! Exhausted: the nets under the workers. Finds events that the server gives to nobody again, and
//! writes their dead letters.
//!
//! - [`router`]: follows the server's advisories of exhausted deliveries
//! - [`sweep`]: finds what the router did not hear of, and what waited too long
//! - [`orphans`]: counts stored events that nobody will be given
//! - [`bury`]: dead letter of an event whose worker is gone

pub mod bury;
pub mod orphans;
pub mod router;
pub mod sweep;

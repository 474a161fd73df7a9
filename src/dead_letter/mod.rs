//! Dead letter: what is given up on: the letter, the advisory router under it, and the redrive.
//!
//! - [`origin`]: where an event comes from, and which life of it at its stage this is
//! - [`letter`]: the message that an event given up on becomes; a stable header contract
//! - [`router`]: dead-letters what the server gave up on because workers died
//! - [`sweep`]: dead-letters what the server gave up on unheard, and what waited too long for a
//!   retry
//! - [`afterwards`]: what router and sweep share: a letter from the stored message and its last
//!   record
//! - [`orphans`]: which events are stored and will be given to nobody again
//! - [`late`]: what completed although it was given up on
//! - [`filter`]: which letters are meant
//! - [`amend`]: puts a changed letter in the place of a stored one
//! - [`read`]: the stored letters that a filter means, oldest or newest first
//! - [`groups`]: many letters folded into groups and totals
//! - [`story`]: what happened to the event of one letter, in order
//! - [`splice`]: one value of a JSON text is replaced
//! - [`edit`]: a letter's payload is changed, checked, and what it was is kept
//! - [`redrive`]: sends letters back to the stage that failed
//! - [`job`]: a redrive of many letters as a durable record, which whoever runs it carries on
//! - [`recovery`]: has letters redriven by themselves when their stage is up again

pub mod afterwards;
pub mod amend;
pub mod edit;
pub mod filter;
pub mod groups;
pub mod job;
pub mod late;
pub mod letter;
pub mod origin;
pub mod orphans;
pub mod read;
pub mod record;
pub mod recovery;
pub mod redrive;
pub mod router;
pub mod splice;
pub mod story;
pub mod sweep;

pub use afterwards::Afterwards;
pub use filter::LetterFilter;
pub use letter::{Letter, LetterRecord};
pub use origin::Origin;

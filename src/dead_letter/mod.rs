//! Dead letter: events given up on, stored with their reason; found, grouped, edited and marked.
//!
//! Touches the broker, and the schema folders that an edit is checked by.
//!
//! - [`letter`]: the message; a stable header contract
//! - [`store`]: a letter put on its subject, and compared with what is there
//! - [`stored`]: a stored letter and its payload: read, removed
//! - [`filter`]: conditions on letters
//! - [`read`]: stored letters that a filter matches, oldest or newest first
//! - [`groups`]: letters folded into groups and totals
//! - [`timeline`]: attempts and lives of a letter's event, in order
//! - [`aliases`]: other names of a stage that was renamed
//! - [`amend`]: a letter replaced by another in one write
//! - [`edit`]: a letter's payload changed and checked; the original kept
//! - [`splice`]: one value of a JSON text replaced, the other bytes kept
//! - [`abandon`]: letters of what is kept for a stage that is gone
//! - [`completed_late`]: mark of an event that completed although it has a letter

pub mod abandon;
pub mod aliases;
pub mod amend;
pub mod completed_late;
pub mod edit;
pub mod filter;
pub mod groups;
pub mod letter;
pub mod read;
pub mod splice;
pub mod store;
pub mod stored;
pub mod timeline;

pub use filter::LetterFilter;
pub use letter::Letter;
pub use stored::LetterRecord;

//! Keeper: one elected worker that trims edges of what every reader has settled, writes down how
//! far each reader is, makes a deleted consumer anew, and tells what expires unread. Touches the
//! broker only.
//!
//! - [`trim`]: decision how far a stream may be trimmed, and when. Pure
//! - [`loss`]: events that went unread, and how near others are to it. Pure
//! - `readers`: readers of a stream and their floors, asked of the broker
//! - [`report`]: what it tells: findings, logs, and the record that `status` shows
//! - `rounds`: a look at every stream of the pipeline
//! - [`run`]: election, and the looks one after the other

pub mod loss;
mod readers;
pub mod report;
mod rounds;
pub mod run;
pub mod trim;

pub use report::KeeperRecord;
pub use run::Keeper;

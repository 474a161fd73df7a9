//! Keeper: one elected worker that trims edges of what every reader has settled, writes down how
//! far each reader is, makes a deleted consumer anew, tells what expires unread, and looks for all
//! at what the fleet needs. Touches the broker only.
//!
//! - [`trim`]: decision how far a stream may be trimmed, and when. Pure
//! - [`loss`]: events that went unread, and how near others are to it. Pure
//! - `readers`: readers of a stream and their floors, asked of the broker
//! - `telling`: conditions told as findings, once and again while they last
//! - [`report`]: what it tells: findings, logs, and the record that `status` shows
//! - `rounds`: a look at every stream of the pipeline
//! - `judge`: states of streams, consumers and the account as conditions. Pure
//! - [`watch`]: a look at all that the fleet needs
//! - `watcher`: the elected worker's looks, published for all
//! - [`fleet_record`]: what it publishes
//! - [`hearing`]: what each worker hears of it, and its own look at the broker
//! - [`run`]: election, and the looks one after the other

pub mod fleet_record;
pub mod hearing;
mod judge;
pub mod loss;
mod readers;
pub mod report;
mod rounds;
pub mod run;
mod telling;
pub mod trim;
pub mod watch;
mod watcher;

pub use fleet_record::FleetRecord;
pub use hearing::Hearing;
pub use report::KeeperRecord;
pub use run::Keeper;

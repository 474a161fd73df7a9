//! Map: the map worker: pulls, decodes, applies, publishes, settles.
//!
//! Touches the broker and nothing else of the world; handlers and channels do.
//!
//! - [`stage`]: a map stage at work, and the consumers that it pulls from
//! - [`run`](mod@run): a stage from its first pull to the end of its drain
//! - `feed`: pulls from one consumer, which is opened again when it is gone
//! - `turn`: wait of a delivery until it may be handled
//! - `delivery`: life of one delivery, to its one settlement
//! - `decode`: event of a delivery, from its headers or envelope
//! - `prior_delivery`: outcome of the delivery before this one
//! - `attempt`: one run of an event through its line
//! - [`mod@line`]: a stage and those chained to it, as one function
//! - `stored`: publishes that hold their event until the broker has them
//! - `give_up`: dead letter of an event
//! - `park`: an event put into the retry stream
//! - [`breaker`]: circuit breakers, agreed over the fleet
//! - [`in_flight`]: deliveries in flight, and the wait until there are none
//! - [`quarantine`]: suspects, run beside few of their kind
//! - [`lives`]: lives of events in hand, so that none runs twice at once
//! - [`pulse`]: the time at which the worker last ran
//! - [`leased`]: stages that one worker of the fleet runs at a time

mod attempt;
pub mod breaker;
mod decode;
mod delivery;
mod feed;
mod give_up;
pub mod in_flight;
pub mod leased;
pub mod line;
pub mod lives;
mod park;
mod prior_delivery;
pub mod pulse;
pub mod quarantine;
pub mod run;
pub mod stage;
mod stored;
mod turn;
mod waiting;

pub use breaker::Breakers;
pub use in_flight::InFlight;
pub use leased::Leased;
pub use line::Line;
pub use lives::Lives;
pub use pulse::Pulse;
pub use quarantine::Company;
pub use run::run;
pub use stage::{Isolation, MapStage, StageConsumer};
pub use waiting::Waiting;

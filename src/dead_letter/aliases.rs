//! Aliases: names under which the letter of a stage's event may be as well, after a rename.

use crate::{
    broker::{AdminError, Broker},
    error_chain::causes_of,
    wire::{AliasRecord, Names},
};

/// Names, other than its own, under which workers of another configuration may know a stage: those
/// that it had, and, by what `apply` wrote down, the one that it has now.
///
/// Where the state bucket does not say, only those that it had: a letter waits for nothing else
/// than its own stream.
pub async fn of(broker: &Broker, names: &Names, stage: &str) -> Vec<String> {
    let mut all = names.before(stage).to_vec();
    let found = broker.kv_get(&names.state_bucket(), &AliasRecord::key(stage)).await;
    match found {
        Ok(Some((value, _))) => {
            let record = AliasRecord::read(&value).unwrap_or_default();
            all.extend(record.names.into_iter().filter(|name| name != stage));
            all.sort();
            all.dedup();
        }
        Ok(None) | Err(AdminError::NoStream { .. }) => {}
        Err(error) => {
            let cause = causes_of(&error);
            tracing::debug!(stage, error = %error, cause, "could not look for other names");
        }
    }
    all
}

//! Restarted: what is told of a stream that is another one than its offset is of.

use millstream_stages::incident::Severity;

use crate::{
    broker::{Broker, Mark},
    error_chain::chain,
    wire::{Finding, Names},
};

/// Stream that was deleted and made anew, restored, or lost with the server's memory.
pub(super) struct Restart {
    pub(super) stream: String,
    /// The last message that was applied of the one before.
    pub(super) was: Mark,
    /// Time at which this one was created, in Unix milliseconds.
    pub(super) created_ms: u64,
    /// How it shows.
    pub(super) why: String,
}

/// Tells of it: a warning and a finding. Should the finding not be stored, the warning remains.
pub(super) async fn tell(broker: &Broker, names: &Names, stage: &str, restart: &Restart) {
    let Restart { stream, was, created_ms, why } = restart;
    tracing::warn!(stage, stream, why, "a stream began again; it is read from its start");
    let finding = Finding {
        code: "StreamRestarted",
        severity: Severity::High,
        message: format!(
            "stream \"{stream}\" began again: {why}. Stage \"{stage}\" reads it from its start; \
             what the one before held and was not read is lost"
        ),
        stage,
        // One for each time, whoever leads the stage when it is found.
        id: format!("restarted:{stage}:{stream}@{created_ms}:{}@{}", was.seq, was.at_ms),
    };
    if let Err(error) = broker.publish(finding.message(names)).await {
        tracing::warn!(
            stage,
            stream,
            error = chain(&error),
            "could not store the finding that a stream began again"
        );
    }
}

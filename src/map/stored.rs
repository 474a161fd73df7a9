//! Stored: publishes that hold their event until they are stored, and the settlement that follows.

use std::time::Duration;

use millstream_stages::settle::Reason;

use super::stage::MapStage;
use crate::{
    broker::PublishError, error_chain::causes_of, limits, wire::attempt_record::AttemptReport,
};

/// Settlement of a delivery.
pub(super) enum Settled {
    Ack,
    Nak(Duration),
    Term(Reason),
    /// None: the server has given the delivery to someone else by now.
    Lapsed,
}

/// Publishes the error event of a failed attempt and waits until it is stored: counts are made from
/// it, and so is the number of the next attempt, so it comes before the settlement.
pub(super) async fn report(stage: &MapStage, report: &AttemptReport<'_>) {
    let message = report.message(&stage.names, stage.broker.now());
    if let Err(error) = until_stored(report.stage, || stage.broker.publish(message.clone())).await {
        tracing::error!(stage = report.stage, error = %error, "could not report a failed attempt");
    }
}

/// Publishes until it is stored. A broker that is down or full holds the event back; it never loses
/// it.
///
/// # Errors
/// Only what trying again cannot change: the message is too large.
pub(super) async fn until_stored<T, F>(
    stage: &str,
    publish: impl Fn() -> F,
) -> Result<T, PublishError>
where
    F: Future<Output = Result<T, PublishError>>,
{
    loop {
        match publish().await {
            Err(error @ PublishError::Failed { .. }) => {
                let cause = causes_of(&error);
                if error.refusal().is_some() {
                    // Told once, as a condition: each event that is held would say it each second.
                    tracing::debug!(stage, error = %error, cause, "refused; holding the event");
                } else {
                    tracing::warn!(
                        stage,
                        error = %error,
                        cause,
                        "could not publish; holding the event and trying again"
                    );
                }
                tokio::time::sleep(limits::PUBLISH_AGAIN_AFTER).await;
            }
            Ok(stored) => return Ok(stored),
            Err(error) => return Err(error),
        }
    }
}

//! Leased: map stages that one worker of the fleet runs at a time: the channels.
//!
//! The receivers of channels count what they are sent. A worker that lacks what a channel needs
//! leaves them to others; where none has all of it, those that lack something take turns, and say
//! what is not delivered.

use std::{sync::Arc, time::Duration};

use futures_util::future::join_all;
use tokio_util::sync::CancellationToken;

use super::{
    run::run,
    stage::{MapStage, StageConsumer},
};
use crate::{
    broker::{Broker, Lease},
    limits,
    observe::{Conditions, Trouble},
};

/// Name of the condition of the duty.
const DUTY: &str = "duty notifications";

/// End of a time at which the stages ran here.
#[derive(PartialEq, Eq)]
enum End {
    Stopped,
    Lost,
    Term,
}

/// Map stages under one lease.
pub struct Leased {
    /// The connection.
    pub broker: Broker,
    /// The bucket that holds the lease.
    pub bucket: String,
    /// The name of the lease.
    pub lease: &'static str,
    /// The worker.
    pub worker: String,
    /// Time for which others are preferred.
    pub patience: Duration,
    /// The stages, and what each pulls from.
    pub stages: Vec<(Arc<MapStage>, Vec<StageConsumer>)>,
    /// Channels that cannot be set up on this worker, each with the reason.
    pub missing: Vec<String>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
}

impl Leased {
    /// Runs the stages whenever this worker has the lease, until `stop`; then drains and gives it
    /// back, so that another goes on at once. A worker that has lost it finishes what it has in
    /// flight: each is delivered to one worker only.
    pub async fn run(&self, stop: CancellationToken, abandon: CancellationToken) {
        if self.stages.is_empty() && self.missing.is_empty() {
            return stop.cancelled().await;
        }
        let patience = match self.missing.is_empty() {
            true => self.patience,
            false => self.patience + limits::DUTY_LAST_RESORT,
        };
        loop {
            let elected = Lease::acquire_after(
                patience,
                &self.broker,
                &self.bucket,
                self.lease,
                &self.worker,
            );
            let mut lease = tokio::select! {
                lease = elected => lease,
                () = self.leave_to_others() => unreachable!("it goes on for ever"),
                () = stop.cancelled() => return,
            };
            tracing::info!(worker = self.worker, term = lease.term(), "delivers notifications");
            match self.trouble() {
                None => self.conditions.ok(DUTY),
                Some(trouble) => self.conditions.failing(DUTY, trouble),
            }
            let turn = stop.child_token();
            let runs = self.stages.iter().map(|(stage, feeds)| {
                let (turn, abandon) = (turn.clone(), abandon.clone());
                run(Arc::clone(stage), feeds.clone(), turn, abandon)
            });
            let mut running = std::pin::pin!(async {
                join_all(runs).await;
                // With nothing to run, the duty is held all the same.
                turn.cancelled().await;
            });
            let end = tokio::select! {
                () = &mut running => End::Stopped,
                () = lease.keep() => End::Lost,
                () = tokio::time::sleep(limits::DUTY_TERM), if !self.missing.is_empty() => {
                    End::Term
                }
            };
            turn.cancel();
            match end {
                End::Stopped => {}
                End::Lost => {
                    let worker = &self.worker;
                    tracing::warn!(worker, "another worker delivers notifications now");
                    running.await;
                }
                // Kept while what is in hand is finished, so that nobody else begins before.
                End::Term => tokio::select! {
                    () = &mut running => {}
                    () = async { lease.keep().await; std::future::pending().await } => {}
                },
            }
            for (stage, feeds) in &self.stages {
                feeds.iter().for_each(|feed| stage.conditions.forget(&feed.condition()));
            }
            if self.missing.is_empty() {
                self.conditions.forget(DUTY);
            }
            if end != End::Lost {
                lease.release().await;
            }
            if stop.is_cancelled() {
                return;
            }
        }
    }

    /// Trouble of a duty that this worker can do in part only, and nobody else does better.
    fn trouble(&self) -> Option<Trouble> {
        if self.missing.is_empty() {
            return None;
        }
        let why = format!(
            "no other worker delivers notifications, and worker {} lacks what it needs: {}",
            self.worker,
            self.missing.join("; ")
        );
        let remedy = "mend it on this worker's host and start it again, or start a worker that has \
                      what it needs; notifications of the channel wait meanwhile";
        Some(Trouble::with_remedy(why, remedy))
    }

    /// Withdraws the trouble of a duty that somebody else has taken meanwhile.
    async fn leave_to_others(&self) {
        if self.missing.is_empty() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(limits::REBIND_WAIT_MAX).await;
            let holder = Lease::holder(&self.broker, &self.bucket, self.lease).await;
            if holder.is_ok_and(|holder| holder.is_some_and(|holder| holder != self.worker)) {
                self.conditions.forget(DUTY);
            }
        }
    }
}

impl std::fmt::Debug for Leased {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Leased")
            .field("lease", &self.lease)
            .field("stages", &self.stages.len())
            .field("missing", &self.missing)
            .finish_non_exhaustive()
    }
}

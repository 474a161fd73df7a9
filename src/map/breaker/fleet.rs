//! Fleet: breakers of one worker, and what they and those of the others report to each other.

use std::{collections::BTreeMap, sync::Arc};

use futures_util::{TryStreamExt as _, future::join_all};
use tokio::{sync::Notify, time::sleep_until};
use tokio_util::sync::CancellationToken;

use super::Breaker;
use crate::{
    broker::{Broker, CommitError, KvHeard},
    config::Pipeline,
    limits,
    observe::Metrics,
    wire::{Names, breaker_record::BreakerRecord},
};

/// Breakers of one worker, by stage.
#[derive(Debug)]
pub struct Breakers {
    broker: Broker,
    bucket: String,
    names: Names,
    of: BTreeMap<String, Arc<Breaker>>,
    none: Arc<Breaker>,
    unreported: Arc<Notify>,
    timer: Arc<Notify>,
}

impl Breakers {
    /// Loads the breakers of the pipeline's stages, as the fleet left them: what is open begins
    /// open. If the broker does not answer, they begin closed.
    pub async fn load(
        broker: &Broker,
        pipeline: &Pipeline,
        metrics: &Metrics,
        worker: &str,
    ) -> Self {
        let (unreported, timer) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let guarded =
            pipeline.stages.iter().filter_map(|stage| Some((stage, stage.breaker.clone()?)));
        let of = guarded.map(|(stage, settings)| {
            let metrics = metrics.stage(&stage.name);
            let waking = (&unreported, &timer);
            let breaker = Breaker::new(&stage.name, worker, broker, settings, metrics, waking);
            (stage.name.clone(), Arc::new(breaker))
        });
        let breakers = Self {
            of: of.collect(),
            bucket: pipeline.names().state_bucket(),
            names: pipeline.names(),
            broker: broker.clone(),
            none: Arc::new(Breaker::none()),
            unreported,
            timer,
        };
        let looks = breakers.of.iter().map(|(stage, breaker)| breakers.look(stage, breaker));
        for error in join_all(looks).await.into_iter().filter_map(Result::err) {
            tracing::debug!(
                error = %error,
                "could not read a circuit breaker's state; it begins closed"
            );
        }
        breakers
    }

    /// Breaker of a stage; one that never opens if it has none.
    pub fn of(&self, stage: &str) -> Arc<Breaker> {
        Arc::clone(self.of.get(stage).unwrap_or(&self.none))
    }

    /// Hears what other workers found, reports to them what this one finds, and lets probes through
    /// when it is time, until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        if self.of.is_empty() {
            return stop.cancelled().await;
        }
        stop.run_until_cancelled(async { tokio::join!(self.hear(), self.report(), self.time()) })
            .await;
    }

    async fn hear(&self) {
        let prefix = Names::breaker_key("");
        let mut changes = std::pin::pin!(self.broker.kv_follow(&self.bucket, &prefix));
        loop {
            match changes.try_next().await {
                // What was known of it is of another bucket, whose revisions mean nothing here.
                Ok(Some(KvHeard::Anew)) => self.of.values().for_each(|breaker| breaker.no_key()),
                Ok(Some(KvHeard::Change(change))) => {
                    let stage = change.key.strip_prefix(&prefix).unwrap_or_default();
                    let Some(breaker) = self.of.get(stage) else { continue };
                    match change.value {
                        Some(value) => {
                            breaker.seen(BreakerRecord::read(&value), change.revision);
                        }
                        None => breaker.deleted(change.revision),
                    }
                }
                Ok(None) => return,
                // It goes on by itself.
                Err(error) => {
                    tracing::debug!(
                        error = %error,
                        "cannot hear of the circuit breakers of other workers"
                    )
                }
            }
        }
    }

    async fn report(&self) {
        loop {
            self.unreported.notified().await;
            while !self.report_all().await {
                tokio::time::sleep(limits::BREAKER_WRITE_AGAIN_AFTER).await;
            }
        }
    }

    /// Reports all that is to be reported; true if nothing is left.
    async fn report_all(&self) -> bool {
        for (stage, breaker) in &self.of {
            while let Some((record, revision)) = breaker.unreported() {
                if let Err(error) = self.report_one(stage, breaker, &record, revision).await {
                    tracing::debug!(
                        stage,
                        error = %error,
                        "could not tell of a circuit breaker; trying again"
                    );
                    return false;
                }
            }
        }
        true
    }

    async fn report_one(
        &self,
        stage: &str,
        breaker: &Breaker,
        record: &BreakerRecord,
        revision: u64,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let key = Names::breaker_key(stage);
        let written = match revision {
            0 => self.broker.kv_create(&self.bucket, &key, record.written()).await,
            _ => self.broker.kv_update(&self.bucket, &key, record.written(), revision).await,
        };
        match written {
            Ok(revision) => {
                breaker.reported(record, revision);
                // The fleet hears of it first. Should the finding be lost, the next probe that
                // fails makes another.
                if let Some(finding) = record.finding(stage, revision) {
                    self.broker.publish(finding.message(&self.names)).await?;
                }
            }
            // Another worker was first, or an earlier try of ours whose answer was lost.
            Err(CommitError::Fenced { .. }) => {
                self.look(stage, breaker).await?;
                if breaker.unreported().as_ref() == Some(&(record.clone(), revision)) {
                    // The key is older than what we know of it: the bucket was made anew.
                    breaker.no_key();
                    return Err("the key is not the one that was read before".into());
                }
            }
            Err(error @ CommitError::Failed { .. }) => return Err(error.into()),
        }
        Ok(())
    }

    async fn look(
        &self,
        stage: &str,
        breaker: &Breaker,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        match self.broker.kv_get(&self.bucket, &Names::breaker_key(stage)).await? {
            Some((value, revision)) => breaker.seen(BreakerRecord::read(&value), revision),
            None => breaker.no_key(),
        }
        Ok(())
    }

    async fn time(&self) {
        loop {
            let next = self.of.values().filter_map(|breaker| breaker.tick()).min();
            let due = async {
                match next {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = due => {}
                () = self.timer.notified() => {}
            }
        }
    }
}

//! Lease: a claim on work that one worker does for all, so that two seldom try at once.
//!
//! Writes of two holders must be safe all the same, by a fence of their own; the lease only makes
//! that rare.
//!
//! The holder rewrites one key each second. A standby watches its revision on its own monotonic
//! clock: a key that has not moved for [`limits::LEASE`] is taken by compare-and-set. No two clocks
//! are compared.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::{AdminError, Broker, CommitError};
use crate::{error_chain::chain, limits};

/// Value of the key. No worker: the lease was given back, and may be taken at once.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
struct Holder {
    worker: Option<String>,
    term: u64,
}

/// Lease that is held.
#[derive(Debug)]
pub struct Lease {
    broker: Broker,
    bucket: String,
    key: String,
    holder: Holder,
    revision: u64,
    /// Time of the last renewal: the lease lasts from before the write, not from its answer.
    renewed: Instant,
}

impl Lease {
    /// Waits until the lease called `stage` is free and takes it for `worker`. Errors are tried
    /// again.
    pub async fn acquire(broker: &Broker, bucket: &str, stage: &str, worker: &str) -> Self {
        Self::acquire_every(limits::LEASE_POLL, broker, bucket, stage, worker).await
    }

    /// Waits for a lease as [`Lease::acquire`] does, and takes it only once nobody else has for
    /// `patience`: others are preferred. It looks once a second: what waits for it is not urgent.
    pub async fn acquire_after(
        patience: Duration,
        broker: &Broker,
        bucket: &str,
        stage: &str,
        worker: &str,
    ) -> Self {
        Self::wait(limits::LEASE_RENEW, patience, broker, bucket, stage, worker).await
    }

    /// Worker that holds a lease, as far as its key says.
    ///
    /// # Errors
    /// The key cannot be read.
    pub async fn holder(
        broker: &Broker,
        bucket: &str,
        stage: &str,
    ) -> Result<Option<String>, AdminError> {
        let found = broker.kv_get(bucket, &format!("{stage}.lease")).await?;
        let holder =
            |(value, _): (_, u64)| serde_json::from_slice::<Holder>(&Vec::from(value)).ok();
        Ok(found.and_then(holder).and_then(|holder| holder.worker))
    }

    /// Waits for a lease as [`Lease::acquire`] does, and looks at it only so often.
    pub async fn acquire_every(
        poll: Duration,
        broker: &Broker,
        bucket: &str,
        stage: &str,
        worker: &str,
    ) -> Self {
        Self::wait(poll, Duration::ZERO, broker, bucket, stage, worker).await
    }

    async fn wait(
        poll: Duration,
        patience: Duration,
        broker: &Broker,
        bucket: &str,
        stage: &str,
        worker: &str,
    ) -> Self {
        let key = format!("{stage}.lease");
        let mut seen: Option<(u64, Instant)> = None;
        loop {
            let renewed = Instant::now();
            let found = broker.kv_get(bucket, &key).await;
            let (held, revision) = match found {
                Ok(found) => found.map_or_else(
                    || (Holder::default(), 0),
                    |(value, revision)| {
                        (serde_json::from_slice(&value).unwrap_or_default(), revision)
                    },
                ),
                Err(error) => {
                    // That the bucket cannot be read is a condition of the worker.
                    let error = chain(&error);
                    tracing::debug!(stage, worker, error, "could not look at the lease");
                    // The holder could not renew it either: it is given its time anew.
                    seen = None;
                    tokio::time::sleep(limits::STEP_DOWN_WAIT).await;
                    continue;
                }
            };
            let since = match seen {
                Some((before, since)) if before == revision => since,
                _ => renewed,
            };
            seen = Some((revision, since));
            let free_after =
                if held.worker.is_none() { patience } else { limits::LEASE + patience };
            if since.elapsed() >= free_after {
                let holder = Holder { worker: Some(worker.to_owned()), term: held.term + 1 };
                let written = match revision {
                    0 => broker.kv_create(bucket, &key, holder.written()).await,
                    _ => broker.kv_update(bucket, &key, holder.written(), revision).await,
                };
                match written {
                    Ok(revision) => {
                        let (broker, bucket) = (broker.clone(), bucket.to_owned());
                        return Self { broker, bucket, key, holder, revision, renewed };
                    }
                    Err(CommitError::Fenced { .. }) => {}
                    Err(error @ CommitError::Failed { .. }) => {
                        let error = chain(&error);
                        tracing::debug!(stage, worker, error, "could not take the lease");
                    }
                }
            }
            // One that is renewed is looked at more seldom: given back, it is seen soon enough.
            let is_late = held.worker.is_none() || since.elapsed() > limits::LEASE_RENEW;
            tokio::time::sleep(if is_late { poll } else { poll.max(limits::LEASE_STANDBY) }).await;
        }
    }

    /// Number of times the lease has been taken.
    pub fn term(&self) -> u64 {
        self.holder.term
    }

    /// Renews the lease for as long as it can; returns when it is lost.
    pub async fn keep(&mut self) {
        loop {
            tokio::time::sleep_until(self.renewed + limits::LEASE_RENEW).await;
            let (lost_at, trying) = (self.renewed + limits::LEASE, Instant::now());
            match tokio::time::timeout_at(lost_at, self.renew()).await {
                Ok(true) => self.renewed = trying,
                Ok(false) => {
                    tokio::time::sleep_until(lost_at.min(trying + limits::LEASE_POLL)).await
                }
                Err(_) => return,
            }
            if self.renewed.elapsed() >= limits::LEASE {
                return;
            }
        }
    }

    /// Writes the key once more. False: not now, or never again, which time tells.
    async fn renew(&mut self) -> bool {
        match self
            .broker
            .kv_update(&self.bucket, &self.key, self.holder.written(), self.revision)
            .await
        {
            Ok(revision) => {
                self.revision = revision;
                true
            }
            Err(_) => {
                // A write whose answer was lost has moved the revision: then the key still says
                // that it is ours.
                if let Ok(Some((value, revision))) =
                    self.broker.kv_get(&self.bucket, &self.key).await
                    && value == self.holder.written()
                {
                    self.revision = revision;
                }
                false
            }
        }
    }

    /// Gives the lease back, so that a standby may take it at once.
    pub async fn release(self) {
        let nobody = Holder { worker: None, term: self.holder.term };
        // If this fails, the lease ends by itself.
        self.broker.kv_update(&self.bucket, &self.key, nobody.written(), self.revision).await.ok();
    }
}

impl Holder {
    fn written(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a holder is plain data")
    }
}

//! Front: metrics and conditions of a worker, and the port that shows them, from its first moment:
//! before the broker answers.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, OnceLock},
};

use tokio_util::sync::CancellationToken;

use super::{Conditions, Endpoints, Metrics, Trouble, bind, http::ServeError};
use crate::{config::Pipeline, limits};

/// What a worker shows of itself.
#[derive(Debug)]
pub struct Front {
    /// Counters of the worker.
    pub metrics: Arc<Metrics>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
    /// Address that the configuration names.
    address: Option<SocketAddr>,
    /// Port, once it is ours.
    endpoints: OnceLock<Endpoints>,
}

impl Front {
    /// Opens the port that the configuration names, if it names one. An address that someone else
    /// has is tried again while it is served: a worker works without it, and says so.
    ///
    /// # Errors
    /// [`ServeError`]: the address is not ours.
    pub async fn open(pipeline: &Pipeline) -> Result<Self, ServeError> {
        let front = Self {
            metrics: Metrics::new(pipeline),
            conditions: Arc::default(),
            address: pipeline.observe.listen,
            endpoints: OnceLock::new(),
        };
        front.conditions.expect("broker", "not connected yet");
        match front.bind().await {
            Err(error) if !is_taken(&error) => Err(error),
            Ok(()) | Err(_) => Ok(front),
        }
    }

    /// Address at which they are served; `None`: nowhere, or it is taken.
    pub fn listening(&self) -> Option<SocketAddr> {
        self.endpoints.get().map(|endpoints| endpoints.bound)
    }

    /// Serves while `work` goes on.
    pub async fn during<T>(&self, work: impl Future<Output = T>) -> T {
        let stop = CancellationToken::new();
        tokio::select! {
            biased;
            done = work => done,
            done = async { self.run(stop).await; std::future::pending().await } => done,
        }
    }

    /// Serves until `stop`; waits for the address before, if it is taken.
    pub async fn run(&self, stop: CancellationToken) {
        if self.address.is_none() {
            return stop.cancelled().await;
        }
        if self.endpoints.get().is_none()
            && stop.run_until_cancelled(self.wait_for_address()).await.is_none()
        {
            return;
        }
        if let Some(endpoints) = self.endpoints.get() {
            endpoints.run(stop).await;
        }
    }

    async fn bind(&self) -> Result<(), ServeError> {
        if let Some(address) = self.address
            && self.endpoints.get().is_none()
        {
            let (metrics, conditions) = (Arc::clone(&self.metrics), Arc::clone(&self.conditions));
            let bound = bind(address, metrics, conditions).await?;
            // Nobody else binds it.
            self.endpoints.set(bound).ok();
        }
        Ok(())
    }

    async fn wait_for_address(&self) {
        let name = format!("port {}", self.address.map(|at| at.to_string()).unwrap_or_default());
        while self.bind().await.is_err() {
            let trouble = Trouble::with_remedy(
                "it is taken, as by another worker on this host, so /metrics and /readyz of this \
                 one are not served",
                "give this worker another one, such as --set observe.listen=127.0.0.1:0",
            );
            self.conditions.failing(&name, trouble);
            tokio::time::sleep(limits::PORT_AGAIN_AFTER).await;
        }
        self.conditions.ok(&name);
        tracing::info!(listening = ?self.listening(), "the address is free: serving on it");
    }
}

/// True if another process has the address.
fn is_taken(error: &ServeError) -> bool {
    let ServeError::Listen { source, .. } = error;
    source.kind() == io::ErrorKind::AddrInUse
}

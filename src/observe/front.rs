//! Front: metrics and conditions of a worker, and the port that shows them, from its first moment:
//! before the broker answers.

use std::{io, net::SocketAddr, sync::Arc};

use tokio_util::sync::CancellationToken;

use super::{Conditions, Metrics, Trouble, http::ServeError, serve};
use crate::{config::Pipeline, limits};

/// What a worker shows of itself.
#[derive(Debug)]
pub struct Front {
    /// Counters of the worker.
    pub metrics: Arc<Metrics>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
    /// Address at which they are served; `None`: nowhere, or it is taken yet.
    pub listening: Option<SocketAddr>,
    /// End of the serving.
    pub stop: CancellationToken,
}

impl Front {
    /// Opens the port that the configuration names, if it names one. An address that someone else
    /// has is tried again until it is free: a worker works without it, and says so.
    ///
    /// # Errors
    /// [`ServeError`]: the address is not ours.
    pub async fn open(pipeline: &Pipeline) -> Result<Self, ServeError> {
        let mut front = Self {
            metrics: Metrics::new(pipeline),
            conditions: Arc::default(),
            listening: None,
            stop: CancellationToken::new(),
        };
        front.conditions.expect("broker", "not connected yet");
        let Some(address) = pipeline.observe.listen else { return Ok(front) };
        match front.serve(address).await {
            Ok(at) => front.listening = Some(at),
            Err(error) if is_taken(&error) => front.wait_for(address),
            Err(error) => return Err(error),
        }
        Ok(front)
    }

    fn serve(
        &self,
        address: SocketAddr,
    ) -> impl Future<Output = Result<SocketAddr, ServeError>> + use<> {
        let (metrics, conditions) = (Arc::clone(&self.metrics), Arc::clone(&self.conditions));
        serve(address, metrics, conditions, self.stop.clone())
    }

    /// Serves at an address once it is free.
    fn wait_for(&self, address: SocketAddr) {
        let name = format!("port {address}");
        let trouble = Trouble::with_remedy(
            "it is taken, as by another worker on this host, so /metrics and /readyz of this one \
             are not served",
            "give this worker another one, such as --set observe.listen=127.0.0.1:0",
        );
        self.conditions.failing(&name, trouble);
        let (conditions, stop) = (Arc::clone(&self.conditions), self.stop.clone());
        let again = {
            let front = Self {
                metrics: Arc::clone(&self.metrics),
                conditions: Arc::clone(&self.conditions),
                listening: None,
                stop: self.stop.clone(),
            };
            async move {
                loop {
                    tokio::time::sleep(limits::PORT_AGAIN_AFTER).await;
                    if let Ok(at) = front.serve(address).await {
                        return at;
                    }
                }
            }
        };
        tokio::spawn(async move {
            if let Some(at) = stop.run_until_cancelled(again).await {
                conditions.ok(&name);
                tracing::info!(listening = %at, "the address is free: serving on it");
            }
        });
    }
}

/// True if another process has the address.
fn is_taken(error: &ServeError) -> bool {
    let ServeError::Listen { source, .. } = error;
    source.kind() == io::ErrorKind::AddrInUse
}

//! HTTP: `/metrics`, `/healthz` and `/readyz`, for whatever watches a worker.

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use axum::{
    Json, Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::metrics::Metrics;

/// The media type of [`Metrics::render`].
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What must hold before a worker may be counted on, by name. Nothing named yet: it may not.
#[derive(Debug, Default)]
pub struct Readiness {
    /// Each condition with the reason that it does not hold.
    conditions: Mutex<BTreeMap<String, Option<String>>>,
}

/// The endpoints could not be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken, or not ours.
    #[error(
        "could not listen on {address} for /metrics and /readyz: set observe.listen to a free address of this host, port 0 for any"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
}

impl Readiness {
    /// Says that a condition holds.
    pub fn ok(&self, condition: &str) {
        self.conditions().insert(condition.to_owned(), None);
    }

    /// Says that a condition does not hold, and why. Also how a condition is first named, before
    /// anything is ready.
    pub fn failing(&self, condition: &str, reason: impl Into<String>) {
        self.conditions().insert(condition.to_owned(), Some(reason.into()));
    }

    /// Takes a condition out: it no longer matters.
    pub fn forget(&self, condition: &str) {
        self.conditions().remove(condition);
    }

    /// What does not hold, each with its reason; empty when the worker is ready.
    pub fn missing(&self) -> Vec<(String, String)> {
        let conditions = self.conditions();
        if conditions.is_empty() {
            return vec![("worker".to_owned(), "it has not started".to_owned())];
        }
        let failing =
            conditions.iter().filter_map(|(what, why)| Some((what.clone(), why.clone()?)));
        failing.collect()
    }

    fn conditions(&self) -> MutexGuard<'_, BTreeMap<String, Option<String>>> {
        self.conditions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves the endpoints until `stop`, and returns the address once it is bound (port 0: any free
/// one).
///
/// # Errors
/// [`ServeError::Listen`].
pub async fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    readiness: Arc<Readiness>,
    stop: CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let routes = Router::new()
        .route("/metrics", get(show_metrics).with_state(metrics))
        .route("/healthz", get(|| async { Json(json!({ "alive": true })) }))
        .route("/readyz", get(show_readiness).with_state(readiness));
    tokio::spawn(async move {
        // `axum::serve` does not return an error; it goes on after a failed accept.
        axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await.ok();
    });
    Ok(bound)
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.render())
}

async fn show_readiness(State(readiness): State<Arc<Readiness>>) -> (StatusCode, Json<Value>) {
    let missing = readiness.missing();
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let list: Vec<Value> =
        missing.iter().map(|(what, why)| json!({ "what": what, "why": why })).collect();
    (status, Json(json!({ "ready": missing.is_empty(), "missing": list })))
}

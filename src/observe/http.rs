//! HTTP: `/metrics`, `/healthz` and `/readyz` of a worker.

use std::{io, net::SocketAddr, sync::Arc};

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

use super::{Condition, Conditions, metrics::Metrics};
use crate::wire::rfc3339;

/// The media type of [`Metrics::render`].
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Failure to serve the endpoints.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// Address that is taken, or not ours.
    #[error(
        "could not listen on {address} for /metrics and /readyz: set observe.listen to a free \
         address of this host, port 0 for any"
    )]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Error of the system.
        source: io::Error,
    },
}

/// Serves the endpoints until `stop`, and returns the address once it is bound (port 0: any free
/// one).
///
/// # Errors
/// [`ServeError::Listen`].
pub async fn serve(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    conditions: Arc<Conditions>,
    stop: CancellationToken,
) -> Result<SocketAddr, ServeError> {
    let failed = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let routes = Router::new()
        .route("/metrics", get(show_metrics).with_state(metrics))
        .route("/healthz", get(|| async { Json(json!({ "alive": true })) }))
        .route("/readyz", get(show_readiness).with_state(conditions));
    tokio::spawn(async move {
        // `axum::serve` does not return an error; it goes on after a failed accept.
        axum::serve(listener, routes).with_graceful_shutdown(stop.cancelled_owned()).await.ok();
    });
    Ok(bound)
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.render())
}

async fn show_readiness(State(conditions): State<Arc<Conditions>>) -> (StatusCode, Json<Value>) {
    let (missing, harmless) = (conditions.failed(), conditions.harmless());
    let status = if missing.is_empty() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let ready = json!({
        "ready": missing.is_empty(),
        "missing": listed(&missing),
        "harmless": listed(&harmless),
    });
    (status, Json(ready))
}

fn listed(conditions: &[(String, Condition)]) -> Vec<Value> {
    let told = |(what, condition): &(String, Condition)| {
        let trouble = condition.trouble.as_ref();
        let (why, remedy) = (trouble.map(|t| &t.why), trouble.and_then(|t| t.remedy.as_ref()));
        json!({ "what": what, "why": why, "since": rfc3339(condition.since), "remedy": remedy })
    };
    conditions.iter().map(told).collect()
}

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
use crate::{http_server, wire::rfc3339};

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

/// Endpoints at an address of their own.
#[derive(Debug)]
pub struct Endpoints {
    listener: std::net::TcpListener,
    /// Address that is bound: a free port where port 0 was asked for.
    pub bound: SocketAddr,
    routes: Router,
}

/// Binds the address of the endpoints, which answer once they are served.
///
/// # Errors
/// [`ServeError::Listen`].
pub async fn bind(
    listen: SocketAddr,
    metrics: Arc<Metrics>,
    conditions: Arc<Conditions>,
) -> Result<Endpoints, ServeError> {
    let failed = |source| ServeError::Listen { address: listen, source };
    let listener = TcpListener::bind(listen).await.and_then(TcpListener::into_std);
    let listener = listener.map_err(failed)?;
    let bound = listener.local_addr().map_err(failed)?;
    let routes = Router::new()
        .route("/metrics", get(show_metrics).with_state(metrics))
        .route("/healthz", get(|| async { Json(json!({ "alive": true })) }))
        .route("/readyz", get(show_readiness).with_state(conditions));
    Ok(Endpoints { listener, bound, routes })
}

impl Endpoints {
    /// Serves the endpoints until `stop`. The address stays ours if this is dropped or panics.
    pub async fn run(&self, stop: CancellationToken) {
        let listener = self.listener.try_clone().and_then(TcpListener::from_std);
        match listener {
            Ok(listener) => http_server::serve(listener, self.routes.clone(), stop).await,
            Err(error) => tracing::warn!(%error, "could not serve /metrics and /readyz"),
        }
    }
}

async fn show_metrics(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.render())
}

async fn show_readiness(State(conditions): State<Arc<Conditions>>) -> (StatusCode, Json<Value>) {
    let missing = conditions.failed();
    let is_ready = missing.is_empty();
    let status = if is_ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let mut answer = json!({ "ready": is_ready, "missing": list(&missing) });
    let elsewhere = conditions.elsewhere();
    if !elsewhere.is_empty() {
        answer["elsewhere"] = list(&elsewhere);
    }
    let harmless = conditions.harmless();
    if !harmless.is_empty() {
        answer["harmless"] = list(&harmless);
    }
    (status, Json(answer))
}

fn list(failed: &[(String, Condition)]) -> Value {
    let each = failed.iter().map(|(what, condition)| {
        let trouble = condition.trouble.as_ref();
        let (why, remedy) = (trouble.map(|t| &t.why), trouble.and_then(|t| t.remedy.as_ref()));
        json!({ "what": what, "why": why, "since": rfc3339(condition.since), "remedy": remedy })
    });
    each.collect()
}

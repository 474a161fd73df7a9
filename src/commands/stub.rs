//! Stub: the HTTP service of the demo. It fails in four ways, and keeps the first alert it is sent.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use anyhow::Context as _;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    response::IntoResponse,
    routing::post,
};
use serde_json::Value;

/// Answer of the demo's service to an event, which asks for it in `eventData.note`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Note {
    /// Answers 204.
    Fine,
    /// Answers, but later than the handler waits.
    Slow,
    /// Answers 500 twice, then 204.
    Flaky,
    /// Always answers 500.
    Broken,
    /// Answers 400.
    Refused,
}

impl Note {
    /// Text of the note in an event.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::Fine => "fine",
            Self::Slow => "slow",
            Self::Flaky => "flaky",
            Self::Broken => "broken",
            Self::Refused => "refused",
        }
    }

    fn of(event: &Value) -> Self {
        let note = event["eventData"]["note"].as_str().unwrap_or_default();
        let all = [Self::Slow, Self::Flaky, Self::Broken, Self::Refused];
        all.into_iter().find(|known| known.text() == note).unwrap_or(Self::Fine)
    }
}

/// The service, until it is dropped.
pub(super) struct Stub {
    pub(super) address: SocketAddr,
    alerts: Arc<Mutex<Vec<Value>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Stub {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
            .await
            .context("could not open a port for the demo's service")?;
        let address =
            listener.local_addr().context("could not open a port for the demo's service")?;
        let alerts = Arc::new(Mutex::new(Vec::new()));
        let routes = Router::new()
            .route("/orders", post(handle))
            .route("/payments", post(handle))
            .route("/alerts", post(alert))
            .with_state(Arc::clone(&alerts));
        let task = tokio::spawn(async move {
            axum::serve(listener, routes).await.ok();
        });
        Ok(Self { address, alerts, task })
    }

    /// The first alert that was sent here.
    pub(super) fn first_alert(&self) -> Option<Value> {
        self.alerts.lock().expect("nothing panics while it is held").first().cloned()
    }
}

impl Drop for Stub {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn handle(headers: HeaderMap, body: Bytes) -> impl IntoResponse {
    let attempt: u32 = headers
        .get("millstream-attempt")
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .unwrap_or(1);
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    match Note::of(&event) {
        Note::Fine => (StatusCode::NO_CONTENT, ""),
        Note::Slow => {
            tokio::time::sleep(Duration::from_secs(3)).await;
            (StatusCode::NO_CONTENT, "")
        }
        Note::Flaky if attempt > 2 => (StatusCode::NO_CONTENT, ""),
        Note::Flaky => (StatusCode::INTERNAL_SERVER_ERROR, "deadlock detected, try again"),
        Note::Broken => (StatusCode::INTERNAL_SERVER_ERROR, "stock ledger 4711 is read-only"),
        Note::Refused => (StatusCode::BAD_REQUEST, "currency XTS is not accepted"),
    }
}

async fn alert(State(alerts): State<Arc<Mutex<Vec<Value>>>>, body: Bytes) -> StatusCode {
    let alert = serde_json::from_slice(&body).unwrap_or_default();
    alerts.lock().expect("nothing panics while it is held").push(alert);
    StatusCode::NO_CONTENT
}

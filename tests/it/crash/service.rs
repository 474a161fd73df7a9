//! Service: HTTP service that the fleet hands its events to, with its ledger of accepted events.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;

/// HTTP service, until it is dropped.
pub(super) struct Service {
    pub(super) address: SocketAddr,
    books: Arc<Accounts>,
    task: tokio::task::JoinHandle<()>,
}

struct Accounts {
    /// Time that each event takes.
    takes: Duration,
    /// Times that each event was accepted, by its id.
    accepted: Mutex<HashMap<String, u32>>,
    calls: AtomicUsize,
}

impl Service {
    pub(super) async fn start(takes: Duration) -> Self {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let books =
            Arc::new(Accounts { takes, accepted: Mutex::default(), calls: AtomicUsize::new(0) });
        let routes = Router::new()
            .route("/orders", post(handle))
            .route("/payments", post(handle))
            .route("/alerts", post(async || StatusCode::NO_CONTENT))
            .with_state(Arc::clone(&books));
        let task = tokio::spawn(async move {
            axum::serve(listener, routes).await.ok();
        });
        Self { address, books, task }
    }

    /// Times that each event was accepted so far, by its id.
    pub(super) fn accepted(&self) -> HashMap<String, u32> {
        self.books.accepted.lock().unwrap().clone()
    }

    /// Events accepted so far.
    pub(super) fn accepted_len(&self) -> usize {
        self.books.accepted.lock().unwrap().len()
    }

    /// Calls so far, whatever was answered.
    pub(super) fn calls(&self) -> usize {
        self.books.calls.load(Ordering::Relaxed)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers an event as its note asks.
async fn handle(State(books): State<Arc<Accounts>>, headers: HeaderMap, body: Bytes) -> StatusCode {
    let header = |name| headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let attempt: u32 = header("millstream-attempt").parse().unwrap();
    books.calls.fetch_add(1, Ordering::Relaxed);
    let event: Value = serde_json::from_slice(&body).unwrap_or_default();
    match event["eventData"]["note"].as_str() {
        Some("refused") => return StatusCode::BAD_REQUEST,
        Some("broken") => return StatusCode::INTERNAL_SERVER_ERROR,
        Some("flaky") if attempt <= 2 => return StatusCode::INTERNAL_SERVER_ERROR,
        Some(_) | None => {}
    }
    // Written down before the time passes: a caller that gives up has been served all the same.
    *books.accepted.lock().unwrap().entry(header("millstream-event-id").to_owned()).or_default() +=
        1;
    tokio::time::sleep(books.takes).await;
    StatusCode::NO_CONTENT
}

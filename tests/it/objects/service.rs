//! Service: HTTP service that the fleet hands its events to, with its ledger of calls.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    extract::{Path, State},
    http::{HeaderMap, StatusCode},
    routing::post,
};
use serde_json::Value;
use tokio::task::JoinHandle;

/// Calls that the service had.
#[derive(Default)]
pub(crate) struct Calls {
    /// Calls, and those of them that were accepted, by stage and event.
    events: Mutex<HashMap<(String, String), (u32, u32)>>,
    /// Bodies of notifications.
    alerts: Mutex<Vec<String>>,
    /// True once the service takes whatever comes.
    is_mended: AtomicBool,
    /// Time that the stage `second` takes, in milliseconds.
    second_takes_ms: AtomicU64,
}

impl Calls {
    /// Times that each event was accepted at a stage.
    pub(crate) fn accepted(&self, stage: &str) -> HashMap<String, u32> {
        let events = self.events.lock().unwrap();
        let at_stage =
            events.iter().filter(|((at, _), (_, accepted))| at == stage && *accepted > 0);
        at_stage.map(|((_, id), (_, accepted))| (id.clone(), *accepted)).collect()
    }

    pub(crate) fn is_done(&self, id: &str) -> bool {
        let key = ("second".to_owned(), id.to_owned());
        self.events.lock().unwrap().get(&key).is_some_and(|(_, accepted)| *accepted > 0)
    }

    /// Calls of events beyond what their kinds ask for.
    pub(crate) fn repeated(&self) -> u32 {
        let events = self.events.lock().unwrap();
        events.values().map(|(_, accepted)| accepted.saturating_sub(1)).sum()
    }

    /// Has the service take whatever comes.
    pub(crate) fn mend(&self) {
        self.is_mended.store(true, Ordering::SeqCst);
    }

    /// Has the stage `second` take its time.
    pub(crate) fn slow_down(&self, second: Duration) {
        self.second_takes_ms.store(second.as_millis() as u64, Ordering::SeqCst);
    }

    pub(crate) fn alerts(&self) -> Vec<String> {
        self.alerts.lock().unwrap().clone()
    }
}

async fn call(
    State(calls): State<Arc<Calls>>,
    Path(stage): Path<String>,
    headers: HeaderMap,
    body: Bytes,
) -> (StatusCode, &'static str) {
    if stage == "alerts" {
        calls.alerts.lock().unwrap().push(String::from_utf8_lossy(&body).into_owned());
        return (StatusCode::NO_CONTENT, "");
    }
    if stage == "second" {
        let takes = calls.second_takes_ms.load(Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(takes)).await;
    }
    let id = headers["millstream-event-id"].to_str().unwrap().to_owned();
    let event: Value = serde_json::from_slice(&body).unwrap();
    let mut events = calls.events.lock().unwrap();
    let (had, accepted) = events.entry((stage.clone(), id)).or_default();
    *had += 1;
    if calls.is_mended.load(Ordering::SeqCst) {
        *accepted += 1;
        return (StatusCode::NO_CONTENT, "");
    }
    match (event["eventData"]["note"].as_str().unwrap(), stage.as_str()) {
        ("Refused", "first") => (StatusCode::UNPROCESSABLE_ENTITY, "no stock"),
        ("Odd", "first") => (StatusCode::UNPROCESSABLE_ENTITY, "an odd order"),
        ("Broken", "second") => (StatusCode::INTERNAL_SERVER_ERROR, "broken"),
        ("Flaky", "second") if *had == 1 => (StatusCode::INTERNAL_SERVER_ERROR, "once"),
        _ => {
            *accepted += 1;
            (StatusCode::NO_CONTENT, "")
        }
    }
}

/// Starts the service; returns its address, and the task that it is.
pub(super) async fn start(calls: Arc<Calls>) -> (String, JoinHandle<()>) {
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let routes = Router::new().route("/{stage}", post(call)).with_state(calls);
    (address, tokio::spawn(async move { axum::serve(listener, routes).await.unwrap() }))
}

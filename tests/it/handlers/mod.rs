//! Handlers: each kind against the services and processes that it calls.

mod exec;
mod http;
mod local;
mod nats;

use std::{path::PathBuf, sync::Arc, time::SystemTime};

use millstream::{
    handlers::{self, HandlerContext},
    stages::{Delivery, Disposition, Envelope, Event, Failure, Handler, Reply, event::Identity},
};
use serde_json::Value;

/// Context at the repository's root, where the examples are.
fn context() -> HandlerContext {
    HandlerContext { base: PathBuf::from(env!("CARGO_MANIFEST_DIR")), ..HandlerContext::default() }
}

fn build(options: &Value) -> Arc<dyn Handler> {
    handlers::build(options, &context())
        .unwrap_or_else(|problems| panic!("{options}: {problems:?}"))
}

/// Event of type `order.created`, with this body.
fn event(body: &str) -> Event {
    let identity = Identity {
        id: "e1".to_owned(),
        event_type: "order.created".to_owned(),
        version: "1".to_owned(),
        tenant: None,
    };
    Event::new(identity, Envelope::Domain, body.to_owned().into())
}

fn delivery() -> Delivery {
    let traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".to_owned();
    Delivery {
        stage: "orders".to_owned(),
        attempt: 3,
        now: SystemTime::now(),
        traceparent: Some(traceparent),
        edit: None,
    }
}

/// Outcome of one call, in one line.
async fn call(handler: &dyn Handler, body: &str) -> String {
    outcome(handler.call(&event(body), &delivery()).await)
}

fn outcome(answer: Result<Reply, Failure>) -> String {
    match answer {
        Ok(Reply::Pass) => "pass".to_owned(),
        Ok(Reply::Replace(bodies)) => {
            let bodies: Vec<_> = bodies.iter().map(|body| String::from_utf8_lossy(body)).collect();
            format!("replace {bodies:?}")
        }
        Err(failure) => {
            let how = match failure.disposition {
                Disposition::Retry { after: None } => "retry".to_owned(),
                Disposition::Retry { after: Some(wait) } => format!("retry after {wait:?}"),
                Disposition::Reject => "reject".to_owned(),
                // The wait of a deferral runs down as the test runs.
                Disposition::Defer { .. } => "defer".to_owned(),
            };
            format!("{how}: {failure}")
        }
    }
}

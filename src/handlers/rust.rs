//! Rust handler: a handler written in Rust and registered by name in a program of the user's own.

use crate::{panics, suggest::nearest};
use std::{any::Any, collections::BTreeMap, fmt, panic::AssertUnwindSafe, sync::Arc};

use futures_util::FutureExt as _;
use millstream_stages::{
    Delivery, Event, Failure, Handler, Pending, Problem, Reply, failure::class, text::excerpt,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{HandlerContext, HandlerKind, options};

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "rust",
    about: "calls a handler that your own program registered under this name.",
    options: options::schema_of::<Options>,
    build,
};

/// Calls a handler written in Rust, which your own program registered with
/// `Millstream::new().handler("name", …)`.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The name it is registered under.
    rust: String,
}

/// Handlers written in Rust, by name.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: BTreeMap<String, Arc<dyn Handler>>,
}

impl Registry {
    /// Returns a registry without handlers.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a handler. One of the same name is replaced.
    #[must_use]
    pub fn with(mut self, name: &str, handler: Arc<dyn Handler>) -> Self {
        self.handlers.insert(name.to_owned(), handler);
        self
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

/// Makes an async function or closure a handler. A panic in it is a failure of the event it was
/// called with.
pub fn handler_fn<F, Answer>(call: F) -> Arc<dyn Handler>
where
    F: Fn(Event, Delivery) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    Arc::new(HandlerFn { call })
}

struct HandlerFn<F> {
    call: F,
}

impl<F, Answer> Handler for HandlerFn<F>
where
    F: Fn(Event, Delivery) -> Answer + Send + Sync + 'static,
    Answer: Future<Output = Result<Reply, Failure>> + Send + 'static,
{
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            // The function itself may panic before it returns its future, so it is called inside,
            // too. What it shares with other calls is its own to keep whole, as with any panic in a
            // Tokio task.
            let answer =
                AssertUnwindSafe(async { (self.call)(event.clone(), delivery.clone()).await });
            answer.catch_unwind().await.unwrap_or_else(|panic| Err(panicked(panic.as_ref())))
        })
    }
}

fn panicked(panic: &(dyn Any + Send)) -> Failure {
    let said = excerpt(panics::text(panic), 200);
    Failure::retry(class::HANDLER, format!("the handler panicked: {said}"))
}

fn build(options: &Value, context: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let Options { rust: name } = options::read(options)?;
    let registered = &context.registered.handlers;
    if let Some(handler) = registered.get(&name) {
        return Ok(handler.clone());
    }
    let names: Vec<&str> = registered.keys().map(String::as_str).collect();
    let hint = match nearest(&name, names.iter().copied()) {
        Some(near) => format!("did you mean \"{near}\"?"),
        None if names.is_empty() => {
            "this program registers none: run the one that calls Millstream::handler".to_owned()
        }
        None => format!("this program registers: {}", names.join(", ")),
    };
    Err(vec![Problem::new(&["rust"], format!("no handler is registered as \"{name}\"")).hint(hint)])
}

//! jq handler: a jq filter whose outputs replace each event.

use std::{sync::Arc, thread::available_parallelism};

use millstream_stages::{
    Delivery, Event, Failure, Handler, Pending, Problem, Reply, failure::class, jq::Filter,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use tokio::sync::Semaphore;

use super::{HandlerContext, HandlerKind, options};
use crate::limits;

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "jq",
    about: "replaces the event by the outputs of a jq filter, zero or more.",
    options: options::schema_of::<Options>,
    build,
};

/// Replaces each event by the outputs of a jq filter, zero or more, in order.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The filter, such as `.eventData.amount *= 100` or `.eventData.items[]`. Its input is the
    /// event as it was published.
    jq: String,
}

/// Filter that runs on a thread that may block.
///
/// jq is a language with loops, and a filter that does not end cannot be stopped. On a thread of
/// the runtime it would hold up every stage and even its own timeout; so it gets a thread of its
/// own, which costs 7 to 20 µs an event (measured, Tokio 1.54). `running` is held until the filter
/// ends: filters that never do use up their permits and no more threads, and only their stage
/// stands still, each of its events failing with a `TimeoutError`. The runtime must be shut down
/// without waiting for such a thread (`Runtime::shutdown_timeout`, or by leaving the process).
struct Jq {
    filter: Arc<Filter>,
    running: Arc<Semaphore>,
}

fn build(options: &Value, _: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let Options { jq } = options::read(options)?;
    let filter = Filter::compile(&jq).map_err(|error| {
        vec![Problem::new(
            &["jq"],
            format!("{} (at byte {} of the filter)", error.message, error.offset),
        )]
    })?;
    let threads = available_parallelism().map_or(1, usize::from);
    Ok(Arc::new(Jq { filter: Arc::new(filter), running: Arc::new(Semaphore::new(threads)) }))
}

impl Handler for Jq {
    fn call<'a>(&'a self, event: &'a Event, _: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let permit =
                self.running.clone().acquire_owned().await.expect("nothing closes the semaphore");
            let (filter, event) = (self.filter.clone(), event.clone());
            let outputs = tokio::task::spawn_blocking(move || {
                let outputs = filter.outputs(&event, limits::OUTPUTS_MAX);
                drop(permit);
                outputs
            });
            match outputs.await {
                Ok(Ok(outputs)) => Ok(Reply::Replace(outputs)),
                // The same event gives the same error each time.
                Ok(Err(message)) => Err(Failure::reject(class::HANDLER, format!("jq: {message}"))),
                Err(panic) => Err(Failure::reject(class::HANDLER, format!("jq panicked: {panic}"))),
            }
        })
    }
}

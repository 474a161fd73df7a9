//! jq handler: a jq filter whose outputs replace each event.

use std::sync::Arc;

use millstream_stages::{
    Delivery, Event, Failure, Handler, Pending, Problem, Reply, failure::class, jq::Filter,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{HandlerContext, HandlerKind, options};
use crate::{
    filters::{self, NoAnswer},
    limits,
    shortage::Shortage,
};

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

/// Filter that replaces events.
struct Jq {
    filter: Arc<Filter>,
}

fn build(options: &Value, _: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    let Options { jq } = options::read(options)?;
    let filter = Filter::compile(&jq).map_err(|error| {
        vec![Problem::new(
            &["jq"],
            format!("{} (at byte {} of the filter)", error.message, error.offset),
        )]
    })?;
    Ok(Arc::new(Jq { filter: Arc::new(filter) }))
}

impl Handler for Jq {
    fn call<'a>(&'a self, event: &'a Event, _: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let outputs = filters::outputs(&self.filter, event, limits::OUTPUTS_MAX).await;
            outputs.map(Reply::Replace).map_err(|error| match error {
                // The same event gives the same error each time.
                NoAnswer::Fault(fault) => Failure::reject(class::HANDLER, format!("jq: {fault}")),
                error @ NoAnswer::Slow => Failure::retry(class::TIMEOUT, error.to_string()),
                NoAnswer::NoThread(error) => {
                    Shortage::start_failure(&error, "could not start a thread for a filter")
                }
            })
        })
    }
}

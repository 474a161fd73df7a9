//! Log handler: one log line per event, which is passed on.

use std::sync::Arc;

use millstream_stages::{Delivery, Event, Handler, Pending, Problem, Reply, text::excerpt};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{HandlerContext, HandlerKind, options};
use crate::limits;

pub(super) const KIND: HandlerKind = HandlerKind {
    name: "log",
    about: "writes one log line per event and passes the event on.",
    options: options::schema_of::<Options>,
    build,
};

/// Writes one log line per event and passes the event on.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The level of the line.
    log: Level,
    /// Shows the event's body in the line: its first 1024 bytes, on one line.
    #[serde(default)]
    body: bool,
}

#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
enum Level {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

fn build(options: &Value, _: &HandlerContext) -> Result<Arc<dyn Handler>, Vec<Problem>> {
    Ok(Arc::new(options::read::<Options>(options)?))
}

impl Handler for Options {
    fn call<'a>(&'a self, event: &'a Event, delivery: &'a Delivery) -> Pending<'a, Reply> {
        Box::pin(async move {
            let text = |text: &str| excerpt(text, limits::LOG_TEXT_BYTES_MAX);
            // What is not logged is not prepared: the fields are only evaluated where the level is
            // on.
            macro_rules! line {
                ($level:ident) => {
                    tracing::$level!(
                        stage = delivery.stage,
                        event_id = text(&event.id),
                        event_type = text(&event.event_type),
                        tenant = event.tenant.as_deref().map(text),
                        attempt = delivery.attempt,
                        body =
                            self.body.then(|| text(&String::from_utf8_lossy(prefix(&event.body)))),
                        "event"
                    )
                };
            }
            match self.log {
                Level::Error => line!(error),
                Level::Warn => line!(warn),
                Level::Info => line!(info),
                Level::Debug => line!(debug),
                Level::Trace => line!(trace),
            }
            Ok(Reply::Pass)
        })
    }
}

/// Start of a body, as much as a line can show.
fn prefix(body: &[u8]) -> &[u8] {
    &body[..body.len().min(limits::LOG_TEXT_BYTES_MAX)]
}

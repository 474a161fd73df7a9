//! Command line: the built program, its exit status, and its output for people.

mod demo;
mod explain;
mod offline;
mod server;
mod tour;

/// Pipeline whose one stage calls no service.
const PIPELINE: &str = r#"
[pipeline]
name = "shop"
[source.events]
subjects = ["events.>"]
[stage.work]
kind = "handle"
inputs = ["source.events"]
when = '.eventData.amount > 0'
handler = { jq = 'if .eventData.amount > 100 then error("too \u001b[31mmuch") else . end' }
[stage.errors]
kind = "aggregate-errors"
inputs = ["*.failed"]
[stage.alerts]
kind = "alert"
inputs = ["errors"]
channels = ["log"]
[channel.log]
kind = "log"
rate = "60/min"
[retry.default]
attempts = 2
backoff = { fixed = "50ms" }
"#;

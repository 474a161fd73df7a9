//! Channels: duties of every kind, one table of kinds and one of behaviours, against real servers.

mod alertmanager;
mod email;
mod live;
mod peer;
mod pipeline;
mod robots;
mod signed;
mod table;

use std::{path::Path, time::SystemTime};

use millstream::{
    channels::{ChannelContext, Deliver, Words, sample},
    stages::{
        Delivery, Disposition, Failure,
        incident::Severity,
        notification::{About, Notification},
    },
    wire::Names,
};
use serde_json::Value;

/// Channel called `ops` of the pipeline `shop`, without a broker.
fn channel(kind: &str, options: &Value) -> Deliver {
    built(kind, options, &context()).unwrap_or_else(|problems| panic!("{kind}: {problems:#?}"))
}

fn built(
    kind: &str,
    options: &Value,
    context: &ChannelContext,
) -> Result<Deliver, Vec<millstream::stages::Problem>> {
    Deliver::build(kind, options, &Words::default(), context)
}

fn context() -> ChannelContext {
    ChannelContext {
        name: "ops".to_owned(),
        base: Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
        names: Names::new("shop"),
        incidents: vec!["shop.out.errors.>".to_owned()],
        broker: None,
    }
}

fn delivery() -> Delivery {
    let traceparent = Some("00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".to_owned());
    Delivery {
        stage: "notify-ops".to_owned(),
        attempt: 1,
        now: SystemTime::now(),
        traceparent,
        edit: None,
    }
}

/// Code of the incidents of every sample.
const CODE: &str = "REDIS_CONNECTION_FAILED";

fn notification(about: sample::SampleKind) -> Notification {
    let incident = sample::incident(CODE, Severity::High, "shop", jiff::Timestamp::now());
    sample::notification("ops", about, incident)
}

/// Text that would like to be more than text, in one chat, mail or page or another.
const HOSTILE: &str = "<!channel> <@U1> @here @all <http://evil.example|click> \
                       [click](http://evil.example) <script>alert(1)</script> \
                       \"}],\"x\":{ **b** # h\r\nBcc: evil@evil.example\r\n\r\nX\u{0}\
                       \u{1b}[31m\u{202e}";

/// Notification whose every text is hostile.
fn hostile() -> Notification {
    let mut notification = notification(sample::SampleKind::Firing);
    notification.title = HOSTILE.to_owned();
    notification.text = format!("{HOSTILE}\n# {HOSTILE}\n{}", "é".repeat(20_000));
    notification.notification_id = format!("ops.{HOSTILE}");
    let About::Incident { incident } = &mut notification.about else {
        unreachable!("the sample is of one incident")
    };
    for text in [
        &mut incident.code,
        &mut incident.message,
        &mut incident.services[0],
        &mut incident.samples[0].message,
    ] {
        *text = HOSTILE.to_owned();
    }
    incident.labels.insert(format!("tenant {HOSTILE}"), HOSTILE.to_owned());
    notification
}

async fn send(channel: &Deliver, notification: &Notification) -> Result<(), Failure> {
    channel.send(notification, &delivery()).await
}

/// Answer of a channel in a few words.
fn outcome(answer: &Result<(), Failure>) -> String {
    match answer {
        Ok(()) => "delivered".to_owned(),
        Err(failure) => {
            let what = match failure.disposition {
                Disposition::Retry { after: None } => "retry".to_owned(),
                Disposition::Retry { after: Some(wait) } => {
                    format!("retry after {}s", wait.as_secs())
                }
                Disposition::Reject => "reject".to_owned(),
                Disposition::Defer { .. } => "defer".to_owned(),
            };
            format!("{what} {failure}")
        }
    }
}

/// Texts in a value, all of them.
fn texts(value: &Value) -> Vec<&str> {
    match value {
        Value::String(text) => vec![text],
        Value::Array(list) => list.iter().flat_map(texts).collect(),
        Value::Object(table) => table
            .iter()
            .flat_map(|(key, inner)| [vec![key.as_str()], texts(inner)].concat())
            .collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) => Vec::new(),
    }
}

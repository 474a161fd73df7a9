//! NATS channel: notifications published on a subject.

use std::{sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Failure, Pending, Problem, failure::class, headers, notification::Notification,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Built, Channel, ChannelContext, ChannelKind};
use crate::{
    broker::{Broker, Outgoing},
    limits,
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "nats",
    about: "publishes notifications, as JSON, on a subject; a stream on that subject keeps them",
    per_minute: 600,
    options: || schemars::schema_for!(Options),
    build,
};

/// The keys of a `nats` channel.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The subject, without wildcards.
    subject: String,
}

struct Nats {
    subject: String,
    broker: Option<Broker>,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { subject } = super::read(options)?;
    let token_fits = |token: &str| {
        !token.is_empty() && !token.contains(|c: char| c.is_whitespace() || "*>".contains(c))
    };
    if !subject.split('.').all(token_fits) {
        let problem =
            Problem::new(&["subject"], format!("\"{subject}\" is not a subject to publish on"));
        return Err(vec![problem.hint("write it like \"alerts.shop\", without wildcards")]);
    }
    Ok(Arc::new(Nats { subject, broker: context.broker.clone() }))
}

impl Channel for Nats {
    fn send<'a>(&'a self, notification: &'a Notification, _: &'a Delivery) -> Pending<'a, ()> {
        Box::pin(announce(self.broker.as_ref(), &self.subject, notification))
    }

    fn preview(&self, notification: &Notification) -> String {
        super::pretty(notification)
    }

    fn timeout(&self) -> Option<Duration> {
        Some(limits::PUBLISH_TIMEOUT)
    }
}

/// Sends a notification, as JSON, to whoever listens on a subject.
pub(super) async fn announce(
    broker: Option<&Broker>,
    subject: &str,
    notification: &Notification,
) -> Result<(), Failure> {
    let Some(broker) = broker else {
        return Err(Failure::defer(class::CONNECTION, "no broker to publish a notification on"));
    };
    let body = serde_json::to_vec(notification).expect("a notification is plain data");
    let outgoing = Outgoing::new(subject, body)
        .id(&notification.notification_id)
        .header(headers::EVENT_ID, &notification.notification_id);
    let sent = broker.announce(outgoing).await;
    sent.map_err(|error| match error.refusal() {
        // It waits until someone grants it.
        Some(refusal) => Failure::defer(class::CONNECTION, refusal.to_string()),
        None => Failure::retry(
            class::CONNECTION,
            format!("could not publish on \"{subject}\": {error}"),
        ),
    })
}

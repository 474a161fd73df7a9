//! `log`: writes notifications to the worker's log.

use std::sync::Arc;

use millstream_stages::{Delivery, Pending, headers, notification::Notification};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Channel, ChannelKind};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "log",
    about: "writes notifications to the worker's log",
    options: || schemars::schema_for!(Options),
    build: |options, _| {
        super::read::<Options>(options)?;
        Ok(Arc::new(Log))
    },
};

/// The log channel has no keys of its own.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {}

struct Log;

impl Channel for Log {
    fn send<'a>(&'a self, notification: &'a Notification, _: &'a Delivery) -> Pending<'a, ()> {
        let Notification { channel, severity, notification_id, title, text, .. } = notification;
        let (severity, title) = (severity.as_str(), headers::clean(title));
        // Debug escapes what services wrote: a notification is one line of the log.
        tracing::info!(%channel, severity, notification_id = %headers::clean(notification_id), %title, ?text, "notification");
        Box::pin(async { Ok(()) })
    }
}

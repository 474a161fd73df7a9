//! Log channel: notifications written to the worker's log.

use std::sync::Arc;

use millstream_stages::{Delivery, Pending, headers, notification::Notification};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{Channel, ChannelKind};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "log",
    about: "writes notifications to the worker's log",
    per_minute: 60,
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
        let Notification { channel, severity, status, why, notification_id, title, text, .. } =
            notification;
        let (severity, status, why) = (severity.as_str(), status.as_str(), why.as_str());
        let title = headers::clean(title);
        // Debug escapes what services wrote: a notification is one line of the log.
        tracing::info!(
            %channel,
            severity,
            status,
            why,
            notification_id = %headers::clean(notification_id),
            %title,
            ?text,
            "notification"
        );
        Box::pin(async { Ok(()) })
    }

    fn preview(&self, notification: &Notification) -> String {
        let Notification { channel, severity, title, text, .. } = notification;
        format!(
            "notification channel={channel} severity={} title={title} text={text:?}",
            severity.as_str()
        )
    }
}

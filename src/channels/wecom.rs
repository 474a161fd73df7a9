//! WeCom channel: notifications posted to a group robot.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Pending,
    incident::Severity,
    notification::{Notification, Status},
    units::Period,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Built, Channel, ChannelContext, ChannelKind, group_robot,
    http::{Keys, Target, default_timeout},
    sanitize,
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "wecom",
    about: "posts notifications to a group robot of WeCom",
    // Source: WeCom's "Group robot configuration": 20 messages a minute.
    per_minute: 20,
    options: || schemars::schema_for!(Options),
    build,
};

/// Codes that mean "later".
///
/// Source: WeCom's "Global error codes": -1 busy; 45009 too many calls; 45033 too many at once.
const LATER: [group_robot::Later; 3] =
    [(-1, None), (45_009, Some(Duration::from_secs(60))), (45_033, Some(Duration::from_secs(5)))];

/// Longest markdown, in bytes. Source: the same page.
const CONTENT_BYTES_MAX: usize = 4096;

/// The keys of a `wecom` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL of the robot's webhook, key included. It is a secret: nothing shows it.
    url: String,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

struct WeCom {
    target: Target,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { url, timeout, allow_private } = super::read(options)?;
    let keys = Keys { url: &url, timeout, allow_private, headers: &BTreeMap::new(), secret: None };
    Ok(Arc::new(WeCom { target: Target::new(&keys, context)? }))
}

impl WeCom {
    fn message(&self, notification: &Notification) -> Value {
        let Notification { title, text, severity, status, .. } = notification;
        // The three colours there are.
        let colour = match (status, severity) {
            (Status::Resolved, _) => "info",
            (Status::Firing, Severity::Critical | Severity::High) => "warning",
            (Status::Firing, Severity::Medium | Severity::Low) => "comment",
        };
        let lines: Vec<String> =
            text.trim_end().lines().map(|line| format!("> {}", sanitize::unmarked(line))).collect();
        let content = format!(
            "<font color=\"{colour}\">{}</font>\n{}",
            sanitize::unmarked(title),
            lines.join("\n")
        );
        let content = sanitize::cut(&content, CONTENT_BYTES_MAX);
        json!({ "msgtype": "markdown", "markdown": { "content": content } })
    }
}

impl Channel for WeCom {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let answer = self.target.post_json(&self.message(notification), delivery).await?;
            group_robot::meant(&answer, &LATER, &self.target)
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        self.target.redact(&super::pretty(&self.message(notification)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

//! Slack channel: notifications posted to an incoming webhook.
//!
//! Mattermost and Rocket.Chat take the same.

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
    Built, Channel, ChannelContext, ChannelKind,
    http::{Keys, Target, default_timeout},
    sanitize,
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "slack",
    about: "posts notifications to an incoming webhook of Slack, or of what takes the same",
    per_minute: 60,
    options: || schemars::schema_for!(Options),
    build,
};

/// Most bytes of the text that are sent: past 4 000 characters Slack cuts it in the middle of an
/// entity.
const TEXT_BYTES_MAX: usize = 3500;

/// The keys of a `slack` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL of the incoming webhook. It is a secret: nothing shows it.
    url: String,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

struct Slack {
    target: Target,
    pipeline: String,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { url, timeout, allow_private } = super::read(options)?;
    let keys = Keys { url: &url, timeout, allow_private, headers: &BTreeMap::new(), secret: None };
    Ok(Arc::new(Slack {
        target: Target::new(&keys, context)?,
        pipeline: context.names.pipeline().to_owned(),
    }))
}

/// Outside text as Slack shows it as it is.
///
/// Source: Slack's "Formatting text for app surfaces", section "Escaping text": `&`, `<` and `>`
/// are the only ones; links and mentions such as `<!channel>` begin with `<`.
fn escaped(text: &str) -> String {
    sanitize::uncalled(text).replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

impl Slack {
    fn message(&self, notification: &Notification) -> Value {
        let Notification { title, text, severity, status, why, at, channel, .. } = notification;
        let colour = match (status, severity) {
            (Status::Resolved, _) => "#2eb67d",
            (Status::Firing, Severity::Critical) => "#b00020",
            (Status::Firing, Severity::High) => "#e01e5a",
            (Status::Firing, Severity::Medium) => "#ecb22e",
            (Status::Firing, Severity::Low) => "#6c7a89",
        };
        json!({
            "text": escaped(title),
            "unfurl_links": false,
            "unfurl_media": false,
            "attachments": [{
                "color": colour,
                "fallback": escaped(title),
                "text": escaped(&sanitize::cut(text, TEXT_BYTES_MAX)),
                // No field is marked up: what services wrote is no markup of ours.
                "mrkdwn_in": [],
                "footer": escaped(&format!("{} · {channel} · {}", self.pipeline, why.as_str())),
                "ts": at.as_second(),
            }],
        })
    }
}

impl Channel for Slack {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let answer = self.target.post_json(&self.message(notification), delivery).await?;
            // Slack and Mattermost answer "ok", Rocket.Chat {"success": true}, others nothing.
            let said = answer.body.trim();
            let json = serde_json::from_str::<Value>(said).unwrap_or_default();
            let fine = said.is_empty()
                || said.eq_ignore_ascii_case("ok")
                || json["ok"] == true
                || json["success"] == true;
            if fine { Ok(()) } else { Err(self.target.unexpected(&answer)) }
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        self.target.redact(&super::pretty(&self.message(notification)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

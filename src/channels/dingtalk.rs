//! DingTalk channel: notifications posted to a group robot, signed if the robot asks for it.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use millstream_stages::{Delivery, Pending, Problem, notification::Notification, units::Period};
use reqwest::Url;
use ring::hmac;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{
    Built, Channel, ChannelContext, ChannelKind, group_robot,
    http::{Keys, Target, default_timeout},
    sanitize,
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "dingtalk",
    about: "posts notifications to a group robot of DingTalk",
    // Source: DingTalk's "Custom robot access": 20 messages a minute; past it the robot is refused
    // for ten minutes.
    per_minute: 20,
    options: || schemars::schema_for!(Options),
    build,
};

/// Codes that mean "later".
///
/// Source: DingTalk's "Global error codes": -1 busy; 88, 90018, 130101, 130103 and 410100 too many
/// messages. What exceeds the rate is refused for ten minutes.
const LATER: [group_robot::Later; 6] = [
    (-1, None),
    (88, Some(Duration::from_secs(60))),
    (90018, Some(Duration::from_secs(60))),
    (130_101, Some(Duration::from_secs(600))),
    (130_103, Some(Duration::from_secs(600))),
    (410_100, Some(Duration::from_secs(600))),
];

/// Most bytes of the text that are sent: a message has 20 000 at the most, and some characters
/// become three bytes.
const TEXT_BYTES_MAX: usize = 5000;

/// The keys of a `dingtalk` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL of the robot's webhook, access token included. It is a secret: nothing shows it.
    url: String,
    /// The secret of a robot whose security setting is a signature; it begins with `SEC`.
    #[serde(default)]
    secret: Option<String>,
    /// The mobile numbers of those who are mentioned.
    #[serde(default)]
    at: Vec<String>,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

struct DingTalk {
    target: Target,
    secret: Option<String>,
    at: Vec<String>,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { url, secret, at, timeout, allow_private } = super::read(options)?;
    let mut problems = Vec::new();
    for (n, number) in at.iter().enumerate() {
        if number.is_empty()
            || !number.bytes().all(|byte| byte.is_ascii_digit() || b"+-".contains(&byte))
        {
            problems.push(Problem::new(
                &["at", &n.to_string()],
                format!("\"{number}\" is not a mobile number"),
            ));
        }
    }
    let keys = Keys {
        url: &url,
        timeout,
        allow_private,
        headers: &BTreeMap::new(),
        secret: secret.as_deref(),
    };
    match Target::new(&keys, context) {
        Ok(target) if problems.is_empty() => Ok(Arc::new(DingTalk { target, secret, at })),
        Ok(_) => Err(problems),
        Err(found) => Err(problems.into_iter().chain(found).collect()),
    }
}

impl DingTalk {
    fn message(&self, notification: &Notification) -> Value {
        let title = sanitize::unmarked(&notification.title);
        let text = sanitize::unmarked(&sanitize::cut(&notification.text, TEXT_BYTES_MAX));
        // A line break alone is a space in its markdown.
        let mut text = format!("#### {title}\n\n{}", text.trim_end().replace('\n', "  \n"));
        for number in &self.at {
            text += &format!(" @{number}");
        }
        json!({
            "msgtype": "markdown",
            "markdown": { "title": title, "text": text },
            "at": { "atMobiles": self.at, "isAtAll": false },
        })
    }

    /// URL with the signature of this moment.
    ///
    /// Source: DingTalk's "Custom robot security settings": HMAC-SHA256 with the secret over the
    /// time in milliseconds, a line break and the secret; in base64, percent-encoded.
    fn url(&self, now: SystemTime) -> Url {
        let mut url = self.target.url().clone();
        if let Some(secret) = &self.secret {
            let at = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
            let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
            let signature = STANDARD.encode(hmac::sign(&key, format!("{at}\n{secret}").as_bytes()));
            url.query_pairs_mut()
                .append_pair("timestamp", &at.to_string())
                .append_pair("sign", &signature);
        }
        url
    }
}

impl Channel for DingTalk {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let answer = self
                .target
                .post_json_to(self.url(delivery.now), &self.message(notification), delivery)
                .await?;
            group_robot::meant(&answer.accepted(&self.target)?, &LATER, &self.target)
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        self.target.redact(&super::pretty(&self.message(notification)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

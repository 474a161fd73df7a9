//! Webhook channel: notifications posted to a URL, as JSON or as a template renders them.
//!
//! Signed if there is a secret.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Failure, Pending, Problem, headers, notification::Notification, units::Period,
};
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use ring::hmac;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{
    Built, Channel, ChannelContext, ChannelKind, alerts,
    http::{Keys, Target, default_timeout},
    template::{Form, Template},
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "webhook",
    about: "posts notifications, as JSON or as a template says, to a URL",
    per_minute: 60,
    options: || schemars::schema_for!(Options),
    build,
};

/// Header that a receiver can tell a repeat by.
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Header of the signature: `v1=` and, in hexadecimal digits, the HMAC-SHA256 with the secret over
/// `<timestamp>.<body>`. `examples/verify_webhook.py` shows how to verify it.
const SIGNATURE: HeaderName = HeaderName::from_static("millstream-signature");
/// Header of the time of signing, in seconds since 1970. A receiver refuses what is older than five
/// minutes: nobody can send it again.
const TIMESTAMP: HeaderName = HeaderName::from_static("millstream-timestamp");

/// Shortest secret that is taken, in bytes.
const SECRET_BYTES_MIN: usize = 16;

/// The keys of a `webhook` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL, `http://` or `https://`. It is a secret: nothing shows it.
    url: String,
    /// Headers to add, such as `authorization = "Bearer ${TOKEN}"`. Their values are never shown.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
    /// A template of the whole body, such as `{"text": {{ title }}}`; absent: the notification as
    /// JSON. Values are written as JSON, quotes included, where `content_type` is JSON, and escaped
    /// where it is HTML or XML.
    #[serde(default)]
    body: Option<String>,
    /// The form of the body: `millstream`, the notification as JSON, or `alertmanager`, what
    /// Alertmanager posts to a webhook (version 4), for receivers that know that.
    #[serde(default)]
    format: Format,
    /// URL to look at, such as a dashboard's: `externalURL` and `generatorURL` of the format
    /// `alertmanager`.
    #[serde(default)]
    link: Option<String>,
    /// The media type of the body.
    #[serde(default = "json_type")]
    content_type: String,
    /// The secret that requests are signed with, at least 16 bytes: `Millstream-Signature` is `v1=`
    /// and the HMAC-SHA256 over `<Millstream-Timestamp>.<body>`.
    #[serde(default)]
    secret: Option<String>,
}

/// Form of a body that no template renders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
enum Format {
    #[default]
    Millstream,
    Alertmanager,
}

fn json_type() -> String {
    "application/json".to_owned()
}

struct Webhook {
    target: Target,
    body: Option<Template>,
    format: Format,
    link: String,
    pipeline: String,
    content_type: HeaderValue,
    key: Option<hmac::Key>,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let options: Options = super::read(options)?;
    let mut problems = Vec::new();
    let target = Target::new(
        &Keys {
            url: &options.url,
            timeout: options.timeout,
            allow_private: options.allow_private,
            headers: &options.headers,
            secret: options.secret.as_deref(),
        },
        context,
    );
    let target = target.map_err(|found| problems.extend(found)).ok();
    let content_type = HeaderValue::try_from(&options.content_type).map_err(|_| {
        problems.push(Problem::new(&["content_type"], "the value has control characters"));
    });
    let body = options.body.as_deref().and_then(|source| {
        Template::checked("body", source, form(&options.content_type))
            .map_err(|problem| problems.push(problem))
            .ok()
    });
    if options.format == Format::Alertmanager && options.body.is_some() {
        let problem = Problem::new(&["format"], "a body of your own has no format");
        problems.push(problem.hint("leave out \"body\" or \"format\""));
    }
    let link = options.link.unwrap_or_default();
    if !link.is_empty() && reqwest::Url::parse(&link).is_err() {
        problems.push(Problem::new(&["link"], "it is not a URL"));
    }
    if options.secret.as_ref().is_some_and(|secret| secret.len() < SECRET_BYTES_MIN) {
        let problem = Problem::new(
            &["secret"],
            format!("the secret is shorter than {SECRET_BYTES_MIN} bytes"),
        );
        problems.push(problem.hint("make one with: openssl rand -hex 32"));
    }
    match (target, content_type) {
        (Some(target), Ok(content_type)) if problems.is_empty() => {
            let key =
                options.secret.map(|secret| hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
            let (format, pipeline) = (options.format, context.names.pipeline().to_owned());
            Ok(Arc::new(Webhook { target, body, format, link, pipeline, content_type, key }))
        }
        _ => Err(problems),
    }
}

/// Form of a body of this media type: how values are written into it.
fn form(content_type: &str) -> Form {
    let essence = content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    match essence.rsplit(['/', '+']).next() {
        Some("json") => Form::Json,
        Some("html" | "xml") => Form::Html,
        _ => Form::Text,
    }
}

impl Webhook {
    fn body(&self, notification: &Notification) -> Result<String, Failure> {
        match &self.body {
            Some(template) => {
                template.render(notification).map_err(|failure| self.target.failure(failure))
            }
            None => Ok(match self.format {
                Format::Millstream => serde_json::to_string(notification),
                Format::Alertmanager => serde_json::to_string(&alerts::Body::of(
                    notification,
                    &self.pipeline,
                    &self.link,
                )),
            }
            .expect("a notification is plain data")),
        }
    }
}

impl Channel for Webhook {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let body = self.body(notification)?;
            let mut request = HeaderMap::new();
            request.insert(CONTENT_TYPE, self.content_type.clone());
            let id = headers::clean(&notification.notification_id);
            // What is no text for a header is no id of ours; a receiver does without it.
            request.extend(HeaderValue::try_from(id).ok().map(|id| (IDEMPOTENCY_KEY, id)));
            if let Some(key) = &self.key {
                let at = delivery
                    .now
                    .duration_since(std::time::UNIX_EPOCH)
                    .unwrap_or_default()
                    .as_secs();
                let signature = hmac::sign(key, format!("{at}.{body}").as_bytes());
                request.insert(TIMESTAMP, at.into());
                let hex: String =
                    signature.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
                request.insert(
                    SIGNATURE,
                    HeaderValue::try_from(format!("v1={hex}"))
                        .expect("digits are fit for a header"),
                );
            }
            self.target
                .post(self.target.url().clone(), request, body.into(), delivery)
                .await?
                .accepted(&self.target)?;
            Ok(())
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        let body = self.body(notification).unwrap_or_else(|failure| failure.to_string());
        let pretty = serde_json::from_str::<Value>(&body).map(|json| super::pretty(&json));
        self.target.redact(&pretty.unwrap_or(body))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_private_or_broken_url_is_a_problem_that_does_not_repeat_it() {
        let context = ChannelContext { name: "ops".to_owned(), ..ChannelContext::default() };
        for url in [
            "http://127.0.0.1/secret",
            "http://[::1]:9/secret",
            "http://0x7f.1/secret",
            "ftp://x/secret",
            "secret",
        ] {
            let problems = build(&json!({ "url": url }), &context).err().unwrap();
            assert!(!format!("{problems:?}").contains("secret"), "{problems:?}");
        }
        assert!(
            build(&json!({ "url": "http://127.0.0.1/secret", "allow_private": true }), &context)
                .is_ok()
        );
        let wrong = json!({
            "url": "http://a.example/",
            "headers": { "a b": "x", "x": "secret\n" },
            "secret": "hunter2",
        });
        let problems = build(&wrong, &context).err().unwrap();
        assert_eq!(problems.len(), 3);
        assert!(!format!("{problems:?}").contains("hunter2"));
        let both = json!({
            "url": "http://a.example/", "format": "alertmanager", "body": "{}", "link": "here",
        });
        let problems = build(&both, &context).err().unwrap();
        assert_eq!(
            problems.iter().map(|p| p.at[0].as_str()).collect::<Vec<_>>(),
            ["format", "link"]
        );
    }

    #[test]
    fn the_body_is_what_alertmanager_posts_where_that_is_the_format() {
        let context = ChannelContext { name: "ops".to_owned(), ..ChannelContext::default() };
        let options = json!({
            "url": "http://a.example/", "format": "alertmanager", "link": "https://ops.example/",
        });
        let channel = build(&options, &context).ok().unwrap();
        let at = "2026-11-28T10:00:00Z".parse().unwrap();
        let severity = millstream_stages::incident::Severity::High;
        let incident = super::super::sample::incident("CODE", severity, "shop", at);
        let about = super::super::sample::SampleKind::Firing;
        let notification = super::super::sample::notification("ops", about, incident);
        let body: Value = serde_json::from_str(&channel.preview(&notification)).unwrap();
        assert_eq!(
            (&body["version"], &body["receiver"], &body["externalURL"]),
            (&"4".into(), &"ops".into(), &"https://ops.example/".into())
        );
    }
}

//! PagerDuty channel: incidents triggered, acknowledged and resolved, by the Events API v2.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use millstream_stages::{
    Delivery, Failure, Pending, Problem,
    failure::class,
    incident::{Change, Severity},
    notification::{About, Notification, Status},
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
    name: "pagerduty",
    about: "triggers and resolves incidents at PagerDuty, by its Events API v2",
    per_minute: 120,
    options: || schemars::schema_for!(Options),
    build,
};

/// Longest summary, in characters. Source: PagerDuty's "PD-CEF" field reference; as bytes it is
/// under that.
const SUMMARY_BYTES_MAX: usize = 1024;

/// The keys of a `pagerduty` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The integration key of the service, 32 characters. It is never shown.
    routing_key: String,
    /// URL that events are sent to, if not PagerDuty's own.
    #[serde(default = "default_url")]
    url: String,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

fn default_url() -> String {
    "https://events.pagerduty.com/v2/enqueue".to_owned()
}

struct PagerDuty {
    target: Target,
    routing_key: String,
    pipeline: String,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { routing_key, url, timeout, allow_private } = super::read(options)?;
    let keys = Keys {
        url: &url,
        timeout,
        allow_private,
        headers: &BTreeMap::new(),
        secret: Some(&routing_key),
    };
    let mut problems = Vec::new();
    if routing_key.is_empty() || !routing_key.bytes().all(|byte| byte.is_ascii_alphanumeric()) {
        let problem = Problem::new(&["routing_key"], "an integration key is letters and digits");
        problems.push(
            problem.hint("copy it from the service's integration \"Events API V2\" at PagerDuty"),
        );
    }
    match Target::new(&keys, context) {
        Ok(target) if problems.is_empty() => Ok(Arc::new(PagerDuty {
            target,
            routing_key,
            pipeline: context.names.pipeline().to_owned(),
        })),
        Ok(_) => Err(problems),
        Err(found) => Err(problems.into_iter().chain(found).collect()),
    }
}

/// Answer of PagerDuty.
#[derive(Deserialize)]
struct ApiAnswer {
    status: String,
    #[serde(default)]
    message: String,
    #[serde(default)]
    errors: Vec<String>,
}

impl PagerDuty {
    fn event(&self, notification: &Notification) -> Value {
        let Notification { title, text, severity, status, why, at, channel, group, .. } =
            notification;
        let incident = notification.incidents().first();
        let acknowledged = matches!(
            &notification.about,
            About::Incident { incident } if incident.event == Change::Acknowledged
        );
        let action = match status {
            Status::Resolved => "resolve",
            Status::Firing if acknowledged => "acknowledge",
            Status::Firing => "trigger",
        };
        // Digests of one channel are one incident: each would otherwise open one that nothing ever
        // resolves.
        let key = match &notification.about {
            About::Digest { .. } => format!("{}/{channel}/digest", self.pipeline),
            About::Incident { .. } | About::Group { .. } => format!("{}/{group}", self.pipeline),
        };
        let severity = match severity {
            Severity::Critical => "critical",
            Severity::High => "error",
            Severity::Medium => "warning",
            Severity::Low => "info",
        };
        let service = incident.and_then(|incident| incident.services.first());
        json!({
            "routing_key": self.routing_key,
            "event_action": action,
            "dedup_key": key,
            "client": "Millstream",
            "payload": {
                "summary": sanitize::cut(title, SUMMARY_BYTES_MAX),
                "source": service.unwrap_or(&self.pipeline),
                "severity": severity,
                "timestamp": at,
                "component": service,
                "group": self.pipeline,
                "class": incident.map(|incident| &incident.code),
                "custom_details": {
                    "text": text,
                    "why": why.as_str(),
                    "channel": channel,
                    "incidents": notification.incidents().iter().map(|incident| json!({
                        "id": incident.incident_id,
                        "code": incident.code,
                        "event": incident.event,
                        "errors": incident.count,
                        "services": incident.services,
                        "message": incident.message,
                    })).collect::<Vec<_>>(),
                    "held": notification.held,
                },
            },
        })
    }
}

impl Channel for PagerDuty {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let (url, event) = (self.target.url().clone(), self.event(notification));
            let answer = self.target.post_json_to(url, &event, delivery).await?;
            if answer.status == 400
                && let Ok(ApiAnswer { message, errors, .. }) = serde_json::from_str(&answer.body)
            {
                let said =
                    format!("PagerDuty does not take the event: {message}: {}", errors.join(", "));
                let said = millstream_stages::text::excerpt(&said, 400);
                return Err(self.target.failure(Failure::reject(class::VALIDATION, said)));
            }
            let answer = answer.accepted(&self.target)?;
            let told: ApiAnswer = answer.json(&self.target)?;
            if told.status == "success" { Ok(()) } else { Err(self.target.unexpected(&answer)) }
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        self.target.redact(&super::pretty(&self.event(notification)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

//! Alertmanager channel: the incidents of notifications posted as alerts, by the v2 API.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use jiff::{SignedDuration, Timestamp};
use millstream_stages::{
    Delivery, Pending, Problem,
    incident::{Incident, Severity},
    notification::{About, Notification, Status},
    units::Period,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{
    Built, Channel, ChannelContext, ChannelKind, alerts,
    http::{Keys, Target, default_timeout},
};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "alertmanager",
    about: "posts the incidents of notifications as alerts to an Alertmanager, by its v2 API",
    per_minute: 600,
    options: || schemars::schema_for!(Options),
    build,
};

/// The keys of an `alertmanager` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL of the Alertmanager, such as `http://alertmanager:9093`; `/api/v2/alerts` is added.
    /// It is a secret: nothing shows it.
    url: String,
    /// A user name for basic authentication; goes with `password`.
    #[serde(default)]
    user: Option<String>,
    /// The user's password. It is never shown.
    #[serde(default)]
    password: Option<String>,
    /// Headers to add, such as `authorization = "Bearer ${TOKEN}"`. Their values are never shown.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// Time without news after which an alert ends. Longer than the `repeat_interval` of the
    /// routes that lead here: an alert that goes on is sent again that often. (Alertmanager itself
    /// would end it after its `resolve_timeout`, 5 minutes.)
    #[serde(default = "default_expire")]
    expire: Period,
    /// URL behind an alert's link, such as a dashboard's.
    #[serde(default)]
    link: Option<String>,
    /// Time limit of a call.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the URL to lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

fn default_expire() -> Period {
    Period::seconds(12 * 3600)
}

/// Alert, as `postableAlert` of the v2 API.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert {
    labels: BTreeMap<String, String>,
    annotations: BTreeMap<String, String>,
    starts_at: Timestamp,
    ends_at: Timestamp,
    #[serde(rename = "generatorURL", skip_serializing_if = "Option::is_none")]
    generator_url: Option<String>,
}

struct Alertmanager {
    target: Target,
    pipeline: String,
    expire: SignedDuration,
    link: Option<String>,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let options: Options = super::read(options)?;
    let url = format!("{}/api/v2/alerts", options.url.trim_end_matches('/'));
    let keys = Keys {
        url: &url,
        timeout: options.timeout,
        allow_private: options.allow_private,
        headers: &options.headers,
        secret: options.password.as_deref(),
    };
    let mut problems = Vec::new();
    let target = Target::new(&keys, context).map_err(|found| problems.extend(found)).ok();
    if options.expire.0 < Duration::from_secs(60) {
        problems.push(Problem::new(&["expire"], "an alert should not end in less than a minute"));
    }
    let link = options.link.as_deref().map(reqwest::Url::parse).transpose();
    let link =
        link.map_err(|error| problems.push(Problem::new(&["link"], format!("not a URL: {error}"))));
    let target = match (&options.user, &options.password, target) {
        (Some(user), Some(password), Some(target)) => Some(target.basic_auth(user, password)),
        (None, None, target) => target,
        (Some(_), Some(_), None) => None,
        (user, _, _) => {
            let (given, absent) =
                if user.is_some() { ("user", "password") } else { ("password", "user") };
            problems
                .push(Problem::new(&[given], format!("\"{given}\" and \"{absent}\" go together")));
            None
        }
    };
    match (target, link) {
        (Some(target), Ok(link)) if problems.is_empty() => Ok(Arc::new(Alertmanager {
            target,
            pipeline: context.names.pipeline().to_owned(),
            expire: SignedDuration::try_from(options.expire.0).unwrap_or(SignedDuration::MAX),
            link: link.map(Into::into),
        })),
        _ => Err(problems),
    }
}

impl Alertmanager {
    fn alerts(&self, notification: &Notification, now: Timestamp) -> Vec<Alert> {
        if let About::Digest { .. } = notification.about {
            return vec![self.digest(notification, now)];
        }
        notification
            .incidents()
            .iter()
            .flat_map(|incident| self.incident(incident, notification, now))
            .collect()
    }

    /// Alert of an incident, and, since the severity is one of the labels that an alert is known
    /// by, the end of the alert it was before it became worse.
    fn incident(
        &self,
        incident: &Incident,
        notification: &Notification,
        now: Timestamp,
    ) -> Vec<Alert> {
        let starts_at = incident.opened_at.min(now);
        let ends_at = if incident.is_over() {
            incident.resolved_at.unwrap_or(now).min(now)
        } else {
            self.later(now)
        };
        let alert = Alert {
            annotations: alerts::annotations(incident, notification),
            ends_at: ends_at.max(starts_at),
            generator_url: self.link.clone(),
            labels: alerts::labels(incident, &self.pipeline),
            starts_at,
        };
        let before = [Severity::Low, Severity::Medium, Severity::High];
        let before = before
            .into_iter()
            .filter(|severity| !incident.event.begins() && *severity < incident.severity);
        let ended = |severity: Severity| {
            let mut ended = alert.clone();
            ended.labels.insert("severity".to_owned(), severity.as_str().to_owned());
            Alert { ends_at: now, ..ended }
        };
        let mut alerts: Vec<Alert> = before.map(ended).collect();
        alerts.push(alert);
        alerts
    }

    /// Alert of a digest: it ends by itself, since nothing ever reports that a digest is over.
    fn digest(&self, notification: &Notification, now: Timestamp) -> Alert {
        let quarter = now.checked_add(SignedDuration::from_mins(15)).unwrap_or(now);
        Alert {
            labels: alerts::digest_labels(notification, &self.pipeline),
            annotations: alerts::digest_annotations(notification),
            starts_at: notification.at.min(now),
            ends_at: if notification.status == Status::Resolved { now } else { quarter },
            generator_url: self.link.clone(),
        }
    }

    fn later(&self, now: Timestamp) -> Timestamp {
        now.checked_add(self.expire).unwrap_or(Timestamp::MAX)
    }
}

impl Channel for Alertmanager {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let now = delivery.now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            let now = SignedDuration::try_from(now)
                .ok()
                .and_then(|since| Timestamp::from_duration(since).ok());
            let alerts = self.alerts(notification, now.unwrap_or(notification.at));
            self.target.post_json(&alerts, delivery).await?;
            Ok(())
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        self.target.redact(&super::pretty(&self.alerts(notification, notification.at)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.target.timeout())
    }
}

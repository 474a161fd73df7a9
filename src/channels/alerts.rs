//! Alerts: incidents as Alertmanager's alerts: labels, annotations, its webhook body, version 4.
//!
//! Source: `notify/webhook/webhook.go` and `template/template.go` of Alertmanager 0.28.

use std::collections::BTreeMap;

use jiff::Timestamp;
use millstream_stages::{
    incident::Incident,
    notification::{About, Notification, Status},
};
use serde::Serialize;

/// Name of the alert that stands for a digest.
pub(super) const DIGEST: &str = "MillstreamDigest";
/// End of an alert that goes on: Go's zero time.
const NO_END: &str = "0001-01-01T00:00:00Z";

type Texts = BTreeMap<String, String>;

/// Body that Alertmanager posts to a webhook.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Body<'a> {
    version: &'static str,
    group_key: String,
    truncated_alerts: u64,
    status: &'static str,
    receiver: &'a str,
    group_labels: Texts,
    common_labels: Texts,
    common_annotations: Texts,
    #[serde(rename = "externalURL")]
    external_url: &'a str,
    alerts: Vec<Alert<'a>>,
}

/// Alert of such a body.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Alert<'a> {
    status: &'static str,
    labels: Texts,
    annotations: Texts,
    starts_at: String,
    ends_at: String,
    #[serde(rename = "generatorURL")]
    generator_url: &'a str,
    fingerprint: String,
}

impl<'a> Body<'a> {
    /// Returns the body of a notification of a pipeline; `link` is the URL to look at, or empty.
    pub(super) fn of(notification: &'a Notification, pipeline: &str, link: &'a str) -> Self {
        let time = |at: Timestamp| at.to_string();
        let of_incident = |incident: &Incident| Alert {
            status: status(incident.is_over()),
            labels: labels(incident, pipeline),
            annotations: annotations(incident, notification),
            starts_at: time(incident.opened_at),
            ends_at: if incident.is_over() {
                time(incident.resolved_at.unwrap_or(notification.at).max(incident.opened_at))
            } else {
                NO_END.to_owned()
            },
            generator_url: link,
            fingerprint: incident.fingerprint.clone(),
        };
        let over = notification.status == Status::Resolved;
        let (alerts, truncated_alerts) = match &notification.about {
            About::Incident { incident } => (vec![of_incident(incident)], 0),
            About::Group { incidents } => {
                let all = incidents.firing + incidents.resolved;
                let left = all.saturating_sub(incidents.list.len() as u64);
                (incidents.list.iter().map(of_incident).collect(), left)
            }
            About::Digest { digest } => {
                let alert = Alert {
                    status: status(over),
                    labels: digest_labels(notification, pipeline),
                    annotations: digest_annotations(notification),
                    starts_at: time(digest.since.min(notification.at)),
                    ends_at: if over { time(notification.at) } else { NO_END.to_owned() },
                    generator_url: link,
                    fingerprint: notification.group.clone(),
                };
                (vec![alert], 0)
            }
        };
        let group_labels = notification.group_labels();
        Self {
            version: "4",
            group_key: notification.group.clone(),
            truncated_alerts,
            status: status(over),
            receiver: &notification.channel,
            group_labels: group_labels
                .iter()
                .map(|(name, value)| (label_name(name), value.clone()))
                .collect(),
            common_labels: common(alerts.iter().map(|alert| &alert.labels)),
            common_annotations: common(alerts.iter().map(|alert| &alert.annotations)),
            external_url: link,
            alerts,
        }
    }
}

const fn status(over: bool) -> &'static str {
    if over { Status::Resolved.as_str() } else { Status::Firing.as_str() }
}

/// Texts that all have, with the same values.
fn common<'a>(mut all: impl Iterator<Item = &'a Texts>) -> Texts {
    let mut common = all.next().cloned().unwrap_or_default();
    for texts in all {
        common.retain(|name, value| texts.get(name) == Some(value));
    }
    common
}

/// Labels of the alert of an incident.
pub(super) fn labels(incident: &Incident, pipeline: &str) -> Texts {
    let mut labels: Texts =
        incident.labels.iter().map(|(name, value)| (label_name(name), value.clone())).collect();
    labels.insert("alertname".to_owned(), incident.code.clone());
    labels.insert("severity".to_owned(), incident.severity.as_str().to_owned());
    labels.insert("fingerprint".to_owned(), incident.fingerprint.clone());
    labels.insert("pipeline".to_owned(), pipeline.to_owned());
    if let Some(service) = incident.services.first() {
        labels.insert("service".to_owned(), service.clone());
    }
    // An empty label is none.
    labels.retain(|_, value| !value.is_empty());
    labels
}

/// Annotations of the alert of an incident.
pub(super) fn annotations(incident: &Incident, notification: &Notification) -> Texts {
    let summary =
        if notification.incidents().len() == 1 { &notification.title } else { &incident.message };
    let annotations = [
        ("summary", summary.clone()),
        ("description", incident.message.clone()),
        ("errors", incident.count.to_string()),
        ("incident", incident.incident_id.clone()),
    ];
    annotations.map(|(name, text)| (name.to_owned(), text)).into()
}

/// Labels of the alert that stands for a digest.
pub(super) fn digest_labels(notification: &Notification, pipeline: &str) -> Texts {
    let labels = [
        ("alertname", DIGEST),
        ("severity", notification.severity.as_str()),
        ("pipeline", pipeline),
        ("channel", &notification.channel),
    ];
    labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
}

/// Annotations of the alert that stands for a digest.
pub(super) fn digest_annotations(notification: &Notification) -> Texts {
    let annotations = [("summary", &notification.title), ("description", &notification.text)];
    annotations.map(|(name, value)| (name.to_owned(), value.clone())).into()
}

/// Label name as Prometheus takes it: `[a-zA-Z_][a-zA-Z0-9_]*`.
fn label_name(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let name: String = name.chars().map(|c| if fits(c) { c } else { '_' }).collect();
    if name.starts_with(|c: char| c.is_ascii_digit()) || name.is_empty() {
        format!("_{name}")
    } else {
        name
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;
    use millstream_stages::incident::Severity;
    use serde_json::Value;

    use super::*;
    use crate::channels::sample::{self, SampleKind};

    fn body(about: SampleKind) -> Value {
        let at = "2026-11-28T10:00:00Z".parse().unwrap();
        let incident = sample::incident("CODE", Severity::High, "shop", at);
        let notification = sample::notification("ops", about, incident);
        serde_json::to_value(Body::of(&notification, "shop", "https://ops.example/")).unwrap()
    }

    /// The shape of <https://prometheus.io/docs/alerting/latest/configuration/#webhook_config>.
    fn has_the_documented_shape(body: &Value) {
        let keys = |value: &Value| {
            let mut keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
            keys.sort();
            keys
        };
        assert_eq!(
            keys(body),
            [
                "alerts",
                "commonAnnotations",
                "commonLabels",
                "externalURL",
                "groupKey",
                "groupLabels",
                "receiver",
                "status",
                "truncatedAlerts",
                "version",
            ]
        );
        assert_eq!((&body["version"], body["truncatedAlerts"].is_u64()), (&"4".into(), true));
        let texts = |value: &Value| value.as_object().unwrap().values().all(Value::is_string);
        let alerts = body["alerts"].as_array().unwrap();
        assert!(!alerts.is_empty());
        for alert in alerts {
            assert_eq!(
                keys(alert),
                [
                    "annotations",
                    "endsAt",
                    "fingerprint",
                    "generatorURL",
                    "labels",
                    "startsAt",
                    "status",
                ]
            );
            assert!(texts(&alert["labels"]) && texts(&alert["annotations"]), "{alert}");
            let time = |key: &str| alert[key].as_str().unwrap().parse::<Timestamp>().unwrap();
            let firing = alert["status"] == "firing";
            assert_eq!(time("endsAt") < time("startsAt"), firing, "{alert}");
            assert_eq!(alert["fingerprint"].as_str().unwrap().len(), 16);
        }
        for key in ["groupLabels", "commonLabels", "commonAnnotations"] {
            assert!(texts(&body[key]), "{key}");
        }
        let some = alerts.iter().any(|alert| alert["status"] == "firing");
        assert_eq!(body["status"] == "firing", some);
    }

    #[test]
    fn every_notification_has_the_documented_shape_of_version_4() {
        SampleKind::ALL.into_iter().for_each(|about| has_the_documented_shape(&body(about)));
        let group = body(SampleKind::Group);
        assert_eq!(group["groupLabels"], serde_json::json!({ "code": "CODE" }));
        assert_eq!(group["commonLabels"]["alertname"], "CODE");
        assert!(group["commonLabels"].get("severity").is_none(), "they differ in it");
        let mut firing = body(SampleKind::Firing);
        firing["alerts"][0]["fingerprint"] = "0".into();
        firing["alerts"][0]["labels"] = Value::Null;
        firing["commonLabels"] = Value::Null;
        firing["commonAnnotations"] = Value::Null;
        firing["groupKey"] = Value::Null;
        firing["alerts"][0]["annotations"]["incident"] = Value::Null;
        expect![[r#"
            {
              "alerts": [
                {
                  "annotations": {
                    "description": "no connection to <ip>: connection refused",
                    "errors": "5",
                    "incident": null,
                    "summary": "[high] CODE opened: 5 errors in shop-sample"
                  },
                  "endsAt": "0001-01-01T00:00:00Z",
                  "fingerprint": "0",
                  "generatorURL": "https://ops.example/",
                  "labels": null,
                  "startsAt": "2026-11-28T10:00:00Z",
                  "status": "firing"
                }
              ],
              "commonAnnotations": null,
              "commonLabels": null,
              "externalURL": "https://ops.example/",
              "groupKey": null,
              "groupLabels": {},
              "receiver": "ops",
              "status": "firing",
              "truncatedAlerts": 0,
              "version": "4"
            }"#]]
        .assert_eq(&serde_json::to_string_pretty(&firing).unwrap());
    }

    #[test]
    fn a_label_has_a_name_that_prometheus_takes() {
        assert_eq!(
            ["tenant", "a.b-c", "1st", "", "ü"].map(label_name),
            ["tenant", "a_b_c", "_1st", "_", "_"]
        );
    }
}

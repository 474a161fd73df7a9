//! Sample: notifications as they would be, to try channels and to check templates with.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use millstream_stages::{
    fingerprint::fingerprint,
    incident::{Change, Incident, OperatorAction, Sample as ErrorSample, Severity, Trend},
    notification::{Digest, Grouped, Held, Hold, Notification, Why},
};

/// Subject matter of a sample notification.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SampleKind {
    /// Incident that opened.
    Firing,
    /// Incident that is over.
    Resolved,
    /// Two incidents of one group, one of them over.
    Group,
    /// Digest of what exceeded the rate of the channel.
    Digest,
    /// Test of the channel.
    Test,
}

impl SampleKind {
    /// Every sample.
    pub const ALL: [Self; 5] =
        [Self::Firing, Self::Resolved, Self::Group, Self::Digest, Self::Test];

    /// Name of the sample, for messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Firing => "an incident that opened",
            Self::Resolved => "an incident that is over",
            Self::Group => "a group",
            Self::Digest => "a digest",
            Self::Test => "a test",
        }
    }
}

/// Incident as it might have opened at `at`: errors with this code from a service named after the
/// pipeline.
pub fn incident(code: &str, severity: Severity, pipeline: &str, at: Timestamp) -> Incident {
    let service = format!("{pipeline}-sample");
    let message = "no connection to <ip>: connection refused";
    let fingerprint = fingerprint(code, &service, message);
    let ago = |seconds| at.checked_sub(SignedDuration::from_secs(seconds)).unwrap_or(at);
    let labels = [
        ("code", code),
        ("severity", severity.as_str()),
        ("service", &service),
        ("fingerprint", &fingerprint),
        ("stage", "orders"),
    ];
    Incident {
        incident_id: format!("{fingerprint}-1"),
        event: Change::Opened,
        generation: 1,
        code: code.to_owned(),
        severity,
        message: message.to_owned(),
        labels: labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        services: vec![service],
        threshold: 5,
        window_ms: 15 * 60_000,
        count: 5,
        new_errors: 5,
        total: 5,
        rate_per_minute: 2.5,
        trend: Trend::Rising,
        per_minute: vec![0, 0, 0, 0, 0, 0, 0, 0, 2, 3],
        first_seen: ago(120),
        last_seen: at,
        opened_at: at,
        resolved_at: None,
        resolved_by: None,
        acknowledged: None,
        last_resolved_at: None,
        users: 3,
        samples: vec![ErrorSample {
            at,
            message: "no connection to 10.0.0.7: connection refused".to_owned(),
            event_id: Some("e-1".to_owned()),
            trace_id: Some("4bf92f3577b34da6a3ce929d0e0e4736".to_owned()),
        }],
        channels: Vec::new(),
        fingerprint,
    }
}

/// Sample notification for a channel, about this incident or made from it.
///
/// The id shows that it is a sample, and differs by what it is about and by its time.
pub fn notification(channel: &str, about: SampleKind, incident: Incident) -> Notification {
    let at = incident.opened_at;
    let group = fingerprint("sample", channel, &incident.fingerprint);
    let id = format!("{channel}.sample.{}.{about:?}.{}", incident.incident_id, at.as_millisecond());
    let over = |mut incident: Incident| {
        incident.event = Change::Resolved;
        incident.resolved_at = Some(at);
        incident.new_errors = 0;
        incident
    };
    let mut held = Held::default();
    match about {
        SampleKind::Firing => {
            Notification::of_incident(id, channel, at, Why::Opened, &group, incident, held)
        }
        SampleKind::Test => {
            Notification::of_incident(id, channel, at, Why::Test, &group, incident, held)
        }
        SampleKind::Resolved => {
            Notification::of_incident(id, channel, at, Why::Resolved, &group, over(incident), held)
        }
        SampleKind::Group => {
            held.add(Hold::Repeated, 2);
            let mut other = over(incident.clone());
            other.incident_id = format!("{}-2", incident.fingerprint);
            other.severity = Severity::Low;
            let incidents = Grouped {
                by: BTreeMap::from([("code".to_owned(), incident.code.clone())]),
                firing: 1,
                resolved: 1,
                errors: incident.count + other.count,
                list: vec![incident, other],
            };
            Notification::of_group(id, channel, at, Why::Opened, &group, incidents, held)
        }
        SampleKind::Digest => {
            held.add(Hold::Repeated, 3);
            let mut digest = Digest::since(&incident, at);
            digest.add(&incident, &held);
            digest.add(
                &Incident { incident_id: format!("{}-2", incident.fingerprint), ..incident },
                &Held::default(),
            );
            Notification::of_digest(channel, at, digest)
        }
    }
}

/// Sample notification with everything that may be absent: whatever a template may name is in it.
pub(super) fn everything(channel: &str) -> Notification {
    let at = Timestamp::UNIX_EPOCH;
    let said = OperatorAction { by: "ana".to_owned(), at, reason: Some("a deploy".to_owned()) };
    let incident = Incident {
        resolved_at: Some(at),
        resolved_by: Some(said.clone()),
        acknowledged: Some(said),
        last_resolved_at: Some(at),
        ..incident("REDIS_CONNECTION_FAILED", Severity::High, "shop", at)
    };
    notification(channel, SampleKind::Firing, incident)
}

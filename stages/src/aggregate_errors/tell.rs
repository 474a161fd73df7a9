//! Tell: an incident as it is published, put together from the cell of its fingerprint.

use super::{
    cell::{Cell, Open},
    rules::Terms,
    stored::MINUTES,
};
use crate::{
    Emission,
    fingerprint::{hash, hex},
    incident::{Change, Incident, OperatorAction, Sample, Trend, timestamp},
};

/// End of an incident: the time, and who resolved it, if someone did.
#[derive(Debug, Clone)]
pub(super) struct End {
    pub(super) at_ms: u64,
    pub(super) by: Option<OperatorAction>,
}

impl Cell {
    /// Returns the emission that reports a change of the open incident, and counts its errors as
    /// reported.
    pub(super) fn tell(
        &mut self,
        change: Change,
        end: Option<&End>,
        terms: &Terms,
    ) -> Option<Emission> {
        let incident = self.incident(change, end, terms)?;
        let open = self.open.as_mut()?;
        open.told = open.count;
        let what = match change {
            Change::Opened | Change::Reopened | Change::Resolved => change.as_str().to_owned(),
            Change::Updated => format!("updated-{}", open.count),
            Change::Escalated => format!("escalated-{}", open.severity.as_str()),
            Change::Acknowledged => {
                let said = open.acknowledged.as_ref();
                let said = said.map_or(0, |said| hash(&[&said.by, &said.at.to_string()]));
                format!("acknowledged-{}", hex(said))
            }
        };
        // A fingerprint that was forgotten begins with generation 1 again, hence the time, and the
        // sequence where it comes back within the same millisecond.
        let id = format!("{}.{}.{}.{what}", incident.incident_id, open.opened_ms, open.opened_seq);
        let body = serde_json::to_vec(&incident).expect("an incident is plain data");
        Some(Emission::new(id, change.as_str().to_owned(), body))
    }

    /// Returns the open incident as it is now.
    pub(super) fn incident(
        &self,
        change: Change,
        end: Option<&End>,
        terms: &Terms,
    ) -> Option<Incident> {
        let open = self.open.as_ref()?;
        let fingerprint = hex(self.key);
        let per_minute = self.minutes.oldest_first();
        let mut labels = self.labels.clone();
        let service = self.services.first().cloned().unwrap_or_default();
        let always = [
            ("code", self.code.clone()),
            ("service", service),
            ("fingerprint", fingerprint.clone()),
        ];
        labels.extend(always.map(|(label, value)| (label.to_owned(), value)));
        labels.insert("severity".to_owned(), open.severity.as_str().to_owned());
        labels.extend(self.stage.clone().map(|stage| ("stage".to_owned(), stage)));
        Some(Incident {
            incident_id: self.incident_id(),
            event: change,
            fingerprint,
            generation: self.generation,
            code: self.code.clone(),
            severity: open.severity,
            message: self.message.clone(),
            services: self.services.clone(),
            labels,
            threshold: terms.threshold as u64,
            window_ms: terms.window_ms,
            count: open.count,
            new_errors: open.count - open.told,
            total: self.total,
            rate_per_minute: self.rate_per_minute(open),
            trend: trend(&per_minute),
            per_minute,
            first_seen: timestamp(self.first_seen_ms),
            last_seen: timestamp(self.last_seen_ms),
            opened_at: timestamp(open.opened_ms),
            resolved_at: end.map(|end| timestamp(end.at_ms)),
            resolved_by: end.and_then(|end| end.by.clone()),
            acknowledged: open.acknowledged.clone(),
            last_resolved_at: self.resolved_ms.map(timestamp),
            users: self.users.count(),
            samples: self.samples.iter().map(Sample::from).collect(),
            channels: terms.channels.clone(),
        })
    }

    /// `<fingerprint>-<generation>`.
    pub(super) fn incident_id(&self) -> String {
        format!("{}-{}", hex(self.key), self.generation)
    }

    /// Errors a minute from the first of the incident to the last, to one decimal.
    fn rate_per_minute(&self, open: &Open) -> f64 {
        // Three errors within a second are three a minute, as long as nobody knows what the rest of
        // the minute brings.
        let span_ms = self.last_seen_ms.saturating_sub(open.started_ms).max(60_000);
        let per_minute = open.count as f64 * 60_000.0 / span_ms as f64;
        (per_minute * 10.0).round() / 10.0
    }
}

/// Returns the trend: the later half of the minutes against the earlier.
fn trend(oldest_first: &[u64]) -> Trend {
    let (before, now) = oldest_first.split_at(MINUTES / 2);
    let (before, now): (u64, u64) = (before.iter().sum(), now.iter().sum());
    if 2 * now >= 3 * before {
        Trend::Rising
    } else if 3 * now <= 2 * before {
        Trend::Falling
    } else {
        Trend::Steady
    }
}

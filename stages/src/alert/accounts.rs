//! Accounts: changes sent to each channel and held back from it, counted and, if wanted, listed.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    Tally,
    incident::{Change, Incident, Severity},
    notification::{Held, Hold},
};

/// Most decisions that are listed; the rest is only counted.
const EXPLAINED_MAX: usize = 100_000;

/// A change of an incident that was held back, and the reason.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Explained {
    /// Time of the decision, in milliseconds since 1970.
    pub at_ms: u64,
    /// Channel it was held back from; empty where its route has none.
    pub channel: String,
    /// Id of the incident.
    pub incident_id: String,
    /// Code of its errors.
    pub code: String,
    /// Severity of the incident.
    pub severity: Severity,
    /// Change that was held back.
    pub event: Change,
    /// Reason.
    pub hold: Hold,
    /// Reason in a few words: which silence, which incident, which time.
    pub why: String,
}

/// Counts of each channel; one key of the state.
#[derive(Debug, Default)]
pub(super) struct Accounts {
    counts: BTreeMap<String, Counts>,
    dirty: bool,
    explained: Option<Vec<Explained>>,
}

#[derive(Debug, Default, Clone, Serialize, Deserialize)]
#[serde(default)]
struct Counts {
    sent: u64,
    digests: u64,
    held: Held,
}

impl Accounts {
    /// Begins with a zero for each declared channel, so that its metrics exist before anything is
    /// counted.
    pub(super) fn new<'a>(channels: impl Iterator<Item = &'a str>) -> Self {
        Self {
            counts: channels.map(|name| (name.to_owned(), Counts::default())).collect(),
            ..Self::default()
        }
    }

    /// Restores the counts; a channel that is no longer declared is forgotten.
    pub(super) fn restore(&mut self, value: &[u8]) -> Result<(), serde_json::Error> {
        let stored: BTreeMap<String, Counts> = serde_json::from_slice(value)?;
        self.counts.extend(
            stored
                .into_iter()
                .filter(|(name, _)| name.is_empty() || self.counts.contains_key(name))
                .collect::<Vec<_>>(),
        );
        Ok(())
    }

    pub(super) fn explain(&mut self) {
        self.explained.get_or_insert_default();
    }

    pub(super) fn take_explained(&mut self) -> Vec<Explained> {
        self.explained.as_mut().map(std::mem::take).unwrap_or_default()
    }

    pub(super) fn sent(&mut self, channel: &str, digest: bool) {
        self.dirty = true;
        let counts = self.counts.entry(channel.to_owned()).or_default();
        counts.sent += 1;
        counts.digests += u64::from(digest);
    }

    /// Counts changes of an incident that are held back from a channel.
    #[expect(clippy::too_many_arguments, reason = "what is held back, from whom, when and why")]
    pub(super) fn hold(
        &mut self,
        channel: &str,
        incident: &Incident,
        event: Change,
        count: u64,
        hold: Hold,
        at_ms: u64,
        why: &dyn Fn() -> String,
    ) {
        if count == 0 {
            return;
        }
        self.dirty = true;
        // A channel that is no longer declared has no count of its own.
        let name = if self.counts.contains_key(channel) { channel } else { "" };
        self.counts.entry(name.to_owned()).or_default().held.add(hold, count);
        let Some(explained) = &mut self.explained else { return };
        let room = EXPLAINED_MAX.saturating_sub(explained.len());
        let count = usize::try_from(count).unwrap_or(usize::MAX).min(room);
        let Incident { incident_id, code, severity, .. } = incident;
        let entry = Explained {
            at_ms,
            channel: channel.to_owned(),
            incident_id: incident_id.clone(),
            code: code.clone(),
            severity: *severity,
            event,
            hold,
            why: why(),
        };
        explained.extend(std::iter::repeat_n(entry, count));
    }

    pub(super) fn tallies(&self) -> Vec<Tally> {
        let mut tallies = Vec::new();
        for (channel, counts) in &self.counts {
            let channel = || ("channel", channel.clone());
            let tally = |name, value| Tally { name, labels: vec![channel()], value };
            if !channel().1.is_empty() {
                tallies.push(tally("notifications_total", counts.sent));
                tallies.push(tally("notifications_digests_total", counts.digests));
            }
            tallies.extend(counts.held.0.iter().map(|(hold, value)| Tally {
                name: "notifications_held_total",
                labels: vec![channel(), ("reason", hold.as_str().to_owned())],
                value: *value,
            }));
        }
        tallies
    }

    pub(super) fn dirty_len(&self) -> usize {
        usize::from(self.dirty)
    }

    pub(super) fn take_dirty(&mut self) -> Option<Vec<u8>> {
        std::mem::take(&mut self.dirty)
            .then(|| serde_json::to_vec(&self.counts).expect("counts are plain data"))
    }
}

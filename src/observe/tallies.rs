//! Tallies: the numbers that reduce stages keep in their state, as metrics of the worker that runs
//! them.
//!
//! They are part of the checkpoint, so they are exact and go on where the worker before left off. A
//! worker that stands by shows none.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_stages::Tally;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// What the numbers mean, by name.
const HELP: &[(&str, &str)] = &[
    ("errors_counted_total", "Error events counted by an aggregate-errors stage"),
    ("incidents_total", "What became of incidents, by event"),
    ("incidents_open", "Incidents that go on, by severity"),
    ("fingerprints", "Fingerprints that are remembered"),
    ("fingerprints_forgotten_total", "Fingerprints that were forgotten to keep memory bounded"),
    ("errors_forgotten_total", "Errors of the fingerprints that were forgotten"),
    ("notifications_total", "Notifications decided on, digests included, by channel"),
    ("notifications_digests_total", "Digests among them, by channel"),
    (
        "notifications_held_total",
        "Changes of incidents that were not told by themselves, by channel and reason",
    ),
    ("alert_groups", "Groups of incidents that are remembered"),
    ("alert_incidents_firing", "Incidents that an alert stage knows to go on"),
    ("silences_active", "Silences that hold now"),
];

/// The numbers of the reduce stages that this worker runs, by stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Tallies(Arc<Mutex<BTreeMap<String, Vec<Tally>>>>);

impl Tallies {
    /// What a stage counts by now; none: this worker does not run it.
    pub(super) fn set(&self, stage: &str, tallies: Vec<Tally>) {
        match tallies.is_empty() {
            true => _ = self.all().remove(stage),
            false => _ = self.all().insert(stage.to_owned(), tallies),
        }
    }

    fn all(&self) -> MutexGuard<'_, BTreeMap<String, Vec<Tally>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Collector for Tallies {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let all = self.all();
        let mut by_name: BTreeMap<&str, Vec<(&str, &Tally)>> = BTreeMap::new();
        for (stage, tallies) in all.iter() {
            for tally in tallies {
                by_name.entry(tally.name).or_default().push((stage, tally));
            }
        }
        for (name, tallies) in by_name {
            let help = HELP.iter().find(|(known, _)| *known == name).map_or(name, |(_, help)| help);
            let of = |(stage, tally): &(&str, &Tally)| {
                let labels = tally.labels.iter().map(|(label, value)| (*label, value.clone()));
                let labels: Vec<(&str, String)> =
                    [("stage", (*stage).to_owned())].into_iter().chain(labels).collect();
                (labels, tally.value)
            };
            let mut family = match name.strip_suffix("_total") {
                Some(base) => encoder.encode_descriptor(
                    base,
                    help,
                    None,
                    prometheus_client::metrics::MetricType::Counter,
                )?,
                None => encoder.encode_descriptor(
                    name,
                    help,
                    None,
                    prometheus_client::metrics::MetricType::Gauge,
                )?,
            };
            for (labels, value) in tallies.iter().map(of) {
                let series = family.encode_family(&labels)?;
                match name.ends_with("_total") {
                    true => ConstCounter::new(value).encode(series)?,
                    false => ConstGauge::new(super::families::as_gauge(value)).encode(series)?,
                }
            }
        }
        Ok(())
    }
}

//! Tallies: numbers of reduce stages' checkpoints, as metrics of the worker that runs the stage.
//!
//! Part of the checkpoint, so exact, and continued where the worker before left off. A worker that
//! stands by shows none.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use millstream_stages::{KINDS, Tally};
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeMetric as _},
    metrics::{counter::ConstCounter, gauge::ConstGauge},
};

/// The numbers of the reduce stages that this worker runs, by stage.
#[derive(Debug, Clone, Default)]
pub(super) struct Tallies(Arc<Mutex<BTreeMap<String, Vec<Tally>>>>);

impl Tallies {
    /// Sets the numbers of a stage; none: this worker does not run it.
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
            let help = help(name);
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
                    false => ConstGauge::new(super::gauges::as_gauge(value)).encode(series)?,
                }
            }
        }
        Ok(())
    }
}

/// Help text of a number, from the kind that keeps it.
fn help(name: &str) -> &str {
    let mut all = KINDS.iter().flat_map(|kind| kind.tallies);
    all.find(|(known, _)| *known == name).map_or(name, |(_, help)| help)
}

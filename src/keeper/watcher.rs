//! Watcher: the elected worker's looks at the fleet, one after the other: published for all, and
//! told as findings.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Instant, SystemTime},
};

use millstream_stages::incident::Severity;

use super::{
    fleet_record::FleetRecord,
    telling::{Condition, Telling},
    watch::Watch,
};
use crate::{
    broker::Broker,
    config::Pipeline,
    error_chain::{chain, root_cause},
    limits,
    observe::{ConditionRecord, Conditions, Trouble, WorkerRecord},
    wire::{Names, rfc3339},
};

/// Name of the condition that someone looks at the fleet.
pub(super) const WATCHER: &str = "watcher";

/// Watcher of one term.
pub(super) struct Watcher<'a> {
    broker: &'a Broker,
    names: Names,
    worker: &'a str,
    conditions: &'a Conditions,
    watch: Watch,
    telling: Telling,
    /// Last record of this term, or of the one before.
    record: FleetRecord,
    /// Conditions that workers see by themselves, with how many do, and when that was last read.
    of_workers: (BTreeMap<String, (ConditionRecord, usize)>, Option<Instant>),
}

impl<'a> Watcher<'a> {
    pub(super) fn new(
        broker: &'a Broker,
        pipeline: &Arc<Pipeline>,
        worker: &'a str,
        conditions: &'a Conditions,
    ) -> Self {
        let names = pipeline.names();
        Self {
            broker,
            worker,
            conditions,
            watch: Watch::new(broker, pipeline),
            telling: Telling::new(broker, &names, limits::CONDITION_LASTS),
            names,
            record: FleetRecord::default(),
            of_workers: (BTreeMap::new(), None),
        }
    }

    /// Looks, for ever.
    pub(super) async fn run(mut self) {
        // What the one before saw lasts since then.
        if let Ok(Some((record, _))) = FleetRecord::load(self.broker, &self.names).await {
            self.record = record;
        }
        loop {
            self.look().await;
            self.write().await;
            self.read_workers().await;
            self.tell().await;
            tokio::time::sleep(limits::WATCH_LOOK).await;
        }
    }

    async fn look(&mut self) {
        let now = rfc3339(SystemTime::now());
        let looked = self.watch.look().await;
        let troubles = match looked {
            Ok(looked) => {
                self.record.looked_at = looked.looked_at;
                self.record.gauges = looked.gauges;
                looked.troubles
            }
            Err(error) => {
                let why = format!("streams cannot be looked at: {}", chain(&error));
                BTreeMap::from([(WATCHER.to_owned(), Trouble::new(why))])
            }
        };
        let before = std::mem::take(&mut self.record.conditions);
        let since = |name: &str| {
            let known = before.iter().find(|known| known.name == name);
            known.map_or_else(|| now.clone(), |known| known.since.clone())
        };
        self.record.conditions = records(troubles, since);
        (self.record.by, self.record.at) = (self.worker.to_owned(), now.clone());
    }

    /// Publishes what was found. Where that fails, the others soon look for themselves.
    async fn write(&self) {
        let value = serde_json::to_vec(&self.record).expect("a record is plain data");
        let put = self.broker.kv_put(&self.names.state_bucket(), FleetRecord::KEY, value).await;
        if let Err(error) = put {
            let why = format!("what it found cannot be stored: {}", root_cause(&error));
            let remedy = "look at the server: if the stream of the state bucket has a leader, room \
                          on its disk, the limits of the account, state_max_bytes";
            self.conditions.failing(WATCHER, Trouble::with_remedy(why, remedy));
        }
    }

    /// Reads what workers see by themselves, now and then.
    async fn read_workers(&mut self) {
        let (of_workers, read_at) = &mut self.of_workers;
        if read_at.is_some_and(|at| at.elapsed() < limits::WORKERS_READ_EVERY) {
            return;
        }
        let Ok(found) = self.broker.kv_entries(&self.names.workers_bucket(), "").await else {
            return;
        };
        *read_at = Some(Instant::now());
        of_workers.clear();
        let records = found.iter();
        let records =
            records.filter_map(|(_, value, _)| serde_json::from_slice::<WorkerRecord>(value).ok());
        for condition in records.flat_map(|record| record.conditions) {
            let name = condition.name.clone();
            of_workers.entry(name).or_insert((condition, 0)).1 += 1;
        }
    }

    /// Tells what lasts.
    async fn tell(&mut self) {
        let workers = self.of_workers.0.values().map(|(record, workers)| (record, *workers));
        let fleet = self.record.conditions.iter().map(|record| (record, 0));
        for (record, workers) in workers.chain(fleet) {
            let ConditionRecord { name, why, remedy, .. } = record;
            let mut text = format!("{name}: {why}");
            if workers > 1 {
                text += &format!(" ({workers} workers)");
            }
            if let Some(remedy) = remedy {
                text += &format!("; {remedy}");
            }
            let (code, severity) = ("ConditionFailed", Severity::High);
            self.telling.holds(name, Condition { code, severity, about: name.clone(), text });
        }
        // What is over, each worker has logged.
        self.telling.end().await;
    }
}

/// Records of troubles, each since the time that `since` gives.
pub(super) fn records(
    troubles: BTreeMap<String, Trouble>,
    since: impl Fn(&str) -> String,
) -> Vec<ConditionRecord> {
    let records = troubles.into_iter().filter_map(|(name, trouble)| {
        let condition =
            crate::observe::Condition { since: SystemTime::now(), trouble: Some(trouble) };
        let record = ConditionRecord::of(&name, &condition)?;
        Some(ConditionRecord { since: since(&name), ..record })
    });
    records.take(limits::CONDITIONS_MAX).collect()
}

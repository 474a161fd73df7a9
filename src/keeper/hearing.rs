//! Hearing: each worker's own look at the broker, and what it hears of the look at the fleet; where
//! it hears nothing for long, it looks itself, and says so.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use tokio_util::sync::CancellationToken;

use super::{
    fleet_record::{FleetRecord, Gauges},
    judge,
    watch::Watch,
    watcher::{WATCHER, records},
};
use crate::{
    broker::{AdminError, BROKER_REMEDY, Broker},
    config::Pipeline,
    error_chain::chain,
    limits,
    observe::{ConditionRecord, Conditions, Metrics, Trouble},
    topology::{FeedInput, Topology},
    wire::{Names, rfc3339},
};

/// Condition of the connection.
const BROKER: &str = "broker";

/// Ears of one worker.
#[derive(Debug)]
pub struct Hearing {
    /// Broker.
    pub broker: Broker,
    /// Pipeline of the worker.
    pub pipeline: Arc<Pipeline>,
    /// Metrics of the worker.
    pub metrics: Arc<Metrics>,
    /// Conditions of the worker.
    pub conditions: Arc<Conditions>,
    /// Stages that it runs, channels by the names of their stages, and leases that it stands by
    /// for: what is wrong with others does not stop it.
    pub runs: Vec<String>,
}

/// What was last heard.
struct Heard {
    /// Revision of the record; 0: there was none.
    revision: u64,
    /// Time since which it has been that.
    since: Instant,
    /// Time at which the broker last answered.
    answered: Instant,
    /// True once a look at the fleet is known, whoever looked.
    is_fresh: bool,
    /// Own looks, while nobody else looks, and when the last was.
    own: Option<(Box<Watch>, Option<Instant>)>,
    /// Times since which what the own looks found lasts.
    lasting: HashMap<String, String>,
}

impl Hearing {
    /// Looks and listens until `stop`.
    pub async fn run(&self, stop: CancellationToken) {
        stop.run_until_cancelled(self.listen()).await;
    }

    async fn listen(&self) {
        self.conditions.expect(WATCHER, "nobody has looked at the fleet yet");
        let mut heard: Option<Heard> = None;
        let mut ticks = tokio::time::interval(limits::BROKER_LOOK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut read_at = Instant::now();
        loop {
            ticks.tick().await;
            if let Some(why) = self.broker.why_disconnected() {
                // The log has it from the connection.
                self.conditions.noted(BROKER, Trouble::with_remedy(why, BROKER_REMEDY));
                if let Some(heard) = &mut heard {
                    // Whoever looks could not write either: it is given its time anew.
                    (heard.since, heard.answered) = (Instant::now(), Instant::now());
                }
                continue;
            }
            if Instant::now() < read_at {
                continue;
            }
            self.read(&mut heard).await;
            let is_fresh = heard.as_ref().is_some_and(|heard| heard.is_fresh);
            read_at = Instant::now() + if is_fresh { limits::WATCH_LOOK } else { Duration::ZERO };
        }
    }

    /// Reads the record of the fleet, and with it the state bucket.
    async fn read(&self, heard: &mut Option<Heard>) {
        let names = self.pipeline.names();
        let bucket = names.state_bucket();
        let condition = format!("bucket {bucket}");
        let read = FleetRecord::load(&self.broker, &names);
        let read = tokio::time::timeout(limits::BROKER_SILENT_MAX, read).await;
        let now = Instant::now();
        let state = heard.get_or_insert_with(|| Heard {
            revision: u64::MAX,
            since: now,
            answered: now,
            is_fresh: false,
            own: None,
            lasting: HashMap::new(),
        });
        match read {
            Err(_) => self.is_silent(state),
            Ok(Ok(found)) => {
                self.answered(state);
                self.conditions.ok(&condition);
                let revision = found.as_ref().map_or(0, |(_, revision)| *revision);
                // The first may be of a fleet that is no more.
                let is_first = state.revision == u64::MAX;
                if state.revision != revision {
                    (state.revision, state.since) = (revision, now);
                    if let Some((record, _)) = found.filter(|_| !is_first) {
                        (state.own, state.is_fresh) = (None, true);
                        self.take(record.conditions, &record.gauges);
                        self.conditions.ok(WATCHER);
                    }
                }
            }
            Ok(Err(error)) => self.cannot_read(state, &condition, &bucket, &error).await,
        }
        if state.since.elapsed() >= limits::WATCH_SILENT_MAX {
            self.look(state).await;
        }
    }

    fn answered(&self, state: &mut Heard) {
        state.answered = Instant::now();
        self.conditions.ok(BROKER);
    }

    fn is_silent(&self, state: &mut Heard) {
        // Whoever looks could not write either: it is given its time anew.
        state.since = Instant::now();
        if state.answered.elapsed() >= limits::BROKER_SILENT_MAX {
            let why = format!("{} is connected and does not answer", self.broker.address());
            let remedy = "look at the server: its log, its load, and if JetStream has a leader";
            self.conditions.failing(BROKER, Trouble::with_remedy(why, remedy));
        }
    }

    /// Finds out why the bucket of states cannot be read.
    async fn cannot_read(
        &self,
        state: &mut Heard,
        condition: &str,
        bucket: &str,
        error: &AdminError,
    ) {
        let exists = self.broker.kv_exists(bucket);
        match tokio::time::timeout(limits::BROKER_SILENT_MAX, exists).await {
            Ok(Ok(false)) => {
                self.answered(state);
                let trouble = Trouble::with_remedy("it does not exist", judge::CREATE);
                self.conditions.failing(condition, trouble);
                // Without it nobody is elected to look.
                if let Some(at) = Instant::now().checked_sub(limits::WATCH_SILENT_MAX) {
                    state.since = at;
                }
            }
            Ok(Ok(true)) => {
                self.answered(state);
                let why = format!("it cannot be read: {}", chain(error));
                self.conditions.failing(condition, Trouble::new(why));
            }
            // A reconnect, or a server that has no time.
            Ok(Err(_)) | Err(_) => self.is_silent(state),
        }
    }

    /// Looks itself, since nobody else does.
    async fn look(&self, state: &mut Heard) {
        let (watch, looked_at) = state
            .own
            .get_or_insert_with(|| (Box::new(Watch::new(&self.broker, &self.pipeline)), None));
        if looked_at.is_some_and(|at| at.elapsed() < limits::WATCH_SILENT_MAX) {
            return;
        }
        *looked_at = Some(Instant::now());
        let looked = match watch.look().await {
            Ok(looked) => looked,
            Err(error) => {
                let why =
                    format!("nobody looks at the fleet, nor can this worker: {}", chain(&error));
                self.conditions.failing(WATCHER, Trouble::new(why));
                return;
            }
        };
        let mut troubles = looked.troubles;
        troubles.insert(
            WATCHER.to_owned(),
            Trouble::with_remedy(
                "no worker looks at the fleet for all, so each looks for itself",
                "a worker of this version must be elected keeper: look at the lease \"keeper\" in \
                 the state bucket, and at the other conditions",
            ),
        );
        let now = rfc3339(SystemTime::now());
        state.lasting.retain(|name, _| troubles.contains_key(name));
        for name in troubles.keys() {
            state.lasting.entry(name.clone()).or_insert_with(|| now.clone());
        }
        let since = |name: &str| state.lasting.get(name).unwrap_or(&now).clone();
        self.take(records(troubles, since), &looked.gauges);
        state.is_fresh = true;
        self.conditions.ok(WATCHER);
    }

    /// Takes in what was found.
    fn take(&self, found: Vec<ConditionRecord>, gauges: &Gauges) {
        let told = found.into_iter().map(|record| {
            let stops_us = self.stops_us(&record.name);
            (record, stops_us)
        });
        self.conditions.heard(told.collect());
        if let Some(letters) = gauges.letters {
            self.metrics.set_dead_letter_queue_size(letters);
        }
        if let Some(retries) = gauges.retries {
            self.metrics.set_retry_queue_size(retries);
        }
        let topology = Topology::of(&self.pipeline);
        for stage in self.pipeline.stages.iter().filter(|stage| stage.is_map()) {
            let metrics = self.metrics.stage(&stage.name);
            let feeds = topology
                .all_feeds()
                .iter()
                .filter(|feed| feed.stage == stage.name && feed.input != FeedInput::Quarantine);
            for feed in feeds {
                let lag = gauges
                    .lags
                    .iter()
                    .find(|lag| lag.stage == stage.name && lag.stream == feed.stream);
                let (pending, unsettled) = lag.map_or((0, 0), |lag| (lag.pending, lag.unsettled));
                metrics.set_lag(&feed.stream, pending, unsettled);
            }
        }
    }

    /// True if this worker cannot do its part while the condition does not hold.
    fn stops_us(&self, condition: &str) -> bool {
        let of = ["lease ", "backlog of "].iter().find_map(|kind| condition.strip_prefix(kind));
        match of {
            Some(of) => of == Names::SWEEP_LEASE || self.runs.iter().any(|ours| ours == of),
            None => condition != WATCHER,
        }
    }
}

/// Names of what a worker runs, for [`Hearing::runs`]: these stages, or all of the pipeline and its
/// channels.
pub fn runs(pipeline: &Pipeline, stages: Option<&[String]>) -> Vec<String> {
    let stages = match stages {
        Some(stages) => stages.to_vec(),
        None => pipeline.stages.iter().map(|stage| stage.name.clone()).collect(),
    };
    // It stands for the duties of the fleet, whatever stages it was given.
    let channels = pipeline.channels.iter().map(|channel| Names::channel_stage(&channel.name));
    stages.into_iter().chain(channels).chain([Names::CHANNELS_LEASE.to_owned()]).collect()
}

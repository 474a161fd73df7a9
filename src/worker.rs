//! Worker: one process of the fleet, from the first connection to the end of the drain.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millstream_stages::{Build, ChannelTerms, Problem};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{
    broker::{Broker, FatalError},
    config::{HandlerBuilder, Pipeline, pipeline, world::ConfigWorld},
    error_chain::chain,
    exhausted::{bury::Burial, router::Router, sweep::Sweep},
    handlers::{self, HandlerContext, Registry},
    keeper::Keeper,
    limits, map,
    observe::{self, Conditions, Metrics, RollCall, Trouble, WorkerRecord, heartbeat::Heartbeat},
    redrive::{context::Context, fleet::Fleet, recovery::Recovery, targets::Targets},
    reduce,
    topology::Topology,
    wire::Names,
};

/// Options of one worker, besides the pipeline.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stages that it runs; `None`: all, and the channels and the jobs.
    pub stages: Option<Vec<String>>,
    /// Rust handlers by name.
    pub registry: Registry,
}

impl Options {
    /// Name unlike any other worker's.
    fn id(&self) -> String {
        format!(
            "{}-{}-{}",
            host(),
            std::process::id(),
            jiff::Timestamp::now().as_millisecond() % 1_000_000
        )
    }
}

/// Name of this host, as far as a key may hold it.
fn host() -> String {
    let name =
        std::env::var("HOSTNAME").ok().or_else(|| std::fs::read_to_string("/etc/hostname").ok());
    let name: String = name
        .unwrap_or_default()
        .trim()
        .chars()
        .filter(|c| c.is_ascii_alphanumeric() || *c == '-')
        .collect();
    if name.is_empty() { "worker".to_owned() } else { name }
}

/// Reason why a worker could not go on.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    /// A stage could not be built from its options; `check` reports the same with lines.
    #[error("stage \"{stage}\" cannot be built: {problem}")]
    Stage {
        /// The stage.
        stage: String,
        /// The first problem.
        problem: String,
    },
    /// `--stage` names a stage that is not there.
    #[error("there is no stage \"{stage}\"; the stages are {known}")]
    UnknownStage {
        /// Name that was asked for.
        stage: String,
        /// Names of the stages.
        known: String,
    },
    /// The address for metrics and health could not be opened.
    #[error(transparent)]
    Listen(#[from] observe::http::ServeError),
    /// The server refuses what the worker must do.
    #[error(transparent)]
    Fatal(#[from] FatalError),
}

/// Worker that is running.
pub struct Worker {
    broker: Broker,
    metrics: Arc<Metrics>,
    conditions: Arc<Conditions>,
    /// Address at which metrics and health are served.
    pub listening: Option<SocketAddr>,
    tasks: JoinSet<()>,
    /// Events in flight over all of its stages.
    in_flight: Arc<map::InFlight>,
    /// Map stages and channels, and the consumers of their quarantined events.
    quarantined: Vec<(Arc<map::MapStage>, map::StageConsumer)>,
    /// Who else is there, and when each was heard of.
    roll_call: Arc<RollCall>,
    pulse: Arc<map::Pulse>,
    stop: CancellationToken,
    abandon: CancellationToken,
    /// Heartbeat and pulse, which go on until nothing is in flight, and their end.
    heartbeat: JoinSet<()>,
    leave: CancellationToken,
}

impl Worker {
    /// Starts the stages. The streams and consumers must be there, or are waited for.
    ///
    /// # Errors
    /// [`WorkerError`]; nothing keeps running.
    pub async fn start(
        broker: Broker,
        pipeline: Arc<Pipeline>,
        options: Options,
    ) -> Result<Self, WorkerError> {
        let metrics = Metrics::new(&pipeline);
        let conditions = Arc::new(Conditions::default());
        let id = options.id();
        let mut worker = Self {
            listening: None,
            tasks: JoinSet::new(),
            in_flight: Arc::default(),
            quarantined: Vec::new(),
            roll_call: Arc::new(RollCall::new(&id)),
            pulse: Arc::default(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
            heartbeat: JoinSet::new(),
            leave: CancellationToken::new(),
            broker,
            metrics,
            conditions,
        };
        let selected = Selected::of(&pipeline, options.stages.as_deref())?;
        if let Some(listen) = pipeline.observe.listen {
            let (metrics, conditions) =
                (Arc::clone(&worker.metrics), Arc::clone(&worker.conditions));
            worker.listening =
                Some(observe::serve(listen, metrics, conditions, worker.stop.clone()).await?);
        }
        // Before anything is pulled: of a worker that nobody has heard of nobody knows that it
        // died.
        worker.start_heartbeat(&pipeline, &id).await;
        match worker.start_work(&pipeline, &selected, &options.registry, &id).await {
            Ok(()) => Ok(worker),
            Err(error) => {
                worker.take_leave().await;
                Err(error)
            }
        }
    }

    async fn start_heartbeat(&mut self, pipeline: &Arc<Pipeline>, id: &str) {
        let record = WorkerRecord::new(id, &host(), &pipeline.config_hash);
        let heartbeat = Heartbeat::new(
            self.broker.clone(),
            Arc::clone(pipeline),
            Arc::clone(&self.metrics),
            Arc::clone(&self.conditions),
            Arc::clone(&self.roll_call),
            id,
        );
        self.heartbeat.spawn(heartbeat.run(record, self.leave.clone()));
        self.heartbeat.spawn(Arc::clone(&self.pulse).run(self.leave.clone()));
        self.roll_call.begun().await;
    }

    /// Ends the heartbeat: what was not settled is not the fault of this worker's death.
    async fn take_leave(&mut self) {
        self.leave.cancel();
        while self.heartbeat.join_next().await.is_some() {}
    }

    async fn start_work(
        &mut self,
        pipeline: &Arc<Pipeline>,
        selected: &Selected,
        registry: &Registry,
        id: &str,
    ) -> Result<(), WorkerError> {
        let breakers = map::Breakers::load(&self.broker, pipeline, &self.metrics, id).await;
        self.start_stages(pipeline, selected, registry, id, &breakers)?;
        self.tasks.spawn(breakers.run(self.stop.clone()));
        if selected.is_all() {
            self.start_channels(pipeline, id)?;
            self.start_jobs(pipeline, id);
        }
        let quarantined = std::mem::take(&mut self.quarantined);
        let quarantine = map::Quarantine::new(Arc::clone(&self.in_flight), quarantined);
        self.tasks.spawn(quarantine.run(self.stop.clone(), self.abandon.clone()));
        let afterwards = Burial {
            broker: self.broker.clone(),
            pipeline: Arc::clone(pipeline),
            metrics: Arc::clone(&self.metrics),
        };
        self.tasks.spawn(Router(afterwards.clone()).run(self.stop.clone()));
        let (sweep, sweeper, stop) = (Sweep::new(afterwards), id.to_owned(), self.stop.clone());
        self.tasks.spawn(async move { sweep.run(&sweeper, stop).await });
        let keeper = Keeper {
            broker: self.broker.clone(),
            pipeline: Arc::clone(pipeline),
            metrics: Arc::clone(&self.metrics),
        };
        let (keeps, stop) = (id.to_owned(), self.stop.clone());
        self.tasks.spawn(async move { keeper.run(&keeps, stop).await });
        Ok(())
    }

    fn start_stages(
        &mut self,
        pipeline: &Arc<Pipeline>,
        selected: &Selected,
        registry: &Registry,
        id: &str,
        breakers: &map::Breakers,
    ) -> Result<(), WorkerError> {
        let topology = Topology::of(pipeline);
        let world = RunWorld::new(pipeline, &self.broker, registry);
        for stage in pipeline.stages.iter().filter(|stage| selected.has(&stage.name)) {
            match stage.kind.build {
                // A chained stage runs inside the one it reads.
                Build::Map(_) if stage.chain => {}
                Build::Map(_) => {
                    let built =
                        map::Line::build(pipeline, stage, &world.lend(), &self.metrics, breakers);
                    let line = built.map_err(|problems| cannot_build(&stage.name, &problems))?;
                    self.spawn_map(pipeline, line, stage.ack_wait, stage.concurrency, &topology);
                }
                Build::Reduce(build) => {
                    build(&stage.options, &world.lend())
                        .map_err(|problems| cannot_build(&stage.name, &problems))?;
                    let (broker, pipeline, stage) =
                        (self.broker.clone(), Arc::clone(pipeline), stage.clone());
                    let (metrics, conditions, stop) = (
                        self.metrics.reduce(&stage.name),
                        Arc::clone(&self.conditions),
                        self.stop.clone(),
                    );
                    let (world, id) =
                        (RunWorld::new(&pipeline, &self.broker, registry), id.to_owned());
                    self.tasks.spawn(async move {
                        let fresh = || {
                            build(&stage.options, &world.lend())
                                .expect("it was built a moment ago from the same options")
                        };
                        let condition = format!("stage {}", stage.name);
                        conditions.ok(&condition);
                        if let Err(error) =
                            reduce::run(broker, pipeline, &stage, &id, fresh, metrics, stop).await
                        {
                            conditions.failing(&condition, Trouble::new(chain(&error)));
                        }
                    });
                }
            }
        }
        Ok(())
    }

    fn start_channels(&mut self, pipeline: &Arc<Pipeline>, id: &str) -> Result<(), WorkerError> {
        let topology = Topology::of(pipeline);
        let mut stages = Vec::new();
        for channel in &pipeline.channels {
            let name = Names::channel_stage(&channel.name);
            let built = pipeline.deliver(channel, Some(self.broker.clone()));
            let deliver = built.map_err(|problems| cannot_build(&name, &problems))?;
            if let Some(endpoint) = deliver.endpoint(self.stop.clone()) {
                self.tasks.spawn(endpoint);
            }
            let line =
                map::Line::single(&name, Box::new(deliver), channel.policy.clone(), &self.metrics);
            stages.push(self.map_stage(
                pipeline,
                line,
                limits::CHANNEL_ACK_WAIT,
                limits::CHANNEL_CONCURRENCY,
                &topology,
            ));
        }
        let (broker, bucket) = (self.broker.clone(), pipeline.names().state_bucket());
        let leased = map::Leased {
            broker,
            bucket,
            lease: Names::CHANNELS_LEASE,
            worker: id.to_owned(),
            stages,
        };
        self.tasks.spawn(leased.run(self.stop.clone(), self.abandon.clone()));
        Ok(())
    }

    /// Starts redrives and recoveries: the jobs that nobody else runs.
    fn start_jobs(&mut self, pipeline: &Pipeline, id: &str) {
        let context = Context {
            broker: self.broker.clone(),
            names: pipeline.names(),
            targets: Targets::of(pipeline),
            metrics: Some(Arc::clone(&self.metrics)),
        };
        let fleet = Fleet { context: context.clone(), worker: id.to_owned() };
        self.tasks.spawn(fleet.run(self.stop.clone()));
        self.tasks.spawn(Recovery::of(pipeline, context, id).run(self.stop.clone()));
    }

    fn spawn_map(
        &mut self,
        pipeline: &Pipeline,
        line: map::Line,
        ack_wait: Duration,
        concurrency: usize,
        topology: &Topology,
    ) {
        let (stage, feeds) = self.map_stage(pipeline, line, ack_wait, concurrency, topology);
        for feed in &feeds {
            self.conditions.expect(&feed.condition(), "not opened yet");
        }
        self.tasks.spawn(map::run(stage, feeds, self.stop.clone(), self.abandon.clone()));
    }

    /// Stage at work, and its consumers; its quarantined events are looked for from then on.
    fn map_stage(
        &mut self,
        pipeline: &Pipeline,
        line: map::Line,
        ack_wait: Duration,
        concurrency: usize,
        topology: &Topology,
    ) -> (Arc<map::MapStage>, Vec<map::StageConsumer>) {
        let feeds: Vec<map::StageConsumer> =
            topology.feeds(line.name()).into_iter().map(Into::into).collect();
        let quarantine = topology.quarantine(line.name());
        let stage = Arc::new(map::MapStage {
            broker: self.broker.clone(),
            names: pipeline.names(),
            config: pipeline.config_hash.clone(),
            metrics: self.metrics.stage(line.name()),
            line,
            ack_wait,
            concurrency,
            retry_max_age: pipeline.storage.retry_max_age,
            in_flight: Arc::clone(&self.in_flight),
            lives: map::Lives::default(),
            waiting: map::Waiting::default(),
            roll_call: Arc::clone(&self.roll_call),
            pulse: Arc::clone(&self.pulse),
            conditions: Arc::clone(&self.conditions),
        });
        self.quarantined.extend(quarantine.map(|feed| (Arc::clone(&stage), feed.into())));
        (stage, feeds)
    }

    /// Counters of the worker.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Waits until the server refuses something that the worker must do, or `until` is done.
    ///
    /// # Errors
    /// The refusal.
    pub async fn run_until(&self, until: impl Future<Output = ()>) -> Result<(), WorkerError> {
        tokio::select! {
            fatal = self.broker.fatal() => Err(fatal.into()),
            () = until => Ok(()),
        }
    }

    /// Drains: stops pulling, finishes what is in flight, and gives up on that after
    /// [`limits::DRAIN`] or at `abandon`.
    pub async fn drain(mut self, abandon: impl Future<Output = ()>) {
        self.stop.cancel();
        tokio::pin!(abandon);
        let patience = tokio::time::sleep(limits::DRAIN.saturating_sub(limits::DRAIN_RESERVE));
        tokio::pin!(patience);
        loop {
            tokio::select! {
                next = self.tasks.join_next() => if next.is_none() { break },
                () = &mut patience, if !self.abandon.is_cancelled() => self.abandon.cancel(),
                () = &mut abandon, if !self.abandon.is_cancelled() => self.abandon.cancel(),
                () = tokio::time::sleep(limits::DRAIN_RESERVE), if self.abandon.is_cancelled() => {
                    break;
                }
            }
        }
        self.take_leave().await;
        self.broker.flush().await;
    }
}

impl std::fmt::Debug for Worker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Worker")
            .field("listening", &self.listening)
            .field("tasks", &self.tasks.len())
            .finish_non_exhaustive()
    }
}

/// World of stages that run: the folder of the configuration, its channels, and real handlers.
struct RunWorld {
    pipeline: Arc<Pipeline>,
    channels: Vec<ChannelTerms>,
    handler: Box<HandlerBuilder>,
}

impl RunWorld {
    fn new(pipeline: &Arc<Pipeline>, broker: &Broker, registry: &Registry) -> Self {
        let context = HandlerContext {
            broker: Some(broker.clone()),
            base: pipeline.base.clone(),
            registered: registry.clone(),
        };
        Self {
            pipeline: Arc::clone(pipeline),
            channels: pipeline.channels.iter().map(pipeline::Channel::terms).collect(),
            handler: Box::new(move |options, _| handlers::build(options, &context)),
        }
    }

    fn lend(&self) -> ConfigWorld<'_> {
        ConfigWorld { base: &self.pipeline.base, handler: &self.handler, channels: &self.channels }
    }
}

/// Stages that a worker runs; `None`: all.
struct Selected(Option<Vec<String>>);

impl Selected {
    fn of(pipeline: &Pipeline, names: Option<&[String]>) -> Result<Self, WorkerError> {
        let all: Vec<String> =
            pipeline.stages.iter().map(|stage: &pipeline::Stage| stage.name.clone()).collect();
        if let Some(stage) = names.into_iter().flatten().find(|name| !all.contains(name)) {
            return Err(WorkerError::UnknownStage { stage: stage.clone(), known: all.join(", ") });
        }
        Ok(Self(names.map(<[String]>::to_vec)))
    }

    fn is_all(&self) -> bool {
        self.0.is_none()
    }

    fn has(&self, name: &str) -> bool {
        self.0.as_ref().is_none_or(|names| names.iter().any(|stage| stage == name))
    }
}

fn cannot_build(stage: &str, problems: &[Problem]) -> WorkerError {
    let problem = problems
        .first()
        .map_or_else(|| "no reason given".to_owned(), |problem| problem.message.clone());
    WorkerError::Stage { stage: stage.to_owned(), problem }
}

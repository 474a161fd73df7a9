//! Worker: one process of the fleet, from the first connection to the end of the drain.

mod error;
mod reduced;
mod rights;
mod selected;
mod world;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millstream_stages::Build;
use tokio::{sync::Semaphore, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use self::error::WorkerError;
use self::{
    error::first,
    reduced::{BuildReduce, ReduceStage},
    selected::Selected,
    world::RunWorld,
};
use crate::{
    broker::Broker,
    config::{Pipeline, pipeline::Stage},
    exhausted::{bury::Burial, router::Router, sweep::Sweep},
    handlers::Registry,
    keeper::{Hearing, Keeper, hearing},
    limits, map,
    observe::{self, Conditions, Front, Metrics, RollCall, WorkerRecord, heartbeat::Heartbeat},
    redrive::{
        context::Context,
        fleet::{self, Fleet},
        recovery::Recovery,
        targets::Targets,
    },
    supervise::Supervisor,
    topology::Topology,
    wire::Names,
};

/// Condition of a worker that has not begun to work.
const STARTING: &str = "worker";

/// Options of one worker, besides the pipeline.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Stages that it runs; `None`: all. It stands for every duty of the fleet either way.
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

/// Worker that is running.
pub struct Worker {
    broker: Broker,
    metrics: Arc<Metrics>,
    conditions: Arc<Conditions>,
    supervisor: Supervisor,
    /// Address at which metrics and health are served.
    pub listening: Option<SocketAddr>,
    tasks: JoinSet<()>,
    /// Events in flight of stages with one attempt only.
    fragile: Arc<map::InFlight>,
    /// Suspects that run.
    company: Arc<map::Company>,
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
        let front = Front::open(&pipeline).await?;
        Self::start_behind(front, broker, pipeline, options).await
    }

    /// Starts the stages behind a port that is open already, as [`Worker::start`] does.
    ///
    /// # Errors
    /// [`WorkerError`]; nothing keeps running.
    pub async fn start_behind(
        front: Front,
        broker: Broker,
        pipeline: Arc<Pipeline>,
        options: Options,
    ) -> Result<Self, WorkerError> {
        let selected = Selected::of(&pipeline, options.stages.as_deref())?;
        let (metrics, conditions) = (Arc::clone(&front.metrics), Arc::clone(&front.conditions));
        conditions.expect(STARTING, "it is starting");
        let id = options.id();
        let fragile = Arc::default();
        let mut worker = Self {
            listening: front.listening(),
            tasks: JoinSet::new(),
            company: Arc::new(map::Company::new(Arc::clone(&fragile))),
            fragile,
            roll_call: Arc::new(RollCall::new(&id)),
            pulse: Arc::default(),
            stop: CancellationToken::new(),
            abandon: CancellationToken::new(),
            heartbeat: JoinSet::new(),
            leave: CancellationToken::new(),
            supervisor: Supervisor::new(Arc::clone(&conditions), Arc::clone(&metrics)),
            broker,
            metrics,
            conditions,
        };
        let front = Arc::new(front);
        worker.keep("task observe", move |stop| {
            let front = Arc::clone(&front);
            async move { front.run(stop).await }
        });
        let lacking = Arc::clone(&worker.conditions);
        worker.keep("task lacks", move |stop| observe::lacks::watch(Arc::clone(&lacking), stop));
        let hearing = Arc::new(Hearing {
            broker: worker.broker.clone(),
            pipeline: Arc::clone(&pipeline),
            metrics: Arc::clone(&worker.metrics),
            conditions: Arc::clone(&worker.conditions),
            runs: hearing::runs(&pipeline, options.stages.as_deref()),
        });
        worker.keep("task hearing", move |stop| {
            let hearing = Arc::clone(&hearing);
            async move { hearing.run(stop).await }
        });
        let (broker, supervisor) = (worker.broker.clone(), worker.supervisor.clone());
        worker
            .keep("task rights", move |stop| rights::run(broker.clone(), supervisor.clone(), stop));
        // Before anything is pulled: of a worker that nobody has heard of nobody knows that it
        // died.
        worker.start_heartbeat(&pipeline, &id).await;
        match worker.start_work(&pipeline, &selected, &options.registry, &id).await {
            Ok(()) => {
                worker.conditions.forget(STARTING);
                Ok(worker)
            }
            Err(error) => {
                worker.stop.cancel();
                worker.take_leave().await;
                Err(error)
            }
        }
    }

    /// Keeps a task at work until the worker stops; `start` makes it, again where it panicked.
    fn keep<Fut>(
        &mut self,
        name: impl Into<String>,
        mut start: impl FnMut(CancellationToken) -> Fut + Send + 'static,
    ) where
        Fut: Future<Output = ()> + Send + 'static,
    {
        let (stop, name) = (self.stop.clone(), name.into());
        let begin = move || start(stop.clone());
        self.tasks.spawn(self.supervisor.clone().keep(name, self.stop.clone(), begin));
    }

    async fn start_heartbeat(&mut self, pipeline: &Arc<Pipeline>, id: &str) {
        let (pipeline, id) = (Arc::clone(pipeline), id.to_owned());
        let (broker, metrics) = (self.broker.clone(), Arc::clone(&self.metrics));
        let conditions = Arc::clone(&self.conditions);
        let (roll_call, leave) = (Arc::clone(&self.roll_call), self.leave.clone());
        let heartbeat = move || {
            let record = WorkerRecord::new(&id, &host(), &pipeline.config_hash);
            let (broker, metrics) = (broker.clone(), Arc::clone(&metrics));
            let (conditions, roll_call) = (Arc::clone(&conditions), Arc::clone(&roll_call));
            Heartbeat::new(broker, &pipeline, metrics, conditions, roll_call, &id)
                .run(record, leave.clone())
        };
        let (pulse, leave) = (Arc::clone(&self.pulse), self.leave.clone());
        let pulse = move || Arc::clone(&pulse).run(leave.clone());
        let leave = || self.leave.clone();
        let supervisor = || self.supervisor.clone();
        self.heartbeat.spawn(supervisor().keep("task heartbeat", leave(), heartbeat));
        self.heartbeat.spawn(supervisor().keep("task pulse", leave(), pulse));
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
        let breakers = Arc::new(breakers);
        self.start_stages(pipeline, selected, registry, id, &breakers)?;
        self.keep("task breakers", move |stop| {
            let breakers = Arc::clone(&breakers);
            async move { breakers.run(stop).await }
        });
        self.start_notifications(pipeline, selected, id);
        self.start_jobs(pipeline, id);
        let burial = Burial {
            broker: self.broker.clone(),
            pipeline: Arc::clone(pipeline),
            metrics: Arc::clone(&self.metrics),
        };
        let routed = burial.clone();
        self.keep("task router", move |stop| Router(routed.clone()).run(stop));
        let sweeper = id.to_owned();
        self.keep("task sweep", move |stop| {
            let (sweep, sweeper) = (Sweep::new(burial.clone()), sweeper.clone());
            async move { sweep.run(&sweeper, stop).await }
        });
        let (broker, pipeline) = (self.broker.clone(), Arc::clone(pipeline));
        let (metrics, keeps) = (Arc::clone(&self.metrics), id.to_owned());
        let conditions = Arc::clone(&self.conditions);
        self.keep("task keeper", move |stop| {
            let keeper = Keeper {
                broker: broker.clone(),
                pipeline: Arc::clone(&pipeline),
                metrics: Arc::clone(&metrics),
                conditions: Arc::clone(&conditions),
            };
            let keeps = keeps.clone();
            async move { keeper.run(&keeps, stop).await }
        });
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
                    let line = built.map_err(|it| WorkerError::cannot_build(&stage.name, &it))?;
                    self.keep_map(pipeline, line, stage, &topology);
                }
                Build::Reduce(build) => {
                    build(&stage.options, &world.lend())
                        .map_err(|problems| WorkerError::cannot_build(&stage.name, &problems))?;
                    let world = RunWorld::new(pipeline, &self.broker, registry);
                    self.keep_reduce(pipeline, stage, world, build, id);
                }
            }
        }
        Ok(())
    }

    fn keep_map(
        &mut self,
        pipeline: &Pipeline,
        line: map::Line,
        stage: &Stage,
        topology: &Topology,
    ) {
        let (stage, feeds) =
            self.map_stage(pipeline, line, stage.ack_wait, stage.concurrency, topology);
        for feed in &feeds {
            self.conditions.expect(&feed.condition(), "not opened yet");
        }
        let abandon = self.abandon.clone();
        self.keep(stage.condition(), move |stop| {
            map::run(Arc::clone(&stage), feeds.clone(), stop, abandon.clone())
        });
    }

    fn keep_reduce(
        &mut self,
        pipeline: &Arc<Pipeline>,
        stage: &Stage,
        world: RunWorld,
        build: BuildReduce,
        id: &str,
    ) {
        let reduce = Arc::new(ReduceStage {
            broker: self.broker.clone(),
            pipeline: Arc::clone(pipeline),
            stage: stage.clone(),
            metrics: self.metrics.reduce(&stage.name),
            conditions: Arc::clone(&self.conditions),
            worker: id.to_owned(),
            world,
            build,
        });
        self.keep(reduce.condition(), move |stop| {
            let reduce = Arc::clone(&reduce);
            async move { reduce.run(stop).await }
        });
    }

    /// Stands for the delivery of notifications. A channel that cannot be set up on this host is
    /// left to others.
    fn start_notifications(&mut self, pipeline: &Arc<Pipeline>, selected: &Selected, id: &str) {
        let topology = Topology::of(pipeline);
        let (mut stages, mut missing) = (Vec::new(), Vec::new());
        for channel in &pipeline.channels {
            let name = Names::channel_stage(&channel.name);
            let deliver = match pipeline.deliver(channel, Some(self.broker.clone())) {
                Ok(deliver) => deliver,
                Err(problems) => {
                    let lacks = format!("channel \"{}\": {}", channel.name, first(&problems));
                    tracing::warn!(lacks, "notifications of a channel are left to other workers");
                    missing.push(lacks);
                    continue;
                }
            };
            let endpoint = deliver.endpoint();
            if endpoint(self.stop.clone()).is_some() {
                self.keep(format!("task endpoint {}", channel.name), move |stop| {
                    let serving = endpoint(stop);
                    async move {
                        if let Some(serving) = serving {
                            serving.await;
                        }
                    }
                });
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
        let leased = Arc::new(map::Leased {
            broker: self.broker.clone(),
            bucket: pipeline.names().state_bucket(),
            lease: Names::CHANNELS_LEASE,
            worker: id.to_owned(),
            patience: if selected.is_all() { Duration::ZERO } else { limits::DUTY_YIELD },
            stages,
            missing,
            conditions: Arc::clone(&self.conditions),
        });
        let abandon = self.abandon.clone();
        self.keep("task notifications", move |stop| {
            let (leased, abandon) = (Arc::clone(&leased), abandon.clone());
            async move { leased.run(stop, abandon).await }
        });
    }

    /// Starts redrives and recoveries: the jobs that nobody else runs.
    fn start_jobs(&mut self, pipeline: &Pipeline, id: &str) {
        let context = Context {
            broker: self.broker.clone(),
            names: pipeline.names(),
            targets: Targets::of(pipeline),
            metrics: Some(Arc::clone(&self.metrics)),
        };
        let recovery = Recovery::of(pipeline, context.clone(), id);
        let (worker, supervisor) = (id.to_owned(), self.supervisor.clone());
        self.keep(fleet::TASK, move |stop| {
            let (context, worker) = (context.clone(), worker.clone());
            Fleet { context, worker, supervisor: supervisor.clone() }.run(stop)
        });
        if !recovery.is_empty() {
            self.keep("task recovery", move |stop| recovery.clone().run(stop));
        }
    }

    /// Stage at work, and its consumers.
    fn map_stage(
        &self,
        pipeline: &Pipeline,
        line: map::Line,
        ack_wait: Duration,
        concurrency: usize,
        topology: &Topology,
    ) -> (Arc<map::MapStage>, Vec<map::StageConsumer>) {
        let feeds: Vec<map::StageConsumer> = topology
            .feeds(line.name())
            .into_iter()
            .chain(topology.quarantine(line.name()))
            .map(Into::into)
            .collect();
        let in_flight = match line.policy().attempts_max() {
            1 => Arc::clone(&self.fragile),
            _ => Arc::default(),
        };
        let stage = Arc::new(map::MapStage {
            broker: self.broker.clone(),
            names: pipeline.names(),
            config: pipeline.config_hash.clone(),
            metrics: self.metrics.stage(line.name()),
            line,
            ack_wait,
            concurrency,
            slots: Arc::new(Semaphore::new(concurrency)),
            retry_max_age: pipeline.storage.retry_max_age,
            in_flight,
            company: Arc::clone(&self.company),
            lives: map::Lives::default(),
            waiting: map::Waiting::default(),
            roll_call: Arc::clone(&self.roll_call),
            pulse: Arc::clone(&self.pulse),
            conditions: Arc::clone(&self.conditions),
            supervisor: self.supervisor.clone(),
        });
        (stage, feeds)
    }

    /// Counters of the worker.
    pub fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// Conditions of the worker.
    pub fn conditions(&self) -> &Conditions {
        &self.conditions
    }

    /// Supervisor of the worker's tasks.
    pub fn supervisor(&self) -> &Supervisor {
        &self.supervisor
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

//! Line: a stage and those chained to it, as one function from an event to its results.

use std::{
    panic::AssertUnwindSafe,
    sync::Arc,
    time::{Duration, Instant},
};

use futures_util::{FutureExt as _, future::BoxFuture};
use millstream_stages::{
    Build, Delivery, Event, Failure, Map, Problem, World, failure::class, handle, retry::Policy,
};
use tokio::sync::watch;

use super::breaker::{Breaker, Breakers, Pace};
use crate::{
    config::{Pipeline, pipeline},
    filters::{self, NoAnswer},
    observe::{Metrics, StageMetrics},
    panics,
    shortage::Shortage,
    wire::subject_pattern,
};

/// Stage and those chained to it. They share one delivery: if one fails, all run again.
pub struct Line {
    name: String,
    map: Box<dyn Map>,
    policy: Policy,
    types: Vec<String>,
    publishes: bool,
    dedup: bool,
    chained: Vec<Line>,
    breaker: Arc<Breaker>,
    metrics: Arc<StageMetrics>,
}

/// Results of a line for one event.
#[derive(Debug, Default)]
pub struct Applied<'a> {
    /// Events to publish, in order.
    pub outputs: Vec<Output<'a>>,
    /// Stages that are done with it, and the time that each ran; `None`: it was not for it.
    pub ran: Vec<(&'a Line, Option<Duration>)>,
}

/// Event to publish as a result of a stage.
#[derive(Debug)]
pub struct Output<'a> {
    /// Stage whose result it is.
    pub stage: &'a Line,
    /// The event.
    pub event: Event,
}

/// Failure of a line, and the stage that failed.
#[derive(Debug)]
pub struct Failed<'a> {
    /// The stage.
    pub stage: &'a Line,
    /// The failure.
    pub failure: Failure,
    /// Time that the stage ran before it failed; `None`: it did not run, or not fail.
    pub took: Option<Duration>,
}

impl Line {
    /// Builds `stage` and what is chained to it.
    ///
    /// # Errors
    /// Problems of the options of one of them; `check` finds the same.
    pub fn build(
        pipeline: &Pipeline,
        stage: &pipeline::Stage,
        world: &dyn World,
        metrics: &Metrics,
        breakers: &Breakers,
    ) -> Result<Self, Vec<Problem>> {
        let map = match stage.kind.build {
            Build::Map(build) => build(&stage.options, world)?,
            Build::Reduce(_) => {
                return Err(vec![Problem::new(&["kind"], "is not a kind that maps events")]);
            }
        };
        let chained = pipeline
            .chained_to(&stage.name)
            .map(|next| Self::build(pipeline, next, world, metrics, breakers))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            types: stage.types.clone(),
            publishes: pipeline.has_edge(&stage.name),
            dedup: stage.dedup.is_some(),
            chained,
            breaker: breakers.of(&stage.name),
            ..Self::single(&stage.name, map, stage.policy.clone(), metrics)
        })
    }

    /// Line of one map that publishes nothing.
    pub fn single(name: &str, map: Box<dyn Map>, policy: Policy, metrics: &Metrics) -> Self {
        Self {
            name: name.to_owned(),
            map,
            policy,
            types: Vec::new(),
            publishes: false,
            dedup: false,
            chained: Vec::new(),
            breaker: Arc::new(Breaker::none()),
            metrics: metrics.stage(name),
        }
    }

    /// Name of the stage.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Names of its stages, its own first.
    pub fn names(&self) -> Vec<&str> {
        std::iter::once(self.name()).chain(self.chained.iter().flat_map(Self::names)).collect()
    }

    /// Circuit breaker of the stage's handler.
    pub fn breaker(&self) -> &Breaker {
        &self.breaker
    }

    /// Pace at which the line may pull: that of the slowest of its stages.
    pub fn pace(&self) -> watch::Receiver<Pace> {
        let mut paces: Vec<_> = self.lines().iter().map(|line| line.breaker.pace()).collect();
        if paces.len() == 1 {
            return paces.remove(0);
        }
        let slowest = |paces: &[watch::Receiver<Pace>]| {
            paces.iter().map(|pace| *pace.borrow()).min().unwrap_or(Pace::Full)
        };
        let (sender, receiver) = watch::channel(slowest(&paces));
        tokio::spawn(async move {
            loop {
                let changes = paces.iter_mut().map(|pace| Box::pin(pace.changed()));
                let changed = futures_util::future::select_all(changes);
                let gone = tokio::select! {
                    (changed, ..) = changed => changed.is_err(),
                    () = sender.closed() => true,
                };
                if gone {
                    return;
                }
                sender.send_replace(slowest(&paces));
            }
        });
        receiver
    }

    /// True if the line may not pull at all now.
    pub fn is_stopped(&self) -> bool {
        self.lines().iter().any(|line| *line.breaker.pace().borrow() == Pace::Stopped)
    }

    fn lines(&self) -> Vec<&Self> {
        std::iter::once(self).chain(self.chained.iter().flat_map(Self::lines)).collect()
    }

    /// Retry policy: when and how often a failed event comes back.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Counters of the stage.
    pub fn metrics(&self) -> &StageMetrics {
        &self.metrics
    }

    /// True if its results carry an id by which the server drops repeats.
    pub fn dedups(&self) -> bool {
        self.dedup
    }

    /// True if events of this type are for the stage.
    ///
    /// On an edge the server filters already; on a source publishers choose the subjects, so the
    /// worker does.
    pub fn takes(&self, event_type: &str) -> bool {
        self.types.is_empty()
            || self.types.iter().any(|pattern| subject_pattern::matches(pattern, event_type))
    }

    /// Applies the line to one event and gathers what is to be published, in order.
    ///
    /// # Errors
    /// The first failure, with the stage it came from. A panic is a failure, and so is taking too
    /// long.
    pub async fn apply<'a>(
        &'a self,
        event: &Event,
        delivery: &Delivery,
        applied: &mut Applied<'a>,
    ) -> Result<(), Failed<'a>> {
        let began = Instant::now();
        let answered = AssertUnwindSafe(self.answer(event, delivery)).catch_unwind().await;
        let answered = answered.unwrap_or_else(|panic| {
            let said = panics::text(&*panic);
            // Tokio's, where a thread that blocks cannot be started.
            if said.starts_with("OS can't spawn worker thread") {
                return Err(Shortage::Processes.failure("could not start a thread"));
            }
            Err(Failure::retry(class::HANDLER, format!("the handler panicked: {said}")))
        });
        let took = began.elapsed();
        let results = answered.map_err(|failure| {
            let took = Some(took).filter(|_| failure.class != class::CONDITION);
            Failed { stage: self, failure, took }
        })?;
        applied.ran.push((self, results.is_some().then_some(took)));
        let Some(results) = results else { return Ok(()) };
        self.breaker.succeeded(event.tenant.as_deref(), took);
        for event in results {
            for next in self.chained.iter().filter(|next| next.takes(&event.event_type)) {
                next.apply_boxed(&event, delivery, applied).await?;
            }
            if self.publishes {
                applied.outputs.push(Output { stage: self, event });
            }
        }
        Ok(())
    }

    fn apply_boxed<'a: 'b, 'b>(
        &'a self,
        event: &'b Event,
        delivery: &'b Delivery,
        applied: &'b mut Applied<'a>,
    ) -> BoxFuture<'b, Result<(), Failed<'a>>> {
        Box::pin(self.apply(event, delivery, applied))
    }

    /// Results of the stage for the event; `None` where the event is not for it.
    async fn answer(
        &self,
        event: &Event,
        delivery: &Delivery,
    ) -> Result<Option<Vec<Event>>, Failure> {
        let answer = async {
            if let Some(when) = self.map.when()
                && !filters::truthy(when, event).await.map_err(undecided)?
            {
                return Ok(None);
            }
            self.map.apply(event, delivery).await.map(Some)
        };
        let Some(limit) = self.map.timeout() else { return answer.await };
        tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
            Err(Failure::retry(
                class::TIMEOUT,
                format!("no answer in {}", millstream_stages::units::Period(limit)),
            ))
        })
    }
}

/// Failure of an event of which `when` does not say if it is for the stage.
fn undecided(error: NoAnswer) -> Failure {
    match error {
        NoAnswer::Fault(fault) => handle::undecided(&fault),
        error @ NoAnswer::Slow => Failure::retry(class::TIMEOUT, format!("when: {error}")),
        NoAnswer::NoThread(error) => {
            Shortage::start_failure(&error, "could not start a thread for `when`")
        }
    }
}

impl std::fmt::Debug for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Line")
            .field("name", &self.name)
            .field("chained", &self.chained)
            .finish_non_exhaustive()
    }
}

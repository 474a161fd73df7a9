//! `run`: one worker of the fleet, until SIGTERM or Ctrl-C.

use std::{process::ExitCode, sync::Arc};

use crate::{
    config::Pipeline,
    descriptors, limits,
    observe::{Exporter, Front, logs},
    topology::{self, Topology},
    worker::{Options, Worker},
};

use anyhow::Context as _;

use super::{App, signals::Signals};

const EXAMPLES: &str = "\
Examples:
  millstream apply && millstream run      create what it needs, then work
  millstream run --stage orders           one stage only; start as many as you like
  millstream run --apply --log-format json

SIGTERM or Ctrl-C drains: it stops pulling, finishes what is in flight, and exits with status 0 \
within 30 s. A second one
gives back what is in flight at once.";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run this stage only; may be repeated. Of a chained stage, the one that it runs in. The
    /// duties of the fleet (notifications, redrives, recovery) are done by any worker all the same
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Create and update the streams and consumers first, as `apply` does
    #[arg(long)]
    apply: bool,
}

/// Connects, however long that takes, and works until SIGTERM or Ctrl-C.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let signals = Signals::listen().context("could not listen for signals")?;
    let Some(pipeline) = app.pipeline_unless(&signals).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let pipeline = Arc::new(pipeline);
    let spans = start_logs(app, &pipeline)?;
    descriptors::raise();
    let ended = work(app, &pipeline, args, &signals).await;
    if let Some(spans) = spans {
        spans.shutdown(limits::SPANS_FLUSH_MAX).await;
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// Starts the logs, and the export of spans where the configuration says where to.
pub(super) fn start_logs(app: &App, pipeline: &Pipeline) -> anyhow::Result<Option<Exporter>> {
    let observe = &pipeline.observe;
    let worker = format!("{}", std::process::id());
    let export =
        |endpoint: &String| Exporter::new(endpoint, observe.sample, &pipeline.name, &worker);
    let spans = observe.otlp.as_ref().map(export).transpose()?;
    logs::init(&app.log_options("info"), spans.as_ref())?;
    Ok(spans)
}

async fn work(
    app: &App,
    pipeline: &Arc<Pipeline>,
    args: Args,
    signals: &Signals,
) -> anyhow::Result<()> {
    // A worker that waits for its broker says so at its port.
    let front = Front::open(pipeline).await?;
    let ready = async {
        let broker = app.connect_patiently(pipeline, &front.conditions).await?;
        if args.apply {
            topology::make(&broker, &Topology::of(pipeline)).await?;
        }
        anyhow::Ok(broker)
    };
    // An apply that is cut off is done again by the next one.
    let Some(broker) = signals.unless_stopped(front.during(ready)).await else {
        tracing::info!("stopped before it began");
        return Ok(());
    };
    let stages = (!args.stage.is_empty()).then_some(args.stage);
    let options = Options { stages, registry: app.registry.clone() };
    let starting = Worker::start_behind(front, broker?, Arc::clone(pipeline), options);
    let Some(worker) = started(starting, signals).await else { return Ok(()) };
    let worker = worker?;
    tracing::info!(
        pipeline = pipeline.name,
        config = pipeline.config_hash,
        listening = worker.listening.map(|at| at.to_string()),
        "working"
    );
    signals.stop().await;
    tracing::info!("draining");
    worker.drain(signals.hurry()).await;
    tracing::info!("stopped");
    Ok(())
}

/// Waits for the start of a worker. One that is under way when a signal comes is let come to its
/// end, so that it can take leave of the fleet; `None` where that takes too long, or there is a
/// second signal.
pub(super) async fn started<T>(starting: impl Future<Output = T>, signals: &Signals) -> Option<T> {
    let enough = async {
        signals.stop().await;
        tokio::time::timeout(limits::START_STOP_MAX, signals.hurry()).await.ok();
    };
    tokio::select! {
        biased;
        started = starting => Some(started),
        () = enough => None,
    }
}

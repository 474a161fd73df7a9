//! `run`: one worker of the fleet, until SIGTERM or Ctrl-C.

use std::{process::ExitCode, sync::Arc};

use crate::{
    broker::Broker,
    config::Pipeline,
    descriptors, limits,
    observe::{Exporter, Front, logs},
    topology::{self, Topology},
    worker::{Options, Worker},
};

use super::App;

const EXAMPLES: &str = "\
Examples:
  millstream apply && millstream run      create what it needs, then work
  millstream run --stage orders           one stage only; start as many as you like
  millstream run --apply --log-format json

SIGTERM or Ctrl-C drains: it stops pulling, finishes what is in flight, and exits within 30 s. \
A second one gives
back what is in flight at once.";

/// Arguments of `run`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Run this stage only; may be repeated. Notifications are sent by workers that run all stages
    #[arg(long, value_name = "NAME")]
    stage: Vec<String>,
    /// Create and update the streams and consumers first, as `apply` does
    #[arg(long)]
    apply: bool,
}

/// Connects, however long that takes, and works until SIGTERM or Ctrl-C.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = Arc::new(app.pipeline()?);
    let spans = start_logs(app, &pipeline)?;
    descriptors::raise();
    // A worker that waits for its broker says so at its port.
    let front = Front::open(&pipeline).await?;
    let ended = tokio::select! {
        broker = app.connect_patiently(&pipeline, &front.conditions) => match broker {
            Ok(broker) => Some(broker),
            Err(error) => return Err(error),
        },
        () = stop_signal() => None,
    };
    let ended = match ended {
        Some(broker) => work(app, &pipeline, broker, front, args).await,
        None => Ok(()),
    };
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
    broker: Broker,
    front: Front,
    args: Args,
) -> anyhow::Result<()> {
    if args.apply {
        topology::make(&broker, &Topology::of(pipeline)).await?;
    }
    let stages = (!args.stage.is_empty()).then_some(args.stage);
    let options = Options { stages, registry: app.registry.clone() };
    let worker = Worker::start_behind(front, broker, Arc::clone(pipeline), options).await?;
    tracing::info!(
        pipeline = pipeline.name,
        config = pipeline.config_hash,
        listening = worker.listening.map(|at| at.to_string()),
        "working"
    );
    let ended = worker.run_until(stop_signal()).await;
    tracing::info!("draining");
    // After a refusal, events in flight wait for what will not come: give them back at once.
    let abandon = async {
        if ended.is_ok() {
            stop_signal().await;
        }
    };
    worker.drain(abandon).await;
    tracing::info!("stopped");
    Ok(ended?)
}

/// Waits for SIGTERM or Ctrl-C.
pub(super) async fn stop_signal() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate()).expect("SIGTERM can be listened for");
        tokio::select! {
            _ = tokio::signal::ctrl_c() => {}
            _ = terminate.recv() => {}
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await.ok();
}

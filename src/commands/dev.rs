//! `dev`: the pipeline with a server of its own, reloaded when its files change.

use std::{
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::{Duration, SystemTime},
};

use anyhow::Context as _;

use super::{
    App, graph,
    local::{self, Claim},
    run::{start_logs, started},
    signals::Signals,
};
use crate::{
    broker::{
        Broker,
        server::{Launch, Server},
    },
    config::Pipeline,
    limits,
    observe::Front,
    topology::{self, Topology},
    worker::{Options, Worker},
};

/// Folder of the server's streams, below its data.
const STORE: &str = "jetstream";

const EXAMPLES: &str = "\
Examples:
  millstream dev
  millstream publish < events.jsonl      # in another terminal, in the same folder
  millstream dev --fresh                 # forget what is under .millstream/

Edit pipeline.toml or a schema and save: the pipeline is checked, applied and restarted. \
A file with problems
changes nothing until it is mended.";

/// Arguments of `dev`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// The folder for the server's data
    #[arg(long, value_name = "DIR", default_value = local::DATA)]
    data: PathBuf,
    /// Begin with empty streams
    #[arg(long)]
    fresh: bool,
    /// The server's port; a free one without it
    #[arg(long)]
    port: Option<u16>,
}

/// Runs the pipeline until Ctrl-C.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let signals = Signals::listen().context("could not listen for signals")?;
    let Some(pipeline) = app.pipeline_unless(&signals).await? else {
        return Ok(ExitCode::SUCCESS);
    };
    let spans = start_logs(app, &pipeline)?;
    crate::descriptors::raise();
    let data = local::data_of(&args.data);
    let claim = match pipeline.nats.url.is_empty() {
        true => Some(Claim::of(&data)?),
        false => None,
    };
    if args.fresh && data.exists() {
        let store = data.join(STORE);
        if store.exists() {
            std::fs::remove_dir_all(&store)
                .with_context(|| format!("could not remove \"{}\"", store.display()))?;
        }
    }
    let server = match pipeline.nats.url.is_empty() {
        true => match signals.unless_stopped(own_server(app, &data, args.port)).await {
            Some(server) => Some(server?),
            None => return Ok(ExitCode::SUCCESS),
        },
        false => None,
    };
    if let (Some(claim), Some(server)) = (&claim, &server) {
        claim.tell(server.url())?;
    }
    let ended = work(app, pipeline, server.as_ref(), &signals).await;
    if let Some(mut server) = server {
        server.stop().await;
    }
    if let Some(spans) = spans {
        spans.shutdown(limits::SPANS_FLUSH_MAX).await;
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// Applies the pipeline and works, again after each edit, until a signal comes.
async fn work(
    app: &App,
    mut pipeline: Pipeline,
    server: Option<&Server>,
    signals: &Signals,
) -> anyhow::Result<()> {
    let nats = match server {
        Some(server) => {
            crate::broker::Nats { url: vec![server.url().to_owned()], ..Default::default() }
        }
        None => pipeline.nats.clone(),
    };
    let mut front = Front::open(&pipeline).await?;
    let connecting = Broker::connect(&nats, "millstream dev");
    let Some(broker) = signals.unless_stopped(front.during(connecting)).await else {
        return Ok(());
    };
    let broker = broker?;
    let mut watch = Watch::new(&app.common.config, &pipeline);
    loop {
        let topology = Topology::of(&pipeline);
        let Some(made) = signals.unless_stopped(topology::make(&broker, &topology)).await else {
            return Ok(());
        };
        made?;
        let listen = pipeline.observe.listen;
        let starting = Worker::start_behind(
            front,
            broker.clone(),
            Arc::new(pipeline.clone()),
            Options { stages: None, registry: app.registry.clone() },
        );
        let Some(worker) = started(starting, signals).await else { return Ok(()) };
        let worker = worker?;
        announce(app, &pipeline, &nats, listen.and(worker.listening));
        let next = signals.unless_stopped(watch.next_pipeline(app)).await;
        if next.is_none() {
            eprintln!("stopping: finishing what is in hand");
        }
        worker.drain(signals.hurry()).await;
        match next {
            Some(edited) => {
                front = Front::open(&edited).await?;
                pipeline = edited;
            }
            None => return Ok(()),
        }
    }
}

/// Starts the embedded server with its data in `data`.
pub(super) async fn own_server(
    app: &App,
    data: &Path,
    port: Option<u16>,
) -> anyhow::Result<Server> {
    let program = Server::find(app.common.nats_server.as_deref()).await?;
    let launch =
        Launch { data: data.to_owned(), port: port.unwrap_or(0), jetstream: true, config: None };
    Ok(Server::launch(&program, launch).await?)
}

fn announce(
    app: &App,
    pipeline: &Pipeline,
    nats: &crate::broker::Nats,
    listening: Option<std::net::SocketAddr>,
) {
    let url = nats.url.join(",");
    eprintln!("\n{}", graph::draw(pipeline, graph::Format::Text));
    eprintln!("  server   {url}");
    if let Some(at) = listening {
        eprintln!("  metrics  http://{at}/metrics");
    }
    for source in &pipeline.sources {
        eprintln!("  publish  {} ({})", source.subjects.join(", "), source.name);
    }
    eprintln!("\n  millstream publish < events.jsonl    in another terminal, in this folder");
    eprintln!("  edit {} and save; Ctrl-C stops\n", app.common.config.display());
}

/// Files that the pipeline was read from, with the time at which each last changed.
struct Watch {
    files: Vec<PathBuf>,
    seen: Vec<Option<SystemTime>>,
}

impl Watch {
    fn new(config: &Path, pipeline: &Pipeline) -> Self {
        let mut files = vec![config.to_owned()];
        files.extend(pipeline.folders());
        let seen = files.iter().map(|file| changed_at(file)).collect();
        Self { files, seen }
    }

    /// Waits until a file changes and the pipeline has no problems; prints them while it has.
    async fn next_pipeline(&mut self, app: &App) -> Pipeline {
        let mut look = tokio::time::interval(Duration::from_millis(300));
        loop {
            look.tick().await;
            let now: Vec<_> = self.files.iter().map(|file| changed_at(file)).collect();
            if now == self.seen {
                continue;
            }
            self.seen = now;
            match app.pipeline() {
                Ok(pipeline) => {
                    *self = Self::new(&app.common.config, &pipeline);
                    eprintln!("{} changed: applying it", app.common.config.display());
                    return pipeline;
                }
                Err(error) => {
                    super::print_error(&error);
                    eprintln!("the pipeline runs on as it was; save again when it is mended");
                }
            }
        }
    }
}

/// Time of the last change of a file, or of anything below a folder.
fn changed_at(path: &Path) -> Option<SystemTime> {
    let own = path.metadata().ok()?.modified().ok();
    let Ok(entries) = std::fs::read_dir(path) else { return own };
    entries.flatten().filter_map(|entry| changed_at(&entry.path())).chain(own).max()
}

//! Jobs: redrives that survive whoever runs them, in the fleet and on the command line.

mod command_line;
mod killed;
mod letters;
mod runners;
mod sending;
mod unsendable;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::SystemTime,
};

use millstream::{
    dead_letter::LetterFilter,
    handlers::{Registry, handler_fn},
    redrive::{
        context::{Context, Progress},
        job::{self, Job, Kind},
        run::{self, Ended},
        store::{Claim, Jobs},
        targets::Targets,
    },
    stages::{Failure, Reply},
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Mill, eventually};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [retry.default]
    attempts = 1
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "work" }
    [stage.beside]
    kind = "handle"
    inputs = ["source.events"]
    handler = { rust = "beside" }
"#;

/// Service that can be mended, and the calls it had.
#[derive(Clone, Default)]
struct Service {
    mended: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<String>>>,
    beside: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Handlers: `work` rejects every event until it is mended, and those with `eventData.always`
    /// even then; `beside` takes all.
    fn registry(&self) -> Registry {
        let (own, other) = (self.clone(), self.clone());
        let work = handler_fn(move |event, _| {
            own.calls.lock().unwrap().push(event.id.clone());
            let data = event.json().unwrap()["eventData"].clone();
            let fails = !own.mended.load(Ordering::SeqCst) || data["always"] == true;
            let class = data["class"].as_str().unwrap_or("HttpServerError").to_owned();
            async move {
                if fails {
                    Err(Failure::reject(class, "503 from the shop"))
                } else {
                    Ok(Reply::Pass)
                }
            }
        });
        let beside = handler_fn(move |event, _| {
            other.beside.lock().unwrap().push(event.id.clone());
            async { Ok(Reply::Pass) }
        });
        Registry::new().with("work", work).with("beside", beside)
    }

    fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
        self.calls.lock().unwrap().clear();
    }

    fn calls(&self) -> Vec<String> {
        let mut calls = self.calls.lock().unwrap().clone();
        calls.sort();
        calls
    }
}

/// Pipeline at work with letters of these events; the service is mended since.
async fn broken(events: impl IntoIterator<Item = Value>) -> (Mill, Service) {
    let service = Service::default();
    let mill = Mill::with(PIPELINE, service.registry()).await;
    let mut count = 0;
    for data in events {
        mill.event(&format!("e-{count:03}"), "order.created", data).await;
        count += 1;
    }
    mill.messages("shop-dlq", count).await;
    service.mend();
    (mill, service)
}

fn plain(count: usize) -> impl Iterator<Item = Value> {
    (0..count).map(|n| json!({ "n": n }))
}

async fn job(mill: &Mill, filter: LetterFilter) -> Job {
    let last = mill.broker.stream_state("shop-dlq").await.unwrap().last_seq;
    let now = SystemTime::now();
    Job::new(job::new_id('r', now), Kind::Redrive, filter, last, "me@here", now)
}

fn of_work() -> LetterFilter {
    LetterFilter { stage: Some("work".into()), ..LetterFilter::default() }
}

fn context(mill: &Mill) -> Context {
    Context {
        broker: mill.broker.clone(),
        names: mill.names.clone(),
        targets: Targets::of(&mill.pipeline),
        metrics: None,
    }
}

/// Runs a job in this process, to its end.
async fn run(mill: &Mill, job: Job) -> Job {
    let claim = Claim::create(&Jobs::new(&mill.broker, &mill.names), job, "test").await.unwrap();
    carry_on(mill, claim).await
}

async fn carry_on(mill: &Mill, claim: Claim) -> Job {
    let progress = Progress::of(&claim);
    match run::run(&context(mill), claim, &progress, &CancellationToken::new()).await {
        Ended::Job(job) => job,
        other @ (Ended::Released(_) | Ended::Taken | Ended::Broker(_)) => panic!("{other:?}"),
    }
}

/// Record of a job, once it has ended.
async fn ended(mill: &Mill, id: &str) -> Job {
    let jobs = Jobs::new(&mill.broker, &mill.names);
    eventually(async || jobs.get(id).await.ok().map(|(job, _)| job).filter(|job| !job.is_open()))
        .await
}

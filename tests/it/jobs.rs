//! Jobs: redrives that survive whoever runs them, in the fleet and on the command line.

use millstream::{
    broker::{Outgoing, StoredMessage},
    dead_letter::{LetterFilter, LetterRecord},
    handlers::{Registry, handler_fn},
    redrive::{
        canary::Canary,
        context::{Context, Progress},
        job::{self, Job, Kind, State},
        run::{self, Ended},
        store::{Claim, Jobs},
    },
    stages::{Failure, Reply},
};
use std::{
    path::Path,
    process::{Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant, SystemTime},
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::support::{Mill, TestServer, domain, eventually};

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

/// A service that can be mended, and what it was asked.
#[derive(Clone, Default)]
struct Service {
    mended: Arc<AtomicBool>,
    calls: Arc<Mutex<Vec<String>>>,
    beside: Arc<Mutex<Vec<String>>>,
}

impl Service {
    /// Stage `work` rejects every event until it is mended, and those with `eventData.always` even
    /// then.
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

/// A pipeline at work with letters of these events; the service is mended since.
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
    Context { broker: mill.broker.clone(), names: mill.names.clone(), metrics: None }
}

/// Runs a job here, to its end.
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

/// The record of a job once it has ended.
async fn ended(mill: &Mill, id: &str) -> Job {
    let jobs = Jobs::new(&mill.broker, &mill.names);
    eventually(async || jobs.get(id).await.ok().map(|(job, _)| job).filter(|job| !job.is_open()))
        .await
}

#[tokio::test]
async fn a_job_sends_what_its_filter_means_to_the_failed_stage_only_and_its_record_tells() {
    let classes = ["A", "B", "A", "B", "A"];
    let (mut mill, service) = broken(classes.map(|class| json!({ "class": class }))).await;
    let before = mill.letters().await;
    let beside = service.beside.lock().unwrap().len();
    let done =
        run(&mill, job(&mill, LetterFilter { class: Some("A".into()), ..of_work() }).await).await;
    assert_eq!((done.state, done.counts.redriven, done.counts.settled()), (State::Done, 3, 3));
    let (record, _) = Jobs::new(&mill.broker, &mill.names).get(&done.id).await.unwrap();
    assert_eq!((record.state, record.counts, &record.runner), (State::Done, done.counts, &None));
    assert!(record.started_at.is_some() && record.ended_at.is_some() && record.cursor == 5);
    eventually(async || (service.calls().len() == 3).then_some(())).await;
    mill.idle("work").await;
    mill.idle("beside").await;
    mill.drain().await;
    let left = mill.letters().await;
    assert_eq!(
        left.iter().map(|letter| LetterRecord::of(letter).error_class).collect::<Vec<_>>(),
        ["B", "B"]
    );
    assert_eq!(
        service.beside.lock().unwrap().len(),
        beside,
        "the stage beside saw none of them again"
    );
    assert_eq!(before.len(), 5);
}

#[tokio::test]
async fn a_worker_takes_a_job_that_nobody_runs_and_counts_what_it_sends() {
    let (mut mill, service) = broken(plain(30)).await;
    let job = job(&mill, of_work()).await;
    Jobs::new(&mill.broker, &mill.names).create(&job).await.unwrap();
    let done = ended(&mill, &job.id).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 30));
    eventually(async || (service.calls().len() == 30).then_some(())).await;
    let metrics = mill.worker.as_ref().unwrap().metrics().render();
    assert!(
        metrics.contains(r#"millstream_events_reprocessed_total{stage="work"} 30"#),
        "{metrics}"
    );
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_rate_is_held_to() {
    let (mut mill, _) = broken(plain(40)).await;
    let started = Instant::now();
    let done = run(&mill, Job { per_second: Some(20.0), ..job(&mill, of_work()).await }).await;
    assert_eq!(done.counts.redriven, 40);
    assert!(started.elapsed() >= Duration::from_millis(1600), "{:?}", started.elapsed());
    mill.drain().await;
}

#[tokio::test]
async fn the_rest_follows_a_good_canary() {
    let (mut mill, service) = broken(plain(20)).await;
    let done =
        run(&mill, Job { canary: Some(Canary::new(5, 0.2)), ..job(&mill, of_work()).await }).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 20));
    assert_eq!(done.canary.unwrap().verdict.as_deref(), Some("0 of 5 failed"));
    eventually(async || (service.calls().len() == 20).then_some(())).await;
    mill.drain().await;
}

#[tokio::test]
async fn a_bad_canary_stops_the_job_and_the_rest_is_untouched() {
    let (mut mill, service) = broken((0..20).map(|n| json!({ "always": n < 5 }))).await;
    let stopped =
        run(&mill, Job { canary: Some(Canary::new(10, 0.2)), ..job(&mill, of_work()).await }).await;
    assert_eq!((stopped.state, stopped.counts.redriven), (State::Stopped, 10));
    let why = stopped.why.clone().unwrap();
    assert!(why.contains("of 10 failed: HttpServerError: 503 from the shop"), "{why}");
    mill.idle("work").await;
    assert_eq!(service.calls().len(), 10);
    let letters = mill.letters().await;
    let redrives: Vec<u32> =
        letters.iter().map(|letter| LetterRecord::of(letter).redrives).collect();
    assert_eq!(
        redrives,
        [vec![0; 10], vec![1; 5]].concat(),
        "those that failed again are letters again"
    );

    // Mended at last: the job goes on where it was, with a canary anew. What failed again came
    // later, and is left alone.
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let done = carry_on(&mill, jobs.resume(&stopped.id, Some("test")).await.unwrap()).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 20));
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 5);
}

#[tokio::test]
async fn the_guard_leaves_what_comes_back_every_time() {
    let (mut mill, service) = broken((0..6).map(|n| json!({ "always": n < 2 }))).await;
    for round in 0..2 {
        let filter = if round == 0 {
            of_work()
        } else {
            LetterFilter { class: Some("*".into()), ..of_work() }
        };
        let done = run(&mill, Job { max_redrives: 1, ..job(&mill, filter).await }).await;
        let (redriven, guarded) = if round == 0 { (6, 0) } else { (0, 2) };
        assert_eq!((done.counts.redriven, done.counts.guarded), (redriven, guarded));
        mill.idle("work").await;
        eventually(async || (mill.letters().await.len() == 2).then_some(())).await;
    }
    assert_eq!(service.calls().len(), 6);
    // More come, behind those that are left: whole runs cannot be removed any more.
    service.mended.store(false, Ordering::SeqCst);
    for n in 0..10 {
        mill.event(&format!("later-{n}"), "order.created", json!({})).await;
    }
    mill.messages("shop-dlq", 12).await;
    service.mend();
    let done = run(&mill, Job { max_redrives: 1, ..job(&mill, of_work()).await }).await;
    assert_eq!((done.counts.redriven, done.counts.guarded, done.left_behind), (10, 2, true));
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 2);
}

#[tokio::test]
async fn a_job_whose_runner_fell_silent_is_taken_over_at_its_cursor() {
    let (mut mill, service) = broken(plain(40)).await;
    let mut job = job(&mill, of_work()).await;
    // As a command line leaves it that was killed: half of it done, a runner that says nothing any
    // more.
    for letter in mill.letters().await.iter().take(20) {
        millstream::redrive::resend::redrive(&mill.broker, &mill.names, letter).await.unwrap();
    }
    (job.cursor, job.counts.redriven, job.runner) = (20, 20, Some("me@here (gone)".into()));
    Jobs::new(&mill.broker, &mill.names).create(&job).await.unwrap();
    let done = ended(&mill, &job.id).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 40));
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 40);
}

#[tokio::test]
async fn a_cancelled_job_stops_within_a_second_and_can_be_resumed() {
    let (mut mill, service) = broken(plain(40)).await;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let slow = Job { per_second: Some(10.0), ..job(&mill, of_work()).await };
    jobs.create(&slow).await.unwrap();
    eventually(async || (service.calls().len() >= 3).then_some(())).await;
    jobs.cancel(&slow.id, "me@here").await.unwrap();
    // The runner gives the job back once it has seen it.
    let cancelled = eventually(async || {
        let (job, _) = jobs.get(&slow.id).await.unwrap();
        (job.runner.is_none()).then_some(job)
    })
    .await;
    assert_eq!(
        (cancelled.state, cancelled.why.as_deref()),
        (State::Cancelled, Some("cancelled by me@here"))
    );
    assert!(cancelled.counts.redriven < 40, "{:?}", cancelled.counts);
    assert_eq!(mill.letters().await.len() as u64, 40 - cancelled.counts.redriven);
    let error = jobs.cancel(&slow.id, "me@here").await.unwrap_err().to_string();
    assert_eq!(error, format!("job \"{}\" has ended already: it is cancelled", slow.id));
    let claim = jobs.resume(&slow.id, None).await.unwrap();
    assert!(claim.job().is_open());
    let done = ended(&mill, &slow.id).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 40));
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 40);
}

#[tokio::test]
async fn letters_that_come_meanwhile_are_left_alone() {
    let (mut mill, service) = broken((0..10).map(|_| json!({ "always": true }))).await;
    let done =
        run(&mill, Job { per_second: Some(20.0), ..job(&mill, LetterFilter::default()).await })
            .await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 10));
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 10, "each once, though all failed again");
    assert_eq!(mill.letters().await.len(), 10);
}

#[tokio::test]
async fn two_runners_at_once_do_no_harm() {
    let (mut mill, service) = broken(plain(200)).await;
    let jobs = [
        job(&mill, of_work()).await,
        job(&mill, LetterFilter { class: Some("*".into()), ..of_work() }).await,
    ];
    let done = join_all(jobs.map(|job| run(&mill, job))).await;
    assert!(done.iter().all(|job| job.state == State::Done));
    let redriven: u64 = done.iter().map(|job| job.counts.redriven).sum();
    assert_eq!(redriven, 200, "each letter counts for whoever removed it");
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 200);
    assert!(mill.letters().await.is_empty());
}

#[tokio::test]
async fn a_redrive_does_not_mix_with_a_live_run_of_the_stage() {
    let (mut mill, service) = broken(plain(100)).await;
    let job = job(&mill, of_work()).await;
    let live = async {
        for n in 0..100 {
            mill.event(&format!("live-{n}"), "order.created", json!({ "always": n % 10 == 0 }))
                .await;
        }
    };
    let (done, ()) = tokio::join!(run(&mill, job), live);
    assert_eq!(done.counts.redriven, 100);
    eventually(async || (service.calls().len() == 200).then_some(())).await;
    mill.idle("work").await;
    mill.drain().await;
    let letters = mill.letters().await;
    assert_eq!(letters.len(), 10);
    assert!(letters.iter().all(|letter| LetterRecord::of(letter).redrives == 0));
}

#[tokio::test]
async fn a_stage_that_nobody_reads_for_fails_the_job_with_what_to_do() {
    let (mut mill, _) = broken(plain(3)).await;
    mill.drain().await;
    mill.broker.delete_consumer("shop-retry", "shop-work").await.unwrap();
    let failed = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((failed.state, failed.counts.settled()), (State::Failed, 0));
    assert!(failed.why.unwrap().contains("`millstream apply` creates the consumer"));
    assert_eq!(mill.letters().await.len(), 3);
}

/// A letter of stage `work`, as a worker writes it.
fn letter(n: usize, source: &str, body: String) -> Outgoing {
    Outgoing::new(format!("shop.dlq.work.shop-in-events.{n}"), body)
        .header("Millstream-Event-Id", &format!("e-{n}"))
        .header("Millstream-Event-Type", "order.created")
        .header("Millstream-Envelope", "domain")
        .header("Millstream-Stage", "work")
        .header("Millstream-Reason", "rejected")
        .header("Millstream-Error-Class", "HttpServerError")
        .header("Millstream-Redrives", "0")
        .header("Millstream-First-Failed-At", "2026-11-21T08:00:00.000Z")
        .header("Millstream-Source", &format!("shop-in-events:{source}"))
        .header("Millstream-Source-Subject", "events.order.created")
}

#[tokio::test]
async fn jobs_are_listed_as_they_were_made_whatever_their_names_are() {
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    let now = SystemTime::now();
    let ids = ["work-9", "work-10", "beside-11"];
    for (n, id) in ids.into_iter().enumerate() {
        let made = now + Duration::from_millis(n as u64);
        let job = Job::new(id.to_owned(), Kind::Recover, LetterFilter::default(), 0, "me", made);
        jobs.create(&job).await.unwrap().unwrap();
    }
    let listed: Vec<String> =
        jobs.list().await.unwrap().into_iter().map(|(job, _)| job.id).collect();
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn a_letter_whose_payload_is_kept_apart_is_sent_with_it_or_stays() {
    let service = Service::default();
    let mill = Mill::still(TestServer::start().await, PIPELINE, service.registry()).await;
    let body = domain("e-1", "order.created", json!({}));
    for n in 1..=3 {
        let letter = letter(n, "77", if n == 3 { "{}".into() } else { String::new() });
        let letter = if n == 3 { letter } else { letter.header("Millstream-Body", "apart") };
        mill.broker.publish(letter).await.unwrap();
    }
    // It may be stored again after its letter, by whoever was second to give up.
    mill.broker
        .publish(Outgoing::new("shop.dlq.work.shop-in-events.1.body", body.clone()))
        .await
        .unwrap();
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.state, done.counts.redriven, done.counts.failed), (State::Done, 2, 1));
    assert_eq!(
        done.why.as_deref(),
        Some(
            "letter 2 cannot be redriven: its payload, which was kept apart on \"shop.dlq.work.shop-in-events.2.body\", is gone"
        )
    );
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [2]);
    let sent: Vec<StoredMessage> = mill.messages("shop-retry", 2).await;
    let sent = sent.into_iter().find(|sent| sent.body == body).unwrap();
    assert_eq!(sent.subject, "shop.retry.work");
    let header = |name: &str| {
        sent.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
    };
    assert_eq!(header("Millstream-Redrives"), "1");
    assert_eq!(header("Millstream-First-Failed-At"), "2026-11-21T08:00:00.000Z");
    assert_eq!(header("Nats-Msg-Id"), "redrive:1");
    assert!(header("Millstream-Queued-At").ends_with('Z'));
}

#[tokio::test]
async fn a_letter_that_is_not_sent_never_goes_with_the_run_around_it() {
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", "{}".into());
        let letter = match n {
            // Its subject says that it is of the stage, its headers say otherwise.
            20 => letter.header("Millstream-Stage", "beside"),
            // Its payload is gone.
            40 => letter.header("Millstream-Body", "apart"),
            _ => letter,
        };
        mill.broker.publish(letter).await.unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.state, done.counts.redriven, done.counts.failed), (State::Done, 58, 1));
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [20, 40]);
    // What is kept beside letters goes with its letter alone, whatever runs go.
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", if n == 30 { String::new() } else { "{}".into() });
        if n == 30 {
            mill.broker
                .publish(Outgoing::new(format!("{}.body", letter.subject), "apart"))
                .await
                .unwrap();
        }
        mill.broker
            .publish(if n == 30 { letter.header("Millstream-Body", "apart") } else { letter })
            .await
            .unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.counts.redriven, done.counts.failed), (60, 0));
    assert_eq!(mill.broker.stream_state("shop-dlq").await.unwrap().messages, 0);
    assert_eq!(
        mill.messages("shop-retry", 60).await.iter().filter(|sent| sent.body == "apart").count(),
        1
    );
    // What was under way when the one that cannot be sent was found out went one by one.
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    for n in 1..=60 {
        let letter = letter(n, "77", "{}".into());
        mill.broker
            .publish(if n == 10 { letter.header("Millstream-Body", "apart") } else { letter })
            .await
            .unwrap();
    }
    let done = run(&mill, job(&mill, of_work()).await).await;
    assert_eq!((done.counts.redriven, done.counts.failed, done.cursor), (59, 1, 60));
    assert_eq!(mill.letters().await.iter().map(|letter| letter.seq).collect::<Vec<_>>(), [10]);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_letters_go_at_once_and_those_of_others_stay() {
    let mill =
        Mill::still(TestServer::start().await, PIPELINE, Service::default().registry()).await;
    const COUNT: usize = 10_000;
    for chunk in (1..=COUNT).collect::<Vec<_>>().chunks(500) {
        let bodies = chunk.iter().map(|n| letter(*n, &n.to_string(), "{}".repeat(100)));
        join_all(bodies.map(|letter| mill.broker.publish(letter))).await;
    }
    let other = Outgoing {
        subject: "shop.dlq.beside.shop-in-events.1".into(),
        ..letter(0, "1", "{}".into())
    };
    mill.broker.publish(other.header("Millstream-Stage", "beside")).await.unwrap();
    let started = Instant::now();
    let done = run(&mill, job(&mill, of_work()).await).await;
    let took = started.elapsed();
    println!("{COUNT} letters in {took:?}: {:.0}/s", COUNT as f64 / took.as_secs_f64());
    assert_eq!(
        (done.state, done.counts.redriven, done.counts.settled()),
        (State::Done, 10_000, 10_000)
    );
    assert_eq!(mill.broker.stream_state("shop-retry").await.unwrap().messages, 10_000);
    assert_eq!(mill.letters().await.len(), 1);
}

/// The built program on a pipeline of its own folder.
struct Program {
    folder: TempDir,
    url: String,
}

impl Program {
    fn on(mill: &Mill) -> Self {
        let folder = TempDir::new().unwrap();
        // The program has no Rust handlers; who handles what does not matter to it here.
        let toml = PIPELINE
            .replace("{ rust = \"work\" }", "\"log\"")
            .replace("{ rust = \"beside\" }", "\"log\"");
        std::fs::write(
            folder.path().join("pipeline.toml"),
            toml.replace("\"log\"", "{ log = \"info\" }"),
        )
        .unwrap();
        Self { folder, url: mill.server.server.url().to_owned() }
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command
            .args(args)
            .args(["--set", &format!("nats.url={}", self.url)])
            .env("USER", "me")
            .env("HOSTNAME", "here");
        command.current_dir::<&Path>(self.folder.path()).stdin(Stdio::null());
        command
    }

    async fn run(&self, args: &[&str]) -> (i32, String) {
        let mut command = self.command(args);
        let Output { status, stdout, stderr } =
            tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let text = String::from_utf8([stdout, stderr].concat()).unwrap();
        (status.code().unwrap(), text)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_it_would_do_does_it_and_keeps_the_record() {
    let (mut mill, service) =
        broken((0..6).map(|n| json!({ "class": if n < 4 { "A" } else { "B" } }))).await;
    let program = Program::on(&mill);
    let (status, text) =
        program.run(&["dlq", "redrive", "--all", "--dry-run", "--rate", "2/s"]).await;
    expect_test::expect![[r#"
        STAGE  CLASS  LETTERS
        work   A      4
        work   B      2

        would redrive 6 letters
        at this rate it takes 3s
    "#]]
    .assert_eq(&text);
    assert_eq!((status, mill.letters().await.len()), (0, 6));
    let (status, text) = program.run(&["dlq", "redrive"]).await;
    assert!(status == 2 && text.contains("say which letters to redrive"), "{text}");
    let (status, text) = program.run(&["dlq", "redrive", "--class", "Nope"]).await;
    assert_eq!((status, text.as_str()), (0, "no dead letters match: nothing to redrive\n"));
    let (status, text) = program.run(&["dlq", "redrive", "--class", "A"]).await;
    assert_eq!(
        (status, text.as_str()),
        (0, "redrove 4 letters\nwhat fails again is a letter again: millstream dlq groups\n")
    );
    let of_b = mill.letters().await[0].seq.to_string();
    let (status, text) = program.run(&["dlq", "redrive", &of_b, "--json"]).await;
    let job: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &job["state"], &job["counts"]["redriven"]), (0, &json!("done"), &json!(1)));
    let (status, text) = program.run(&["dlq", "redrive", &of_b]).await;
    assert!(status == 2 && text.contains(&format!("there is no dead letter {of_b}")), "{text}");
    let (status, text) = program.run(&["dlq", "redrive", "--all", "--max-redrives", "0"]).await;
    expect_test::expect![[r#"
        redrove 0 letters, 1 left by the guard
        left 1 letter that had been redriven 0 times or more and came back; to send them all the same: --max-redrives 1
    "#]]
    .assert_eq(&text);
    assert_eq!(status, 0);
    let (status, text) = program.run(&["dlq", "jobs", "ls"]).await;
    assert!(status == 0 && text.lines().count() == 4 && text.contains("--class A"), "{text}");
    let id = text.lines().nth(1).unwrap().split(' ').next().unwrap();
    let (status, text) = program.run(&["dlq", "jobs", "show", id]).await;
    assert!(
        status == 0 && text.contains("redrove 4 letters") && text.contains("by me@here"),
        "{text}"
    );
    let (status, text) = program.run(&["dlq", "jobs", "cancel", id]).await;
    assert!(status == 2 && text.contains("has ended already: it is done"), "{text}");
    let (status, text) = program.run(&["dlq", "jobs", "show", "nope"]).await;
    assert!(
        status == 2
            && text.contains("there is no job \"nope\"; `millstream dlq jobs ls` lists them"),
        "{text}"
    );
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(service.calls().len(), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_carries_on_where_a_killed_command_line_was() {
    let (mut mill, service) = broken(plain(60)).await;
    mill.drain().await;
    let program = Program::on(&mill);
    let mut killed = program.command(&["dlq", "redrive", "--stage", "work", "--rate", "20/s"]);
    let mut killed = killed.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    eventually(async || (mill.letters().await.len() <= 45).then_some(())).await;
    killed.kill().unwrap();
    killed.wait().unwrap();
    let left = mill.letters().await.len();
    assert!(left > 0, "it was killed in the middle");
    mill.work().await;
    let (job, _) = Jobs::new(&mill.broker, &mill.names).list().await.unwrap().swap_remove(0);
    let done = ended(&mill, &job.id).await;
    assert_eq!(done.state, State::Done);
    mill.idle("work").await;
    mill.drain().await;
    let mut calls = service.calls();
    let all = calls.len();
    calls.dedup();
    assert_eq!(
        (calls.len(), all),
        (60, 60),
        "each event once: what was under way is dropped by its id"
    );
    assert!(mill.letters().await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bad_canary_on_the_command_line_is_exit_status_1_and_says_why() {
    let (mut mill, _) = broken((0..8).map(|_| json!({ "always": true }))).await;
    let program = Program::on(&mill);
    let (status, text) =
        program.run(&["dlq", "redrive", "--all", "--canary", "4", "--stop-above", "20%"]).await;
    assert_eq!(status, 1);
    assert!(text.contains("stopped by its canary, the rest is untouched\n  "), "{text}");
    assert!(
        text.contains(" of 4 failed") && text.contains(": HttpServerError: 503 from the shop\n"),
        "{text}"
    );
    assert!(
        text.contains("mended?  millstream dlq redrive --all --canary 4 --stop-above 20%\n"),
        "{text}"
    );
    assert!(text.contains("or only the untouched rest: millstream dlq jobs resume r-"), "{text}");
    mill.idle("work").await;
    mill.drain().await;
    assert_eq!(mill.letters().await.len(), 8);
}

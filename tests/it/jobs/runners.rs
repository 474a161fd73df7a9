//! Runners: jobs that a worker takes, takes over, and stops when they are cancelled; their list.

use std::time::{Duration, Instant, SystemTime};

use millstream::{
    broker::unix_ms,
    dead_letter::LetterFilter,
    redrive::{
        above::Above,
        context::Progress,
        job::{Job, Kind, State},
        run,
        store::{Claim, Jobs},
    },
};
use tokio_util::sync::CancellationToken;

use super::{PIPELINE, Service, broken, context, ended, job, of_work, plain};
use crate::support::{Mill, TestServer, eventually};

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
async fn what_a_runner_had_on_record_is_finished_and_counted_by_the_next() {
    let (mut mill, service) = broken(plain(40)).await;
    let mut job = job(&mill, of_work()).await;
    // Twenty were sent and removed: ten one by one, ten in a run. Two more are still there.
    for letter in mill.letters().await.iter().take(20) {
        millstream::redrive::resend::redrive(&mill.broker, &mill.names, letter).await.unwrap();
    }
    let on_record = r#"{ "run": { "upTo": 10, "count": 10 }, "sent": [[11, 22]] }"#;
    job.above = serde_json::from_str(on_record).unwrap();
    (job.left_behind, job.runner) = (true, Some("me@here (gone)".into()));
    Jobs::new(&mill.broker, &mill.names).create(&job).await.unwrap();
    let done = ended(&mill, &job.id).await;
    assert_eq!((done.state, done.counts.redriven), (State::Done, 40));
    assert_eq!((done.counts.settled(), done.above), (40, Above::default()));
    mill.idle("work").await;
    mill.drain().await;
    assert!(mill.letters().await.is_empty());
    assert_eq!(service.calls().len(), 38, "what is on record as sent is not sent again");
}

#[tokio::test]
async fn a_rate_holds_its_period_whoever_runs_the_job() {
    let (mut mill, service) = broken(plain(3)).await;
    let jobs = Jobs::new(&mill.broker, &mill.names);
    // One in eight seconds; whoever falls silent is taken over after five.
    let slow = Job { per_second: Some(0.125), ..job(&mill, of_work()).await };
    let claim = Claim::create(&jobs, slow.clone(), "me@here").await.unwrap();
    let progress = Progress::of(&claim);
    {
        let (context, stop) = (context(&mill), CancellationToken::new());
        let run = run::run(&context, claim, &progress, &stop);
        let first = eventually(async || (service.calls().len() == 1).then_some(()));
        tokio::select! {
            _ = run => panic!("it is not done"),
            // Dropped: as if it were killed.
            () = first => {}
        }
    }
    let first = Instant::now();
    eventually(async || (service.calls().len() == 2).then_some(())).await;
    let apart = first.elapsed();
    assert!(apart >= Duration::from_millis(7500), "{apart:?}");
    jobs.cancel(&slow.id, "me@here").await.unwrap();
    let hourly = Job { per_second: Some(1.0 / 3600.0), ..job(&mill, of_work()).await };
    jobs.create(&hourly).await.unwrap();
    eventually(async || (service.calls().len() == 3).then_some(())).await;
    let (record, _) = jobs.get(&hourly.id).await.unwrap();
    let left = record.next_ms.saturating_sub(unix_ms(mill.broker.now()));
    assert!((3_500_000..=3_600_000).contains(&left), "{left} ms to the next");
    mill.drain().await;
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

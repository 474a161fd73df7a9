//! Sending: letters that a job sends, by its filter, rate, canary and guard, and those it leaves.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use millstream::{
    dead_letter::{LetterFilter, LetterRecord},
    redrive::{
        canary::Canary,
        job::{Job, State},
        store::Jobs,
    },
};
use serde_json::json;

use super::{broken, carry_on, job, of_work, plain, run};
use crate::support::eventually;

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

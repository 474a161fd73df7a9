//! Stages: removed and renamed under load.

use std::{
    collections::HashSet,
    time::{Duration, Instant},
};

use super::{RATE, books, world::World};
use crate::{crash::beside_two, support::eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_renamed_stage_takes_its_events_waits_and_letters_along() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    world.rewrite(|pipeline| {
        pipeline.replace("[stage.second]", "[stage.last]\nrenamed_from = \"second\"")
    });
    world.mend();
    world.fleet.roll().await;
    let totals = books::close(&mut world, Instant::now(), &[]).await;
    assert!(totals.dead > 0, "{totals:?}");

    // Letters of the old name go to the new one.
    world.calls.mend();
    let broken = books::letters_of(&world, &["second", "last"]).await;
    let (status, said) = world.fleet.run("dlq", &["redrive", "--all", "--yes"]);
    assert_eq!(status, 0, "{said}");
    let done = || broken.iter().all(|id| world.calls.is_done(id));
    eventually(async || done().then_some(())).await;
    let left = books::letters_of(&world, &["second", "last"]).await;
    assert!(left.is_empty(), "{} letters are left: {said}", left.len());
    let (_, plan) = world.fleet.run("plan", &[]);
    assert!(!plan.contains("mill-second"), "something of the old name is left:\n{plan}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stage_is_renamed_while_workers_of_both_names_work_and_die() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    // Long enough that both have the same events in hand.
    world.calls.slow_down(Duration::from_millis(400));
    eventually(async || (in_hand(&world).await > 20).then_some(())).await;
    world.rewrite(|pipeline| {
        pipeline.replace("[stage.second]", "[stage.last]\nrenamed_from = \"second\"")
    });
    world.mend();
    world.fleet.start();
    world.fleet.start();
    let new = world.fleet.len() - 1;
    eventually(async || (named_letters(&world, "last").await > 0).then_some(())).await;
    world.fleet.replace(new);
    world.fleet.replace(0);
    tokio::time::sleep(Duration::from_secs(1)).await;
    world.fleet.terminate(1).await;
    world.fleet.revive();
    world.calls.slow_down(Duration::ZERO);
    let totals = books::close(&mut world, Instant::now(), &[]).await;
    assert!(totals.dead > 0, "{totals:?}");
}

/// Events that workers have in hand at the stage `second`.
async fn in_hand(world: &World) -> u64 {
    let consumer = world.jetstream.get_consumer_from_stream("mill-second", "mill-out-first");
    let mut consumer: async_nats::jetstream::consumer::PullConsumer = consumer.await.unwrap();
    consumer.info().await.unwrap().num_ack_pending as u64
}

async fn named_letters(world: &World, stage: &str) -> usize {
    books::letters_of(world, &[stage]).await.len()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_removed_stage_holds_is_kept_and_named_until_someone_decides() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    // In the middle of their work, some waiting for a retry.
    for n in 0..world.fleet.len() {
        world.fleet.terminate(n).await;
    }
    let before = world.calls.accepted("first");
    let letters = books::letters_of(&world, &["second"]).await;
    assert!(!letters.is_empty(), "the stage has letters");
    world.rewrite(|pipeline| {
        let (before, rest) = pipeline.split_once("[stage.second]").unwrap();
        format!("{before}[stage.errors]{}", rest.split_once("[stage.errors]").unwrap().1)
    });
    let (status, plan) = world.fleet.run("plan", &[]);
    println!("plan, exit {status}:\n{plan}");
    assert!(status == 1 && plan.contains("second"), "plan does not name the stage:\n{plan}");
    let (status, applied) = world.fleet.run("apply", &[]);
    assert!(status < 2, "{applied}");
    assert_eq!(world.fleet.revive(), 2);
    let new = || {
        let now = world.calls.accepted("first");
        now.keys().filter(|id| !before.contains_key(*id)).count()
    };
    eventually(async || (new() > RATE).then_some(())).await;
    world.load.stop().await;

    // Every event is done, a letter, or still stored for the stage that is gone; what `first`
    // handles now is done.
    let open = async || {
        let mut ended: HashSet<String> = books::letters_of(&world, &[]).await.into_iter().collect();
        ended.extend(world.stored_in(&["mill-out-first", "mill-retry"]).await);
        let now = world.calls.accepted("first");
        let is_done = |id: &String| {
            world.calls.is_done(id) || (now.contains_key(id) && !before.contains_key(id))
        };
        let events = world.load.acknowledged().into_iter();
        events.filter(|event| !ended.contains(&event.id) && !is_done(&event.id)).count()
    };
    eventually(async || (open().await == 0).then_some(())).await;

    let (status, said) = world.fleet.run("status", &[]);
    assert!(status == 1 && said.contains("second"), "status does not name the stage:\n{said}");
    let (status, said) = world.fleet.run("dlq", &["redrive", "--stage", "second", "--yes"]);
    assert!(status != 0 && said.contains("second"), "redriven to where nobody reads: {said}");
    assert_eq!(books::letters_of(&world, &["second"]).await.len(), letters.len());

    // Someone decides: what it held becomes letters.
    let (status, said) = world.fleet.run("apply", &["--to-letters", "second"]);
    assert_eq!(status, 0, "{said}");
    let held = async || world.stored_in(&["mill-out-first", "mill-retry"]).await;
    eventually(async || held().await.is_empty().then_some(())).await;
    // What is on its way between the stages that are left goes on meanwhile.
    eventually(async || (open().await == 0).then_some(())).await;
    let (_, plan) = world.fleet.run("plan", &[]);
    assert!(!plan.contains("mill-second"), "something of the stage is left:\n{plan}");
}

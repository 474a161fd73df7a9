//! Cut: connections of workers that break or stall with messages on their way, which is nobody's
//! fault.

pub(crate) mod gate;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{
    crash::{Chance, beside_two},
    objects::{
        books,
        world::{Meant, World},
    },
    support::eventually,
};
use gate::Toward;

/// Events a second of the load.
const RATE: usize = 150;

/// Pipeline in which a single failure on record would be a letter.
fn one_attempt(pipeline: String) -> String {
    pipeline.replace("attempts = 3", "attempts = 1")
}

/// Fleet behind a gate, under a load of events that nothing is wrong with.
async fn start() -> World {
    let mut world = World::gated(one_attempt).await;
    world.fleet.start();
    world.fleet.start();
    world.publish_as(RATE, |_| Meant::Fine);
    eventually(async || (world.calls.accepted("second").len() > RATE).then_some(())).await;
    world
}

/// Waits until all is done, and fails if anything but that became of an event.
async fn all_done(world: &mut World) {
    let totals = books::close(world, Instant::now(), &[]).await;
    assert_eq!((totals.done, totals.dead), (totals.published, 0));
    // Nothing failed, so that nothing may be on record as failed.
    let failed = world.jetstream.get_stream("mill-failed").await.unwrap();
    println!("{} messages in the stream of failures", failed.cached_info().state.messages);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_is_cut_every_second_makes_no_letter() {
    let _turn = beside_two().await;
    let mut chance = Chance::new();
    let mut world = start().await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_millis(600 + chance.below(800) as u64)).await;
        world.gate().cut();
    }
    all_done(&mut world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_stalls_beyond_the_ack_wait_makes_no_letter() {
    let _turn = beside_two().await;
    for toward in [Toward::Client, Toward::Server] {
        let mut world = start().await;
        world.gate().stall(toward, true);
        // Longer than the ack wait of its stages, and shorter than a worker counts as alive.
        tokio::time::sleep(Duration::from_secs(7)).await;
        world.gate().stall(toward, false);
        println!("stalled toward the {toward:?}");
        all_done(&mut world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_reduce_stage_was_sent_when_its_connection_broke_is_counted_soon() {
    let _turn = beside_two().await;
    let mut world = World::gated(|pipeline| {
        let reports = "[source.reports]\nsubjects = [\"reports.>\"]\nenvelope = \"error\"\n\n\
                       [stage.errors]";
        pipeline
            .replace("[stage.errors]", reports)
            .replace("inputs = [\"*.failed\"]", "inputs = [\"*.failed\", \"source.reports\"]")
    })
    .await;
    world.fleet.start();
    let leads = ["stage=\"errors\""];
    eventually(async || {
        let log = std::fs::read_to_string(world.fleet.log(0)).unwrap();
        let is_up = log.contains("working");
        (is_up && world.metric("millstream_reduce_leading", &leads).await == 1).then_some(())
    })
    .await;
    for round in 1..=5 {
        // Its messages are on their way, or in the worker and not yet committed.
        world.gate().stall(Toward::Client, true);
        for n in 0..20 {
            let report = serde_json::json!({
                "errorCode": "TILL_DOWN", "serviceName": "till", "message": format!("till {n}"),
            });
            let stored = world.jetstream.publish("reports.till", report.to_string().into()).await;
            stored.unwrap().await.unwrap();
        }
        world.gate().cut();
        world.gate().stall(Toward::Client, false);
        let began = Instant::now();
        eventually(async || (counted(&world) >= 20 * round).then_some(())).await;
        println!("round {round}: counted after {:.1} s", began.elapsed().as_secs_f32());
        assert_eq!(counted(&world), 20 * round);
        assert!(began.elapsed() < Duration::from_secs(20), "after {:?}", began.elapsed());
    }
}

/// Reports that the incidents count.
fn counted(world: &World) -> u64 {
    let (_, text) = world.fleet.run("incidents", &["ls", "--json"]);
    let incidents = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    incidents.map(|one| one["count"].as_u64().unwrap()).sum()
}

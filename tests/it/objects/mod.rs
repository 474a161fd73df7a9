//! Objects: streams and consumers that are deleted under load, full, renamed or removed.

pub(crate) mod books;
mod expiry;
mod full;
mod numbers;
mod service;
mod stages;
pub(crate) mod world;

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::{crash::beside_two, support::eventually};
use numbers::Workers;
use world::World;

/// Events a second of the load.
const RATE: usize = 200;

/// Time between a fault and the operator's `apply`; the load goes on.
const UNSEEN: Duration = Duration::from_millis(1500);

/// Number of accepted calls that a consumer made anew may repeat: what its stage settled in the
/// seconds before, with room for a busy machine.
const REPEATED_MAX: u32 = 3 * RATE as u32;

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_while_the_consumer_of_an_edge_is_missing() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    world.delete_consumer("mill-out-validate", "mill-first").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let totals = books::close(&mut world, Instant::now(), &[]).await;
    assert!(totals.repeated <= REPEATED_MAX, "{} calls were repeated", totals.repeated);
    has_counted_all_errors(&world).await;
    has_counted_the_handled(&world).await;
    numbers::equal_the_ledger(&world, &totals, Workers::RunAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_a_source_that_is_made_anew_goes_on_where_the_old_one_was() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    // Far more is behind it than it may run again.
    let many = || world.calls.accepted("second").len() > 6 * RATE;
    eventually(async || many().then_some(())).await;
    world.delete_consumer("mill-in-events", "mill-validate").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let totals = books::close(&mut world, Instant::now(), &[]).await;
    // The server knows results of a second run again by their ids, so that no call tells of it.
    let runs = world.metric("millstream_events_handled_total", &["stage=\"validate\""]).await;
    println!("{runs} runs of validate");
    assert!(runs <= totals.published as u64 + u64::from(REPEATED_MAX), "{runs} runs, {totals:?}");
    has_counted_all_errors(&world).await;
    has_counted_the_handled(&world).await;
    numbers::equal_the_ledger(&world, &totals, Workers::RunAgain).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_edge_takes_along_only_what_was_in_it() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    let gone = world.delete_stream("mill-out-first").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let in_it = world.overheard.last_before(&["out.first"], gone);
    let totals = books::close(&mut world, Instant::now(), &in_it).await;
    assert!(totals.deleted < RATE * 5, "{} events are gone", totals.deleted);
    has_counted_all_errors(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_state_bucket_costs_no_event_and_alerting_goes_on() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    world.delete_stream("KV_mill-state").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let mended = Instant::now();
    world.is_alerting().await;
    let totals = books::close(&mut world, mended, &[]).await;
    assert!(totals.repeated <= REPEATED_MAX, "{} calls were repeated", totals.repeated);
    has_counted_the_handled(&world).await;
    numbers::equal_the_ledger(&world, &totals, Workers::AllLive).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_are_killed_leave_the_numbers_of_the_others_right() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    world.fleet.start();
    for n in [0, 2, 0] {
        tokio::time::sleep(UNSEEN).await;
        world.fleet.replace(n);
    }
    let totals = books::close(&mut world, Instant::now(), &[]).await;
    has_counted_all_errors(&world).await;
    numbers::equal_the_ledger(&world, &totals, Workers::SomeDied).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_stream_of_failures_costs_no_event_and_alerting_goes_on() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    world.delete_stream("mill-failed").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let mended = Instant::now();
    world.is_alerting().await;
    books::close(&mut world, mended, &[]).await;
    let stored = stored_failures(&world).await;
    let (counted, all) = (errors_counted(&world), world.overheard.count("failed"));
    println!("{counted} errors counted, {stored} are stored, {all} were published");
    assert!(stored <= counted && counted <= all, "{stored} stored, {counted} counted of {all}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_dead_letter_stream_takes_along_only_the_letters_in_it() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    let gone = world.delete_stream("mill-dlq").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let in_it = world.overheard.last_before(&["dlq"], gone);
    let totals = books::close(&mut world, Instant::now(), &in_it).await;
    assert!(totals.dead > 0 && totals.deleted <= in_it.len(), "{totals:?}");
    has_counted_all_errors(&world).await;
    has_counted_the_handled(&world).await;
    // Each worker looks now and then.
    let shown = world.fleet.len() * totals.dead;
    eventually(async || {
        let size = world.metric("millstream_dead_letter_queue_size", &[]).await;
        (size as usize == shown).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_retry_stream_takes_along_only_what_was_in_it() {
    let _turn = beside_two().await;
    let mut world = World::start(RATE).await;
    let gone = world.delete_stream("mill-retry").await;
    tokio::time::sleep(UNSEEN).await;
    world.mend();
    let in_it = world.overheard.last_before(&["parked", "retry", "alone"], gone);
    let totals = books::close(&mut world, Instant::now(), &in_it).await;
    assert!(totals.deleted < RATE, "{} events are gone", totals.deleted);
    has_counted_all_errors(&world).await;
}

/// Failed attempts that are stored, findings apart.
async fn stored_failures(world: &World) -> u64 {
    let stream = world.jetstream.get_stream("mill-failed").await.unwrap();
    let mut subjects = stream.info_with_subjects("mill.failed.>").await.unwrap();
    let mut stored = 0;
    while let Some(subject) = futures_util::StreamExt::next(&mut subjects).await {
        stored += subject.unwrap().1 as u64;
    }
    stored
}

/// Errors of failed attempts that the incidents count.
fn errors_counted(world: &World) -> u64 {
    let (status, text) = world.fleet.run("incidents", &["ls", "--all", "--json"]);
    assert!(status < 2, "{text}");
    let incidents = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let own = incidents
        .filter(|one| one["labels"]["service"].as_str().unwrap_or("").starts_with("mill/"));
    own.map(|one| one["count"].as_u64().unwrap()).sum()
}

/// Fails unless incidents count every failed attempt that is stored, once.
async fn has_counted_all_errors(world: &World) {
    let stored = stored_failures(world).await;
    eventually(async || (errors_counted(world) >= stored).then_some(())).await;
    assert_eq!(errors_counted(world), stored, "errors counted, and errors stored");
}

/// Fails unless the workers count as done what the service accepted.
async fn has_counted_the_handled(world: &World) {
    let done = ["stage=\"second\"", "status=\"done\""];
    let counted = world.metric("millstream_events_handled_total", &done).await;
    let accepted: u32 = world.calls.accepted("second").values().sum();
    assert_eq!(counted, u64::from(accepted), "counted as done, and accepted by the service");
}

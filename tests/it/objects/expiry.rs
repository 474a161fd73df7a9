//! Expiry: events of a source that grow too old before anyone reads them, told with their number.

use std::time::{Duration, Instant};

use serde_json::Value;

use super::{RATE, books, world::World};
use crate::{crash::beside_two, support::eventually};

/// Age at which the source forgets.
const MAX_AGE: Duration = Duration::from_secs(5);

/// Events that were done although they had expired in the hands of a worker, at the most.
const IN_HAND_MAX: u64 = 128;

/// Events lost unread that `status` tells of, and its exit status.
fn told(world: &World, stage: &str) -> (i32, u64) {
    let (status, text) = world.fleet.run("status", &["--json"]);
    let from = text.find('{').unwrap_or_else(|| panic!("{text}"));
    let mut said = serde_json::Deserializer::from_str(&text[from..]).into_iter::<Value>();
    let said = said.next().unwrap().unwrap();
    let lost = said["lost_unread"].as_array().or_else(|| said["lostUnread"].as_array());
    let lost = lost.unwrap_or_else(|| panic!("{said}"));
    let own = lost.iter().filter(|it| it["stage"] == stage && it["stream"] == "mill-in-events");
    (status, own.map(|it| it["events"].as_u64().unwrap()).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_expires_unread_under_load_is_told_with_its_number() {
    let _turn = beside_two().await;
    let short = "subjects = [\"events.>\"]\nmax_age = \"5s\"";
    let mut world =
        World::still(|pipeline| pipeline.replace("subjects = [\"events.>\"]", short)).await;
    // A worker of another stage is the keeper meanwhile.
    let other = world.fleet.start_only("second");
    eventually(async || {
        let state = world.jetstream.get_key_value("mill-state").await.ok()?;
        state.get("floor.mill-in-events.mill-validate").await.ok()?
    })
    .await;
    world.fleet.start();
    world.fleet.start();
    world.publish(RATE);
    let begun = || world.calls.accepted("first").len() > 3 * RATE;
    eventually(async || begun().then_some(())).await;
    assert_eq!(told(&world, "validate").1, 0, "what was read is not lost when it goes");

    // Twice: killed with events in their hands, and then cleanly.
    for n in 0..2 {
        let before = told(&world, "validate").1;
        for worker in 0..world.fleet.len() {
            match n {
                0 => world.fleet.kill(worker),
                _ => _ = world.fleet.terminate(worker).await,
            }
        }
        eventually(async || {
            let (status, lost) = told(&world, "validate");
            (status == 1 && lost > before + RATE as u64).then_some(())
        })
        .await;
        let (_, said) = world.fleet.run("status", &[]);
        assert!(said.contains("mill-in-events") && said.contains("validate"), "{said}");
        tokio::time::sleep(MAX_AGE / 2).await;
        world.fleet.revive();
        let worked = world.calls.accepted("first").len();
        let at_work = || world.calls.accepted("first").len() > worked + 2 * RATE;
        eventually(async || at_work().then_some(())).await;
    }
    let gone: Vec<String> = world.load.acknowledged().into_iter().map(|event| event.id).collect();
    let totals = books::close(&mut world, Instant::now(), &gone).await;
    let (_, lost) = told(&world, "validate");
    println!("{lost} were told to be lost, {} were", totals.deleted);
    let (deleted, most) = (totals.deleted as u64, totals.deleted as u64 + IN_HAND_MAX);
    assert!((deleted..=most).contains(&lost), "{lost} were told to be lost, {deleted} were");
    assert_eq!(totals.published, totals.done + totals.dead + totals.deleted);
    // A finding told the same, in parts.
    let findings = world.stored_findings("EventsLostUnread").await;
    let numbers = findings.iter().filter_map(|it| it.split(' ').next()?.parse::<u64>().ok());
    assert_eq!(numbers.sum::<u64>(), lost, "{findings:?}");
    drop(other);
}

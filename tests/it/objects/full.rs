//! Full: a source that has no room refuses publishers, and forgets nothing that it acknowledged.

use std::time::Instant;

use super::{RATE, books, world::World};
use crate::{crash::beside_two, support::eventually};

#[tokio::test(flavor = "multi_thread")]
async fn a_full_source_refuses_publishers_and_forgets_nothing() {
    let _turn = beside_two().await;
    let bounded = "subjects = [\"events.>\"]\nmax_bytes = \"256KiB\"";
    let mut world =
        World::still(|pipeline| pipeline.replace("subjects = [\"events.>\"]", bounded)).await;
    // Nobody reads: it fills.
    world.publish(5 * RATE);
    let refused = || world.load.refused() > RATE;
    let before = eventually(async || {
        let taken = world.load.acknowledged().len();
        (refused() || taken > 5000).then_some(taken)
    })
    .await;
    assert!(refused(), "{before} events were taken into 256 KiB, and nobody was refused");
    println!("{before} acknowledged before the source was full");
    // A worker of another stage tells of it.
    let other = world.fleet.start_only("second");
    let said = eventually(async || {
        let (status, said) = world.fleet.run("status", &[]);
        (status == 1 && said.contains("mill-in-events")).then_some(said)
    })
    .await;
    println!("{said}");
    drop(other);

    // Once it is read there is room again for what was refused.
    world.fleet.start();
    world.fleet.start();
    let began = Instant::now();
    eventually(async || (world.load.acknowledged().len() > 2 * before).then_some(())).await;
    println!("as many again were taken in {:.1} s", began.elapsed().as_secs_f32());
    books::close(&mut world, Instant::now(), &[]).await;
}

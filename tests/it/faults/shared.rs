//! Shared: one stream read by several stages, of which some give up.

use super::{PIPELINE, exhaust, findings, later, on_edge, routed, still, stored, swept};
use crate::support::eventually;
use millstream::exhausted::{router::Router, sweep::Sweep};

const BESIDE: &str = r#"
    [stage.beside]
    kind = "handle"
    inputs = ["first"]
    handler = { rust = "told" }
    ack_wait = "1s"
"#;
const WORK: (&str, &str) = ("shop-out-first", "shop-work");
const OTHER: (&str, &str) = ("shop-out-first", "shop-beside");

#[tokio::test]
async fn of_two_readers_the_one_that_gave_up_gets_the_letter_and_the_other_none() {
    let (mill, _) = still(&format!("{PIPELINE}{BESIDE}")).await;
    on_edge(&mill, "e-1", 7).await;
    exhaust(&mill, WORK).await;
    swept(&mill).await;
    assert!(findings(&mill).await.is_empty(), "the other has still to read it");
    let mut pull = mill.broker.pull(OTHER.0, OTHER.1, 1).await.unwrap();
    let in_hand = pull.next().await.unwrap().unwrap();
    swept(&mill).await;
    assert!(findings(&mill).await.is_empty(), "the other has it in hand");
    in_hand.ack().await;
    mill.idle("beside").await;
    swept(&mill).await;
    let told = findings(&mill).await;
    assert_eq!(told.len(), 1);
    assert!(told[0].starts_with("work e-1 crashed"), "{told:?}");
    eventually(async || (stored(&mill, WORK.0).await == 0).then_some(())).await;
}

#[tokio::test]
async fn two_readers_that_both_gave_up_get_a_letter_each_whoever_notices() {
    let (mill, _) = still(&format!("{PIPELINE}{BESIDE}")).await;
    on_edge(&mill, "e-1", 7).await;
    on_edge(&mill, "e-2", 8).await;
    on_edge(&mill, "e-3", 9).await;
    exhaust(&mill, WORK).await;
    exhaust(&mill, OTHER).await;
    // The router heard of both for one, and of one for the other; of the third it heard nothing.
    routed(&mill, WORK, 1).await;
    Router(super::afterwards(&mill)).give_up("beside", OTHER.0, OTHER.1, 1, 2).await.unwrap();
    routed(&mill, WORK, 2).await;
    let mut sweep = Sweep::new(super::afterwards(&mill));
    for _ in 0..4 {
        sweep.round(later()).await;
    }
    let mut told: Vec<String> =
        findings(&mill).await.iter().map(|line| line[..12].trim().to_owned()).collect();
    told.sort();
    assert_eq!(told, ["beside e-1 c", "beside e-2 c", "work e-1 cra", "work e-2 cra"]);
    assert_eq!(
        stored(&mill, WORK.0).await,
        1,
        "nothing says who gave up on the third: it is kept, and counted"
    );
    // Once something does, it is dealt with: here what a worker of an older version left.
    for stage in ["work", "beside"] {
        let subject = format!("shop.failed.{stage}.Flaky.shop-in-events.9.shop-out-first-3");
        let record = millstream::broker::Outgoing::new(subject, "{}")
            .id(&format!("shop-out-first:3:1:{stage}"));
        mill.broker.publish(record).await.unwrap();
    }
    for _ in 0..2 {
        sweep.round(later()).await;
    }
    assert_eq!((mill.letters().await.len(), stored(&mill, WORK.0).await), (6, 0));
}

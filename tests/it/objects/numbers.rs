//! Numbers: what the workers count, against what is stored of every failed attempt and letter.

use std::collections::BTreeMap;

use super::{REPEATED_MAX, books::Totals, world::World};

/// Stages of which attempts are counted.
const STAGES: [&str; 3] = ["validate", "first", "second"];

/// Names of the counter's outcomes, with those of the records that they stand for.
const OUTCOMES: [(&str, &[&str]); 3] = [
    ("retried", &["retry", "park"]),
    ("deferred", &["defer"]),
    ("dead_lettered", &["exhausted", "rejected", "crashed", "undecodable", "expired"]),
];

/// Failed attempts that are stored, by stage and outcome.
async fn recorded(world: &World) -> BTreeMap<(String, String), u64> {
    let mut recorded = BTreeMap::new();
    for (subject, outcome) in world.stored_outcomes().await {
        if let Some(stage) = subject.strip_prefix("mill.failed.") {
            let stage = stage.split('.').next().unwrap_or_default().to_owned();
            *recorded.entry((stage, outcome)).or_insert(0) += 1;
        }
    }
    recorded
}

/// Workers whose numbers are compared.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Workers {
    /// None has died.
    AllLive,
    /// None has died, and a consumer was made anew: what is run a second time as the same delivery
    /// is counted, and recorded once.
    RunAgain,
    /// Some have died, and what they counted with them.
    SomeDied,
}

/// Fails unless the workers count each failed attempt that is stored, and each letter.
pub(super) async fn equal_the_ledger(world: &World, totals: &Totals, workers: Workers) {
    let recorded = recorded(world).await;
    let (mut wrong, mut failed) = (Vec::new(), 0);
    let again = if workers == Workers::RunAgain { u64::from(REPEATED_MAX) } else { 0 };
    let mut compare = |what: String, counted: u64, stored: u64, again: u64| {
        let least = if workers == Workers::SomeDied { 0 } else { stored };
        if !(least..=stored + again).contains(&counted) {
            wrong.push(format!("{what}: {counted} counted, {stored} stored"));
        }
    };
    for stage in STAGES {
        let of_stage = format!("stage=\"{stage}\"");
        for (status, outcomes) in OUTCOMES {
            let labels = [of_stage.as_str(), &format!("status=\"{status}\"")];
            let counted = world.metric("millstream_events_handled_total", &labels).await;
            let key = |outcome: &&str| (stage.to_owned(), (*outcome).to_owned());
            let stored = outcomes.iter().filter_map(|outcome| recorded.get(&key(outcome))).sum();
            failed += stored;
            compare(format!("{stage} {status}"), counted, stored, again);
        }
    }
    let errors = world.metric("millstream_events_handling_errors_total", &["stage="]).await;
    compare("errors".to_owned(), errors, failed, again);
    let letters = world.metric("millstream_events_dead_lettered_total", &["stage="]).await;
    // Those of the odd events, of which nobody keeps books, are letters as well.
    let odd = world.odd_letters().await;
    compare("letters".to_owned(), letters, totals.dead as u64 + odd, 0);
    println!("counted: {failed} failed attempts, {letters} letters; {recorded:?}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

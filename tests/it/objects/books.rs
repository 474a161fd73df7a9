//! Books: every acknowledged event against its end, its letter and the numbers of the fleet.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    time::{Duration, Instant},
};

use super::world::{HEAL, Published, World};

/// Letter, as any client reads it.
struct Letter {
    id: String,
    stage: String,
    reason: String,
    body: Vec<u8>,
}

/// Ends of the events, in numbers.
#[derive(Debug, Default)]
pub(crate) struct Totals {
    pub(crate) published: usize,
    pub(crate) done: usize,
    pub(crate) dead: usize,
    /// Events that were in a stream that the operator deleted.
    pub(crate) deleted: usize,
    /// Calls of the service that accepted an event once more at a stage.
    pub(crate) repeated: u32,
}

/// Waits until every event has its end but for those `excused`, then compares. Fails if that takes
/// longer than [`HEAL`] from `mended`, or at any breach.
pub(crate) async fn close(world: &mut World, mended: Instant, excused: &[String]) -> Totals {
    let excused: HashSet<&str> = excused.iter().map(String::as_str).collect();
    let later = |load: Vec<Published>| load.into_iter().find(|event| event.at > mended);
    let mut at_work = None;
    let mut calm = 0;
    let mut stopped = false;
    while mended.elapsed() < HEAL && calm < 3 {
        let published = world.load.acknowledged();
        let new = published.iter().filter(|event| event.at > mended);
        if at_work.is_none() && new.into_iter().any(|event| world.calls.is_done(&event.id)) {
            at_work = Some(mended.elapsed());
        }
        // The load goes on for a while after the fault.
        if !stopped && mended.elapsed() > Duration::from_secs(3) {
            world.load.stop().await;
            stopped = true;
        }
        let open = published.iter().any(|event| {
            event.meant.letter().is_none()
                && !world.calls.is_done(&event.id)
                && !excused.contains(event.id.as_str())
        });
        let busy = stopped && (open || !world.under_way().await.is_empty());
        calm = if stopped && !busy { calm + 1 } else { 0 };
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    let (took, left) = (mended.elapsed(), world.under_way().await);
    let published = world.load.acknowledged();
    println!(
        "at work {at_work:?} after the fault, settled after {:.1} s, under way: {left:?}",
        took.as_secs_f32()
    );
    assert!(later(published.clone()).is_some(), "nothing was published after the fault");
    let totals = judge(&published, world, &letters(world).await, &excused);
    println!("{totals:?}");
    assert!(at_work.is_some(), "nothing that came after the fault was done within {HEAL:?}");
    assert!(left.is_empty(), "still under way after {HEAL:?}: {left:?}");
    totals
}

/// Events that have letters of these stages; of any, if there are none.
pub(crate) async fn letters_of(world: &World, stages: &[&str]) -> Vec<String> {
    let all = letters(world).await.into_iter();
    let own = all.filter(|one| stages.is_empty() || stages.contains(&one.stage.as_str()));
    own.map(|letter| letter.id).collect()
}

async fn letters(world: &World) -> Vec<Letter> {
    let stream = world.jetstream.get_stream("mill-dlq").await.unwrap();
    let state = &stream.cached_info().state;
    let mut letters = Vec::new();
    for seq in state.first_sequence..=state.last_sequence {
        // A message that was deleted leaves a gap.
        let Ok(message) = stream.get_raw_message(seq).await else { continue };
        let header = |name| {
            message.headers.get(name).map(|value| value.as_str().to_owned()).unwrap_or_default()
        };
        letters.push(Letter {
            id: header("Millstream-Event-Id"),
            stage: header("Millstream-Stage"),
            reason: header("Millstream-Reason"),
            body: message.payload.to_vec(),
        });
    }
    letters
}

/// Compares; every breach is a line of the panic.
fn judge(
    published: &[Published],
    world: &World,
    letters: &[Letter],
    excused: &HashSet<&str>,
) -> Totals {
    let mut breaches = Vec::new();
    let mut by_id: HashMap<&str, Vec<&Letter>> = HashMap::new();
    for letter in letters.iter().filter(|letter| !letter.id.starts_with("odd-")) {
        by_id.entry(&letter.id).or_default().push(letter);
    }
    let repeated = world.calls.repeated();
    let mut totals = Totals { published: published.len(), repeated, ..Totals::default() };
    for event in published {
        let (id, meant) = (&event.id, event.meant);
        let own = by_id.remove(id.as_str()).unwrap_or_default();
        match (world.calls.is_done(id), own.as_slice()) {
            (true, []) => totals.done += 1,
            (false, [_]) => totals.dead += 1,
            (false, []) if excused.contains(id.as_str()) => totals.deleted += 1,
            (false, []) => breaches.push(format!("{id} ({meant:?}) is lost")),
            (true, _) => breaches.push(format!("{id} ({meant:?}) is done and has a letter")),
            (false, more) => {
                breaches.push(format!("{id} ({meant:?}) has {} letters", more.len()));
            }
        }
        for letter in own {
            let says = (letter.stage.as_str(), letter.reason.as_str());
            // The stage may have another name by now.
            let renamed = (if says.0 == "last" { "second" } else { says.0 }, says.1);
            if meant.letter() != Some(renamed) {
                breaches.push(format!("{id} ({meant:?}) has a letter of {says:?}"));
            }
            if letter.body != event.body {
                breaches.push(format!("the letter of {id} ({meant:?}) has other bytes"));
            }
        }
    }
    breaches.extend(by_id.keys().map(|id| format!("a letter of {id:?}, which nobody published")));
    let mut kinds = BTreeMap::<&str, usize>::new();
    for breach in &breaches {
        *kinds.entry(breach.split_once(' ').map_or("", |(_, what)| what)).or_default() += 1;
    }
    assert!(
        breaches.is_empty(),
        "{} breaches, {totals:?}, {kinds:#?}\n{}",
        breaches.len(),
        breaches[..breaches.len().min(20)].join("\n")
    );
    totals
}

//! Telling: conditions told as findings: each once, and again every so often while it lasts.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use millstream_stages::incident::Severity;

use crate::{
    broker::Broker,
    limits,
    wire::{Finding, Names},
};

/// Condition that someone should know of.
#[derive(Debug, Clone)]
pub(super) struct Condition {
    /// Sort of finding.
    pub(super) code: &'static str,
    /// Severity of the finding.
    pub(super) severity: Severity,
    /// Stage, stream or condition that it is about.
    pub(super) about: String,
    /// Text for people.
    pub(super) text: String,
}

/// Condition that holds.
#[derive(Debug)]
struct Held {
    condition: Condition,
    since: Instant,
    told_at: Option<Instant>,
    /// Round in which it last held.
    round: u64,
}

/// Teller of conditions, which are looked at in rounds.
#[derive(Debug)]
pub(super) struct Telling {
    broker: Broker,
    names: Names,
    round: u64,
    held: BTreeMap<String, Held>,
    /// Time that a condition lasts before it is told.
    after: Duration,
}

impl Telling {
    /// Teller of what lasts for so long.
    pub(super) fn new(broker: &Broker, names: &Names, after: Duration) -> Self {
        let (broker, names, held) = (broker.clone(), names.clone(), BTreeMap::new());
        Self { broker, names, round: 0, held, after }
    }

    /// Notes that a condition holds in this round; `key` tells it from others. True if it is new.
    pub(super) fn holds(&mut self, key: &str, condition: Condition) -> bool {
        let round = self.round;
        let has_room = self.held.len() < limits::CONDITIONS_MAX;
        match self.held.get_mut(key) {
            Some(held) => {
                held.round = round;
                held.condition = condition;
                false
            }
            None if has_room => {
                let held = Held { condition, since: Instant::now(), told_at: None, round };
                self.held.insert(key.to_owned(), held);
                true
            }
            None => false,
        }
    }

    /// Keeps a condition that is not looked at in this round.
    pub(super) fn still_holds(&mut self, prefix: &str) {
        let round = self.round;
        let same = self.held.iter_mut().filter(|(key, _)| key.starts_with(prefix));
        same.for_each(|(_, held)| held.round = round);
    }

    /// Texts of the conditions that hold.
    pub(super) fn texts(&self) -> Vec<String> {
        self.held.values().map(|held| held.condition.text.clone()).collect()
    }

    /// Ends a round: tells what is due, and forgets what no longer holds, which it returns. What
    /// cannot be stored is told in the next round.
    pub(super) async fn end(&mut self) -> Vec<Condition> {
        let round = self.round;
        self.round += 1;
        let held = std::mem::take(&mut self.held).into_iter();
        let (held, over): (BTreeMap<_, _>, BTreeMap<_, _>) =
            held.partition(|(_, held)| held.round == round);
        self.held = held;
        let over = over.into_values().map(|held| held.condition).collect();
        let now = Timestamp::now().as_millisecond();
        let due: Vec<(String, Condition)> = self
            .held
            .iter()
            .filter(|(_, held)| {
                let again = |at: Instant| at.elapsed() >= limits::CONDITION_TOLD_EVERY;
                held.since.elapsed() >= self.after && held.told_at.is_none_or(again)
            })
            .map(|(key, held)| (key.clone(), held.condition.clone()))
            .collect();
        for (n, (key, condition)) in due.into_iter().enumerate() {
            // Where one finds no room, nor do the others.
            if !self.publish(&condition, &format!("{now}.{n}")).await {
                break;
            }
            if let Some(held) = self.held.get_mut(&key) {
                held.told_at = Some(Instant::now());
            }
        }
        over
    }

    /// Publishes a finding; false if it was not stored.
    pub(super) async fn publish(&self, condition: &Condition, id: &str) -> bool {
        let Condition { code, severity, about, text } = condition;
        let finding = Finding {
            code,
            severity: *severity,
            message: text.clone(),
            stage: about,
            id: format!("keeper.{code}.{about}.{id}"),
        };
        // A broker that does not take it must not hold up the trims, nor the looks.
        let told = self.broker.publish(finding.message(&self.names));
        let told = tokio::time::timeout(limits::FINDING_WAIT, told).await;
        let is_told = matches!(told, Ok(Ok(_)));
        if !is_told {
            tracing::debug!(about, code, "a finding of the keeper could not be stored");
        }
        is_told
    }
}

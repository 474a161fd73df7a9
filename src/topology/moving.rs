//! Moving: what a stage of another name holds, handed to the stage that took over.
//!
//! Everything is published, or made, before it is removed where it was, and can be done again: a
//! process that dies in between leaves at most one event twice, which a stage has to bear anyway.
//!
//! - A durable consumer of a stream that the new stage reads as well: the new one starts where the
//!   old one was (in `apply`, by `starts`), and the old one goes.
//! - One of an edge that the new stage does not read: what it has not settled goes to the retry
//!   stream, for the new stage alone.
//! - Parked and waiting events: stored anew for the new stage, due when they were.
//! - Results that readers of the old stage have not settled: to the retry stream, for each reader
//!   alone; for readers by offset, to the stream of the new stage.
//! - State and offsets of a reduce stage: copied, if the new one has none yet.

use std::collections::BTreeMap;

use super::{
    leftovers::{Held, Leftovers, Unread},
    mover::{MoveError, Mover, is_state},
    topology::Topology,
};
use crate::{
    broker::{AdminError, Broker},
    wire::{FloorRecord, Names},
};

/// Hand-over of what a stage holds to another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Move {
    /// What is handed over, by the name that the stage had.
    pub held: Held,
    /// Name of the stage that takes over.
    pub to: String,
    /// Consumers of the old stage's results that their readers have not settled, with the reader.
    pub results: Vec<(Unread, String)>,
    /// True if there is a stream of the old stage's results.
    pub has_results: bool,
    /// Sequences at which consumers start whose old one is gone, by stream and consumer: kept by
    /// whoever trims the stream.
    pub kept: BTreeMap<(String, String), u64>,
    /// Keys of a reduce stage's state.
    pub keys: usize,
}

/// What was handed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Moved {
    /// Events that were published for the stage that took over, or for a reader of its results.
    pub events: u64,
    /// Consumers that were removed.
    pub consumers: u64,
    /// Keys of a reduce stage's state that were copied.
    pub keys: u64,
}

impl Move {
    /// Hand-over of what `from` holds to `to`; `None`: it holds nothing that can be handed over.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn plan(
        topology: &Topology,
        broker: &Broker,
        leftovers: &Leftovers,
        from: &str,
        to: &str,
    ) -> Result<Option<Self>, AdminError> {
        let names = Names::new(&topology.pipeline);
        let held = leftovers.of(from).cloned().unwrap_or_else(|| Held {
            stage: from.to_owned(),
            heir: Some(to.to_owned()),
            ..Held::default()
        });
        let out = names.out_stream(from);
        let has_results = leftovers.streams.iter().any(|(stream, _)| *stream == out);
        let mut results = Vec::new();
        if has_results {
            // Readers that are renamed as well are found under their old names.
            for reader in &leftovers.held {
                let heir = reader.heir.as_ref().unwrap_or(&reader.stage);
                for consumer in reader.consumers.iter().filter(|unread| unread.stream == out) {
                    if topology.takes_retries(heir) {
                        results.push((consumer.clone(), heir.clone()));
                    }
                }
            }
        }
        let prefix = format!("{from}.");
        let keys = match topology.stages.iter().any(|stage| stage == from) {
            true => 0,
            false => match broker.kv_entries(&names.state_bucket(), &prefix).await {
                Ok(entries) => entries.iter().filter(|(key, ..)| is_state(key, from)).count(),
                Err(AdminError::NoStream { .. }) => 0,
                Err(error) => return Err(error),
            },
        };
        let kept = kept(topology, broker, &held, to).await?;
        let plan = Self { held, to: to.to_owned(), results, has_results, kept, keys };
        let is_empty = plan.held.consumers.is_empty()
            && plan.held.waiting + plan.held.parked == 0
            && !plan.has_results
            && plan.kept.is_empty()
            && plan.keys == 0;
        Ok((!is_empty).then_some(plan))
    }

    /// Sequences at which consumers that are made anew start, by stream and consumer.
    pub fn starts(&self, topology: &Topology) -> BTreeMap<(String, String), u64> {
        let names = Names::new(&topology.pipeline);
        let of = |unread: &Unread| {
            if is_queue(&names, unread) {
                return None;
            }
            let reader = topology.reader(&self.to, &unread.stream)?;
            Some(((reader.stream.clone(), reader.name.clone()), unread.floor + 1))
        };
        self.held.consumers.iter().filter_map(of).chain(self.kept.clone()).collect()
    }

    /// First thing that cannot be handed over.
    ///
    /// # Errors
    /// [`MoveError::NotRead`], [`MoveError::TakesNone`].
    pub fn check(&self, topology: &Topology) -> Result<(), MoveError> {
        let names = Names::new(&topology.pipeline);
        if self.held.events() > 0 && !topology.takes_retries(&self.to) {
            return Err(MoveError::TakesNone {
                from: self.held.stage.clone(),
                to: self.to.clone(),
                what: self.held.what(),
            });
        }
        for unread in &self.held.consumers {
            let Unread { stream, unsettled, .. } = unread;
            let is_ours = is_queue(&names, unread) || self.can_resend(&names, unread);
            if *unsettled > 0 && !is_ours && topology.reader(&self.to, stream).is_none() {
                return Err(MoveError::NotRead {
                    from: self.held.stage.clone(),
                    to: self.to.clone(),
                    stream: stream.clone(),
                    unsettled: *unsettled,
                });
            }
        }
        Ok(())
    }

    /// True if it hands over what a reader of the old stage's results has not settled.
    pub(super) fn resends(&self, unread: &Unread) -> bool {
        self.results.iter().any(|(result, _)| result == unread)
    }

    /// True if the messages of a stream say by themselves what they are.
    fn can_resend(&self, names: &Names, unread: &Unread) -> bool {
        unread.stream.starts_with(&format!("{}-out-", names.pipeline()))
    }

    /// Hands everything over. The consumers of the new stage are there.
    ///
    /// # Errors
    /// [`MoveError`]; what was not handed over is where it was.
    pub async fn carry_out(
        &self,
        topology: &Topology,
        broker: &Broker,
    ) -> Result<Moved, MoveError> {
        self.check(topology)?;
        let names = Names::new(&topology.pipeline);
        let (from, to) = (self.held.stage.as_str(), self.to.as_str());
        let mover = Mover { broker, names: &names, from };
        let mut moved = Moved::default();
        for unread in &self.held.consumers {
            if is_queue(&names, unread) {
                continue;
            }
            let reads = topology.reader(to, &unread.stream);
            // A stage that only reads something else now has no consumer to go on with.
            let goes_on = match reads.filter(|_| from != to) {
                Some(reader) => {
                    let found = broker.find_consumer(&reader.stream, &reader.name).await;
                    found.map_err(|source| mover.admin(source))?.is_some()
                }
                None => false,
            };
            if !goes_on && unread.unsettled > 0 {
                moved.events += mover.resend(unread, to).await?;
            }
            moved.consumers += mover.remove(unread).await?;
        }
        let out = names.out_stream(to);
        let is_copied = topology.all_reads().iter().any(|read| read.stream == out);
        if is_copied && self.has_results {
            moved.events += mover.copy_results(topology, to, &self.results).await?;
        }
        for (unread, reader) in &self.results {
            if !is_copied {
                moved.events += mover.resend(unread, reader).await?;
            }
            moved.consumers += mover.remove(unread).await?;
        }
        if from != to {
            // Without consumers, what is there stays there until it is moved.
            for unread in self.held.consumers.iter().filter(|it| is_queue(&names, it)) {
                moved.consumers += mover.remove(unread).await?;
            }
            moved.events += mover.retries(to).await?;
            moved.keys = mover.state(to).await?;
            if self.has_results {
                mover.remove_results().await?;
            }
        }
        Ok(moved)
    }
}

/// Hands over what workers of the configuration before have put into work queues for a renamed
/// stage since `apply` did, once nobody reads it there. Returns how many events.
///
/// # Errors
/// [`MoveError`]; what was not handed over is where it was.
pub async fn hand_over_late(
    topology: &Topology,
    broker: &Broker,
    held: &Held,
) -> Result<u64, MoveError> {
    let names = Names::new(&topology.pipeline);
    let Some(to) = held.heir.as_deref().filter(|to| topology.takes_retries(to)) else {
        return Ok(0);
    };
    let is_read = held.consumers.iter().any(|unread| is_queue(&names, unread));
    if is_read || held.waiting + held.parked == 0 {
        return Ok(0);
    }
    Mover { broker, names: &names, from: &held.stage }.retries(to).await
}

/// True for a consumer of a work queue, whose events are found by their subjects.
fn is_queue(names: &Names, unread: &Unread) -> bool {
    unread.stream == names.retry_stream() || unread.stream == names.notify_stream()
}

impl Moved {
    /// Line about what was handed over.
    pub fn line(&self, from: &str, to: &str) -> String {
        let Self { events, consumers, keys } = self;
        let mut line = format!(
            "handed over from \"{from}\" to \"{to}\": {events} events published anew, {consumers} \
             consumers taken over"
        );
        if *keys > 0 {
            line.push_str(&format!(", {keys} keys of state copied"));
        }
        line
    }
}

impl std::fmt::Display for Move {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (from, what) = (&self.held.stage, self.held.what());
        write!(f, "stage \"{from}\" is renamed \"{}\": {what}", self.to)?;
        let results: u64 = self.results.iter().map(|(unread, _)| unread.unsettled).sum();
        if results > 0 {
            write!(f, ", {results} results not settled")?;
        }
        if self.keys > 0 {
            write!(f, ", {} keys of state", self.keys)?;
        }
        f.write_str(": handed over")?;
        if self.held.letters > 0 {
            write!(f, "; letters stay, and a redrive sends them to \"{}\"", self.to)?;
        }
        Ok(())
    }
}

/// Starts of consumers of `to` that are missing, by the floors that were kept of those of the old
/// name, where these are gone. A floor of another life of the stream says nothing.
async fn kept(
    topology: &Topology,
    broker: &Broker,
    held: &Held,
    to: &str,
) -> Result<BTreeMap<(String, String), u64>, AdminError> {
    let (names, mut starts) = (Names::new(&topology.pipeline), BTreeMap::new());
    for feed in topology.feeds(to) {
        let is_found = held.consumers.iter().any(|unread| unread.stream == feed.stream);
        if is_found || feed.stream == names.retry_stream() || held.stage == to {
            continue;
        }
        let key = FloorRecord::key(&feed.stream, &names.stage_consumer(&held.stage));
        let value = match broker.kv_get(&names.state_bucket(), &key).await {
            Ok(Some((value, _))) => value,
            Ok(None) | Err(AdminError::NoStream { .. }) => continue,
            Err(error) => return Err(error),
        };
        let Some(record) = FloorRecord::read(&value) else { continue };
        if broker.find_consumer(&feed.stream, &feed.consumer).await?.is_some() {
            continue;
        }
        let created = broker.created_ms(&feed.stream).await?;
        if let Some(floor) = created.and_then(|created| record.on(created)) {
            starts.insert((feed.stream, feed.consumer), floor + 1);
        }
    }
    Ok(starts)
}

//! Orphans: stored events that will be delivered to nobody again, counted without reading them.
//!
//! A message that was delivered as often as its consumer may stays stored, with nothing to show for
//! it: it is neither pending nor ack pending. If settling removes a message (work-queue and
//! interest streams), what is stored and neither pending nor ack pending is such an orphan. If it
//! does not (sources, or several readers of one stream), the consumer's count of redelivered
//! messages shows them: it keeps the exhausted ones, and loses them when they are settled.
//!
//! Source: measured on nats-server 2.15.1 in `tests/it/faults/sweep.rs`.

use std::time::Duration;

use crate::{
    broker::{AdminError, Broker, ConsumerState, Retention, StoredMessage},
    topology::{Feed, Topology},
    wire::subject_pattern::covers,
};

/// Stream with those of our consumers that share its messages: all of an interest stream, one of a
/// work queue.
#[derive(Debug, Clone)]
pub struct ReadStream {
    /// The stream.
    pub stream: String,
    /// Retention of the stream.
    pub retention: Retention,
    /// Consumers that read it.
    pub readers: Vec<StageReader>,
}

/// Durable consumer of ours.
#[derive(Debug, Clone)]
pub struct StageReader {
    /// Stage of the consumer, and what it reads.
    pub feed: Feed,
    /// Ack wait: time the server gives a delivery before it hands it out again.
    pub ack_wait: Duration,
}

impl ReadStream {
    /// Reads every stream that our map stages and channels read; one that is not there is left out.
    ///
    /// # Errors
    /// [`AdminError::Read`], about a stream that is not ours.
    pub async fn all(broker: &Broker, topology: &Topology) -> Result<Vec<Self>, AdminError> {
        let mut read_streams: Vec<Self> = Vec::new();
        for feed in topology.all_feeds() {
            // An edge may still be the interest stream that it was once.
            let ours = topology
                .streams
                .iter()
                .find(|spec| spec.name == feed.stream && !topology.trimmed.contains(&spec.name))
                .map(|spec| spec.retention);
            let retention = match ours {
                Some(retention) => retention,
                None => match broker.find_stream(&feed.stream).await? {
                    Some(spec) => spec.retention,
                    None => continue,
                },
            };
            let same = |spec: &&crate::broker::ConsumerSpec| {
                spec.stream == feed.stream && spec.name == feed.consumer
            };
            let ack_wait =
                topology.consumers.iter().find(same).map_or(Duration::ZERO, |spec| spec.ack_wait);
            let reader = StageReader { feed: feed.clone(), ack_wait };
            let shares = |read_stream: &&mut Self| {
                read_stream.stream == feed.stream && retention == Retention::Interest
            };
            match read_streams.iter_mut().find(shares) {
                Some(read_stream) => read_stream.readers.push(reader),
                None => read_streams.push(Self {
                    stream: feed.stream.clone(),
                    retention,
                    readers: vec![reader],
                }),
            }
        }
        Ok(read_streams)
    }

    /// True if only one consumer of ours waits for each of its messages, so that settling it
    /// removes it.
    pub fn is_sole(&self) -> bool {
        self.retention != Retention::Limits && self.readers.len() == 1
    }

    /// Number of the events of `reader` that will be delivered to nobody again; `None` if others
    /// read the stream, and it is not known. What is on its way while this asks may be missed, and
    /// is never taken for an orphan.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn orphans(
        &self,
        broker: &Broker,
        reader: &StageReader,
    ) -> Result<Option<u64>, AdminError> {
        let before = self.stored(broker, reader).await?;
        if before == Some(0) {
            return Ok(before);
        }
        let state = broker.consumer_state(&self.stream, &reader.feed.consumer).await?;
        if !self.is_sole() {
            return Ok(Some(given_up(&state)));
        }
        let after = self.stored(broker, reader).await?;
        let stored = before.zip(after).map(|(before, after)| before.min(after));
        Ok(stored.map(|stored| stored.saturating_sub(state.num_pending + state.num_ack_pending)))
    }

    /// Number of messages stored for a reader that is the only one.
    async fn stored(
        &self,
        broker: &Broker,
        reader: &StageReader,
    ) -> Result<Option<u64>, AdminError> {
        match self.retention {
            Retention::Limits => Ok(None),
            Retention::Interest if !self.is_sole() => Ok(None),
            Retention::Interest => {
                let state = broker.stream_state(&self.stream).await?;
                // Whoever else reads it keeps messages there, too.
                Ok((state.consumers <= 1).then_some(state.messages))
            }
            Retention::WorkQueue => {
                let mut stored = 0;
                for filter in reader.filters() {
                    stored += broker.subjects_count(&self.stream, filter).await?;
                }
                Ok(Some(stored))
            }
        }
    }
}

impl StageReader {
    /// Subjects that it reads.
    pub fn filters(&self) -> Vec<&str> {
        if self.feed.filters.is_empty() {
            vec![">"]
        } else {
            self.feed.filters.iter().map(String::as_str).collect()
        }
    }

    /// True if it reads this message.
    pub fn reads(&self, message: &StoredMessage) -> bool {
        self.filters().iter().any(|filter| covers(filter, &message.subject))
    }
}

/// Sequence up to which a consumer has settled or given up on all that it reads.
///
/// The ack floor, below which all is over, stays at an exhausted message until a later one is
/// settled; but when nothing is pending or ack pending, all that was delivered is over.
pub(super) fn over(state: &ConsumerState) -> u64 {
    if state.num_pending == 0 && state.num_ack_pending == 0 {
        state.delivered
    } else {
        state.ack_floor
    }
}

/// Number of messages that a consumer has given up on, at the least: it counts them with those ack
/// pending that were delivered before.
pub(super) fn given_up(state: &ConsumerState) -> u64 {
    state.num_redelivered.saturating_sub(state.num_ack_pending)
}

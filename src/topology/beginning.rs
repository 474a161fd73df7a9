//! Beginning: where a consumer that is missing begins when it is made, and what it is given then.

use std::fmt;

use crate::{
    broker::{AdminError, Broker, ConsumerSpec, Retention, StreamOverview, StreamState},
    wire::{FloorRecord, Names},
};

/// Beginning of a consumer in its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Beginning {
    /// Floor of the one that was there, behind which it goes on; `None`: it begins with the first
    /// message.
    pub after: Option<u64>,
    /// Messages that it will be given.
    pub messages: u64,
}

impl Beginning {
    /// Beginning of a consumer that is missing: behind the floor of the one that was there, if the
    /// stream is still the same, else with the first message.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn of(
        pipeline: &str,
        spec: &ConsumerSpec,
        broker: &Broker,
    ) -> Result<Self, AdminError> {
        let Some(stream) = broker.stream_overview(&spec.stream).await? else {
            return Ok(Self::default());
        };
        if stream.spec.retention == Retention::WorkQueue {
            // What is settled is gone; the server lets no consumer begin elsewhere.
            let mut messages = if spec.filters.is_empty() { stream.state.messages } else { 0 };
            for filter in &spec.filters {
                messages += broker.subjects_count(&spec.stream, filter).await?;
            }
            return Ok(Self { after: None, messages });
        }
        let rough = Self::after_floor(pipeline, spec, broker, &stream).await?;
        let StreamState { messages, first_seq, last_seq, .. } = stream.state;
        let has_gaps = messages != (last_seq + 1).saturating_sub(first_seq);
        if messages == 0 || (spec.filters.is_empty() && !has_gaps) {
            return Ok(rough);
        }
        let from = rough.after.map_or(1, |after| after + 1);
        let messages = broker.count_from(&spec.stream, &spec.filters, from).await?;
        Ok(Self { messages, ..rough })
    }

    /// As [`Beginning::of`], with no more messages than it may be given: nothing is made to count
    /// them, which a cluster that has lost a server may not do.
    ///
    /// # Errors
    /// [`AdminError`].
    pub async fn roughly_of(
        pipeline: &str,
        spec: &ConsumerSpec,
        broker: &Broker,
    ) -> Result<Self, AdminError> {
        match broker.stream_overview(&spec.stream).await? {
            Some(stream) if stream.spec.retention == Retention::WorkQueue => {
                Ok(Self { after: None, messages: stream.state.messages })
            }
            Some(stream) => Self::after_floor(pipeline, spec, broker, &stream).await,
            None => Ok(Self::default()),
        }
    }

    async fn after_floor(
        pipeline: &str,
        spec: &ConsumerSpec,
        broker: &Broker,
        stream: &StreamOverview,
    ) -> Result<Self, AdminError> {
        let bucket = Names::new(pipeline).state_bucket();
        let known = match broker.kv_exists(&bucket).await? {
            true => broker.kv_get(&bucket, &FloorRecord::key(&spec.stream, &spec.name)).await?,
            false => None,
        };
        let floor = known.and_then(|(value, _)| FloorRecord::read(&value)?.on(stream.created));
        // One beyond the last is of a stream that lost its end; it would skip what comes.
        let after = floor.filter(|floor| *floor > 0 && *floor <= stream.state.last_seq);
        let most = stream.state.last_seq - after.unwrap_or(0);
        Ok(Self { after, messages: most.min(stream.state.messages) })
    }

    /// True if there is nothing to say: nothing was there before, and nothing is given.
    pub fn is_plain(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Beginning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self { after: Some(after), messages } => {
                write!(f, "goes on after {after} ({messages} messages)")
            }
            Self { after: None, messages } => {
                write!(f, "begins with the first message ({messages})")
            }
        }
    }
}

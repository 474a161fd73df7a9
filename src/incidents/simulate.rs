//! Simulation: stored errors, in the order of storage, run through the rules of a configuration.

use std::{pin::Pin, time::SystemTime};

use futures_util::{Stream, StreamExt as _, stream::Peekable};
use millstream_stages::{
    alert::Alert,
    operator::SILENCE_KEYS,
    simulate::{Outcome, Simulation},
};

use super::{
    IncidentsError,
    snapshot::{aggregates, alerts, build_aggregate, build_alert},
};
use crate::{
    broker::{AdminError, Broker, Scan, StoredMessage, unix_ms},
    config::{Pipeline, pipeline::Input},
    topology::{FeedInput, Topology},
};

/// Time span of the errors that a simulation reads.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    /// Start: only errors that were stored at this time or later.
    pub since: SystemTime,
    /// End: only errors that were stored before; then no more time passes.
    pub until: SystemTime,
}

type Messages = Peekable<Pin<Box<dyn Stream<Item = Result<StoredMessage, AdminError>> + Send>>>;

/// Messages of one stream, or of one filter on it, and the stage that reads them.
struct Read {
    stage: String,
    messages: Messages,
}

/// Runs what the broker holds of a span through the reduce stages of `pipeline`, in memory: nothing
/// is written and nothing sent. Silences that are on record count, with their times. `progress` is
/// given the time of each error.
///
/// # Errors
/// [`IncidentsError`].
pub async fn simulate(
    broker: &Broker,
    pipeline: &Pipeline,
    span: Span,
    mut progress: impl FnMut(SystemTime),
) -> Result<(Outcome, Vec<Alert>), IncidentsError> {
    let mut simulation = prepare(pipeline)?;
    let names = pipeline.names();
    let said = broker.kv_entries(&names.state_bucket(), &format!("{SILENCE_KEYS}.")).await?;
    for (key, value, _) in said {
        let id = key.strip_prefix(SILENCE_KEYS).map_or("", |id| id.trim_start_matches('.'));
        // One that cannot be read holds nothing back, here as in the stage.
        simulation.silence(id, value.to_vec()).ok();
    }
    let mut reads = reads(broker, pipeline, span).await?;
    while let Some(at) = earliest(&mut reads).await? {
        let Read { stage, messages } = &mut reads[at];
        let Some(message) = messages.next().await.transpose()? else { continue };
        progress(message.stored_at);
        if message.malformed.is_some() {
            // The stage rejects it.
            continue;
        }
        simulation.take(stage, &message.subject, unix_ms(message.stored_at), &message.body);
    }
    simulation.pass(unix_ms(span.until));
    Ok(simulation.finish())
}

fn prepare(pipeline: &Pipeline) -> Result<Simulation, IncidentsError> {
    let errors = aggregates(pipeline)
        .map(|stage| Ok((stage.name.clone(), build_aggregate(pipeline, stage)?)));
    let alerts = alerts(pipeline).map(|stage| {
        let read = stage.inputs.iter().filter_map(|input| match input {
            Input::Results(name) => Some(name.clone()),
            Input::Source(_) | Input::Failed(_) | Input::Findings => None,
        });
        Ok((read.collect::<Vec<String>>(), build_alert(pipeline, stage)?))
    });
    let (errors, alerts) = (
        errors.collect::<Result<_, IncidentsError>>()?,
        alerts.collect::<Result<_, IncidentsError>>()?,
    );
    Ok(Simulation::new(errors, alerts))
}

/// Streams that hold what `aggregate-errors` stages read, filter by filter. One that is not there
/// has nothing.
async fn reads(
    broker: &Broker,
    pipeline: &Pipeline,
    span: Span,
) -> Result<Vec<Read>, IncidentsError> {
    let topology = Topology::of(pipeline);
    let mut all = Vec::new();
    for stage in aggregates(pipeline) {
        for read in
            topology.reads(&stage.name).into_iter().filter(|read| read.input != FeedInput::Operator)
        {
            match broker.stream_state(&read.stream).await {
                Ok(_) => {}
                Err(AdminError::NoStream { .. }) => continue,
                Err(error) => return Err(error.into()),
            }
            let filters = if read.filters.is_empty() { vec![String::new()] } else { read.filters };
            for filter in filters {
                let scan = Scan { filter, from_seq: 1, since: Some(span.since), ..Scan::default() };
                let until = span.until;
                let messages = broker.scan_some(&read.stream, scan).take_while(move |message| {
                    let goes_on =
                        message.as_ref().map_or(true, |message| message.stored_at < until);
                    std::future::ready(goes_on)
                });
                all.push(Read { stage: stage.name.clone(), messages: messages.boxed().peekable() });
            }
        }
    }
    Ok(all)
}

/// Index of the one whose next message was stored first.
async fn earliest(reads: &mut [Read]) -> Result<Option<usize>, IncidentsError> {
    let mut first: Option<(usize, SystemTime)> = None;
    for (at, read) in reads.iter_mut().enumerate() {
        let next = match Pin::new(&mut read.messages).peek().await {
            Some(Ok(message)) => message.stored_at,
            // Taken, and reported by whoever takes it.
            Some(Err(_)) => return Ok(Some(at)),
            None => continue,
        };
        if first.is_none_or(|(_, earliest)| next < earliest) {
            first = Some((at, next));
        }
    }
    Ok(first.map(|(at, _)| at))
}

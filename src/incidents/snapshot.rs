//! Snapshot: incidents and numbers in the checkpoints of reduce stages.

use millstream_stages::{
    Reduce, Tally, aggregate_errors::AggregateErrors, alert::Alert, incident::Incident,
};

use super::{IncidentsError, cannot_build, in_world};
use crate::{
    broker::Broker,
    config::{Pipeline, pipeline::Stage},
    wire::Names,
};

/// The `aggregate-errors` stages of a pipeline.
pub fn aggregates(pipeline: &Pipeline) -> impl Iterator<Item = &Stage> {
    pipeline.stages.iter().filter(|stage| stage.aggregates())
}

/// The `alert` stages of a pipeline.
pub fn alerts(pipeline: &Pipeline) -> impl Iterator<Item = &Stage> {
    pipeline.stages.iter().filter(|stage| stage.notifies())
}

/// An `aggregate-errors` stage as its options say, without state.
///
/// # Errors
/// [`IncidentsError::Stage`].
pub fn build_aggregate(
    pipeline: &Pipeline,
    stage: &Stage,
) -> Result<AggregateErrors, IncidentsError> {
    in_world(pipeline, |world| AggregateErrors::build(&stage.options, world))
        .map_err(|problems| cannot_build(&stage.name, &problems))
}

/// An `alert` stage as its options say, without state.
///
/// # Errors
/// [`IncidentsError::Stage`].
pub fn build_alert(pipeline: &Pipeline, stage: &Stage) -> Result<Alert, IncidentsError> {
    in_world(pipeline, |world| Alert::build(&stage.options, world))
        .map_err(|problems| cannot_build(&stage.name, &problems))
}

/// The incidents that go on, each with the stage that knows it, the worst first.
///
/// # Errors
/// [`IncidentsError`].
pub async fn open(
    broker: &Broker,
    pipeline: &Pipeline,
) -> Result<Vec<(String, Incident)>, IncidentsError> {
    let mut all = Vec::new();
    for stage in aggregates(pipeline) {
        let mut errors = build_aggregate(pipeline, stage)?;
        restore(broker, pipeline, stage, &mut errors).await?;
        all.extend(errors.incidents().into_iter().map(|incident| (stage.name.clone(), incident)));
    }
    all.sort_by(|(_, a), (_, b)| {
        (b.severity, b.count, &a.incident_id).cmp(&(a.severity, a.count, &b.incident_id))
    });
    Ok(all)
}

/// The numbers that each reduce stage keeps.
///
/// # Errors
/// [`IncidentsError`].
pub async fn tallies(
    broker: &Broker,
    pipeline: &Pipeline,
) -> Result<Vec<(String, Vec<Tally>)>, IncidentsError> {
    let mut all = Vec::new();
    for stage in aggregates(pipeline) {
        let mut errors = build_aggregate(pipeline, stage)?;
        restore(broker, pipeline, stage, &mut errors).await?;
        all.push((stage.name.clone(), errors.tallies()));
    }
    for stage in alerts(pipeline) {
        let mut alert = build_alert(pipeline, stage)?;
        restore(broker, pipeline, stage, &mut alert).await?;
        all.push((stage.name.clone(), alert.tallies()));
    }
    Ok(all)
}

/// Restores a stage from its checkpoint.
async fn restore(
    broker: &Broker,
    pipeline: &Pipeline,
    stage: &Stage,
    reduce: &mut dyn Reduce,
) -> Result<(), IncidentsError> {
    let (names, prefix) = (pipeline.names(), Names::reduce_state(&stage.name));
    let entries = broker.kv_entries(&names.state_bucket(), &prefix).await;
    let entries =
        entries.map_err(|source| IncidentsError::Read { stage: stage.name.clone(), source })?;
    for (key, value, _) in entries {
        let own = key.strip_prefix(&prefix).unwrap_or(&key);
        reduce
            .restore(own, &value)
            .map_err(|why| IncidentsError::State { stage: stage.name.clone(), why })?;
    }
    Ok(())
}

//! History: changes of incidents, from the streams on which `aggregate-errors` stages publish them.

use std::time::SystemTime;

use futures_util::TryStreamExt as _;
use millstream_stages::incident::{Change, Incident};

use super::{IncidentsError, snapshot::aggregates};
use crate::{
    broker::{Broker, Scan},
    config::Pipeline,
};

/// Incidents, each with its stage, as published since a time on this change (`None`: on any), if
/// `keep` is true for them; stage by stage, oldest first.
///
/// # Errors
/// [`IncidentsError::Read`].
pub async fn changes(
    broker: &Broker,
    pipeline: &Pipeline,
    change: Option<Change>,
    since: Option<SystemTime>,
    mut keep: impl FnMut(&Incident) -> bool,
) -> Result<Vec<(String, Incident)>, IncidentsError> {
    let names = pipeline.names();
    let mut all = Vec::new();
    for stage in aggregates(pipeline) {
        let filter = names.out_filter(&stage.name, change.map_or(">", Change::as_str));
        let scan = Scan { filter, since, from_seq: 1, ..Scan::default() };
        let mut messages = std::pin::pin!(broker.scan_some(&names.out_stream(&stage.name), scan));
        let failed = |source| IncidentsError::Read { stage: stage.name.clone(), source };
        while let Some(message) = messages.try_next().await.map_err(failed)? {
            // What an earlier version published may have another shape: it is passed over.
            if let Ok(incident) = serde_json::from_slice::<Incident>(&message.body)
                && keep(&incident)
            {
                all.push((stage.name.clone(), incident));
            }
        }
    }
    Ok(all)
}

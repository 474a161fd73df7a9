//! Actions: an operator's acknowledgement or end of an incident, as a key that its stage reads.

use millstream_stages::operator::{Action, INCIDENT_KEYS, IncidentAction};

use super::IncidentsError;
use crate::{broker::Broker, wire::Names};

/// Writes that an incident is acknowledged, or over. The stage that knows it takes it in as soon as
/// a worker runs it.
///
/// # Errors
/// [`IncidentsError::Write`].
pub async fn write(
    broker: &Broker,
    names: &Names,
    incident_id: &str,
    action: Action,
    by: &str,
    reason: Option<String>,
) -> Result<(), IncidentsError> {
    let said = IncidentAction {
        incident_id: incident_id.to_owned(),
        action,
        by: by.to_owned(),
        at: broker.timestamp(),
        reason,
    };
    let value = serde_json::to_vec(&said).expect("what is said is plain data");
    let key = format!("{INCIDENT_KEYS}.{incident_id}");
    broker.kv_put(&names.state_bucket(), &key, value).await?;
    Ok(())
}

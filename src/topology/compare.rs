//! Compare: the plan of a pipeline: changes, what renamed stages hold, and what would be refused.

use millstream_stages::units::Size;

use super::{
    leftovers::Leftovers,
    moving::Move,
    plan::{Change, Plan, changes},
    preflight,
    problem::Problem,
    topology::Topology,
};
use crate::broker::{AdminError, Broker};

/// Compares the server with what the pipeline needs.
///
/// # Errors
/// [`AdminError`]: the server cannot be asked, or a stream named by `external` is not there.
pub async fn diff(topology: &Topology, broker: &Broker) -> Result<Plan, AdminError> {
    let changes = changes(topology, broker).await?;
    around(topology, broker, changes).await
}

/// Plan of these changes: what else is there, and what the server would refuse.
async fn around(
    topology: &Topology,
    broker: &Broker,
    changes: Vec<Change>,
) -> Result<Plan, AdminError> {
    let streams = broker.streams_of_account().await?;
    let leftovers = Leftovers::among(topology, broker, &streams).await?;
    let mut plan = Plan { topology: topology.clone(), changes, leftovers, ..Plan::default() };
    for (old, new) in &topology.renamed {
        let planned = Move::plan(topology, broker, &plan.leftovers, old, new).await?;
        if let Some(planned) = planned {
            plan.starts.extend(planned.starts(topology));
            let refused = planned.check(topology).err();
            plan.problems.extend(
                refused.map(|why| Problem::Move { from: old.clone(), why: why.to_string() }),
            );
            plan.moves.push(planned);
        }
    }
    plan.problems.extend(preflight::owner(topology, broker, &streams).await?);
    plan.problems.extend(preflight::overlaps(topology, &plan.changes, &streams));
    let first = topology.streams.first();
    let (replicas, memory) = first.map_or((1, false), |spec| (spec.replicas, spec.memory));
    // Who may not read the limits is told by the server once they are met.
    if let Ok(account) = broker.account_limits(replicas, memory).await {
        let (problems, lent) = preflight::account(topology, &plan.changes, &streams, &account);
        plan.problems.extend(problems);
        plan.lent = lent;
    }
    for stream in streams.iter().filter(|stream| stream.pipeline == topology.pipeline) {
        plan.notes.extend(stream.notes.iter().cloned());
        match broker.lowered_consumers(&stream.name, &topology.pipeline).await {
            Err(AdminError::NoStream { .. }) => {}
            notes => plan.notes.extend(notes?),
        }
    }
    if let Some(lent) = plan.lent {
        plan.notes.push(format!(
            "the account requires max_bytes on every stream: each that has none gets {}, and the \
             retry stream {}; max_bytes and retry_max_bytes in [storage] set others",
            Size(lent),
            Size(lent * preflight::RETRY_SHARES)
        ));
    }
    Ok(plan)
}

//! `status`: one screen about a pipeline; reads the broker and the records of workers, writes none.

mod alerting;
mod screen;
mod summary;
#[cfg(test)]
mod tests;
mod troubles;

use std::{process::ExitCode, sync::Arc};

use jiff::Timestamp;
use millstream_stages::operator::Silence;

use super::{
    App,
    status::{
        alerting::AlertingStatus,
        summary::{BreakerStatus, FeedStatus, LeftoverStatus, Status},
        troubles::Found,
    },
};
use crate::{
    broker::{AdminError, Broker, Retention, StreamState},
    config::Pipeline,
    exhausted::orphans::ReadStream,
    incidents::{
        silences::{self, Phase},
        snapshot,
    },
    keeper::{KeeperRecord, report::Lost},
    observe::WorkerRecord,
    topology::{Feed, Leftovers, Topology},
    wire::{
        Names,
        breaker_record::{BreakerRecord, BreakerState},
    },
};

/// Time for which events lost unread are shown.
const LOSSES_SHOWN: jiff::SignedDuration = jiff::SignedDuration::from_hours(24);

const EXAMPLES: &str = "\
Examples:
  millstream status
  watch -n 2 millstream status
  millstream status --json | jq '.stages[] | {stage, pending: [.feeds[].pending] | add}'

Exit status: 0 all well: everything was looked at and nothing found; 1 something was found: a \
condition that does not hold (no worker, events that nobody reads, something missing, full or \
unanswering, a critical incident), dead letters, an open circuit breaker, events given up on or \
lost unread, events that wait for a stage that is not there; 2 could not tell.";

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// JSON
    #[arg(long)]
    json: bool,
}

/// Prints the status of the pipeline, from the broker and the records of its workers.
pub async fn run(app: &App, args: Args) -> anyhow::Result<ExitCode> {
    let pipeline = Arc::new(app.pipeline()?);
    let broker = app.connect(&pipeline).await?;
    let mut status = of(&broker, &pipeline).await?;
    status.all_well = status.is_well();
    if args.json {
        println!("{}", serde_json::to_string_pretty(&status)?);
    } else {
        print!("{}", status.render(super::terminal_width().unwrap_or(120)));
    }
    Ok(super::found(!status.all_well))
}

async fn of(broker: &Broker, pipeline: &Arc<Pipeline>) -> anyhow::Result<Status> {
    let names = pipeline.names();
    let topology = Topology::of(pipeline);
    let read_streams = ReadStream::all(broker, &topology).await?;
    let mut stages = Vec::new();
    for stage in &pipeline.stages {
        let mut feeds = Vec::new();
        for feed in topology.feeds(&stage.name).into_iter().chain(topology.quarantine(&stage.name))
        {
            let state = broker.consumer_state(&feed.stream, &feed.consumer).await;
            feeds.push(match state {
                Ok(state) => FeedStatus {
                    orphans: orphans(broker, &read_streams, &feed).await,
                    swept: read_streams.iter().any(|read_stream| {
                        read_stream.stream == feed.stream
                            && read_stream.retention != Retention::Limits
                    }),
                    stream: feed.stream,
                    problem: None,
                    pending: state.num_pending,
                    ack_pending: state.num_ack_pending,
                    redelivered: state.num_redelivered,
                },
                Err(error) => FeedStatus {
                    stream: feed.stream,
                    problem: Some(match &error {
                        AdminError::NoStream { .. } | AdminError::NoConsumer { .. } => {
                            format!("{error}; `millstream apply` creates it")
                        }
                        AdminError::Read { .. } | AdminError::Change { .. } => error.to_string(),
                    }),
                    pending: 0,
                    ack_pending: 0,
                    redelivered: 0,
                    orphans: None,
                    swept: false,
                },
            });
        }
        stages.push((stage.name.clone(), feeds));
    }
    let records = broker.kv_entries(&names.workers_bucket(), "").await.unwrap_or_default();
    let workers: Vec<WorkerRecord> =
        records.iter().filter_map(|(_, value, _)| serde_json::from_slice(value).ok()).collect();
    let mut status = Status::new(&pipeline.name, stages, &workers);
    let mut found = Found::look(broker, pipeline, &workers).await;
    for stage in pipeline.stages.iter().filter(|stage| stage.breaker.is_some()) {
        let key = Names::breaker_key(&stage.name);
        let record = broker.kv_get(&names.state_bucket(), &key).await.ok().flatten();
        let record = record
            .and_then(|(value, _)| BreakerRecord::read(&value))
            .filter(|record| record.state == BreakerState::Open);
        if let (Some(shown), Some(record)) =
            (status.stages.iter_mut().find(|shown| shown.stage == stage.name), record)
        {
            let (since, probe_at) = (record.opened_at.as_deref(), record.probe_at.as_deref());
            shown.breaker = Some(BreakerStatus::new(
                &record.reason,
                since,
                probe_at,
                record.opens,
                broker.timestamp(),
            ));
        }
    }
    let letters = broker.stream_state(&names.dlq_stream()).await.ok();
    status.dead_letters =
        broker.subjects_count(&names.dlq_stream(), &names.dlq_filter(None)).await.ok();
    let of_limit =
        |state: &StreamState| Some(state.bytes as f64 / pipeline.storage.dlq_max_bytes? as f64);
    status.dead_letters_full = letters.as_ref().and_then(of_limit);
    status.retry_queue =
        broker.stream_state(&names.retry_stream()).await.ok().map(|state| state.messages);
    status.retry_full = broker.fullness(&names.retry_stream()).await.ok().flatten();
    status.failed_attempts =
        broker.stream_state(&names.failed_stream()).await.ok().map(|state| state.messages);
    let kept = KeeperRecord::load(broker, &names).await.unwrap_or_default();
    status.conditions = kept.conditions;
    let day_ago = broker.timestamp() - LOSSES_SHOWN;
    let is_recent = |lost: &Lost| lost.at.parse::<Timestamp>().is_ok_and(|at| at > day_ago);
    status.lost_unread = kept.lost.into_iter().filter(is_recent).collect();
    // A server that does not answer this has said so above.
    if let Ok(found) = Leftovers::find(&topology, broker).await {
        status.leftovers = found.held.iter().filter_map(LeftoverStatus::of).collect();
    }
    let tallies = snapshot::tallies(broker, pipeline).await.unwrap_or_default();
    status.alerting =
        (!tallies.is_empty()).then(|| AlertingStatus::of(tallies.iter().flat_map(|(_, all)| all)));
    for channel in &pipeline.channels {
        let Some(alerting) = &mut status.alerting else { break };
        let mut waiting = 0;
        for feed in topology.feeds(&Names::channel_stage(&channel.name)) {
            if let Ok(state) = broker.consumer_state(&feed.stream, &feed.consumer).await {
                waiting += state.num_pending + state.num_ack_pending;
            }
        }
        alerting.waits(&channel.name, waiting);
    }
    if let (Some(alerting), Ok(silences)) =
        (&mut status.alerting, silences::all(broker, &names).await)
    {
        // Which hold now is a matter of now, and a checkpoint is of a moment ago.
        let holds = |silence: &&Silence| Phase::of(silence, broker.timestamp()) == Phase::Active;
        alerting.silences = silences.iter().filter(holds).count() as u64;
    }
    if let Some(alerting) = &status.alerting {
        found.add_incidents(broker, pipeline, &alerting.open).await;
    }
    (status.troubles, status.looked_at) = (found.troubles, found.looked_at);
    Ok(status)
}

/// Events of a feed that nobody will be given again.
async fn orphans(broker: &Broker, read_streams: &[ReadStream], feed: &Feed) -> Option<u64> {
    let mut readers = read_streams.iter().flat_map(|read_stream| {
        read_stream.readers.iter().map(move |reader| (read_stream, reader))
    });
    let (read_stream, reader) = readers.find(|(_, reader)| reader.feed == *feed)?;
    read_stream.orphans(broker, reader).await.ok().flatten()
}

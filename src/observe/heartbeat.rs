//! Heartbeat: the worker's record every two seconds, and the gauges that only the broker knows.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{
    metrics::Metrics,
    worker_record::{Recorder, WorkerRecord},
};
use crate::{broker::Broker, config::Pipeline, limits, topology::Topology};

const EVERY: Duration = Duration::from_secs(2);

/// Number of messages of the dead-letter stream that are no letters: originals of edited ones, and
/// payloads kept apart.
#[derive(Default)]
struct NotLetters {
    count: u64,
    counted_at: Option<Instant>,
}

/// Writes the worker's record to the bucket of live workers, and sets lag and queue sizes, until
/// `stop`; then takes the record out.
pub async fn run(
    broker: Broker,
    pipeline: Arc<Pipeline>,
    metrics: Arc<Metrics>,
    worker: WorkerRecord,
    stop: CancellationToken,
) {
    let names = pipeline.names();
    let (bucket, key) = (names.workers_bucket(), worker.id.clone());
    let topology = Topology::of(&pipeline);
    let mut recorder = Recorder::new(worker);
    let mut not_letters = NotLetters::default();
    let mut ticks = tokio::time::interval(EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        let record = recorder.record(&metrics, Instant::now());
        let value = serde_json::to_vec(&record).expect("a record is plain data");
        let beat = async {
            if let Err(error) = broker.kv_put(&bucket, &key, value).await {
                tracing::debug!(error = %error, "could not record this worker");
            }
            gauge(&broker, &pipeline, &metrics, &topology, &mut not_letters).await;
        };
        // With the broker away each question takes its time-out; stopping must not wait for it.
        if stop.run_until_cancelled(beat).await.is_none() {
            break;
        }
    }
    // If this fails the record runs out by itself.
    broker.kv_delete(&bucket, &key).await.ok();
}

async fn gauge(
    broker: &Broker,
    pipeline: &Pipeline,
    metrics: &Metrics,
    topology: &Topology,
    not_letters: &mut NotLetters,
) {
    let names = pipeline.names();
    metrics.set_broker_connected(broker.is_connected());
    if let Ok(state) = broker.stream_state(&names.dlq_stream()).await {
        let is_due =
            not_letters.counted_at.is_none_or(|at| at.elapsed() >= limits::NOT_LETTERS_COUNTED);
        if is_due
            && let Ok(count) =
                broker.subjects_count(&names.dlq_stream(), &names.dlq_not_letters()).await
        {
            *not_letters = NotLetters { count, counted_at: Some(Instant::now()) };
        }
        metrics.set_dead_letter_queue_size(state.messages.saturating_sub(not_letters.count));
    }
    if let Ok(state) = broker.stream_state(&names.retry_stream()).await {
        metrics.set_retry_queue_size(state.messages);
    }
    for stage in pipeline.stages.iter().filter(|stage| stage.is_map()) {
        for feed in topology.feeds(&stage.name) {
            if let Ok(state) = broker.consumer_state(&feed.stream, &feed.consumer).await {
                metrics.stage(&stage.name).set_lag(
                    &feed.stream,
                    state.num_pending,
                    state.num_ack_pending,
                );
            }
        }
    }
}

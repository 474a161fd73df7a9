//! Streams: those that a pipeline needs, with their settings. Pure.

use std::time::Duration;

use crate::{
    broker::{ConsumerSpec, Retention, StreamSpec},
    config::{
        Pipeline,
        pipeline::{Input, OnFull, Stage},
    },
    limits,
    wire::{Names, subject_pattern::uncovered},
};

/// Streams that a pipeline needs, in the order in which they are made.
pub(super) fn streams(
    pipeline: &Pipeline,
    names: &Names,
    consumers: &[ConsumerSpec],
) -> Vec<StreamSpec> {
    let storage = &pipeline.storage;
    let stream = |name: String, retention, subjects: Vec<String>| StreamSpec {
        name,
        pipeline: pipeline.name.clone(),
        subjects,
        retention,
        memory: storage.memory,
        replicas: storage.replicas,
        max_age: None,
        max_bytes: None,
        duplicate_window: limits::DEDUP,
        schedules: false,
        rollup: false,
        bucket: false,
        keeps_oldest: false,
        drops_oldest: false,
    };
    // Where someone still has to settle what is stored, a full stream refuses what is new.
    let limited = |spec: StreamSpec, own: Option<u64>| {
        let max_bytes = own.or(storage.max_bytes);
        let refuses = max_bytes.is_some() && spec.retention != Retention::Limits;
        StreamSpec { max_bytes, keeps_oldest: spec.keeps_oldest || refuses, ..spec }
    };
    let root = |kind: &str| format!("{}.{kind}.>", pipeline.name);
    let bucket = |name: String, memory, max_age: Option<Duration>| {
        let window = max_age.map_or(limits::DEDUP, |age| age.min(limits::DEDUP));
        let stream = stream(format!("KV_{name}"), Retention::Limits, vec![format!("$KV.{name}.>")]);
        StreamSpec {
            bucket: true,
            rollup: true,
            memory,
            max_age,
            duplicate_window: window,
            ..stream
        }
    };
    let mut streams = vec![
        limited(bucket(names.state_bucket(), false, None), storage.state_max_bytes),
        limited(bucket(names.workers_bucket(), storage.memory, Some(limits::WORKER_TTL)), None),
        limited(
            aged(
                stream(
                    names.failed_stream(),
                    Retention::Limits,
                    vec![root("failed"), names.finding_filter()],
                ),
                storage.failed_max_age,
            ),
            storage.failed_max_bytes,
        ),
        StreamSpec {
            max_bytes: storage.dlq_max_bytes.or(storage.max_bytes),
            // A letter without room must not cost another: what fails is held until there is room.
            keeps_oldest: true,
            // An amended letter takes the place of what it was.
            rollup: true,
            ..aged(
                stream(names.dlq_stream(), Retention::Limits, vec![root("dlq")]),
                storage.dlq_max_age,
            )
        },
        StreamSpec {
            schedules: true,
            rollup: true,
            // Only where told: with schedules the server lets a full stream drop what is oldest.
            max_bytes: storage.retry_max_bytes,
            ..stream(
                names.retry_stream(),
                Retention::WorkQueue,
                vec![
                    names.retry_subject("*"),
                    names.quarantine_subject("*"),
                    names.parked_filter(),
                ],
            )
        },
    ];
    if !pipeline.channels.is_empty() || pipeline.stages.iter().any(Stage::notifies) {
        let notify = vec![names.notify_subject("*")];
        streams.push(limited(stream(names.notify_stream(), Retention::WorkQueue, notify), None));
    }
    for stage in pipeline.stages.iter().filter(|stage| !stage.notifies()) {
        let out = || {
            let out = vec![names.out_filter(&stage.name, ">")];
            limited(
                stream(names.out_stream(&stage.name), Retention::Limits, out),
                storage.results_max_bytes,
            )
        };
        if is_trimmed(pipeline, stage) {
            let window = stage.dedup.unwrap_or(limits::DEDUP_MIN);
            // What nobody has settled is there: should an edge be limited, by us or by its account,
            // it refuses what is new when it is full.
            streams.push(StreamSpec { duplicate_window: window, keeps_oldest: true, ..out() });
        } else if is_read_by_offset(pipeline, stage) {
            // A reduce stage settles nothing, so the messages have to stay for it.
            let window = stage.dedup.unwrap_or(if stage.is_map() {
                limits::DEDUP_MIN
            } else {
                limits::DEDUP
            });
            streams.push(aged(
                StreamSpec { duplicate_window: window, ..out() },
                storage.results_max_age,
            ));
        }
    }
    let mut advisories = Vec::new();
    for consumer in consumers {
        let external = pipeline
            .sources
            .iter()
            .any(|source| source.external.as_ref() == Some(&consumer.stream));
        let every = names.advisory_subject(&consumer.stream);
        // A stream that is not ours has consumers that are not ours.
        advisories.push(if external { every.replace('*', &consumer.name) } else { every });
    }
    let advisories = stream(names.advisories_stream(), Retention::WorkQueue, uncovered(advisories));
    // The oldest goes: what is not heard of is found by the sweep.
    streams.push(StreamSpec { max_bytes: storage.max_bytes, ..advisories });
    for source in pipeline.sources.iter().filter(|source| source.external.is_none()) {
        let spec =
            stream(names.source_stream(&source.name), Retention::Limits, source.subjects.clone());
        let spec = limited(aged(spec, source.max_age), source.max_bytes);
        streams.push(StreamSpec {
            keeps_oldest: source.on_full == OnFull::Refuse,
            drops_oldest: source.on_full == OnFull::Drop,
            ..spec
        });
    }
    streams
}

/// True if the results of a stage are read by offset, or may be: then they are kept for a time.
pub(super) fn is_read_by_offset(pipeline: &Pipeline, stage: &Stage) -> bool {
    let results = Input::Results(stage.name.clone());
    !stage.is_map() || pipeline.readers(&results).any(|reader| !reader.is_map())
}

/// True if the results of a stage are an edge whose readers settle each message.
pub(super) fn is_trimmed(pipeline: &Pipeline, stage: &Stage) -> bool {
    !stage.notifies() && !is_read_by_offset(pipeline, stage) && pipeline.has_edge(&stage.name)
}

/// A stream whose messages are kept for so long; the server refuses a duplicate window that is
/// longer.
fn aged(stream: StreamSpec, max_age: Duration) -> StreamSpec {
    let limited = Some(max_age).filter(|age| !age.is_zero());
    let duplicate_window =
        limited.map_or(stream.duplicate_window, |age| age.min(stream.duplicate_window));
    StreamSpec { max_age: limited, duplicate_window, ..stream }
}

//! Judge: states of streams, consumers and the account as conditions. Pure.

use millstream_stages::units::Size;

use crate::{
    broker::{AccountLimits, ReaderOverview, StreamOverview},
    config::Pipeline,
    observe::Trouble,
    topology::Topology,
    wire::Names,
};

/// Remedy of what is not there.
pub(super) const CREATE: &str = "create it with `millstream apply`";

/// Messages of a stream from which on the next is taken to be as large as they are.
const USUAL_FROM: u64 = 4;

/// Name of the condition of a stream, or of the bucket that it is.
pub(super) fn stream_name(names: &Names, stream: &str) -> String {
    let buckets = [names.state_bucket(), names.workers_bucket()];
    match stream.strip_prefix("KV_").filter(|bucket| buckets.iter().any(|ours| ours == bucket)) {
        Some(bucket) => format!("bucket {bucket}"),
        None => format!("stream {stream}"),
    }
}

/// Name of the condition of a consumer.
pub(super) fn consumer_name(stream: &str, consumer: &str) -> String {
    format!("consumer {consumer} on stream {stream}")
}

/// Trouble of a stream that is not there.
pub(super) fn no_stream(topology: &Topology, stream: &str) -> Trouble {
    if topology.external.iter().any(|external| external == stream) {
        let remedy = "it is not of this pipeline (`external`): whoever owns it must make it";
        return Trouble::with_remedy("it does not exist", remedy);
    }
    Trouble::with_remedy("it does not exist", CREATE)
}

/// Trouble of a stream that is there; `None`: it is well.
pub(super) fn stream(pipeline: &Pipeline, found: &StreamOverview) -> Option<Trouble> {
    let name = &found.spec.name;
    if !found.is_led {
        let remedy = format!(
            "start the servers that are away, and a majority of its {} elects one; `nats stream \
             info {name}` names them",
            found.spec.replicas
        );
        return Some(Trouble::with_remedy("it has no leader: it takes and gives nothing", remedy));
    }
    let limit = full(found)?;
    let then = if found.refuses {
        "what is new is refused"
    } else if found.spec.schedules {
        "the oldest events in it are lost"
    } else {
        // It is made to drop what is oldest; what of it is unread, the keeper counts.
        return None;
    };
    let remedy = room_for(pipeline, name);
    Some(Trouble::with_remedy(format!("it is full ({limit}): {then}"), remedy))
}

/// Limit that a stream has reached, in words: there is no room for a message like the others.
fn full(found: &StreamOverview) -> Option<String> {
    let StreamOverview { state, bytes_max, messages_max, .. } = found;
    if let Some(most) = messages_max.filter(|most| state.messages >= *most) {
        return Some(format!("{most} messages"));
    }
    let usual = if state.messages >= USUAL_FROM { state.bytes / state.messages } else { 0 };
    let is_full =
        |most: &u64| state.bytes + usual > *most || state.bytes >= most.saturating_sub(most / 50);
    bytes_max.filter(is_full).map(|most| Size(most).to_string())
}

fn room_for(pipeline: &Pipeline, stream: &str) -> String {
    let names = pipeline.names();
    let source = pipeline.sources.iter().find(|source| source.stream(&names) == stream);
    let raise = |key: &str| format!("raise {key} in [storage] and apply");
    if let Some(source) = source {
        let name = &source.name;
        return match source.external {
            Some(_) => "make room in it: it is not of this pipeline (`external`)".to_owned(),
            None => format!(
                "its stages are behind: start more workers; or raise max_bytes in [source.{name}] \
                 and apply"
            ),
        };
    }
    if stream == names.dlq_stream() {
        let raise = raise("dlq_max_bytes");
        return format!("redrive or drop letters (`millstream dlq groups`), or {raise}");
    }
    if stream == names.retry_stream() {
        return raise("retry_max_bytes");
    }
    if stream == names.failed_stream() {
        return raise("failed_max_bytes");
    }
    if stream == names.state_stream() {
        return raise("state_max_bytes");
    }
    let is_result = |stage: &str| names.out_stream(stage) == stream;
    if pipeline.stages.iter().any(|stage| is_result(&stage.name)) {
        let raise = raise("results_max_bytes");
        return format!("the stages that read it are behind: start more workers; or {raise}");
    }
    raise("max_bytes")
}

/// Trouble of a consumer that is there; `None`: it is well.
pub(super) fn consumer(found: &ReaderOverview) -> Option<Trouble> {
    let (stream, name) = (&found.spec.stream, &found.spec.name);
    if !found.is_led {
        return Some(Trouble::with_remedy(
            "it has no leader: nothing is delivered",
            format!("start the servers that are away; `nats consumer info {stream} {name}`"),
        ));
    }
    found.is_paused.then(|| {
        let remedy = format!("`nats consumer resume {stream} {name}`");
        Trouble::with_remedy("it is paused: nothing is delivered", remedy)
    })
}

/// Trouble of the account's storage; `None`: there is room, or no limit.
pub(super) fn storage(limits: &AccountLimits) -> Option<Trouble> {
    let most = limits.bytes.filter(|most| *most > 0)?;
    (limits.bytes_stored >= most - most / 50).then(|| {
        let why = format!("the account may store {}, and does: nothing new is taken", Size(most));
        let remedy = "raise the limit of the account, or drop what is not needed (`millstream dlq \
                      drop`, shorter max_age)";
        Trouble::with_remedy(why, remedy)
    })
}

/// True if events wait at a consumer and nobody asks for them: nothing is in flight, and no pull
/// request waits.
pub(super) fn is_unread(found: &ReaderOverview) -> bool {
    let state = &found.state;
    state.num_pending > 0
        && state.num_waiting == 0
        && state.num_ack_pending == 0
        && !found.is_paused
        && found.is_led
}

/// Trouble of events that nobody reads.
pub(super) fn unread(pipeline: &Pipeline, stage: &str, pending: u64) -> Trouble {
    let events =
        if pending == 1 { "1 event waits".to_owned() } else { format!("{pending} events wait") };
    Trouble::with_remedy(format!("{events} and no worker reads them"), start(pipeline, stage))
}

/// Trouble of a lease that nobody holds.
pub(super) fn unheld(pipeline: &Pipeline, lease: &str) -> Trouble {
    Trouble::with_remedy("no worker holds it: its work is not done", start(pipeline, lease))
}

/// Way to start a worker that runs a stage, or what a lease is for.
fn start(pipeline: &Pipeline, stage: &str) -> String {
    if pipeline.stages.iter().any(|known| known.name == stage) {
        format!("start a worker that runs it: `millstream run`, or `run --stage {stage}`")
    } else {
        "start a worker that can do it: `millstream run`".to_owned()
    }
}

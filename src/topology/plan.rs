//! Plan: changes that make the server what the pipeline needs, found by comparison.

use std::{collections::BTreeMap, fmt, time::SystemTime};

use millstream_stages::units::{Period, Size};

use super::{
    beginning::Beginning, leftovers::Leftovers, moving::Move, problem::Problem, topology::Topology,
};
use crate::{
    broker::{AdminError, Broker, ConsumerSpec, FoundConsumer, Retention, StreamSpec, StreamState},
    limits,
    wire::subject_pattern::covers,
};

/// The changes that make the server what the pipeline needs, in the order in which they are made.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// What the pipeline needs.
    pub topology: Topology,
    /// The changes; empty: nothing to do.
    pub changes: Vec<Change>,
    /// What renamed stages hold under the names that they had.
    pub moves: Vec<Move>,
    /// What is kept for nobody.
    pub leftovers: Leftovers,
    /// What the server would refuse, besides changes that need a decision.
    pub problems: Vec<Problem>,
    /// Settings that are lower than was wanted, a sentence each.
    pub notes: Vec<String>,
    /// Sequences at which consumers to be made start, by stream and consumer.
    pub starts: BTreeMap<(String, String), u64>,
    /// `max_bytes` of a stream that must have a limit and declares none.
    pub lent: Option<u64>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The stream or consumer: as it should be, or for an extra one as it is.
    pub object: Object,
    /// Kind of the change.
    pub kind: ChangeKind,
}

/// A stream or a consumer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// A stream, or the stream of a bucket.
    Stream(StreamSpec),
    /// A durable consumer.
    Consumer(ConsumerSpec),
}

/// Kind of a change to an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChangeKind {
    /// Creation: the object is missing.
    Create,
    /// Creation of a consumer on a stream that holds messages, or where one of its name was.
    CreateFrom(Beginning),
    /// Change without loss.
    Update(Vec<Difference>),
    /// Difference in what the server never changes.
    Immutable(Vec<Difference>),
    /// Change that would lose messages, with the reason.
    Lossy(Vec<Difference>, String),
    /// Object with the pipeline's name that the configuration no longer names.
    Extra {
        /// Messages in the stream, or for a consumer those that it has not settled.
        holds: u64,
    },
}

/// One setting that differs.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Name of the setting.
    pub field: &'static str,
    /// Value on the server.
    pub from: String,
    /// Value that the pipeline needs.
    pub to: String,
}

/// Changes that make the streams and consumers of the server what the pipeline needs.
///
/// # Errors
/// [`AdminError`]: the server cannot be asked, or a stream named by `external` is not there.
pub(super) async fn changes(
    topology: &Topology,
    broker: &Broker,
) -> Result<Vec<Change>, AdminError> {
    let mut changes = Vec::new();
    let (sources, others): (Vec<_>, Vec<_>) = topology
        .streams
        .iter()
        .partition(|stream| stream.name.starts_with(&format!("{}-in-", topology.pipeline)));
    for external in &topology.external {
        broker.stream_state(external).await?;
    }
    // Consumers must be there before any message: first every stream that only we write to,
    // then its consumers, and the streams that others publish to at the end.
    for streams in [others, sources] {
        for spec in &streams {
            changes.extend(diff_stream(spec, broker).await?);
        }
        for spec in topology
            .consumers
            .iter()
            .filter(|c| streams.iter().any(|stream| stream.name == c.stream))
        {
            changes.extend(diff_consumer(topology, spec, broker).await?);
        }
    }
    for spec in
        topology.consumers.iter().filter(|consumer| topology.external.contains(&consumer.stream))
    {
        changes.extend(diff_consumer(topology, spec, broker).await?);
    }
    changes.extend(extras(topology, broker).await?);
    Ok(changes)
}

async fn extras(topology: &Topology, broker: &Broker) -> Result<Vec<Change>, AdminError> {
    let mut extras = Vec::new();
    let found = broker.streams_of(&topology.pipeline).await?;
    let wanted = |name: &String| topology.streams.iter().any(|stream| stream.name == *name);
    let (kept, extra): (Vec<_>, Vec<_>) =
        found.into_iter().partition(|stream| wanted(&stream.name));
    let read = kept.iter().map(|stream| &stream.name).chain(&topology.external);
    for stream in read {
        for consumer in broker.consumers_of(stream, &topology.pipeline).await? {
            let same =
                |c: &ConsumerSpec| c.stream == consumer.spec.stream && c.name == consumer.spec.name;
            if !topology.consumers.iter().any(same) {
                let kind = ChangeKind::Extra { holds: consumer.unsettled };
                extras.push(Change { object: Object::Consumer(consumer.spec), kind });
            }
        }
    }
    for stream in extra {
        let holds = broker.stream_state(&stream.name).await?.messages;
        extras.push(Change { object: Object::Stream(stream), kind: ChangeKind::Extra { holds } });
    }
    Ok(extras)
}

async fn diff_stream(spec: &StreamSpec, broker: &Broker) -> Result<Option<Change>, AdminError> {
    let mut found = broker.find_stream(&spec.name).await?;
    if let Some(found) = &mut found {
        // Where the pipeline does not ask for either, it is an operator's own choice, and kept.
        let asks = spec.keeps_oldest || spec.drops_oldest;
        found.keeps_oldest &= asks;
        found.drops_oldest = spec.drops_oldest && !found.keeps_oldest;
    }
    let kind = match found {
        None => Some(ChangeKind::Create),
        Some(found) if found == *spec => None,
        Some(found) => {
            let state = broker.stream_state(&spec.name).await?;
            Some(stream_change(&found, spec, &state, broker.now()))
        }
    };
    Ok(kind.map(|kind| Change { object: Object::Stream(spec.clone()), kind }))
}

/// Change that makes the stream `found`, which holds `state`, into `wanted`.
fn stream_change(
    found: &StreamSpec,
    wanted: &StreamSpec,
    state: &StreamState,
    now: SystemTime,
) -> ChangeKind {
    let differences = differences(&stream_fields(found), &stream_fields(wanted));
    let to_or_from_work_queue = found.retention != wanted.retention
        && (found.retention == Retention::WorkQueue || wanted.retention == Retention::WorkQueue);
    if !found.pipeline.is_empty() && found.pipeline != wanted.pipeline {
        let theirs = |difference: &Difference| difference.field == "pipeline";
        return ChangeKind::Immutable(differences.into_iter().filter(theirs).collect());
    }
    if found.memory != wanted.memory
        || to_or_from_work_queue
        || (found.schedules && !wanted.schedules)
    {
        let fixed = ["storage", "retention", "schedules"];
        let fixed = differences
            .into_iter()
            .filter(|difference| fixed.contains(&difference.field))
            .collect();
        return ChangeKind::Immutable(fixed);
    }
    let too_old = wanted
        .max_age
        .filter(|age| found.max_age.is_none_or(|before| *age < before))
        .filter(|age| {
            state.messages > 0
                && now.duration_since(state.first_at).is_ok_and(|oldest| oldest > *age)
        });
    // One that refuses what is new drops nothing.
    let too_much = wanted.max_bytes.filter(|bytes| state.bytes > *bytes && !wanted.keeps_oldest);
    let why = if let Some(age) = too_old {
        Some(format!("it holds messages older than {}", Period(age)))
    } else if let Some(bytes) = too_much {
        Some(format!("it holds {}, more than {}", Size(state.bytes), Size(bytes)))
    } else if wanted.retention == Retention::Interest
        && found.retention == Retention::Limits
        && state.messages > 0
    {
        Some(format!(
            "it holds {} messages, and would keep only those that a consumer still has to settle",
            state.messages
        ))
    } else {
        None
    };
    match why {
        Some(why) => ChangeKind::Lossy(differences, why),
        None => ChangeKind::Update(differences.into_iter().map(explained).collect()),
    }
}

/// The difference, with a note where it would worry who reads it.
fn explained(difference: Difference) -> Difference {
    let Difference { field, from, to } = difference;
    let note = match (field, from.as_str(), to.as_str()) {
        ("retention", "interest", "limits") => {
            " (nothing is lost: workers trim what every reader has settled)"
        }
        _ => "",
    };
    Difference { field, to: to + note, from }
}

async fn diff_consumer(
    topology: &Topology,
    spec: &ConsumerSpec,
    broker: &Broker,
) -> Result<Option<Change>, AdminError> {
    let kind = match broker.find_consumer(&spec.stream, &spec.name).await? {
        None => {
            let beginning = Beginning::of(&topology.pipeline, spec, broker).await?;
            Some(match beginning.is_plain() {
                true => ChangeKind::Create,
                false => ChangeKind::CreateFrom(beginning),
            })
        }
        Some(found) => consumer_change(&found, spec),
    };
    Ok(kind.map(|kind| Change { object: Object::Consumer(spec.clone()), kind }))
}

/// Change that makes the consumer `found` into `wanted`; `None`: none is needed.
fn consumer_change(found: &FoundConsumer, wanted: &ConsumerSpec) -> Option<ChangeKind> {
    let mut fixed = Vec::new();
    let mut check = |fits: bool, field, from: String, to: String| {
        if !fits {
            fixed.push(Difference { field, from, to });
        }
    };
    check(
        found.max_waiting == limits::PULLS_WAITING_MAX,
        "max_waiting",
        found.max_waiting.to_string(),
        limits::PULLS_WAITING_MAX.to_string(),
    );
    let kind = "a pull consumer with explicit acks, from the first message, without backoff";
    check(found.fits, "kind", "another kind".to_owned(), kind.to_owned());
    if !fixed.is_empty() {
        return Some(ChangeKind::Immutable(fixed));
    }
    // The server gives the filters back in an order of its own.
    let sorted = |spec: &ConsumerSpec| {
        let mut filters = spec.filters.clone();
        filters.sort();
        ConsumerSpec { filters, ..spec.clone() }
    };
    let (before, after) = (sorted(&found.spec), sorted(wanted));
    let differences = differences(&consumer_fields(&before), &consumer_fields(&after));
    if differences.is_empty() {
        return None;
    }
    let lowered = match (before.max_deliver, after.max_deliver) {
        (Some(before), Some(after)) => after < before,
        (before, after) => before.is_none() && after.is_some(),
    };
    let all = [">".to_owned()];
    let filters = |spec: &'_ ConsumerSpec| {
        if spec.filters.is_empty() { all.to_vec() } else { spec.filters.clone() }
    };
    let after_filters = filters(&after);
    let narrowed = filters(&before)
        .iter()
        .any(|filter| !after_filters.iter().any(|wide| covers(wide, filter)));
    let why = if found.unsettled == 0 {
        None
    } else if lowered {
        Some("messages delivered more often than max_deliver are given up on")
    } else if narrowed {
        Some("messages it has not settled no longer match its filters")
    } else {
        None
    };
    Some(match why {
        Some(why) => ChangeKind::Lossy(
            differences,
            format!("{} messages are unsettled, and {why}", found.unsettled),
        ),
        None => ChangeKind::Update(differences),
    })
}

impl Plan {
    /// True if the server already is what the pipeline needs. Extra objects do not count: they harm
    /// nothing.
    pub fn is_done(&self) -> bool {
        self.moves.is_empty()
            && self.problems.is_empty()
            && self.changes.iter().all(|change| matches!(change.kind, ChangeKind::Extra { .. }))
    }

    /// True if the consumer of a stream goes with the move of a renamed stage.
    pub(super) fn is_moved(&self, object: &Object) -> bool {
        let has = |stream: &str, name: &str, moved: &Move| {
            let held = moved.held.consumers.iter().chain(moved.results.iter().map(|(it, _)| it));
            held.into_iter().any(|unread| unread.stream == stream && unread.name == name)
        };
        self.moves.iter().any(|moved| match object {
            Object::Consumer(spec) => has(&spec.stream, &spec.name, moved),
            Object::Stream(spec) => {
                moved.has_results && spec.name.ends_with(&format!("-out-{}", moved.held.stage))
            }
        })
    }
}

type Fields = Vec<(&'static str, String)>;

fn stream_fields(spec: &StreamSpec) -> Fields {
    let retention = match spec.retention {
        Retention::Limits => "limits",
        Retention::Interest => "interest",
        Retention::WorkQueue => "work-queue",
    };
    vec![
        ("subjects", listed(&spec.subjects)),
        ("retention", retention.to_owned()),
        ("storage", if spec.memory { "memory" } else { "file" }.to_owned()),
        ("replicas", spec.replicas.to_string()),
        ("max_age", spec.max_age.map_or_else(|| "none".to_owned(), |age| Period(age).to_string())),
        (
            "max_bytes",
            spec.max_bytes.map_or_else(|| "none".to_owned(), |bytes| Size(bytes).to_string()),
        ),
        ("duplicate_window", Period(spec.duplicate_window).to_string()),
        (
            "when_full",
            if spec.keeps_oldest { "refuses what is new" } else { "drops what is oldest" }
                .to_owned(),
        ),
        ("schedules", spec.schedules.to_string()),
        ("bucket", spec.bucket.to_string()),
        ("pipeline", spec.pipeline.clone()),
    ]
}

fn consumer_fields(spec: &ConsumerSpec) -> Fields {
    vec![
        ("filters", listed(&spec.filters)),
        ("ack_wait", Period(spec.ack_wait).to_string()),
        (
            "max_deliver",
            spec.max_deliver.map_or_else(|| "none".to_owned(), |most| most.to_string()),
        ),
        ("max_ack_pending", spec.max_ack_pending.to_string()),
        ("pipeline", spec.pipeline.clone()),
    ]
}

fn listed(subjects: &[String]) -> String {
    if subjects.is_empty() { "all".to_owned() } else { subjects.join(" ") }
}

fn differences(found: &Fields, wanted: &Fields) -> Vec<Difference> {
    let differing = found.iter().zip(wanted).filter(|(found, wanted)| found != wanted);
    differing
        .map(|((field, from), (_, to))| Difference { field, from: from.clone(), to: to.clone() })
        .collect()
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {} -> {}", self.field, self.from, self.to)
    }
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(spec) => match spec.name.strip_prefix("KV_").filter(|_| spec.bucket) {
                Some(bucket) => write!(f, "bucket \"{bucket}\""),
                None => write!(f, "stream \"{}\"", spec.name),
            },
            Self::Consumer(spec) => {
                write!(f, "consumer \"{}\" on stream \"{}\"", spec.name, spec.stream)
            }
        }
    }
}

/// The plan as people read it: `+` is made, `~` is changed, `>` is handed over, `!` needs a
/// decision, `-` is no longer named. What is kept for nobody is said as well, and what can be done.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.render(&|_, holds| format!("left as it is ({holds} messages)")))
    }
}

impl Plan {
    /// Text of the plan; `fate` is what becomes of an object that is no longer named, and holds so
    /// many messages.
    pub fn render(&self, fate: &dyn Fn(&Object, u64) -> String) -> String {
        let mut out = String::new();
        for Change { object, kind } in &self.changes {
            let (sign, note, differences) = match kind {
                ChangeKind::Create | ChangeKind::CreateFrom(_) => {
                    let note = match (self.start_of(object), kind) {
                        (Some(start), _) => format!(": from sequence {start}"),
                        (None, ChangeKind::CreateFrom(beginning)) => format!(": {beginning}"),
                        (None, _) => String::new(),
                    };
                    ('+', note, &[][..])
                }
                ChangeKind::Update(differences) => ('~', String::new(), differences.as_slice()),
                ChangeKind::Immutable(differences) => {
                    ('!', ": cannot be changed in place".to_owned(), differences.as_slice())
                }
                ChangeKind::Lossy(differences, why) => {
                    ('!', format!(": would lose messages: {why}"), differences.as_slice())
                }
                ChangeKind::Extra { .. } if self.is_moved(object) => continue,
                ChangeKind::Extra { holds } => {
                    ('-', format!(": no longer named, {}", fate(object, *holds)), &[][..])
                }
            };
            out.push_str(&format!("{sign} {object}{note}\n"));
            for difference in differences {
                out.push_str(&format!("    {difference}\n"));
            }
        }
        self.moves.iter().for_each(|moved| out.push_str(&format!("> {moved}\n")));
        for held in &self.leftovers.held {
            if !self.moves.iter().any(|moved| moved.held.stage == held.stage) {
                let mut held = held.clone();
                held.consumers.retain(|unread| !self.moves.iter().any(|it| it.resends(unread)));
                out.push_str(&held.lines());
            }
        }
        self.problems.iter().for_each(|problem| out.push_str(&format!("! {problem}\n")));
        out
    }

    /// Sequence at which a consumer to be made starts; `None`: at the first.
    pub(super) fn start_of(&self, object: &Object) -> Option<u64> {
        match object {
            Object::Stream(_) => None,
            Object::Consumer(spec) => {
                self.starts.get(&(spec.stream.clone(), spec.name.clone())).copied()
            }
        }
    }
}

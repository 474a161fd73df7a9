//! Ledger: acknowledged events against their outcomes.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use millstream::{
    broker::{AdminError, Broker, StoredMessage},
    config::Pipeline,
    dead_letter::LetterRecord,
    incidents::snapshot,
    topology::Topology,
};
use serde_json::Value;

use crate::support::timeless;

/// Longest time for the fleet to finish, once nothing is killed any more.
const HEAL: Duration = Duration::from_secs(90);

/// One publish that was acknowledged.
pub(super) struct Published {
    pub(super) id: String,
    /// Kind that the publisher meant it to be; see `publish.py`.
    pub(super) kind: String,
    /// Place where it is stored: stream and sequence.
    pub(super) source: String,
    pub(super) body: Vec<u8>,
}

/// One dead letter.
pub(super) struct Letter {
    pub(super) record: LetterRecord,
    pub(super) body: Vec<u8>,
}

/// Outcomes of the events, in numbers.
#[derive(Debug, Default)]
#[expect(dead_code, reason = "some are only printed")]
pub(super) struct Totals {
    pub(super) published: usize,
    pub(super) done: usize,
    pub(super) dead: usize,
    pub(super) letters: usize,
    /// Calls of the service that accepted an event once more.
    pub(super) repeated: u32,
    /// Letters of events that the service would have accepted.
    pub(super) innocent: usize,
    pub(super) errors: u64,
    pub(super) reasons: BTreeMap<String, usize>,
}

impl Published {
    /// Reads a line of the publisher's ledger.
    pub(super) fn read(line: &str) -> Self {
        let mut words = line.split(' ').map(ToOwned::to_owned);
        let mut word =
            || words.next().unwrap_or_else(|| panic!("a line of the ledger is cut off: {line}"));
        let (id, kind, source, hex) = (word(), word(), word(), word());
        let body = hex.as_bytes().chunks(2);
        let byte =
            |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        Self { id, kind, source, body: body.map(byte).collect() }
    }

    /// True if the service accepts it, sooner or later.
    fn is_innocent(&self) -> bool {
        ["fine", "flaky"].contains(&self.kind.as_str())
    }
}

/// Waits until nothing is under way any more: nothing pending, in flight, parked, or unread.
pub(super) async fn settled(broker: &Broker, pipeline: &Pipeline) {
    let began = Instant::now();
    let mut calm = 0;
    loop {
        // Events move on while they are looked for: nothing is under way if it is not there twice
        // in a row.
        let busy = match under_way(broker, pipeline).await {
            Ok(busy) => busy,
            Err(error) => vec![format!("{error}")],
        };
        calm = if busy.is_empty() { calm + 1 } else { 0 };
        if calm == 2 {
            println!("settled in {:.1} s", began.elapsed().as_secs_f32());
            return;
        }
        assert!(began.elapsed() < HEAL, "still under way after {HEAL:?}:\n{}", busy.join("\n"));
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

async fn under_way(broker: &Broker, pipeline: &Pipeline) -> Result<Vec<String>, AdminError> {
    let (names, topology) = (pipeline.names(), Topology::of(pipeline));
    let mut busy = Vec::new();
    for consumer in &topology.consumers {
        let state = broker.consumer_state(&consumer.stream, &consumer.name).await?;
        let (pending, in_hand) = (state.num_pending, state.num_ack_pending);
        if pending + in_hand > 0 {
            busy.push(format!(
                "{} on {}: {pending} pending, {in_hand} in hand",
                consumer.name, consumer.stream
            ));
        }
    }
    // What was settled goes from these; what nobody will ever be given again would stay.
    let edges =
        pipeline.stages.iter().filter(|stage| stage.is_map() && pipeline.has_edge(&stage.name));
    let edges = edges.map(|stage| names.out_stream(&stage.name));
    for stream in edges.chain([names.retry_stream(), names.advisories_stream()]) {
        let left = broker.stream_state(&stream).await?.messages;
        if left > 0 {
            busy.push(format!("stream {stream}: {left} left"));
        }
    }
    for stage in pipeline.stages.iter().filter(|stage| !stage.is_map()) {
        let offsets =
            broker.kv_get(&names.state_bucket(), &format!("{}.offsets", stage.name)).await?;
        let offsets: Value =
            offsets.map(|(value, _)| serde_json::from_slice(&value).unwrap()).unwrap_or_default();
        for read in topology.reads(&stage.name) {
            let applied = offsets["streams"][&read.stream]["seq"].as_u64().unwrap_or(0);
            // Not up to the stream's last message: that may be none of the stage's, as a key of the
            // state bucket is.
            let everything = [">".to_owned()];
            for filter in
                if read.filters.is_empty() { &everything } else { read.filters.as_slice() }
            {
                if let Some(unread) =
                    broker.next_on_subject(&read.stream, filter, applied + 1).await?
                {
                    let (stage, stream, seq) = (&stage.name, &read.stream, unread.seq);
                    busy.push(format!(
                        "{stage}: {applied} read from {stream}, where {seq} is next"
                    ));
                }
            }
        }
    }
    Ok(busy)
}

/// Dead letters; no subject has two, since it names the life of one event at one stage.
pub(super) async fn letters(broker: &Broker, pipeline: &Pipeline) -> Vec<Letter> {
    let names = pipeline.names();
    let found: Vec<StoredMessage> =
        broker.scan(&names.dlq_stream(), &names.dlq_filter(None), 1).try_collect().await.unwrap();
    let subjects: BTreeSet<&str> = found.iter().map(|letter| letter.subject.as_str()).collect();
    assert_eq!(subjects.len(), found.len(), "two letters of one life");
    found
        .iter()
        .map(|letter| Letter { record: LetterRecord::of(letter), body: letter.body.to_vec() })
        .collect()
}

/// Compares acknowledged events with accepted ones and those given up on; every breach is a line of
/// the panic.
pub(super) fn balance(
    published: &[Published],
    accepted: &HashMap<String, u32>,
    letters: &[Letter],
) -> Totals {
    let mut breaches = Vec::new();
    let mut by_source: HashMap<String, Vec<&Letter>> = HashMap::new();
    let mut totals =
        Totals { published: published.len(), letters: letters.len(), ..Totals::default() };
    for letter in letters {
        by_source.entry(timeless(&letter.record.source)).or_default().push(letter);
        *totals
            .reasons
            .entry(format!("{} {}", letter.record.stage, letter.record.reason))
            .or_default() += 1;
    }
    for event in published {
        let Published { id, kind, source, .. } = event;
        let times = accepted.get(id).copied().unwrap_or(0);
        let own = by_source.remove(source.as_str()).unwrap_or_default();
        match (times > 0, !own.is_empty()) {
            // An error report is done when it is counted.
            (false, false) if kind == "report" => {}
            (false, false) => breaches.push(format!("{id} ({kind}, {source}) is lost")),
            (true, true) => breaches
                .push(format!("{id} ({kind}, {source}) is done and dead: {:?}", own[0].record)),
            (true, false) => {
                totals.done += 1;
                totals.repeated += times - 1;
            }
            (false, true) => totals.dead += 1,
        }
        for Letter { record, body } in own {
            if *body != event.body {
                breaches.push(format!(
                    "the letter of {id} ({kind}, {source}) does not hold the original bytes"
                ));
            }
            if record.event_id.as_ref().is_some_and(|named| named != id) {
                breaches.push(format!(
                    "the letter of {id} ({kind}, {source}) names {:?}",
                    record.event_id
                ));
            }
            if event.is_innocent() {
                totals.innocent += 1;
                println!("{id} ({kind}) is innocent: {record:?}");
            } else if !reason_fits(kind, &record.reason) {
                breaches
                    .push(format!("the letter of {id} ({kind}, {source}) says {}", record.reason));
            }
        }
    }
    for source in by_source.keys() {
        breaches.push(format!("a letter of {source}, which nobody has published"));
    }
    assert!(
        breaches.is_empty(),
        "{} breaches, {totals:#?}\n{}",
        breaches.len(),
        breaches[..breaches.len().min(40)].join("\n")
    );
    totals
}

/// True if a letter may have this reason for an event of this kind; an event that is unlucky five
/// times has crashed.
fn reason_fits(kind: &str, reason: &str) -> bool {
    let expected = match kind {
        "refused" | "invalid" => "rejected",
        "broken" => "exhausted",
        "cut" | "binary" | "nonsense" => "undecodable",
        _ => "",
    };
    reason == expected || reason == "crashed"
}

/// Number of errors that the incidents count; it must be that on the streams, less the errors that
/// could not be read.
pub(super) async fn count_errors(broker: &Broker, pipeline: &Pipeline, letters: &[Letter]) -> u64 {
    let names = pipeline.names();
    let tallies = snapshot::tallies(broker, pipeline).await.unwrap();
    let all = tallies.iter().flat_map(|(_, tallies)| tallies);
    let counted: u64 =
        all.filter(|tally| tally.name == "errors_counted_total").map(|tally| tally.value).sum();
    let mut stored = 0;
    for stream in [names.failed_stream(), names.source_stream("errors")] {
        stored += broker.stream_state(&stream).await.unwrap().messages;
    }
    let unread = letters.iter().filter(|letter| letter.record.stage == "errors").count() as u64;
    assert_eq!(
        counted,
        stored - unread,
        "{stored} errors are stored, and {unread} of them could not be read"
    );
    counted
}

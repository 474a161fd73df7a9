//! Preflight: what the server would refuse of a plan, found before anything is done.

use std::collections::BTreeMap;

use millstream_stages::units::Size;

use super::{
    plan::{Change, ChangeKind, Difference, Object, Plan},
    problem::{ID, Problem},
    topology::Topology,
};
use crate::{
    broker::{AccountLimits, AdminError, Broker, FoundStream, StreamSpec},
    limits,
    wire::{Names, subject_pattern::overlap},
};

/// Problem of a change that loses messages or cannot be made in place; `None`: it has none.
fn of_change(change: &Change, lossy: bool) -> Option<Problem> {
    let object = change.object.to_string();
    match &change.kind {
        ChangeKind::Immutable(differences) => {
            let what = differences.iter().map(Difference::to_string).collect::<Vec<_>>();
            Some(Problem::Immutable { object, what: what.join(", ") })
        }
        ChangeKind::Lossy(_, why) if !lossy => Some(Problem::Lossy { object, why: why.clone() }),
        ChangeKind::Create
        | ChangeKind::CreateFrom(_)
        | ChangeKind::Update(_)
        | ChangeKind::Lossy(..)
        | ChangeKind::Extra { .. } => None,
    }
}

/// Subjects of streams to be made or changed that other streams capture.
pub(super) fn overlaps(
    topology: &Topology,
    changes: &[Change],
    streams: &[FoundStream],
) -> Vec<Problem> {
    let mut problems = Vec::new();
    for spec in changes.iter().filter_map(made_or_changed) {
        for theirs in streams.iter().filter(|theirs| theirs.name != spec.name) {
            // Of two streams of ours, one gives a subject up before the other takes it.
            let wanted = topology.streams.iter().find(|wanted| wanted.name == theirs.name);
            let subjects = wanted.map_or(&theirs.subjects, |wanted| &wanted.subjects);
            let found = spec.subjects.iter().find_map(|subject| {
                let other = subjects.iter().find(|other| overlap(subject, other))?;
                Some((subject.clone(), other.clone()))
            });
            if let Some((subject, their_subject)) = found {
                problems.push(Problem::Overlap {
                    stream: spec.name.clone(),
                    subject,
                    theirs: theirs.name.clone(),
                    their_subject,
                    is_extra: theirs.pipeline == topology.pipeline,
                    pipeline: theirs.pipeline.clone(),
                });
            }
        }
    }
    problems
}

fn made_or_changed(change: &Change) -> Option<&StreamSpec> {
    match (&change.object, &change.kind) {
        (
            Object::Stream(spec),
            ChangeKind::Create | ChangeKind::Update(_) | ChangeKind::Lossy(..),
        ) => Some(spec),
        _ => None,
    }
}

fn made(change: &Change) -> Option<&StreamSpec> {
    match (&change.object, &change.kind) {
        (Object::Stream(spec), ChangeKind::Create) => Some(spec),
        _ => None,
    }
}

/// Shares that the retry stream gets of what is lent: a full one loses events.
pub(super) const RETRY_SHARES: u64 = 4;

/// Shares that a stream gets of what is lent.
pub(super) const fn shares(spec: &StreamSpec) -> u64 {
    if spec.schedules { RETRY_SHARES } else { 1 }
}

/// `max_bytes` that a plan lends to a stream which must have a limit and declares none.
pub(super) fn lent_to(plan: &Plan, spec: &StreamSpec) -> Option<u64> {
    plan.lent.map(|lent| lent * shares(spec))
}

/// Everything that keeps a plan from being begun; `lossy`: changes that lose messages are none of
/// it. Objects with the same difference are one of them.
pub(super) fn refusals(plan: &Plan, lossy: bool) -> Vec<Problem> {
    let mut problems: Vec<Problem> = Vec::new();
    for problem in plan.changes.iter().filter_map(|change| of_change(change, lossy)) {
        if let (
            Problem::Immutable { object, what },
            Some(Problem::Immutable { object: before, what: same }),
        ) = (&problem, problems.last_mut())
            && what == same
        {
            before.push_str(&format!(", {object}"));
        } else {
            problems.push(problem);
        }
    }
    problems.extend(plan.problems.clone());
    problems
}

/// Key of `[storage]`, or of a source, that limits a stream.
fn key_of(names: &Names, stream: &str) -> String {
    let prefix = |kind: &str| format!("{}-{kind}-", names.pipeline());
    if let Some(source) = stream.strip_prefix(&prefix("in")) {
        return format!("max_bytes in [source.{source}]");
    }
    let key = if stream == names.dlq_stream() {
        "dlq_max_bytes"
    } else if stream == names.failed_stream() {
        "failed_max_bytes"
    } else if stream == names.retry_stream() {
        "retry_max_bytes"
    } else if stream == names.state_stream() {
        "state_max_bytes"
    } else if stream.starts_with(&prefix("out")) {
        "results_max_bytes"
    } else {
        "max_bytes"
    };
    format!("{key} in [storage]")
}

/// What the account does not allow of the changes, and the bytes that it lends to each stream that
/// must have a limit and declares none.
pub(super) fn account(
    topology: &Topology,
    changes: &[Change],
    streams: &[FoundStream],
    account: &AccountLimits,
) -> (Vec<Problem>, Option<u64>) {
    let (names, mut problems) = (Names::new(&topology.pipeline), Vec::new());
    let mut limit = |what: String| problems.push(Problem::Limit(what));
    let created: Vec<&StreamSpec> = changes.iter().filter_map(made).collect();
    let replicas = topology.streams.first().map_or(1, |spec| spec.replicas);
    if !account.has_tier && !created.is_empty() {
        limit(format!(
            "the account has no storage for streams of {replicas} replicas: set replicas in \
             [storage] to a number that its limits name"
        ));
    }
    let room = account.streams.map(|most| most.saturating_sub(account.streams_used));
    if let (Some(room), Some(most)) = (room, account.streams)
        && (created.len() as u64) > room
    {
        limit(format!(
            "the account allows {most} streams and has {}; this pipeline needs {} more: chain stages \
             (chain = true), or have max_streams of the account raised",
            account.streams_used,
            created.len()
        ));
    }
    if let Some(most) = account.consumers {
        let mut on: BTreeMap<&str, u64> = BTreeMap::new();
        topology.consumers.iter().for_each(|spec| *on.entry(&spec.stream).or_default() += 1);
        for (stream, count) in on.into_iter().filter(|(_, count)| *count > most) {
            limit(format!(
                "the account allows {most} consumers of a stream, and stream \"{stream}\" needs \
                 {count}: have max_consumers of the account raised"
            ));
        }
    }
    let reserves = |spec: &StreamSpec| spec.max_bytes.unwrap_or(0);
    if let Some(most) = account.stream_bytes {
        for spec in changes.iter().filter_map(made_or_changed).filter(|spec| reserves(spec) > most)
        {
            limit(format!(
                "the account allows {} for a stream, and stream \"{}\" wants {}: lower {}",
                Size(most),
                spec.name,
                Size(reserves(spec)),
                key_of(&names, &spec.name)
            ));
        }
    }
    // A change reserves what it wants more than the stream has now.
    let before = |name: &str| streams.iter().find(|it| it.name == name).map_or(0, |it| it.reserved);
    let more = |spec: &StreamSpec| reserves(spec).saturating_sub(before(&spec.name));
    let wanted: u64 = changes.iter().filter_map(made_or_changed).map(more).sum();
    let wanted = wanted.saturating_mul(replicas as u64);
    let free = account.bytes.map(|most| most.saturating_sub(account.bytes_used));
    if let (Some(free), Some(most)) = (free, account.bytes)
        && wanted > free
    {
        let mut largest: Vec<&StreamSpec> =
            changes.iter().filter_map(made_or_changed).filter(|spec| more(spec) > 0).collect();
        largest.sort_by_key(|spec| std::cmp::Reverse(more(spec)));
        let keys: Vec<String> = largest.iter().map(|spec| key_of(&names, &spec.name)).collect();
        let mut shown: Vec<String> = Vec::new();
        keys.into_iter().for_each(|key| {
            if !shown.contains(&key) {
                shown.push(key);
            }
        });
        limit(format!(
            "the account has {} of {} free, and the streams reserve {}: lower {}",
            Size(free),
            Size(most),
            Size(wanted),
            shown.join(", ")
        ));
    }
    let unlimited = |spec: &&StreamSpec| spec.max_bytes.is_none() && before(&spec.name) == 0;
    let borrowers: Vec<&StreamSpec> =
        changes.iter().filter_map(made_or_changed).filter(unlimited).collect();
    let mut lent = None;
    if account.max_bytes_required && !borrowers.is_empty() {
        // One share stays free, for a stage that is added later.
        let shares: u64 = borrowers.iter().map(|spec| shares(spec)).sum();
        let shares = (shares + 1) * replicas as u64;
        let share = free.map_or(limits::LENT_BYTES_MAX, |free| {
            (free.saturating_sub(wanted) / shares).min(limits::LENT_BYTES_MAX)
        });
        let share = account.stream_bytes.map_or(share, |most| share.min(most));
        let share = share >> 20 << 20;
        if share < limits::LENT_BYTES_MIN {
            let keys: Vec<String> =
                borrowers.iter().map(|spec| format!("\"{}\"", spec.name)).collect();
            limit(format!(
                "the account requires max_bytes on every stream, and has no room for {}: set \
                 max_bytes in [storage], or lower the limits of the others",
                keys.join(", ")
            ));
        } else {
            lent = Some(share);
        }
    }
    (problems, lent)
}

/// Pipeline of the same name on the server, where it is another one.
///
/// # Errors
/// [`AdminError`].
pub(super) async fn owner(
    topology: &Topology,
    broker: &Broker,
    streams: &[FoundStream],
) -> Result<Option<Problem>, AdminError> {
    let names = Names::new(&topology.pipeline);
    let theirs = broker.mark_of(&names.state_stream(), ID).await?;
    let problem = |theirs: Option<String>| Problem::Owner {
        pipeline: topology.pipeline.clone(),
        theirs,
        ours: topology.id.clone(),
    };
    if theirs.is_some() {
        return Ok((theirs != topology.id).then(|| problem(theirs)));
    }
    // Without an id, two that have nothing in common but the name are not the same.
    let ours: Vec<&str> = streams
        .iter()
        .filter(|it| it.pipeline == topology.pipeline)
        .map(|it| it.name.as_str())
        .collect();
    let prefixes = ["in", "out"].map(|kind| format!("{}-{kind}-", topology.pipeline));
    let of_graph: Vec<&str> = ours
        .into_iter()
        .filter(|name| prefixes.iter().any(|prefix| name.starts_with(prefix)))
        .collect();
    let before = |name: &str| topology.renamed.iter().any(|(old, _)| names.out_stream(old) == name);
    let is_shared =
        |name: &&str| topology.streams.iter().any(|spec| spec.name == **name) || before(name);
    if of_graph.is_empty() || of_graph.iter().any(is_shared) {
        return Ok(None);
    }
    let readers = match broker.consumers_of(&names.retry_stream(), &topology.pipeline).await {
        Err(AdminError::NoStream { .. }) => Vec::new(),
        readers => readers?,
    };
    let is_known = |stage: &str| {
        names.channel_of_stage(stage).is_none()
            && (topology.stages.iter().any(|name| name == stage)
                || topology.renamed.iter().any(|(old, _)| old == stage))
    };
    let has_stage =
        readers.iter().filter_map(|it| names.stage_of_consumer(&it.spec.name)).any(is_known);
    Ok((!has_stage).then(|| problem(None)))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::broker::Retention;

    fn spec(name: &str, subject: &str, max_bytes: Option<u64>) -> StreamSpec {
        StreamSpec {
            name: name.to_owned(),
            pipeline: "shop".to_owned(),
            subjects: vec![subject.to_owned()],
            retention: Retention::Limits,
            memory: false,
            replicas: 1,
            max_age: None,
            max_bytes,
            duplicate_window: Duration::from_secs(120),
            schedules: name == "shop-retry",
            rollup: false,
            bucket: false,
            keeps_oldest: false,
            drops_oldest: false,
        }
    }

    fn create(specs: &[StreamSpec]) -> (Topology, Vec<Change>) {
        let change = |spec: &StreamSpec| Change {
            object: Object::Stream(spec.clone()),
            kind: ChangeKind::Create,
        };
        let mut topology = Topology::default();
        "shop".clone_into(&mut topology.pipeline);
        topology.streams = specs.to_vec();
        (topology, specs.iter().map(change).collect())
    }

    fn found(name: &str, pipeline: &str, subject: &str) -> FoundStream {
        FoundStream {
            name: name.to_owned(),
            pipeline: pipeline.to_owned(),
            subjects: vec![subject.to_owned()],
            messages: 0,
            reserved: 0,
            notes: Vec::new(),
        }
    }

    fn said(problems: &[Problem]) -> String {
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn an_overlap_names_whose_stream_it_is_with() {
        let (topology, changes) = create(&[spec("shop-in-a", "a.>", None)]);
        let theirs = [
            found("shop-in-a", "shop", "a.>"),
            found("LEGACY", "", "a.b"),
            found("market-in-x", "market", "a.*.c"),
            found("shop-in-old", "shop", ">"),
            found("other", "", "b.>"),
        ];
        expect_test::expect![[r#"
            stream "shop-in-a" cannot capture "a.>": stream "LEGACY", which is of no pipeline, captures "a.b"; use other subjects, or read that stream: external = "LEGACY" in place of subjects
            stream "shop-in-a" cannot capture "a.>": stream "market-in-x" of pipeline "market" captures "a.*.c"; use other subjects, or read that stream: external = "market-in-x" in place of subjects
            stream "shop-in-a" cannot capture "a.>": stream "shop-in-old", which nothing in this pipeline names any more, captures ">"; read what it holds, then apply with --drop shop-in-old, or name the source as before"#]]
        .assert_eq(&said(&overlaps(&topology, &changes, &theirs)));
    }

    #[test]
    fn what_an_account_does_not_allow_is_named_with_the_key_to_change() {
        let (topology, changes) = create(&[
            spec("shop-in-a", "a.>", Some(1 << 30)),
            spec("shop-dlq", "shop.dlq.>", Some(64 << 20)),
        ]);
        let limits = AccountLimits {
            streams: Some(3),
            streams_used: 2,
            bytes: Some(100 << 20),
            stream_bytes: Some(512 << 20),
            has_tier: true,
            ..AccountLimits::default()
        };
        let (problems, lent) = account(&topology, &changes, &[], &limits);
        expect_test::expect![[r#"
            the account allows 3 streams and has 2; this pipeline needs 2 more: chain stages (chain = true), or have max_streams of the account raised
            the account allows 512MiB for a stream, and stream "shop-in-a" wants 1GiB: lower max_bytes in [source.a]
            the account has 100MiB of 100MiB free, and the streams reserve 1088MiB: lower max_bytes in [source.a], dlq_max_bytes in [storage]"#]]
        .assert_eq(&said(&problems));
        assert_eq!(lent, None);
        let none = AccountLimits { has_tier: true, ..AccountLimits::default() };
        assert_eq!(account(&topology, &changes, &[], &none), (Vec::new(), None));
    }

    #[test]
    fn streams_that_must_have_a_limit_share_what_is_free() {
        let (topology, changes) = create(&[
            spec("shop-in-a", "a.>", None),
            spec("shop-retry", "shop.retry.*", None),
            spec("shop-dlq", "shop.dlq.>", Some(40 << 20)),
        ]);
        let of = |bytes| AccountLimits {
            bytes,
            max_bytes_required: true,
            has_tier: true,
            ..AccountLimits::default()
        };
        let lent = |bytes| account(&topology, &changes, &[], &of(bytes));
        // Five shares for the two, and one that stays free.
        assert_eq!(lent(Some(100 << 20)), (Vec::new(), Some(10 << 20)));
        assert_eq!(lent(None), (Vec::new(), Some(limits::LENT_BYTES_MAX)));
        let (problems, lent) = lent(Some(50 << 20));
        assert!(said(&problems).contains("has no room for \"shop-in-a\", \"shop-retry\""));
        assert_eq!(lent, None);
    }
}

//! Troubles: all that is wrong with a pipeline, as it is asked now and as its workers tell.

use std::{collections::BTreeMap, fmt, sync::Arc};

use jiff::Timestamp;
use millstream_stages::{headers, incident::Severity, units::Period};
use serde::Serialize;

use crate::{
    broker::Broker,
    config::Pipeline,
    error_chain::chain,
    incidents::snapshot,
    keeper::{
        FleetRecord,
        fleet_record::LookedAt,
        watch::{self, Looked},
    },
    limits,
    observe::WorkerRecord,
};

/// Something that is wrong, and what can be done about it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct TroubleStatus {
    /// Name of the condition.
    pub what: String,
    /// Cause, as one clause.
    pub why: String,
    /// Time since which it is so, RFC 3339; `None`: it was found just now.
    pub since: Option<String>,
    /// Remedy; `None`: it passes by itself, or nobody knows.
    pub remedy: Option<String>,
    /// Workers that see it; none: it is of the whole fleet.
    pub workers: Vec<String>,
}

/// Troubles, and what was looked at.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub troubles: Vec<TroubleStatus>,
    pub looked_at: LookedAt,
}

impl Found {
    /// Looks at everything: now, in the record of the fleet, and in those of its workers.
    pub(super) async fn look(
        broker: &Broker,
        pipeline: &Arc<Pipeline>,
        workers: &[WorkerRecord],
    ) -> Self {
        let record = FleetRecord::load(broker, &pipeline.names()).await.ok().flatten();
        let looked = watch::look(broker, pipeline).await.map_err(|error| chain(&error));
        Self::of(looked, record.map(|(record, _)| record), workers)
    }

    /// Joins a look of now with what the workers tell.
    fn of(
        looked: Result<Looked, String>,
        record: Option<FleetRecord>,
        workers: &[WorkerRecord],
    ) -> Self {
        let mut found = Self::default();
        let is_live = |id: &str| workers.iter().any(|worker| worker.id == id);
        let record = record.unwrap_or_default();
        let since = |what: &str| {
            let known = record.conditions.iter().find(|known| known.name == what);
            known.map(|known| known.since.clone())
        };
        let mut unread = BTreeMap::new();
        match looked {
            Ok(looked) => {
                (found.looked_at, unread) = (looked.looked_at, looked.unread);
                for (what, trouble) in looked.troubles {
                    let (since, why, remedy) = (since(&what), trouble.why, trouble.remedy);
                    found.add(TroubleStatus { what, why, since, remedy, workers: Vec::new() });
                }
            }
            Err(why) => {
                let why = format!("its streams cannot be looked at: {why}");
                found.add(TroubleStatus::new("broker", why, None));
            }
        }
        if workers.is_empty() {
            found.without_workers(&record, unread);
        } else if is_live(&record.by) {
            // What takes time to be seen; the rest was looked at just now.
            let of_time = ["lease ", "backlog of ", "watcher"];
            let lasting = record.conditions.iter();
            let lasting = lasting.filter(|told| of_time.iter().any(|of| told.name.starts_with(of)));
            for told in lasting.cloned() {
                let (since, workers) = (Some(told.since), Vec::new());
                let (what, why, remedy) = (told.name, told.why, told.remedy);
                found.add(TroubleStatus { what, why, since, remedy, workers });
            }
        } else if workers.iter().any(is_settled) {
            let mut told = TroubleStatus::new(
                "watcher",
                "no worker that is there has looked at the fleet",
                Some("a worker of this version must be elected keeper"),
            );
            told.since = Some(record.at.clone()).filter(|at| !at.is_empty());
            found.add(told);
        }
        for worker in workers {
            for told in worker.conditions.iter().cloned() {
                let (since, workers) = (Some(told.since), vec![worker.id.clone()]);
                let (what, why, remedy) = (told.name, told.why, told.remedy);
                found.add(TroubleStatus { what, why, since, remedy, workers });
            }
        }
        found
    }

    /// Adds what it means that no worker is there.
    fn without_workers(&mut self, record: &FleetRecord, unread: BTreeMap<String, u64>) {
        const START: &str = "start one: `millstream run`";
        let mut none = TroubleStatus::new("workers", "no worker is at work", Some(START));
        none.since = Some(record.at.clone()).filter(|at| !at.is_empty());
        self.add(none);
        for (stage, events) in unread {
            let wait = if events == 1 { "event waits" } else { "events wait" };
            let why = format!("{events} {wait} and no worker reads them");
            self.add(TroubleStatus::new(&format!("backlog of {stage}"), why, Some(START)));
        }
    }

    /// Adds the worst incident that goes on, if it is critical, and how many are.
    pub(super) async fn add_incidents(
        &mut self,
        broker: &Broker,
        pipeline: &Pipeline,
        open: &BTreeMap<String, u64>,
    ) {
        let count = open.get(Severity::Critical.as_str()).copied().unwrap_or(0);
        if count == 0 {
            return;
        }
        let worst = snapshot::open(broker, pipeline).await.unwrap_or_default().into_iter().next();
        let incidents = if count == 1 { "incident is" } else { "incidents are" };
        let mut told = TroubleStatus::new(
            "incidents",
            format!("{count} critical {incidents} open"),
            Some("look at them with `millstream incidents ls`"),
        );
        if let Some((_, incident)) = worst {
            told.why += &format!(", the worst {}: {}", incident.code, incident.message);
            told.since = Some(incident.opened_at.to_string());
        }
        self.add(told);
    }

    /// Adds a trouble, or the worker to one that is known.
    fn add(&mut self, trouble: TroubleStatus) {
        let same = |known: &&mut TroubleStatus| known.what == trouble.what;
        match self.troubles.iter_mut().find(same) {
            // The fleet's word is enough.
            Some(known) if known.workers.is_empty() => {}
            Some(known) if known.why == trouble.why => known.workers.extend(trouble.workers),
            _ => self.troubles.push(trouble),
        }
    }
}

/// True for a worker that is there for long enough that someone must have looked.
fn is_settled(worker: &WorkerRecord) -> bool {
    let time = |text: &str| text.parse::<Timestamp>().ok();
    let up = time(&worker.seen_at).zip(time(&worker.started_at));
    up.is_none_or(|(seen, started)| {
        seen.duration_since(started).unsigned_abs() > limits::WATCH_SILENT_MAX
    })
}

impl TroubleStatus {
    fn new(what: &str, why: impl Into<String>, remedy: Option<&str>) -> Self {
        let (what, why, remedy) = (what.to_owned(), why.into(), remedy.map(str::to_owned));
        Self { what, why, since: None, remedy, workers: Vec::new() }
    }

    /// Text for people at `now`, on one or two lines.
    pub(super) fn text(&self, now: Timestamp) -> String {
        struct Text<'a>(&'a TroubleStatus, Timestamp);
        impl fmt::Display for Text<'_> {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let Self(TroubleStatus { what, why, since, remedy, workers }, now) = self;
                write!(f, "! {}: {}", headers::clean(what), headers::clean(why))?;
                if let Some(since) = since.as_ref().and_then(|text| text.parse::<Timestamp>().ok())
                {
                    let seconds = now.duration_since(since).as_secs();
                    let seconds = u64::try_from(seconds).unwrap_or(0);
                    write!(f, ", for {}", Period::seconds(seconds))?;
                }
                match workers.as_slice() {
                    [] => {}
                    [worker] => write!(f, " (worker {})", headers::clean(worker))?,
                    workers => write!(f, " ({} workers)", workers.len())?,
                }
                match remedy {
                    Some(remedy) => write!(f, "\n    {}", headers::clean(remedy)),
                    None => Ok(()),
                }
            }
        }
        Text(self, now).to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::observe::{ConditionRecord, Trouble};

    fn worker(id: &str, up: &str, conditions: &[(&str, &str)]) -> WorkerRecord {
        let record = |(name, why): &(&str, &str)| ConditionRecord {
            name: (*name).to_owned(),
            why: (*why).to_owned(),
            remedy: Some("do this".to_owned()),
            since: "2026-01-01T00:00:05Z".to_owned(),
        };
        WorkerRecord {
            started_at: "2026-01-01T00:00:00Z".into(),
            seen_at: up.into(),
            conditions: conditions.iter().map(record).collect(),
            ..WorkerRecord::new(id, "host", "hash")
        }
    }

    fn told(found: &Found) -> String {
        let now = "2026-01-01T00:02:00Z".parse().unwrap();
        found.troubles.iter().map(|trouble| trouble.text(now) + "\n").collect()
    }

    const LATER: &str = "2026-01-01T00:01:00Z";

    #[test]
    fn without_a_worker_nothing_is_well() {
        let unread = BTreeMap::from([("work".to_owned(), 50)]);
        let looked = || Ok(Looked { unread: unread.clone(), ..Looked::default() });
        let record = FleetRecord { at: "2026-01-01T00:01:00Z".into(), ..FleetRecord::default() };
        let found = Found::of(looked(), Some(record), &[]);
        expect_test::expect![[r#"
            ! workers: no worker is at work, for 1m
                start one: `millstream run`
            ! backlog of work: 50 events wait and no worker reads them
                start one: `millstream run`
        "#]]
        .assert_eq(&told(&found));
        // With a worker, a moment's backlog is none.
        let record = FleetRecord { by: "w".into(), ..FleetRecord::default() };
        let found = Found::of(looked(), Some(record), &[worker("w", LATER, &[])]);
        assert_eq!(told(&found), "");
    }

    #[test]
    fn what_workers_see_and_what_is_asked_now_is_named_once() {
        let lost = Trouble::with_remedy("it does not exist", "create it");
        let looked =
            Looked { troubles: [("stream shop-dlq".to_owned(), lost)].into(), ..Looked::default() };
        let record = FleetRecord {
            by: "w-1".into(),
            conditions: worker(
                "",
                "",
                &[
                    ("stream shop-dlq", "old"),
                    ("lease errors", "no worker holds it"),
                    ("storage", ""),
                ],
            )
            .conditions,
            ..FleetRecord::default()
        };
        let task = [("task router", "it panicked"), ("stream shop-dlq", "refused")];
        let workers = [worker("w-1", LATER, &task), worker("w-2", LATER, &task[..1])];
        expect_test::expect![[r#"
            ! stream shop-dlq: it does not exist, for 1m55s
                create it
            ! lease errors: no worker holds it, for 1m55s
                do this
            ! task router: it panicked, for 1m55s (2 workers)
                do this
        "#]]
        .assert_eq(&told(&Found::of(Ok(looked), Some(record), &workers)));
    }

    #[test]
    fn a_look_that_nobody_took_or_that_failed_is_not_well() {
        let nobody = Found::of(Ok(Looked::default()), None, &[worker("w", LATER, &[])]);
        assert_eq!(nobody.troubles[0].what, "watcher");
        let just_begun = worker("w", "2026-01-01T00:00:02Z", &[]);
        assert!(Found::of(Ok(Looked::default()), None, &[just_begun]).troubles.is_empty());
        let refused = Found::of(Err("no answer".into()), None, &[]);
        assert_eq!(refused.troubles[0].what, "broker");
    }
}

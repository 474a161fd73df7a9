//! Testing: an alert stage on a clock that the test moves, and the notifications it has sent.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use serde_json::{Value, json};

use super::{Alert, Explained};
use crate::{
    ChannelTerms, Emission, Handler, Input, KEYS_PER_STEP_MAX, Problem, Reduce, World,
    incident::{Change, Incident, OperatorAction, Severity, Trend, timestamp},
    notification::Notification,
    operator::Silence,
    rate::Rate,
    units::Period,
};

/// Begin of every scene: 2026-11-27 00:00 UTC, a Friday.
pub(super) const BEGIN: u64 = 1_795_737_600_000;
pub(super) const MINUTE: u64 = 60;
pub(super) const HOUR: u64 = 3600;

/// World in which these channels are declared: name, rate, true where ends are wanted.
pub(super) struct Channels(pub(super) Vec<(&'static str, u32, bool)>);

impl World for Channels {
    fn folder(&self, _: &str) -> Result<Vec<(String, String)>, String> {
        Err("none".to_owned())
    }

    fn handler(&self, _: &Value) -> Result<Arc<dyn Handler>, Vec<Problem>> {
        Err(Vec::new())
    }

    fn channels(&self) -> Vec<ChannelTerms> {
        let terms = |(name, per_minute, send_resolved): &(&'static str, u32, bool)| ChannelTerms {
            name: (*name).to_owned(),
            rate: Rate::per_minute(*per_minute),
            send_resolved: *send_resolved,
        };
        self.0.iter().map(terms).collect()
    }
}

/// Channels of most tests: no rate is in the way of `log`, `ops` and `boss`; `quiet` does not want
/// ends; `slow` has a rate of 20.
pub(super) fn channels() -> Channels {
    Channels(vec![
        ("log", 6000, true),
        ("ops", 6000, true),
        ("boss", 6000, true),
        ("quiet", 6000, false),
        ("slow", 20, true),
    ])
}

/// Returns a change of the incident of this number, whose code is `CODE_<n>`.
pub(super) fn incident(n: u64, event: Change, severity: Severity, count: u64) -> Incident {
    let labels = [
        ("code", format!("CODE_{n}")),
        ("severity", severity.as_str().to_owned()),
        ("service", "cart".to_owned()),
        ("fingerprint", format!("{n:016x}")),
    ];
    Incident {
        incident_id: format!("{n:016x}-1"),
        event,
        fingerprint: format!("{n:016x}"),
        generation: 1,
        code: format!("CODE_{n}"),
        severity,
        message: "connect <ip> refused".to_owned(),
        services: vec!["cart".to_owned()],
        labels: labels.into_iter().map(|(label, value)| (label.to_owned(), value)).collect(),
        threshold: 5,
        window_ms: 300_000,
        count,
        new_errors: 1,
        total: count,
        rate_per_minute: 2.5,
        trend: Trend::Steady,
        per_minute: vec![0; 10],
        first_seen: timestamp(BEGIN),
        last_seen: timestamp(BEGIN),
        opened_at: timestamp(BEGIN),
        resolved_at: None,
        resolved_by: None,
        acknowledged: None,
        last_resolved_at: None,
        users: 0,
        samples: Vec::new(),
        channels: Vec::new(),
    }
}

/// A stage, the clock, its stored state, and the notifications it has sent.
pub(super) struct Scene {
    pub(super) alert: Alert,
    pub(super) now_ms: u64,
    pub(super) stored: BTreeMap<String, Vec<u8>>,
    pub(super) told: Vec<Notification>,
    options: Value,
    shown: usize,
    ids: BTreeSet<String>,
}

impl Scene {
    pub(super) fn new(options: Value) -> Self {
        Self::with(options, &channels())
    }

    pub(super) fn with(options: Value, world: &Channels) -> Self {
        let mut alert = Alert::build(&options, world).unwrap();
        alert.explain();
        let (stored, told, ids) = (BTreeMap::new(), Vec::new(), BTreeSet::new());
        Self { alert, now_ms: BEGIN, stored, told, options, shown: 0, ids }
    }

    /// Lets time pass up to so many seconds after the beginning.
    pub(super) fn until(&mut self, seconds: u64) -> &mut Self {
        self.until_ms(BEGIN + seconds * 1000)
    }

    pub(super) fn until_ms(&mut self, at_ms: u64) -> &mut Self {
        for ticks in 0.. {
            assert!(ticks < 100_000, "it has always something to do");
            match self.alert.next_timer_ms() {
                Some(due) if due <= at_ms => self.now_ms = self.now_ms.max(due),
                _ => break,
            }
            self.step(|alert, now_ms, out| alert.tick(now_ms, out));
        }
        self.now_ms = at_ms;
        self
    }

    /// Gives the stage a change of an incident.
    pub(super) fn incident(&mut self, incident: &Incident) -> &mut Self {
        let body = Bytes::from(serde_json::to_vec(incident).unwrap());
        self.input(None, &body);
        self
    }

    pub(super) fn event(
        &mut self,
        n: u64,
        event: Change,
        severity: Severity,
        count: u64,
    ) -> &mut Self {
        self.incident(&incident(n, event, severity, count))
    }

    /// Acknowledges an incident.
    pub(super) fn acknowledge(&mut self, n: u64, severity: Severity) -> &mut Self {
        let said =
            OperatorAction { by: "ann".to_owned(), at: timestamp(self.now_ms), reason: None };
        self.incident(&Incident {
            acknowledged: Some(said),
            ..incident(n, Change::Acknowledged, severity, 9)
        })
    }

    /// Adds a silence between two times, in seconds after the beginning.
    pub(super) fn silence(&mut self, id: &str, matcher: &str, from: u64, to: u64) -> &mut Self {
        let silence = Silence {
            id: id.to_owned(),
            matchers: crate::matcher::Matchers(vec![matcher.parse().unwrap()]),
            by: "ann".to_owned(),
            reason: "known".to_owned(),
            made_at: timestamp(self.now_ms),
            starts_at: timestamp(BEGIN + from * 1000),
            ends_at: timestamp(BEGIN + to * 1000),
        };
        let body = Bytes::from(serde_json::to_vec(&silence).unwrap());
        self.input(Some(&format!("silence.{id}")), &body);
        self
    }

    pub(super) fn input(&mut self, key: Option<&str>, body: &Bytes) {
        self.step(|alert, now_ms, out| {
            let (stream, subject) = ("incidents", "incident");
            let input = Input {
                stream,
                seq: 1,
                subject,
                key,
                at_ms: now_ms,
                now_ms,
                envelope: None,
                headers: crate::HeaderLookup::none(),
                body,
            };
            alert.apply(&input, out).unwrap();
        });
    }

    fn step(&mut self, step: impl FnOnce(&mut Alert, u64, &mut Vec<Emission>)) {
        let (mut out, before) = (Vec::new(), self.alert.dirty_len());
        step(&mut self.alert, self.now_ms, &mut out);
        let changed = self.alert.dirty_len() - before;
        assert!(changed <= KEYS_PER_STEP_MAX, "a step changed {changed} keys");
        for emission in &out {
            let told: Notification = serde_json::from_slice(&emission.body).unwrap();
            assert_eq!((&told.notification_id, &told.channel), (&emission.id, &emission.route));
            assert!(
                self.ids.insert(emission.id.clone()),
                "two notifications of the id {}",
                emission.id
            );
            self.told.push(told);
        }
    }

    /// Writes the keys that changed, as the engine does.
    pub(super) fn checkpoint(&mut self) -> usize {
        let taken = self.alert.take_dirty();
        assert_eq!(self.alert.dirty_len(), 0);
        for (key, value) in &taken {
            assert!(key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c)), "{key}");
            match value {
                Some(value) => self.stored.insert(key.clone(), value.clone()),
                None => self.stored.remove(key),
            };
        }
        taken.len()
    }

    /// Hands the stage to another worker, with these options, after a checkpoint.
    pub(super) fn restart_with(&mut self, options: Value, world: &Channels) -> &mut Self {
        self.checkpoint();
        self.options = options;
        self.takes_over(world)
    }

    /// Hands the stage to another worker, from the last checkpoint.
    pub(super) fn takes_over(&mut self, world: &Channels) -> &mut Self {
        self.alert = Alert::build(&self.options, world).unwrap();
        self.alert.explain();
        for (key, value) in &self.stored {
            self.alert.restore(key, value).unwrap();
        }
        self
    }

    pub(super) fn restart(&mut self) -> &mut Self {
        self.restart_with(self.options.clone(), &channels())
    }

    /// Returns the notifications since the last call, a line each.
    pub(super) fn shown(&mut self) -> String {
        let line = |n: &Notification| {
            let after = u64::try_from(n.at.as_millisecond()).unwrap() - BEGIN;
            let after = Period(std::time::Duration::from_millis(after));
            let held: Vec<String> = n
                .held
                .0
                .iter()
                .map(|(hold, count)| format!(", {count} {}", hold.as_str()))
                .collect();
            format!("{after} {} {} {}{}\n", n.channel, n.why.as_str(), n.title, held.concat())
        };
        let lines = self.told[self.shown..].iter().map(line).collect();
        self.shown = self.told.len();
        lines
    }

    /// Returns the changes held back since the last call with reasons, a line each.
    pub(super) fn explained(&mut self) -> String {
        let line = |e: Explained| {
            let after = Period(std::time::Duration::from_millis(e.at_ms - BEGIN));
            format!(
                "{after} {} {} {} {}: {}\n",
                e.channel,
                e.code,
                e.event.as_str(),
                e.hold.as_str(),
                e.why
            )
        };
        self.alert.take_explained().into_iter().map(line).collect()
    }

    /// Returns the tallies of this name, by their labels.
    pub(super) fn tally(&self, name: &str) -> BTreeMap<String, u64> {
        let labels = |labels: Vec<(&str, String)>| {
            labels.into_iter().map(|(_, v)| v).collect::<Vec<_>>().join(" ")
        };
        let all = self.alert.tallies().into_iter().filter(|tally| tally.name == name);
        all.map(|tally| (labels(tally.labels), tally.value)).collect()
    }
}

/// Returns the problems of options, a line each.
pub(super) fn problems(options: Value) -> String {
    let line = |p: Problem| {
        let hint = p.hint.map(|hint| format!("\n  hint: {hint}")).unwrap_or_default();
        format!("{}: {}{hint}\n", p.at.join("."), p.message)
    };
    match Alert::build(&options, &channels()) {
        Ok(_) => String::new(),
        Err(problems) => problems.into_iter().map(line).collect(),
    }
}

/// Options with one route at the root to `log`, and these besides.
pub(super) fn options(more: Value) -> Value {
    let mut options = json!({ "channels": ["log"] });
    for (key, value) in more.as_object().unwrap() {
        options[key] = value.clone();
    }
    options
}

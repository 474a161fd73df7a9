//! Model: the state machine against a naive one, which works everything out anew from all errors.

use proptest::prelude::*;

use super::*;

const NAMES: [&str; 5] = ["ant", "bee", "cow", "dog", "eel"];
const START: u64 = 1_700_000_000_000;

/// Options that differ from case to case.
#[derive(Debug, Clone, Copy)]
struct Knobs {
    threshold: u64,
    window: u64,
    quiet: u64,
    escalate: u64,
    fingerprints_max: usize,
}

impl Knobs {
    fn options(&self) -> Value {
        json!({
            "threshold": self.threshold, "window": format!("{}ms", self.window),
            "quiet": format!("{}ms", self.quiet),
            "escalate": self.escalate, "severity": "low",
            // Holds while the worst that was said is "critical".
            "rule": [{ "reported": ["critical"], "quiet": "70ms" }],
        })
    }

    fn stage(&self, bucket: &Bucket) -> AggregateErrors {
        let mut stage = restarted(&self.options(), bucket);
        stage.fingerprints_max = self.fingerprints_max;
        stage
    }
}

/// A step of a case.
#[derive(Debug, Clone)]
enum Step {
    /// An error, stored so many milliseconds before now.
    Error { name: usize, late: u64, severity: Option<Severity> },
    /// A tick.
    Tick,
    /// An operator's action on the latest incident of a name.
    Act { name: usize, action: Action, by: &'static str },
    /// A takeover by another worker from the checkpoint.
    Restart,
    /// A crash of the worker; all since the checkpoint is done again.
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    let severity = prop_oneof![
        6 => Just(None),
        1 => Just(Some(Severity::Low)),
        1 => Just(Some(Severity::High)),
        1 => Just(Some(Severity::Critical)),
    ];
    let late = prop_oneof![4 => Just(0), 1 => 0..40_u64];
    let action = prop_oneof![Just(Action::Acknowledge), Just(Action::Resolve)];
    prop_oneof![
        20 => (0..NAMES.len(), late, severity)
            .prop_map(|(name, late, severity)| Step::Error { name, late, severity }),
        3 => Just(Step::Tick),
        2 => (0..NAMES.len(), action, prop_oneof![Just("ann"), Just("bob")])
            .prop_map(|(name, action, by)| Step::Act { name, action, by }),
        1 => Just(Step::Restart),
        1 => Just(Step::Crash),
    ]
}

fn gap() -> impl Strategy<Value = u64> {
    prop_oneof![
        4 => Just(0),
        8 => 0..20_u64,
        4 => 0..200_u64,
        2 => 0..2000_u64,
        1 => Just(31_536_000_000),
    ]
}

fn knobs() -> impl Strategy<Value = Knobs> {
    let most = prop_oneof![3 => Just(100), 1 => Just(2), 1 => Just(3)];
    (
        1..6_u64,
        prop_oneof![Just(100), Just(2000)],
        prop_oneof![Just(60), Just(1000)],
        prop_oneof![Just(0), 2..4_u64],
        most,
    )
        .prop_map(|(threshold, window, quiet, escalate, fingerprints_max)| Knobs {
            threshold,
            window,
            quiet,
            escalate,
            fingerprints_max,
        })
}

/// Fields of an emission that the model predicts too.
type News = (String, u64, Change, u64, Severity);

/// All errors of one fingerprint, and the bounds of its incident among them.
#[derive(Debug, Clone, Default)]
struct Past {
    errors: Vec<(u64, Option<Severity>)>,
    /// First error that counts: those before belong to an incident that is over, or to nothing.
    since: usize,
    generation: u64,
    /// Number of errors when the incident opened, that one included.
    open: Option<usize>,
    /// Worst severity reported.
    told: Option<Severity>,
    by: Option<&'static str>,
}

impl Past {
    fn last(&self) -> u64 {
        self.errors.iter().map(|(at, _)| *at).max().unwrap()
    }

    fn said(&self) -> Option<Severity> {
        self.errors[self.since..].iter().filter_map(|(_, severity)| *severity).max()
    }

    fn quiet(&self, knobs: &Knobs) -> u64 {
        if self.said() == Some(Severity::Critical) { 70 } else { knobs.quiet }
    }

    fn due(&self, knobs: &Knobs) -> Option<u64> {
        self.open.map(|_| self.last() + self.quiet(knobs))
    }

    /// Returns the errors of the incident: as many as the threshold, and all after them.
    fn count(&self, knobs: &Knobs) -> u64 {
        self.open.map_or(0, |at| knobs.threshold + (self.errors.len() - at) as u64)
    }

    fn severity(&self, knobs: &Knobs) -> Severity {
        let mut severity = self.said().unwrap_or(Severity::Low);
        for n in 1..=3 {
            if knobs.escalate > 0 && self.count(knobs) >= knobs.threshold * knobs.escalate.pow(n) {
                severity = severity.worse();
            }
        }
        severity.max(self.told.unwrap_or(Severity::Low))
    }

    fn add(&mut self, at: u64, severity: Option<Severity>, knobs: &Knobs) -> Option<Change> {
        if self.open.is_none()
            && !self.errors.is_empty()
            && at > self.last() + self.quiet(knobs).max(knobs.window)
        {
            self.since = self.errors.len();
        }
        self.errors.push((at, severity));
        if self.open.is_some() {
            let (count, severity) = (self.count(knobs), self.severity(knobs));
            let doubled = (1..30).any(|n| count == knobs.threshold << n);
            if self.told < Some(severity) {
                self.told = Some(severity);
                return Some(Change::Escalated);
            }
            return doubled.then_some(Change::Updated);
        }
        let mut times: Vec<u64> = self.errors[self.since..].iter().map(|(at, _)| *at).collect();
        times.sort();
        let latest: Vec<u64> = times.into_iter().rev().take(knobs.threshold as usize).collect();
        if (latest.len() as u64) < knobs.threshold
            || latest[0] - latest[latest.len() - 1] > knobs.window
        {
            return None;
        }
        self.generation += 1;
        self.open = Some(self.errors.len());
        self.told = Some(self.severity(knobs));
        Some(if self.generation == 1 { Change::Opened } else { Change::Reopened })
    }

    fn close(&mut self) {
        (self.open, self.told, self.by, self.since) = (None, None, None, self.errors.len());
    }
}

/// All fingerprints, by their digits, which sort as they do.
#[derive(Debug, Default)]
struct Model {
    past: BTreeMap<String, Past>,
    news: Vec<News>,
    errors: u64,
    forgotten: (u64, u64),
}

impl Model {
    fn tell(&mut self, print: &str, change: Change, knobs: &Knobs) {
        let past = &self.past[print];
        self.news.push((
            print.to_owned(),
            past.generation,
            change,
            past.count(knobs),
            past.severity(knobs),
        ));
    }

    fn resolve(&mut self, print: &str, knobs: &Knobs) {
        self.tell(print, Change::Resolved, knobs);
        self.past.get_mut(print).unwrap().close();
    }

    /// Resolves the incidents that are due by now, in order.
    fn tick(&mut self, now: u64, knobs: &Knobs) {
        let due =
            self.past.iter().filter_map(|(print, past)| Some((past.due(knobs)?, print.clone())));
        let mut due: Vec<_> = due.filter(|(at, _)| *at <= now).collect();
        due.sort();
        for (_, print) in due {
            self.resolve(&print, knobs);
        }
    }

    fn resolve_if_due(&mut self, print: &str, now: u64, knobs: &Knobs) {
        if self.past.get(print).and_then(|past| past.due(knobs)).is_some_and(|due| due <= now) {
            self.resolve(print, knobs);
        }
    }

    fn error(&mut self, print: &str, at: u64, severity: Option<Severity>, knobs: &Knobs) {
        self.errors += 1;
        self.resolve_if_due(print, at, knobs);
        if !self.past.contains_key(print) && self.past.len() >= knobs.fingerprints_max {
            self.tick(at, knobs);
            let idle = self.past.iter().filter(|(_, past)| past.open.is_none());
            let idle = idle.map(|(print, past)| (past.last(), print.clone())).min();
            let open = || {
                self.past
                    .iter()
                    .filter_map(|(print, past)| Some((past.due(knobs)?, print.clone())))
                    .min()
            };
            let (_, gone) = idle.or_else(open).unwrap();
            if self.past[&gone].open.is_some() {
                self.resolve(&gone, knobs);
            }
            self.forgotten.0 += 1;
            self.forgotten.1 += self.past.remove(&gone).unwrap().errors.len() as u64;
        }
        if let Some(change) =
            self.past.entry(print.to_owned()).or_default().add(at, severity, knobs)
        {
            self.tell(print, change, knobs);
        }
    }

    fn act(
        &mut self,
        print: &str,
        generation: u64,
        action: Action,
        by: &'static str,
        now: u64,
        knobs: &Knobs,
    ) {
        self.resolve_if_due(print, now, knobs);
        let Some(past) = self.past.get_mut(print) else { return };
        if past.open.is_none() || past.generation != generation {
            return;
        }
        match action {
            Action::Acknowledge if past.by != Some(by) => {
                past.by = Some(by);
                self.tell(print, Change::Acknowledged, knobs);
            }
            Action::Acknowledge => {}
            Action::Resolve => self.resolve(print, knobs),
        }
    }
}

/// A call of the state machine, to be repeated.
#[derive(Debug, Clone)]
enum Given {
    Input(u64, u64, Option<String>, Bytes),
    Tick(u64),
}

fn give(stage: &mut AggregateErrors, given: &Given, out: &mut Vec<Emission>) {
    match given {
        Given::Input(seq, at, key, body) => {
            stage.apply(&Input { seq: *seq, ..input(*at, key.as_deref(), body) }, out).unwrap();
        }
        Given::Tick(now) => stage.tick(*now, out),
    }
}

proptest! {
    #[test]
    fn it_tells_what_a_naive_model_tells(
        knobs in knobs(),
        steps in prop::collection::vec((step(), gap()), 0..250),
    ) {
        let (mut bucket, mut model) = (Bucket::new(), Model::default());
        let mut running = knobs.stage(&bucket);
        let (mut told, mut since) = (Vec::new(), (Vec::<Given>::new(), 0));
        // Before a clock is looked at, all that was stored until then is taken in.
        let (mut now, mut ticked) = (START, 0);
        let print = |name: usize| {
            crate::fingerprint::fingerprint("REDIS_CONNECTION_FAILED", "cart", NAMES[name])
        };
        for (seq, (step, gap)) in (1..).zip(steps) {
            now += gap;
            let given = match step {
                Step::Error { name, late, severity } => {
                    let (at, mut body) = (ticked.max(now - late), error(NAMES[name]));
                    body["severity"] = json!(severity);
                    model.error(&print(name), at, severity, &knobs);
                    Given::Input(seq, at, None, Bytes::from(body.to_string()))
                }
                Step::Tick => {
                    ticked = now;
                    model.tick(now, &knobs);
                    Given::Tick(now)
                }
                Step::Act { name, action, by } => {
                    let print = print(name);
                    let generation = model.past.get(&print).map_or(1, |past| past.generation);
                    model.act(&print, generation, action, by, now, &knobs);
                    let id = format!("{print}-{generation}");
                    let at = crate::incident::timestamp(now);
                    let body = json!({ "incidentId": id, "action": action, "by": by, "at": at });
                    let key = Some(format!("incident.{id}"));
                    Given::Input(seq, now, key, Bytes::from(body.to_string()))
                }
                Step::Restart => {
                    commit(&mut running, &mut bucket);
                    running = knobs.stage(&bucket);
                    prop_assert_eq!(running.dirty_len(), 0);
                    since = (Vec::new(), told.len());
                    continue;
                }
                Step::Crash => {
                    running = knobs.stage(&bucket);
                    let mut again = Vec::new();
                    since.0.iter().for_each(|given| give(&mut running, given, &mut again));
                    prop_assert_eq!(&again, &told[since.1..]);
                    // Where no clock is looked at the same is told, if later.
                    let (mut clockless, mut late) = (knobs.stage(&bucket), Vec::new());
                    let inputs = since.0.iter().filter(|g| matches!(g, Given::Input(..)));
                    inputs.for_each(|g| give(&mut clockless, g, &mut late));
                    clockless.tick(now, &mut late);
                    running.tick(now, &mut told);
                    ticked = now;
                    model.tick(now, &knobs);
                    since.0.push(Given::Tick(now));
                    let ids = |told: &[Emission]| {
                        let mut ids: Vec<String> =
                            told.iter().map(|emission| emission.id.clone()).collect();
                        ids.sort();
                        ids
                    };
                    prop_assert_eq!(ids(&late), ids(&told[since.1..]));
                    continue;
                }
            };
            give(&mut running, &given, &mut told);
            since.0.push(given);
            prop_assert!(running.cells.len() <= knobs.fingerprints_max);
            let threshold = knobs.threshold as usize;
            prop_assert!(running.cells.values().all(|cell| cell.latest_len() <= threshold));
        }
        model.tick(now + 2000, &knobs);
        running.tick(now + 2000, &mut told);
        prop_assert_eq!(running.next_timer_ms(), None);
        let incidents = read(&told);
        let news: Vec<News> = incidents
            .iter()
            .map(|i| (i.fingerprint.clone(), i.generation, i.event, i.count, i.severity))
            .collect();
        prop_assert_eq!(news, model.news);
        let totals = [
            "errors_counted_total",
            "fingerprints",
            "fingerprints_forgotten_total",
            "errors_forgotten_total",
        ]
        .map(|name| tally(&running, name, ""));
        let (fingerprints, errors) = model.forgotten;
        prop_assert_eq!(totals, [model.errors, model.past.len() as u64, fingerprints, errors]);
        let known: u64 = running.cells.values().map(|cell| cell.total).sum();
        prop_assert_eq!(known + errors, model.errors);
        // What is new adds up, and no two pieces of news have one id.
        let mut sums = BTreeMap::<&str, (u64, u64)>::new();
        for (emission, incident) in told.iter().zip(&incidents) {
            let (of, _) = emission.id.rsplit_once('.').unwrap();
            let sum = sums.entry(of).or_default();
            *sum = (sum.0 + incident.new_errors, incident.count);
        }
        prop_assert!(sums.values().all(|(new, count)| new == count));
        let mut ids: Vec<&str> = told.iter().map(|emission| emission.id.as_str()).collect();
        ids.sort_unstable();
        ids.dedup();
        prop_assert_eq!(ids.len(), told.len());
    }
}

//! Tests of the breaker: causes of an opening, waits, and its decisions against a naive model.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

const MS: Duration = Duration::from_millis(1);

fn down() -> Failure {
    Failure::retry(class::CONNECTION, "connection refused")
}

fn at(ms: u64) -> Duration {
    MS * u32::try_from(ms).unwrap()
}

/// Returns a first attempt that took no time.
fn call(event_id: &str, began: Duration) -> Call<'_> {
    Call { event_id, attempt: 1, began }
}

/// Returns a breaker opened at 0 by the first failures of as many events.
fn opened() -> Breaker {
    let mut breaker = Breaker::new(Settings::default());
    let verdicts: Vec<Verdict> = (0..5)
        .map(|n| breaker.failed(Duration::ZERO, call(&format!("e{n}"), Duration::ZERO), &down()))
        .collect();
    assert_eq!(verdicts[..4], [Verdict::Spent; 4]);
    assert_eq!((verdicts[4], breaker.state()), (Verdict::Opened, State::Open));
    breaker
}

#[test]
fn an_outage_is_what_says_nothing_of_the_event() {
    for (failure, outage) in [
        (Failure::retry(class::TIMEOUT, ""), true),
        (Failure::retry(class::CONNECTION, ""), true),
        (Failure::retry(class::HTTP_SERVER, ""), true),
        (Failure::retry(class::RATE_LIMITED, "").after(MS), true),
        (Failure::defer("Maintenance", ""), true),
        (Failure::retry(class::HANDLER, ""), false),
        (Failure::retry("Flaky", ""), false),
        (Failure::reject(class::CONNECTION, ""), false),
    ] {
        assert_eq!(is_outage(&failure), outage, "{failure:?}");
    }
}

#[test]
fn a_success_between_failures_keeps_it_closed() {
    let mut breaker = Breaker::new(Settings::default());
    for n in 0..1000 {
        assert_eq!(
            breaker.failed(at(n * 9), call(&n.to_string(), at(n * 9)), &down()),
            Verdict::Spent
        );
        (0..2).for_each(|_| assert!(!breaker.succeeded(at(n * 9), at(n * 9))));
    }
}

#[test]
fn each_failed_probe_doubles_the_wait_and_a_success_closes_it() {
    let mut breaker = opened();
    let mut now = Duration::ZERO;
    let mut waits = vec![breaker.wait().as_secs()];
    for _ in 0..5 {
        assert!(!breaker.tick(now + breaker.wait() - MS), "too early");
        now += breaker.wait();
        assert_eq!(breaker.failed(now, call("late", now), &down()), Verdict::Deferred);
        assert!(breaker.tick(now) && breaker.state() == State::Probe);
        assert_eq!(
            breaker.failed(now, call("late", now - MS), &down()),
            Verdict::Deferred,
            "it began before"
        );
        assert!(!breaker.succeeded(now, now - MS), "it began before");
        assert_eq!(breaker.failed(now, call("probe", now), &down()), Verdict::Reopened);
        waits.push(breaker.wait().as_secs());
    }
    assert_eq!(waits, [1, 2, 4, 8, 15, 15]);
    assert_eq!(breaker.opens(), 6);
    assert!(!breaker.succeeded(now, now), "a call that began before it opened closes nothing");
    now += breaker.wait();
    assert!(breaker.tick(now) && breaker.succeeded(now, now));
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn what_has_failed_before_and_what_others_overtook_opens_nothing() {
    let mut breaker = Breaker::new(Settings::default());
    breaker.succeeded(at(50), at(0));
    for n in 0..100 {
        let id = n.to_string();
        let overtaken = Call { event_id: &id, attempt: 1, began: at(49) };
        assert_eq!(breaker.failed(at(1000), overtaken, &down()), Verdict::Spent);
        if n == 10 {
            // The rate of a window looks at all first attempts.
            break;
        }
    }
    for n in 0..1000 {
        let id = n.to_string();
        let again = Call { event_id: &id, attempt: 2, began: at(2000 + n) };
        assert_eq!(breaker.failed(at(2000 + n), again, &down()), Verdict::Spent);
    }
    assert_eq!(breaker.state(), State::Closed);
}

#[test]
fn opening_again_soon_is_the_same_row_and_later_is_a_new_one() {
    for (calm_ms, wait_s) in [(9_999, 2), (10_000, 1)] {
        let mut breaker = opened();
        assert!(breaker.tick(at(1000)) && breaker.succeeded(at(1000), at(1000)));
        (0..5).for_each(|n| {
            _ = breaker.failed(
                at(1000 + calm_ms),
                call(&n.to_string(), at(1000 + calm_ms)),
                &down(),
            )
        });
        assert_eq!((breaker.state(), breaker.wait().as_secs()), (State::Open, wait_s));
    }
}

#[test]
fn a_rate_limit_says_how_long_it_is_open() {
    for (asked_s, wait_s) in [(0, 1), (40, 40), (86_400, 300)] {
        let mut breaker = Breaker::new(Settings::default());
        let limited =
            Failure::retry(class::RATE_LIMITED, "429").after(Duration::from_secs(asked_s));
        (0..5).for_each(|n| {
            _ = breaker.failed(Duration::ZERO, call(&n.to_string(), Duration::ZERO), &limited)
        });
        assert_eq!(breaker.wait().as_secs(), wait_s);
    }
}

#[test]
fn a_handler_that_only_refuses_is_up() {
    let mut breaker = opened();
    assert!(breaker.tick(at(1000)));
    let refused = Failure::reject(class::HTTP_CLIENT, "400");
    let verdicts: Vec<Verdict> =
        (0..5).map(|_| breaker.failed(at(1000), call("e", at(1000)), &refused)).collect();
    assert_eq!(verdicts[..4], [Verdict::Spent; 4]);
    assert_eq!((verdicts[4], breaker.state()), (Verdict::Closed, State::Closed));
}

#[test]
fn what_another_worker_found_holds_from_when_it_is_seen() {
    let mut breaker = Breaker::new(Settings::default());
    breaker.adopt_open(at(500), at(4000), 3);
    assert_eq!(
        (breaker.state(), breaker.probe_at(), breaker.opens()),
        (State::Open, Some(at(4500)), 3)
    );
    assert_eq!(breaker.failed(at(600), call("in hand", at(400)), &down()), Verdict::Deferred);
    assert!(breaker.tick(at(4500)));
    assert_eq!(
        (breaker.failed(at(4500), call("probe", at(4500)), &down()), breaker.wait()),
        (Verdict::Reopened, at(8000))
    );
    breaker.adopt_closed(at(4600));
    assert_eq!((breaker.state(), breaker.probe_at()), (State::Closed, None));
    breaker.adopt_open(at(4700), Duration::MAX, u32::MAX);
    assert!(
        breaker.wait() <= ASKED_WAIT_MAX,
        "a record that nobody sane wrote stops nobody for ever"
    );
}

/// A step in the life of a breaker.
#[derive(Debug, Clone)]
enum Step {
    Succeeded { took_ms: u64 },
    Failed { event: u8, attempt: u32, took_ms: u64, failure: Failure },
    Tick,
    AdoptOpen { wait_ms: u64, opens: u32 },
    AdoptClosed,
}

fn steps() -> impl Strategy<Value = Vec<(u64, Step)>> {
    let failure = prop_oneof![
        4 => Just(down()),
        1 => Just(Failure::defer("Maintenance", "")),
        1 => (0..1000_u64)
            .prop_map(|s| Failure::retry(class::RATE_LIMITED, "").after(Duration::from_secs(s))),
        1 => Just(Failure::retry(class::HANDLER, "")),
        1 => Just(Failure::reject(class::HTTP_CLIENT, "")),
    ];
    let step = prop_oneof![
        4 => (0..600_u64).prop_map(|took_ms| Step::Succeeded { took_ms }),
        8 => (0..6_u8, prop_oneof![3 => Just(1), 1 => 2..9_u32], 0..600_u64, failure)
            .prop_map(|(event, attempt, took_ms, failure)| {
                Step::Failed { event, attempt, took_ms, failure }
            }),
        2 => Just(Step::Tick),
        1 => (0..20_000_u64, 0..9_u32)
            .prop_map(|(wait_ms, opens)| Step::AdoptOpen { wait_ms, opens }),
        1 => Just(Step::AdoptClosed),
    ];
    proptest::collection::vec((0..400_u64, step), 0..300)
}

fn settings() -> impl Strategy<Value = Settings> {
    (1..7_u32, 0.1..=1.0_f64, 1..30_u32, 1..5000_u64, 1..2000_u64, 0..20_000_u64).prop_map(
        |(failures, rate, calls, window, wait, more)| Settings {
            failures,
            rate,
            calls,
            window: Period(at(window)),
            wait: Period(at(wait)),
            max_wait: Period(at(wait + more)),
        },
    )
}

/// Calls since it last opened or closed: end, begin and outcome of each.
struct Model {
    settings: Settings,
    state: State,
    calls: Vec<(Duration, Duration, Ended)>,
    /// Time of the last success, over all openings.
    succeeded_at: Option<Duration>,
    since: Duration,
    answers: u32,
    until: Duration,
    opens: u32,
    closed_at: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    Succeeded,
    Answered,
    Outage(u8),
}

impl Model {
    fn turn(&mut self, state: State, now: Duration) {
        (self.state, self.answers, self.since) = (state, 0, now);
        self.calls.clear();
        if state == State::Closed {
            self.closed_at = Some(now);
        }
    }

    fn opens_now(&self, now: Duration) -> bool {
        let outages = |calls: &[(Duration, Duration, Ended)]| -> Vec<u8> {
            calls
                .iter()
                .filter_map(
                    |(.., ended)| {
                        if let Ended::Outage(event) = ended { Some(*event) } else { None }
                    },
                )
                .collect()
        };
        let last = self
            .calls
            .iter()
            .rposition(|(.., ended)| *ended == Ended::Succeeded)
            .map_or(0, |at| at + 1);
        let alone: Vec<_> = self.calls[last..]
            .iter()
            .copied()
            .filter(|(_, began, _)| self.succeeded_at.is_none_or(|at| at <= *began))
            .collect();
        let row: BTreeSet<u8> = outages(&alone).into_iter().collect();
        let part = |time: Duration| time.as_nanos() / (self.settings.window.0 / 10).as_nanos();
        let lately: Vec<_> =
            self.calls.iter().copied().filter(|(time, ..)| part(*time) + 10 > part(now)).collect();
        let failed = outages(&lately);
        let rate = failed.len() as f64 >= self.settings.rate * lately.len() as f64
            && lately.len() >= self.settings.calls as usize
            && failed.iter().collect::<BTreeSet<_>>().len() > 1;
        row.len() >= self.settings.failures as usize || rate
    }

    fn open(&mut self, now: Duration, failure: &Failure) {
        self.opens += 1;
        let doubled = (1..self.opens)
            .fold(self.settings.wait.0, |wait, _| (wait * 2).min(self.settings.max_wait.0));
        let wait = match failure.disposition {
            Disposition::Retry { after: Some(asked) } => {
                asked.max(self.settings.wait.0).min(ASKED_WAIT_MAX)
            }
            Disposition::Retry { after: None }
            | Disposition::Defer { .. }
            | Disposition::Reject => doubled,
        };
        self.until = now + wait;
        self.turn(State::Open, now);
    }

    fn failed(
        &mut self,
        now: Duration,
        began: Duration,
        event: u8,
        attempt: u32,
        failure: &Failure,
    ) -> Verdict {
        let outage = is_outage(failure);
        match self.state {
            State::Closed if attempt > 1 => Verdict::Spent,
            State::Closed => {
                self.calls.push((
                    now,
                    began,
                    if outage { Ended::Outage(event) } else { Ended::Answered },
                ));
                if !outage || !self.opens_now(now) {
                    return Verdict::Spent;
                }
                if self.closed_at.is_none_or(|closed| now - closed >= self.settings.window.0) {
                    self.opens = 0;
                }
                self.open(now, failure);
                Verdict::Opened
            }
            State::Open => {
                if outage {
                    Verdict::Deferred
                } else {
                    Verdict::Spent
                }
            }
            State::Probe if outage && began < self.since => Verdict::Deferred,
            State::Probe if outage => {
                self.open(now, failure);
                Verdict::Reopened
            }
            State::Probe => {
                self.answers += 1;
                if self.answers < self.settings.failures {
                    return Verdict::Spent;
                }
                self.turn(State::Closed, now);
                Verdict::Closed
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    #[test]
    fn it_decides_as_a_model_that_remembers_every_call(settings in settings(), steps in steps()) {
        let mut breaker = Breaker::new(settings.clone());
        let longest = settings.max_wait.0.max(ASKED_WAIT_MAX);
        let mut now = Duration::ZERO;
        let mut model = Model {
            settings,
            state: State::Closed,
            calls: vec![],
            succeeded_at: None,
            since: now,
            answers: 0,
            until: now,
            opens: 0,
            closed_at: None,
        };
        for (later, step) in steps {
            now += at(later);
            match step {
                Step::Succeeded { took_ms } => {
                    let began = now.saturating_sub(at(took_ms));
                    let closes = model.state == State::Probe && began >= model.since;
                    prop_assert_eq!(breaker.succeeded(now, began), closes);
                    match model.state {
                        State::Closed => {
                            model.succeeded_at = Some(now);
                            model.calls.push((now, began, Ended::Succeeded));
                        }
                        State::Probe if closes => model.turn(State::Closed, now),
                        State::Open | State::Probe => {}
                    }
                }
                Step::Failed { event, attempt, took_ms, failure } => {
                    let began = now.saturating_sub(at(took_ms));
                    let event_id = &event.to_string();
                    let verdict = breaker.failed(now, Call { event_id, attempt, began }, &failure);
                    prop_assert_eq!(verdict, model.failed(now, began, event, attempt, &failure));
                }
                Step::Tick => {
                    let due = model.state == State::Open && now >= model.until;
                    prop_assert_eq!(breaker.tick(now), due);
                    if due {
                        model.turn(State::Probe, now);
                    }
                }
                Step::AdoptOpen { wait_ms, opens } => {
                    breaker.adopt_open(now, at(wait_ms), opens);
                    (model.opens, model.until) = (opens.max(1), now + at(wait_ms));
                    model.turn(State::Open, now);
                }
                Step::AdoptClosed => {
                    breaker.adopt_closed(now);
                    if model.state != State::Closed {
                        model.turn(State::Closed, now);
                    }
                }
            }
            prop_assert_eq!(breaker.state(), model.state);
            prop_assert_eq!(breaker.opens(), model.opens);
            let until = (model.state == State::Open).then_some(model.until);
            prop_assert_eq!(breaker.probe_at(), until);
            prop_assert!(breaker.wait() <= longest);
            prop_assert!(breaker.streak.len() <= breaker.settings.failures as usize);
        }
    }

    #[test]
    fn one_event_alone_never_opens_it(
        settings in settings()
            .prop_filter("one failure opens it", |settings| settings.failures > 1),
        waits in proptest::collection::vec(0..300_u64, 0..500),
    ) {
        let mut breaker = Breaker::new(settings);
        let mut now = Duration::ZERO;
        for wait in waits {
            now += at(wait);
            prop_assert_eq!(breaker.failed(now, call("poison", now), &down()), Verdict::Spent);
        }
    }
}

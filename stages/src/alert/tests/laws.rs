//! Laws: no minute holds more than the rate, every change is sent once or counted once, and each
//! channel is told each change as soon as nothing holds it back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::json;

use crate::{
    Reduce as _,
    alert::testing::{Channels, Scene, incident},
    incident::{Change, Severity},
    notification::{Hold, Why},
};

/// A step in the life of a stage.
#[derive(Debug, Clone)]
enum Step {
    Incident(u64, Change, Severity),
    Silence(u64, u64, u64),
    Unsilence(u64),
    Restart,
    Checkpoint,
}

fn step() -> impl Strategy<Value = Step> {
    let severity = prop::sample::select(vec![
        Severity::Low,
        Severity::Medium,
        Severity::High,
        Severity::High,
        Severity::Critical,
    ]);
    prop_oneof![
        20 => (0..14_u64, prop::sample::select(Change::ALL.to_vec()), severity)
            .prop_map(|(n, change, severity)| Step::Incident(n, change, severity)),
        2 => (0..3_u64, 0..500_u64, 1..1000_u64)
            .prop_map(|(id, from, to)| Step::Silence(id, from, from + to)),
        1 => (0..3_u64).prop_map(Step::Unsilence),
        1 => Just(Step::Restart),
        1 => Just(Step::Checkpoint),
    ]
}

fn world() -> Channels {
    Channels(vec![
        ("fast", 6000, true),
        ("log", 10, true),
        ("ops", 3, true),
        ("quiet", 24, false),
        ("boss", 4, true),
    ])
}

/// Options that route by code, so that the channels of an incident do not depend on its changes.
fn options() -> serde_json::Value {
    json!({
        "channels": ["log", "ops"], "group_interval": "30s", "repeat_interval": "5m",
        "route": [
            {
                "code": ["CODE_1", "CODE_2"], "channels": ["fast", "quiet"],
                "group_by": ["service"], "group_wait": "10s", "continue": true,
            },
            {
                "code": ["CODE_2", "CODE_3", "CODE_4"], "mute": ["night"],
                "channels": ["quiet", "ops"],
            },
            {
                "code": ["CODE_5", "CODE_6", "CODE_7"], "group_by": ["service"],
                "escalate": [{ "after": "1m", "channels": ["boss"] }],
            },
            { "code": ["CODE_8"], "channels": [] },
        ],
        "inhibit": [{
            "source": ["severity=critical"], "target": ["severity!=critical"],
            "equal": ["service"],
        }],
        "time": [{ "name": "night", "times": ["00:05-00:10", "00:15-00:20"] }],
    })
}

/// Returns the channels that each event reaches, as the options above say.
fn reaches(n: u64) -> &'static [&'static str] {
    match n {
        1 => &["fast", "quiet"],
        2 => &["fast", "quiet", "quiet", "ops"],
        3 | 4 => &["quiet", "ops"],
        8 => &[""],
        _ => &["log", "ops"],
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn no_minute_holds_more_than_the_rate_and_every_change_is_told_or_counted_once(
        steps in prop::collection::vec(
            (step(), prop_oneof![0..100_u64, 0..20_000_u64, 0..200_000_u64]),
            1..200,
        ),
    ) {
        let mut scene = Scene::with(options(), &world());
        let mut reached: BTreeMap<&str, u64> = BTreeMap::new();
        let mut explained = 0;
        for (step, wait) in steps {
            scene.until_ms(scene.now_ms + wait);
            match step {
                Step::Incident(n, change, severity) => {
                    let mut event = incident(n, change, severity, 5);
                    event.labels.insert("service".to_owned(), format!("s{}", n % 3));
                    scene.incident(&event);
                    if change != Change::Acknowledged {
                        for channel in reaches(n) {
                            *reached.entry(channel).or_default() += 1;
                        }
                    }
                }
                Step::Silence(id, from, to) => {
                    scene.silence(&format!("s{id}"), &format!("code=~\"CODE_1?{id}\""), from, to);
                }
                Step::Unsilence(id) => {
                    scene.input(Some(&format!("silence.s{id}")), &bytes::Bytes::new());
                }
                Step::Restart => {
                    explained += scene.alert.take_explained().len() as u64;
                    scene.restart_with(options(), &world());
                }
                Step::Checkpoint => {
                    scene.checkpoint();
                }
            }
        }
        // In the end everything is over, and every silence and every night too.
        for n in 0..14 {
            scene.incident(&incident(n, Change::Resolved, Severity::Low, 5));
            reaches(n).iter().for_each(|channel| *reached.entry(channel).or_default() += 1);
        }
        scene.until_ms(scene.now_ms + 100_000_000);
        prop_assert_eq!(scene.alert.next_timer_ms(), None);
        explained += scene.alert.take_explained().len() as u64;

        let held = scene.tally("notifications_held_total");
        prop_assert_eq!(held.values().sum::<u64>(), explained);
        let count = |channel: &str, hold: Hold| {
            held.get(&format!("{channel} {}", hold.as_str())).copied().unwrap_or(0)
        };
        for (channel, rate, _) in world().0 {
            let sent: Vec<_> = scene.told.iter().filter(|n| n.channel == channel).collect();
            let times: Vec<_> = sent.iter().map(|n| n.at.as_millisecond()).collect();
            for from in &times {
                let within = times.iter().filter(|at| (0..60_000).contains(&(*at - from))).count();
                prop_assert!(within <= rate as usize, "{} in a minute of {}", within, channel);
            }
            let news = |digests: bool| {
                let some = sent.iter().filter(|n| (n.why == Why::Digest) == digests);
                some.map(|n| n.news).sum::<u64>()
            };
            prop_assert_eq!(news(true), count(channel, Hold::Digested));
            prop_assert_eq!(sent.len() as u64, scene.tally("notifications_total")[channel]);
            let others = Hold::ALL.iter().filter(|hold| **hold != Hold::Digested);
            let others: u64 = others.map(|hold| count(channel, *hold)).sum();
            if channel != "boss" {
                let due = reached.get(channel).copied().unwrap_or(0);
                prop_assert_eq!(news(false) + news(true) + others, due, "{}", channel);
            }
            // What a notification says was held back was counted, and nothing is said twice.
            let said: u64 = sent.iter().map(|n| n.held.total()).sum();
            prop_assert!(said <= others, "{} said, {} counted", said, others);
        }
        prop_assert_eq!(count("", Hold::Unwanted), reached.get("").copied().unwrap_or(0));
    }
}

/// Options in which every channel is told all that goes on, in groups of several.
fn told_options() -> serde_json::Value {
    json!({
        "channels": ["log", "quiet"], "group_interval": "30s", "repeat_interval": "300h",
        "route": [
            { "code": ["CODE_1", "CODE_2", "CODE_3"], "group_by": ["service"], "group_wait": "10s",
              "mute": ["night"] },
            { "code": ["CODE_4", "CODE_5", "CODE_6"], "group_by": ["service"],
              "channels": ["ops", "quiet"] },
        ],
        "inhibit": [{
            "source": ["code=CODE_9"], "target": ["code=~CODE_[1-5]"], "equal": ["service"],
        }],
        "time": [{ "name": "night", "times": ["00:05-00:10", "00:15-00:20"] }],
    })
}

/// Incident as the last message that contains it has it, by channel and number.
type LastTold = BTreeMap<(String, String), BTreeMap<String, (Severity, u64, bool)>>;

/// Checks that each message says something that the one before to its channel did not; returns the
/// last of each group.
fn last_told(scene: &Scene) -> Result<LastTold, TestCaseError> {
    let mut last = LastTold::new();
    for told in &scene.told {
        let now: BTreeMap<_, _> = told
            .incidents()
            .iter()
            .map(|i| (i.incident_id.clone(), (i.severity, i.count, i.is_over())))
            .collect();
        let before = last.insert((told.channel.clone(), told.group.clone()), now.clone());
        let before = before.unwrap_or_default();
        prop_assert!(now.iter().any(|(id, as_it_is)| before.get(id) != Some(as_it_is)), "{told:?}");
    }
    Ok(last)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn each_change_is_told_once_to_each_channel_as_soon_as_nothing_holds_it_back(
        steps in prop::collection::vec(
            (step(), prop_oneof![0..100_u64, 0..20_000_u64, 0..200_000_u64]),
            1..120,
        ),
    ) {
        let world = Channels(vec![
            ("log", 6000, true), ("ops", 6000, true), ("quiet", 6000, false),
        ]);
        let mut scene = Scene::with(told_options(), &world);
        let mut on = BTreeMap::new();
        for (count, (step, wait)) in steps.into_iter().enumerate() {
            scene.until_ms(scene.now_ms + wait);
            match step {
                // An incident is worse only by escalating, and nobody acknowledges it.
                Step::Incident(n, change, severity) if n < 10 => {
                    let severity = match change {
                        Change::Acknowledged => continue,
                        Change::Escalated | Change::Opened | Change::Reopened => severity,
                        Change::Updated | Change::Resolved => {
                            let Some((before, _)) = on.get(&n) else { continue };
                            *before
                        }
                    };
                    let count = count as u64 + 1;
                    scene.event(n, change, severity, count);
                    if change == Change::Resolved {
                        on.remove(&n);
                    } else {
                        on.insert(n, (severity, count));
                    }
                }
                Step::Silence(id, from, to) => {
                    let codes = format!("code=~\"CODE_{id}|CODE_4\"");
                    scene.silence(&format!("s{id}"), &codes, from, to);
                }
                Step::Unsilence(id) => {
                    scene.input(Some(&format!("silence.s{id}")), &bytes::Bytes::new());
                }
                Step::Restart => {
                    scene.restart_with(told_options(), &world);
                }
                Step::Incident(..) | Step::Checkpoint => {
                    scene.checkpoint();
                }
            }
        }
        // No silence holds any more, it is no night, and nothing explains anything else.
        for id in 0..3 {
            scene.input(Some(&format!("silence.s{id}")), &bytes::Bytes::new());
        }
        if let Some((severity, count)) = on.remove(&9) {
            scene.event(9, Change::Resolved, severity, count);
        }
        scene.until_ms(scene.now_ms.max(crate::alert::testing::BEGIN + 1_200_000) + 61_000);
        let (last, messages) = (last_told(&scene)?, scene.told.len());
        for n in 0..10 {
            let channels = if (4..7).contains(&n) { ["ops", "quiet"] } else { ["log", "quiet"] };
            let id = format!("{n:016x}-1");
            for channel in channels {
                let known: Vec<_> = last
                    .iter()
                    .filter(|((name, _), _)| name == channel)
                    .filter_map(|(_, told)| told.get(&id).filter(|(.., over)| !over))
                    .collect();
                match on.get(&n) {
                    Some((severity, count)) => {
                        let is = (*severity, *count, false);
                        prop_assert!(known.contains(&&is), "{} {}: {:?}", channel, n, known);
                    }
                    None => {
                        let quiet = channel == "quiet";
                        prop_assert!(quiet || known.is_empty(), "{} {}", channel, n);
                    }
                }
            }
        }
        scene.until_ms(scene.now_ms + 3_600_000);
        prop_assert_eq!(scene.told.len(), messages, "something is told twice");
    }
}

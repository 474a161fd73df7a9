//! Tests of routes: the channels and groups of incidents, and the problems of options.

use std::collections::BTreeMap;

use crate::{
    alert::{
        Alert, KIND,
        testing::{Scene, channels, incident, options, problems},
    },
    incident::{Change::*, Incident, Severity, Severity::*},
};
use expect_test::expect;
use serde_json::{Value, json};

fn tree() -> Value {
    json!({
        "channels": ["log"],
        "group_interval": "10m",
        "escalate": [{ "after": "1h", "channels": ["boss"] }],
        "route": [
            {
                "matchers": ["severity=critical"], "channels": ["ops"], "continue": true,
                "mute": ["night"],
                "route": [
                    { "code": ["CODE_1*"], "channels": ["boss"], "escalate": [] },
                    { "matchers": ["code=CODE_2"] },
                ],
            },
            {
                "matchers": ["code=~\"CODE_(2|3)\"", "service!=shop"], "channels": ["quiet"],
                "group_wait": "10s",
            },
            { "severity": ["low"], "channels": [] },
            { "code": ["CODE_*"], "severity": ["medium", "high"], "group_by": ["..."] },
        ],
        "time": [{ "name": "night", "times": ["22:00-06:00"] }],
    })
}

fn taken(alert: &Alert, n: u64, severity: Severity) -> String {
    let steps = alert.routes_of(&incident(n, Opened, severity, 1).labels);
    let line = |step: &crate::alert::Visited| {
        let takes = match (step.matched, step.takes) {
            (false, _) => "no".to_owned(),
            (true, false) => "yes".to_owned(),
            (true, true) => format!("takes it: {}", step.terms.channels.join(",")),
        };
        format!("{} {{{}}} {takes}\n", step.path, step.matchers)
    };
    steps.iter().map(line).collect()
}

#[test]
fn the_first_route_that_fits_takes_an_incident_and_continue_looks_further() {
    let alert = Alert::build(&tree(), &channels()).unwrap();
    expect![[r#"
        root {} yes
        route 0 {severity="critical"} yes
        route 0 > route 0 {code=~"CODE_1.*"} takes it: boss
        route 1 {code=~"CODE_(2|3)" service!="shop"} no
        route 2 {severity=~"low"} no
        route 3 {severity=~"medium|high" code=~"CODE_.*"} no
    "#]]
    .assert_eq(&taken(&alert, 17, Critical));
    expect![[r#"
        root {} yes
        route 0 {severity="critical"} yes
        route 0 > route 0 {code=~"CODE_1.*"} no
        route 0 > route 1 {code="CODE_2"} takes it: ops
        route 1 {code=~"CODE_(2|3)" service!="shop"} takes it: quiet
    "#]]
    .assert_eq(&taken(&alert, 2, Critical));
    expect![[r#"
        root {} yes
        route 0 {severity="critical"} no
        route 1 {code=~"CODE_(2|3)" service!="shop"} no
        route 2 {severity=~"low"} no
        route 3 {severity=~"medium|high" code=~"CODE_.*"} takes it: log
    "#]]
    .assert_eq(&taken(&alert, 4, High));
    let steps = alert.routes_of(&incident(2, Opened, Critical, 1).labels);
    expect![[r#"
        Terms {
            channels: [
                "ops",
            ],
            group_by: [
                "fingerprint",
            ],
            group_wait: 0s,
            group_interval: 10m,
            repeat_interval: 4h,
            mute: [],
            active: [],
            escalate: [
                (
                    1h,
                    [
                        "boss",
                    ],
                ),
            ],
        }
    "#]]
    .assert_debug_eq(&steps[3].terms);
    let escalations: Vec<_> =
        steps.iter().map(|step| (step.terms.escalate.len(), step.terms.mute.len())).collect();
    assert_eq!(escalations, [(1, 0), (1, 1), (0, 0), (1, 0), (1, 0)]);
}

#[test]
fn an_incident_is_told_by_every_route_that_takes_it() {
    let mut scene = Scene::new(tree());
    scene.event(2, Opened, Critical, 5).event(9, Opened, Low, 5).event(4, Opened, High, 5);
    scene.until(60);
    expect![[r#"
        0s ops opened [critical] CODE_2 opened: 5 errors in cart
        0s log opened [high] CODE_4 opened: 5 errors in cart
        10s quiet opened [critical] CODE_2 opened: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    expect![[r#"
        0s  CODE_9 opened unwanted: route 2 has no channel
    "#]]
    .assert_eq(&scene.explained());
    assert_eq!(
        scene.tally("notifications_held_total"),
        BTreeMap::from([(" unwanted".to_owned(), 1)])
    );
}

#[test]
fn the_channels_of_an_incident_go_before_those_of_its_routes() {
    let mut scene =
        Scene::new(options(json!({ "route": [{ "code": ["CODE_3"], "channels": ["boss"] }] })));
    let named = |n, names: &[&str]| Incident {
        channels: names.iter().map(|name| (*name).to_owned()).collect(),
        ..incident(n, Opened, High, n)
    };
    scene
        .incident(&named(3, &["ops", "log", "ops"]))
        .incident(&named(4, &["gone", "quiet"]))
        .incident(&named(5, &["gone"]));
    expect![[r#"
        0s log opened [high] CODE_3 opened: 3 errors in cart
        0s ops opened [high] CODE_3 opened: 3 errors in cart
        0s quiet opened [high] CODE_4 opened: 4 errors in cart
        0s log opened [high] CODE_5 opened: 5 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn an_incident_that_becomes_worse_goes_by_its_new_route_under_its_name() {
    let mut scene = Scene::new(options(
        json!({ "route": [{ "severity": ["critical"], "channels": ["ops"] }] }),
    ));
    scene.event(1, Opened, High, 5);
    scene.until(30).event(1, Escalated, Critical, 10);
    scene.until(60).event(1, Resolved, Critical, 10).until(600);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        30s log escalated [critical] CODE_1 escalated: 10 errors in cart
        30s ops escalated [critical] CODE_1 escalated: 10 errors in cart
        5m30s log resolved [critical] CODE_1 resolved: 10 errors in cart
        5m30s ops resolved [critical] CODE_1 resolved: 10 errors in cart
    "#]]
    .assert_eq(&scene.shown());
    let groups: std::collections::BTreeSet<_> =
        scene.told.iter().map(|n| n.group.clone()).collect();
    assert_eq!(groups.len(), 1);
    // In a group with others, the old one tells its end too.
    let mut scene = Scene::new(options(json!({
        "group_by": ["service"], "route": [{ "severity": ["critical"], "channels": ["ops"] }],
    })));
    scene.event(1, Opened, High, 5).event(2, Opened, High, 5);
    scene.until(301).event(1, Escalated, Critical, 10);
    scene.until(602).event(1, Resolved, Critical, 10).until(1200);
    expect![[r#"
        0s log opened [high] CODE_1 opened: 5 errors in cart
        5m log opened [high] 2 incidents firing (service=cart): 10 errors
        5m1s ops opened [critical] CODE_1 opened: 10 errors in cart
        10m2s log updated [high] 1 incident firing, 1 resolved (service=cart): 15 errors
        10m2s ops resolved [critical] CODE_1 resolved: 10 errors in cart
    "#]]
    .assert_eq(&scene.shown());
}

#[test]
fn everything_that_is_wrong_is_said_with_its_place() {
    let bad = json!({
        "channels": ["lgo"], "group_by": ["1st", "..."], "group_interval": "100ms",
        "mute": ["nigth"],
        "escalate": [{ "after": "15m", "channels": ["boss"] }, { "after": "10m", "channels": [] }],
        "route": [
            { "channels": ["ops", "pager"], "repeat_interval": "1s", "group_interval": "5m" },
            { "route": [{ "matchers": ["severity", "code=~("], "active": ["day"] }, {}] },
        ],
        "inhibit": [{ "source": ["x"], "target": [], "equal": ["a b"] }],
        "time": [{ "name": "night", "times": ["22-6"] }],
    });
    expect![[r#"
        time.0.times.0: "22-6" is no range of times
          hint: write it like 22:00-06:00
        channels.0: channel "lgo" is not declared
          hint: declare it with [channel.lgo]
        group_by.0: "1st" is not the name of a label
          hint: such as code, service, severity, stage or fingerprint
        group_by: "..." is every label, and stands alone
        group_interval: 100ms is too short: at least 1s
          hint: a tiny interval tells every single change; the default is 5m
        mute.0: no time is named "nigth"
          hint: there is "night"
        escalate.1.channels: a step of an escalation needs a channel
        escalate.1.after: 10m is not later than what comes before it
          hint: steps go by the time since the group was first told
        route.0.channels.1: channel "pager" is not declared
          hint: declare it with [channel.pager]
        route.0.repeat_interval: 1s is shorter than the group_interval of 5m
          hint: nothing is repeated before its group may be told again
        route.1.route.0.matchers.0: "severity" is no matcher: it has no =, !=, =~ or !~; write it like code=X, severity!=low or 'code=~PAY.*'
        route.1.route.0.matchers.1: "code=~(" is no matcher: its regular expression cannot be read (unclosed group); write it like code=X, severity!=low or 'code=~PAY.*'
        route.1.route.0.active.0: no time is named "day"
          hint: there is "night"
        inhibit.0.target: needs at least one matcher
          hint: without one, every incident would fit
        inhibit.0.equal.0: "a b" is not the name of a label
          hint: such as code, service, severity, stage or fingerprint
        inhibit.0.source.0: "x" is no matcher: it has no =, !=, =~ or !~; write it like code=X, severity!=low or 'code=~PAY.*'
    "#]].assert_eq(&problems(bad));
    let mut deep = json!({});
    (0..8).for_each(|_| deep = json!({ "route": [deep] }));
    assert_eq!(problems(deep.clone()), "");
    expect![[r#"
        route.0.route.0.route.0.route.0.route.0.route.0.route.0.route.0.route.0: routes may be nested 8 deep
    "#]]
    .assert_eq(&problems(json!({ "route": [deep] })));
    let many = |n: usize, route: Value| problems(json!({ "route": vec![route; n] }));
    assert_eq!(
        (many(200, json!({})), many(40, json!({ "continue": true }))),
        (String::new(), String::new())
    );
    expect![[r#"
        route.200: expected at most 200 routes
        route: expected at most 40 routes with continue = true
          hint: an incident would be in too many groups: put several channels on one route
    "#]]
    .assert_eq(&(many(201, json!({})) + &many(41, json!({ "continue": true }))));
    let long = json!({
        "channels": vec!["log"; 31], "escalate": [{ "after": "1m", "channels": ["log", "ops"] }],
    });
    expect![[r#"
        escalate: expected at most 32 channels, those of the route included
    "#]]
    .assert_eq(&problems(long));
    let rule = json!({ "rule": [{ "channels": ["pager"] }] });
    let crate::Build::Reduce(build) = crate::aggregate_errors::KIND.build else { panic!() };
    assert_eq!(build(&rule, &channels()).err().unwrap()[0].at, ["rule", "0", "channels", "0"]);
}

#[test]
fn the_options_are_a_schema_that_takes_routes_within_routes() {
    let schema = (KIND.options)().to_value();
    assert_eq!(
        schema["$defs"].as_object().unwrap().keys().collect::<Vec<_>>(),
        ["Route"],
        "{schema}"
    );
    let validator = jsonschema::validator_for(&schema).unwrap();
    assert!(validator.is_valid(&tree()));
    for wrong in [
        json!({ "route": [{ "route": [{ "chanels": [] }] }] }),
        json!({ "route": [{ "route": [{ "group_wait": 5 }] }] }),
        json!({ "inhibit": [{ "source": ["a=b"] }] }),
        json!({ "time": [{ "times": [] }] }),
    ] {
        assert!(!validator.is_valid(&wrong), "{wrong}");
    }
    let schema = (crate::aggregate_errors::KIND.options)().to_value();
    assert!(schema["properties"].as_object().is_some_and(|keys| keys.len() >= 4), "{schema}");
}

#[test]
fn conditions_that_can_never_hold_are_found() {
    let bad = json!({
        "group_by": ["alertname", "service"],
        "route": [
            { "matchers": ["severity=warning", "code=a}"], "route": [{ "group_by": ["team"] }] },
            { "matchers": ["severity=~\"hi.*\""], "severity": ["low"] },
            { "matchers": ["severity=high", "severity=low"] },
            { "matchers": ["{code=X,severity=low}"] },
        ],
        "inhibit": [{
            "source": ["alertname=X"], "target": ["code=Y,severity=page"], "equal": ["instance"],
        }],
    });
    expect![[r#"
        route.0.matchers.0: there is no severity "warning"
          hint: severities are low, medium, high, critical; you may mean medium
        route.0.matchers.1: "code=a}" is no matcher: a value with a brace goes into double quotes; write it like code=X, severity!=low or 'code=~PAY.*'
        route.1.severity: no severity fits severity=~"hi.*" severity=~"low"
          hint: severities are low, medium, high, critical
        route.2.matchers: no severity fits severity="high" severity="low"
          hint: severities are low, medium, high, critical
        inhibit.0.target.0: there is no severity "page"
          hint: severities are low, medium, high, critical
    "#]]
    .assert_eq(&problems(bad.clone()));
    let known = crate::aggregate_errors::labels_of(&json!({
        "rule": [{ "fingerprint": ["code", "tenant", "metadata.zone"] }],
    }));
    let line =
        |p: crate::Problem| format!("{}: {} ({})\n", p.at.join("."), p.message, p.hint.unwrap());
    let unknown = crate::alert::unknown_labels(&bad, &known);
    expect![[r#"
        group_by.0: no incident has the label "alertname" (what Alertmanager calls alertname is code; incidents have code, fingerprint, metadata.zone, service, severity, stage, tenant; what the fingerprint of aggregate-errors names becomes one)
        route.0.route.0.group_by.0: no incident has the label "team" (incidents have code, fingerprint, metadata.zone, service, severity, stage, tenant; what the fingerprint of aggregate-errors names becomes one)
        inhibit.0.source.0: no incident has the label "alertname" (what Alertmanager calls alertname is code; incidents have code, fingerprint, metadata.zone, service, severity, stage, tenant; what the fingerprint of aggregate-errors names becomes one)
        inhibit.0.equal.0: no incident has the label "instance" (incidents have code, fingerprint, metadata.zone, service, severity, stage, tenant; what the fingerprint of aggregate-errors names becomes one)
    "#]]
    .assert_eq(&unknown.into_iter().map(line).collect::<String>());
}

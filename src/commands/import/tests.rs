//! Tests of `import alertmanager`: what is printed passes `check`, and what is not is named.

use expect_test::expect;

use super::*;
use crate::{
    config::{Catalogue, load_text},
    handlers::HandlerContext,
};

const PIPELINE: &str = r#"
[pipeline]
name = "shop"

[source.errors]
subjects = ["errors.>"]
envelope = "error"

[stage.errors]
kind = "aggregate-errors"
inputs = ["source.errors"]
"#;

const CONFIG: &str = r#"
global:
  smtp_smarthost: mail.example.org:587
  smtp_from: am@example.org
  smtp_auth_username: am
  smtp_auth_password: hunter2-mail
  slack_api_url: https://hooks.slack.com/services/hunter2-slack
templates: ['*.tmpl']
route:
  receiver: team/Ops
  group_by: [alertname, cluster]
  group_wait: 30s
  repeat_interval: 1d12h
  routes:
    - matchers: [ severity="critical", alertname=~"DB_.*" ]
      receiver: pager
      mute_time_intervals: [nights]
      continue: true
      routes:
        - match: { service: cart }
          group_interval: 10m
          repeat_interval: 1m
    - match_re:
        severity: warning|info
      receiver: chat
    - matchers:
        - team="web"
      receiver: chat
receivers:
  - name: team/Ops
    webhook_configs:
      - url: http://127.0.0.1:9000/hook?token=hunter2
        max_alerts: 10
        http_config:
          authorization: { credentials: hunter2-token }
          proxy_url: http://proxy
    email_configs:
      - to: a@example.org, b@example.org
        require_tls: false
        html: '{{ template "x" . }}'
  - name: pager
    pagerduty_configs:
      - routing_key: hunter2-key
  - name: chat
    slack_configs:
      - channel: '#x'
        send_resolved: true
    opsgenie_configs:
      - api_key: hunter2-opsgenie
inhibit_rules:
  - source_matchers: [ 'alertname="Down"' ]
    target_match_re: { severity: 'warning|info' }
    equal: [service]
  - source_matchers: [ 'alertname="Down"' ]
    target_matchers: [ 'severity="warning"' ]
    equal: [instance]
time_intervals:
  - name: nights
    time_intervals:
      - times: [ { start_time: '22:00', end_time: '24:00' } ]
        weekdays: ['sunday:tuesday', saturday]
        days_of_month: ['1:5', '-3:-1']
        months: ['january:march']
        years: ['2026:2028']
        location: Europe/Berlin
"#;

const SILENCES: &str = r#"[
  {"id":"a","status":{"state":"active"},"updatedAt":"2026-11-28T00:00:00.000Z",
   "comment":"it's being\nmended","createdBy":"ann","startsAt":"2026-11-28T00:00:00.000Z",
   "endsAt":"2026-11-28T12:30:00.000Z","matchers":[
     {"name":"alertname","value":"DB_.*","isRegex":true,"isEqual":true},
     {"name":"severity","value":"warning","isRegex":false,"isEqual":false}]},
  {"id":"b","status":{"state":"active"},"comment":"","createdBy":"","matchers":[
     {"name":"instance","value":"x","isRegex":false}],
   "startsAt":"2026-11-28T00:00:00.000Z","endsAt":"2026-11-28T12:30:00.000Z"},
  {"id":"c","comment":"over","createdBy":"bo","startsAt":"2026-11-27T00:00:00.000Z",
   "endsAt":"2026-11-27T12:30:00.000Z","matchers":[]}
]"#;

fn imported(text: &str, silences: Option<&str>) -> Import {
    let now = "2026-11-28T10:00:00Z".parse().unwrap();
    alertmanager(text, silences, "alerts", "errors", now).unwrap()
}

/// Problems of what is printed, appended to a pipeline, with every variable filled in.
fn problems(import: &Import) -> Vec<String> {
    let value = |name: &String| {
        let text = if name.ends_with("URL") { "https://a.example/x" } else { "0123456789abcdef" };
        (name.clone(), text.to_owned())
    };
    let env: Vec<_> = import.variables.iter().map(value).collect();
    let text = format!("{PIPELINE}{}", import.out);
    let catalogue = Catalogue::new(HandlerContext::default());
    let loaded = load_text(&text, Path::new("pipeline.toml"), &[], &env, &catalogue);
    let reports = loaded.reports.iter();
    reports.map(|report| format!("{} {:?}", report.message, report.hint)).collect()
}

#[test]
fn what_is_printed_passes_check_and_what_is_left_out_is_named() {
    let import = imported(CONFIG, Some(SILENCES));
    assert_eq!(problems(&import), Vec::<String>::new(), "{}", import.out);
    let notes: String =
        import.notes.iter().map(|(line, note)| format!("{line}: {note}\n")).collect();
    assert!(!format!("{}{notes}", import.out).contains("hunter2"), "{}", import.out);
    expect![[r#"

        # Imported from Alertmanager.

        [channel.team-ops]
        kind = "webhook"
        url = "${TEAM_OPS_URL}"
        allow_private = true
        format = "alertmanager"
        headers = { authorization = "Bearer ${TEAM_OPS_TOKEN}" }

        [channel.team-ops-2]
        kind = "email"
        smtp = "mail.example.org:587"
        from = "am@example.org"
        to = ["a@example.org", "b@example.org"]
        user = "am"
        password = "${TEAM_OPS_2_PASSWORD}"
        send_resolved = false

        [channel.pager]
        kind = "pagerduty"
        routing_key = "${PAGER_ROUTING_KEY}"

        [channel.chat]
        kind = "slack"
        url = "${CHAT_URL}"

        [stage.alerts]
        kind = "alert"
        inputs = ["errors"]
        channels = ["team-ops", "team-ops-2"]
        group_by = ["code"]
        group_wait = "30s"
        group_interval = "5m"
        repeat_interval = "1d12h"

        [[stage.alerts.route]]
        matchers = ['severity="critical"', 'code=~"DB_.*"']
        channels = ["pager"]
        mute = ["nights"]
        continue = true

        [[stage.alerts.route.route]]
        matchers = ['service="cart"']
        group_interval = "10m"
        repeat_interval = "10m"

        [[stage.alerts.route]]
        matchers = ['severity=~"medium|low"']
        channels = ["chat"]

        [[stage.alerts.inhibit]]
        source = ['code="Down"']
        target = ['severity=~"medium|low"']
        equal = ["service"]

        [[stage.alerts.time]]
        name = "nights"
        times = ["22:00-24:00"]
        weekdays = ["sunday", "monday-tuesday", "saturday"]
        days = ["1-5", "-3--1"]
        months = ["january-march"]
        years = ["2026-2028"]
        zone = "Europe/Berlin"

        # Silences, to type once the pipeline runs:
        #   millstream silence add 'code=~"DB_.*"' 'severity!="medium"' --from 2026-11-28T00:00:00Z --for 12h30m --reason 'it'\''s being mended' --by ann
    "#]].assert_eq(&import.out);
    expect![[r#"
        0: left out: silence b: no incident has the label "instance" ("metadata.instance" in the fingerprint of aggregate-errors would make it one)
        8: left out: templates has no counterpart
        11: left out: group_by: no incident has the label "cluster" ("metadata.cluster" in the fingerprint of aggregate-errors would make it one)
        22: repeat_interval is raised to group_interval, as it would act
        27: left out: this route: no incident has the label "team" ("metadata.team" in the fingerprint of aggregate-errors would make it one)
        33: left out: channel "team-ops": max_alerts has no counterpart in webhook
        36: left out: channel "team-ops": proxy_url of http_config has no counterpart
        39: left out: channel "team-ops-2": require_tls: false: a password is sent only over TLS
        40: left out: channel "team-ops-2": html has no counterpart in email: write "title" and "text" as templates of ours
        46: left out: channel "chat": channel has no counterpart in slack
        48: left out: receiver "chat": opsgenie_configs has no channel
        56: left out: this inhibition: no incident has the label "instance" ("metadata.instance" in the fingerprint of aggregate-errors would make it one)
    "#]].assert_eq(&notes);
}

#[test]
fn a_small_configuration_is_imported_whole() {
    let import = imported(
        "route: {receiver: a}\nreceivers: [{name: a, webhook_configs: [{url: 'https://x.org'}]}]",
        None,
    );
    assert_eq!((import.left_out, import.notes.len()), (0, 0), "{:?}", import.notes);
    assert_eq!(problems(&import), Vec::<String>::new(), "{}", import.out);
}

#[test]
fn what_is_no_configuration_is_refused() {
    let now = Timestamp::UNIX_EPOCH;
    for (text, wanted) in [("a: [}", "line 1 is not YAML"), ("groups: []", "no route")] {
        let error = alertmanager(text, None, "a", "e", now).err().unwrap().to_string();
        assert!(error.contains(wanted), "{error}");
    }
}

#[test]
fn check_says_that_it_is_an_alertmanager_configuration() {
    let catalogue = Catalogue::new(HandlerContext::default());
    let loaded = load_text(CONFIG, Path::new("alertmanager.yml"), &[], &[], &catalogue);
    let [report] = loaded.reports.as_slice() else { panic!("{:?}", loaded.reports) };
    assert!(report.message.contains("is a configuration of Alertmanager"), "{report:?}");
    let hint = report.hint.as_deref().unwrap_or_default();
    assert!(hint.contains("millstream import alertmanager alertmanager.yml"), "{hint}");
}

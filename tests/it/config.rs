//! Configurations: broken ones are reported at their lines, and the shipped ones check clean.

use std::path::{Path, PathBuf};

use expect_test::{expect, expect_file};
use millstream::{
    commands::{
        check::as_text,
        graph::{Format, draw},
        init,
    },
    config::{Catalogue, Loaded, Severity, load, load_text, render, schema::Schemas},
    handlers::HandlerContext,
};
use proptest::prelude::*;

fn catalogue() -> Catalogue {
    Catalogue::new(HandlerContext::default())
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

fn pairs(pairs: &[(&str, &str)]) -> Vec<(String, String)> {
    pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect()
}

fn load_broken(name: &str) -> (Loaded, PathBuf) {
    let path = root().join("tests/it/broken").join(name);
    let env = match name {
        "31-environment.toml" => pairs(&[
            ("MILLSTREAM_LOG", "debug"),
            ("MILLSTREAM_LGO", "debug"),
            ("MILLSTREAM_STAGE__ORDERS__CONCURRENCY", "lots"),
            ("MILLSTREAM_STAGE__ORDERS__INPUTS", "[\"source.event\"]"),
            ("MILLSTREAM_STAGE__ORDERS__TPYES", "[\"a\"]"),
            ("MILLSTREAM_NATS__PASSWORD", "12345"),
            ("MILLSTREAM_NAST__URL", "nats://x"),
            ("MILLSTREAM___X", "1"),
        ]),
        _ => pairs(&[("FILLED", "hunter2-nobody-may-see")]),
    };
    let flags = if name == "31-environment.toml" {
        pairs(&[("observe.listen", "9464")])
    } else {
        Vec::new()
    };
    let text = std::fs::read_to_string(&path).unwrap();
    // Relative to the repository, so that no machine's paths are in the snapshot.
    let shown = Path::new("tests/it/broken").join(name);
    (load_text(&text, &shown, &flags, &env, &catalogue()), path)
}

fn files(prefix: &dyn Fn(&str) -> bool) -> Vec<String> {
    let folder = std::fs::read_dir(root().join("tests/it/broken")).unwrap();
    let names = folder.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.ends_with(".toml") && prefix(name)).collect();
    names.sort();
    names
}

#[test]
fn every_broken_configuration_is_reported_at_its_lines() {
    let names = files(&|name| name.starts_with(|c: char| c.is_ascii_digit()));
    assert!(names.len() >= 30);
    for name in names {
        let (loaded, path) = load_broken(&name);
        assert!(loaded.pipeline.is_none(), "{name} was accepted");
        let text = render(&loaded.reports, false);
        assert!(!text.contains("nobody-may-see"), "{name} shows a secret:\n{text}");
        let json = serde_json::to_string(&loaded.reports).unwrap();
        assert!(!json.contains("nobody-may-see"), "{name} shows a secret:\n{json}");
        expect_file![path.with_extension("txt")].assert_eq(&text);
    }
}

#[test]
fn what_will_hurt_is_a_warning_and_not_a_problem() {
    for name in files(&|name| name.starts_with('w')) {
        let (loaded, path) = load_broken(&name);
        assert!(loaded.pipeline.is_some(), "{name}:\n{}", render(&loaded.reports, false));
        assert!(loaded.reports.iter().all(|report| report.severity != Severity::Error));
        expect_file![path.with_extension("txt")].assert_eq(&as_text(&name, &loaded, false));
    }
}

#[test]
fn the_shipped_pipeline_checks_clean() {
    let loaded = load(&root().join("pipeline.toml"), &[], &[], &catalogue());
    expect![[r#"
        retries of validate, orders, each wait give or take 10%
          attempt     wait    after the first
                1        -    0s
                2       1s    1s
                3       2s    3s
                4       4s    7s
                5       8s    15s               if it fails too, it is dead-lettered
          ValidationError: dead-lettered at the first

        retries of payments, each wait give or take 10%
          attempt     wait    after the first
                1        -    0s
                2       2s    2s
                3       4s    6s
                4       6s    12s
                5       8s    20s
                6      10s    30s
                7      12s    42s
                8      14s    56s               if it fails too, it is dead-lettered

        recovery of payments: when its breaker closes, letters of TimeoutError or ConnectionError or HttpServerError, younger than 1d, redriven fewer than 3 times, at 50/s; the rest is marked permanent

        pipeline.toml: fine. 2 sources, 5 stages, 4 channels
    "#]]
    .assert_eq(&as_text("pipeline.toml", &loaded, false));
}

#[test]
fn the_shipped_pipeline_is_drawn_as_text_mermaid_and_dot() {
    let pipeline = load(&root().join("pipeline.toml"), &[], &[], &catalogue()).pipeline.unwrap();
    expect![[r#"
        shop

        source.events       events.>
        └──▶ validate       validate
            ├──▶ orders     handle by http   order.*
            └──▶ payments   handle by http   payment.*

        source.errors       errors.>
        └──▶ errors         aggregate-errors
            └──▶ alerts     alert
                ├──▶ channel.log
                ├──▶ channel.ws
                ├──▶ channel.email
                └──▶ channel.oncall

        failures of validate, orders, payments
        └──▶ errors         (drawn above)

        monitor             what the monitor finds
        └──▶ errors         (drawn above)
    "#]]
    .assert_eq(&draw(&pipeline, Format::Text));
    expect![[r#"
        flowchart LR
          n_source_2e_events(["source.events<br/>events.>"])
          n_source_2e_errors(["source.errors<br/>errors.>"])
          n_monitor(["monitor"])
          n_validate["validate<br/>validate"]
          n_orders["orders<br/>handle"]
          n_payments["payments<br/>handle"]
          n_errors["errors<br/>aggregate-errors"]
          n_alerts["alerts<br/>alert"]
          n_source_2e_events --> n_validate
          n_validate --> n_orders
          n_validate --> n_payments
          n_source_2e_errors --> n_errors
          n_orders -. failed .-> n_errors
          n_payments -. failed .-> n_errors
          n_validate -. failed .-> n_errors
          n_monitor --> n_errors
          n_errors --> n_alerts
          n_alerts --> n_channel_2e_log[/"channel.log"/]
          n_alerts --> n_channel_2e_ws[/"channel.ws"/]
          n_alerts --> n_channel_2e_email[/"channel.email"/]
          n_alerts --> n_channel_2e_oncall[/"channel.oncall"/]
    "#]]
    .assert_eq(&draw(&pipeline, Format::Mermaid));
    expect![[r#"
        digraph "shop" {
          rankdir=LR;
          node [shape=box];
          "source.events" [shape=ellipse, label="source.events\nevents.>"];
          "source.errors" [shape=ellipse, label="source.errors\nerrors.>"];
          "validate" [label="validate\nvalidate"];
          "orders" [label="orders\nhandle"];
          "payments" [label="payments\nhandle"];
          "errors" [label="errors\naggregate-errors"];
          "alerts" [label="alerts\nalert"];
          "source.events" -> "validate";
          "validate" -> "orders";
          "validate" -> "payments";
          "source.errors" -> "errors";
          "orders" -> "errors" [style=dashed, label="failed"];
          "payments" -> "errors" [style=dashed, label="failed"];
          "validate" -> "errors" [style=dashed, label="failed"];
          "monitor" -> "errors";
          "errors" -> "alerts";
          "alerts" -> "channel.log";
          "alerts" -> "channel.ws";
          "alerts" -> "channel.email";
          "alerts" -> "channel.oncall";
        }
    "#]]
    .assert_eq(&draw(&pipeline, Format::Dot));
}

#[test]
fn init_writes_a_pipeline_that_checks_clean_and_overwrites_nothing() {
    let folder = tempfile::tempdir().unwrap();
    init::write(folder.path(), false).unwrap();
    let path = folder.path().join("pipeline.toml");
    let loaded = load(&path, &[], &[], &catalogue());
    assert!(
        loaded.pipeline.is_some() && loaded.reports.is_empty(),
        "{}",
        render(&loaded.reports, false)
    );
    for (folder_name, name) in [("Web Orders", "web-orders"), ("7th", "shop"), ("é", "shop")] {
        let folder = folder.path().join(folder_name);
        init::write(&folder, false).unwrap();
        let loaded = load(&folder.join("pipeline.toml"), &[], &[], &catalogue());
        assert!(loaded.reports.is_empty(), "{}", render(&loaded.reports, false));
        assert_eq!(loaded.pipeline.unwrap().name, name);
    }
    std::fs::write(&path, "mine").unwrap();
    let refused = init::write(folder.path(), false).unwrap_err().to_string();
    assert!(refused.ends_with("is there already; --force writes over it"), "{refused}");
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "mine");
    init::write(folder.path(), true).unwrap();
    assert_ne!(std::fs::read_to_string(&path).unwrap(), "mine");
}

#[test]
fn the_schema_of_the_file_accepts_the_shipped_pipeline_and_refuses_a_slip() {
    let schema = Schemas::new(&catalogue()).whole();
    jsonschema::meta::validate(&schema).unwrap();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    let text = std::fs::read_to_string(root().join("pipeline.toml")).unwrap();
    let file: serde_json::Value = toml::from_str(&text).unwrap();
    let errors: Vec<String> = validator.iter_errors(&file).map(|error| error.to_string()).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    let file: serde_json::Value = toml::from_str(&text.replace("types =", "tpyes =")).unwrap();
    assert!(!validator.is_valid(&file));
}

#[test]
fn environment_and_flags_change_what_is_built() {
    let env = pairs(&[
        ("MILLSTREAM_STAGE__ORDERS__CONCURRENCY", "7"),
        ("MILLSTREAM_NATS__URL", "nats://127.0.0.1:4222"),
        ("MILLSTREAM_NATS__TOKEN", "12345"),
    ]);
    let flags = pairs(&[("stage.orders.ack_wait", "90s")]);
    let loaded = load(&root().join("pipeline.toml"), &flags, &env, &catalogue());
    let pipeline = loaded.pipeline.unwrap();
    let orders = pipeline.stage("orders").unwrap();
    assert_eq!((orders.concurrency, orders.ack_wait.as_secs()), (7, 90));
    assert_eq!(pipeline.nats.url, ["nats://127.0.0.1:4222"]);
    assert!(!format!("{pipeline:?}").contains("12345"));
}

#[test]
fn a_file_that_is_not_there_or_not_text_is_one_problem() {
    let folder = tempfile::tempdir().unwrap();
    let missing = load(&folder.path().join("none.toml"), &[], &[], &catalogue());
    assert!(missing.reports[0].message.ends_with("there is no such file"), "{:?}", missing.reports);
    let path = folder.path().join("bytes.toml");
    std::fs::write(&path, b"[pipeline]\nname = \"\xff\"\n").unwrap();
    let bytes = load(&path, &[], &[], &catalogue());
    assert!(bytes.reports[0].message.ends_with("line 2 is not UTF-8"), "{:?}", bytes.reports);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn no_slip_of_the_hand_makes_the_checker_panic(
        at in 0..6000_usize,
        take in 0..40_usize,
        put in "[ -~\\n\"\\[\\]=.{}$é]{0,12}"
    ) {
        let text = std::fs::read_to_string(root().join("pipeline.toml")).unwrap();
        let mut text: Vec<char> = text.chars().collect();
        let at = at.min(text.len());
        let end = (at + take).min(text.len());
        text.splice(at..end, put.chars());
        let text: String = text.into_iter().collect();
        let loaded = load_text(&text, &root().join("pipeline.toml"), &[], &[], &catalogue());
        let rendered = render(&loaded.reports, true);
        prop_assert!(loaded.pipeline.is_some() || rendered.contains("error"));
        for report in &loaded.reports {
            prop_assert!(report.line.is_none_or(|line| line <= text.lines().count() + 1));
        }
    }
}

//! Unsendable: letters that cannot go back among those that can.

use millstream::{
    broker::{Outgoing, get},
    handlers::Registry,
    redrive::job::State,
};
use serde_json::{Value, json};

use super::{job, run};
use crate::{
    malformed::Raw,
    shell::Shell,
    support::{Mill, TestServer, domain},
};

const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.work]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "info" }
    [stage.idle]
    kind = "handle"
    inputs = ["source.events"]
    handler = { log = "info" }
    [stage.errors]
    kind = "aggregate-errors"
    inputs = ["*.failed"]
"#;

/// Letter of a stage, as a worker writes it.
fn letter(stage: &str, n: u64) -> Outgoing {
    let body = domain(&format!("e-{n}"), "order.created", json!({ "n": n }));
    let letter = Outgoing::new(format!("shop.dlq.{stage}.shop-in-events.{n}-1000"), body)
        .header("Millstream-Event-Id", &format!("e-{n}"))
        .header("Millstream-Event-Type", "order.created")
        .header("Millstream-Envelope", "domain")
        .header("Millstream-Reason", "rejected")
        .header("Millstream-Error-Class", "Refused")
        .header("Millstream-Source", &format!("shop-in-events:{n}@1000"))
        .header("Millstream-Source-Subject", "events.order.created");
    if stage == "nameless" { letter } else { letter.header("Millstream-Stage", stage) }
}

fn apart(n: u64, value: &str) -> Outgoing {
    let mut letter = letter("work", n).header("Millstream-Body", value);
    letter.body = "".into();
    letter
}

/// Server with 4 letters that can be sent, 1 to 4, among 10 that cannot.
async fn letters() -> Mill {
    let mill = Mill::still(TestServer::start().await, PIPELINE, Registry::new()).await;
    mill.broker.delete_consumer("shop-retry", "shop-idle").await.unwrap();
    let mut all = vec![letter("errors", 20), letter("work", 1), letter("gone", 21)];
    all.extend([apart(22, "apart.>"), letter("work", 2), apart(23, "apart.*.x")]);
    all.extend([apart(24, "apart"), apart(25, "apart.\u{e4}"), letter("nameless", 26)]);
    all.extend([letter("idle", 27), letter("work", 3), letter("errors", 28)]);
    for letter in all {
        mill.broker.publish(letter).await.unwrap();
    }
    let mut raw = Raw::connect(mill.server.server.url()).await;
    let block = b"NATS/1.0\r\nMillstream-Stage: work\r\nno colon here\r\n\r\n";
    raw.publish("shop.dlq.work.shop-in-events.29-1000", block, b"{}").await;
    raw.pong().await;
    mill.broker.publish(letter("work", 4)).await.unwrap();
    assert_eq!(mill.broker.stream_state("shop-dlq").await.unwrap().messages, 14);
    mill
}

#[tokio::test]
async fn letters_that_cannot_be_sent_stay_and_are_named_and_the_others_go() {
    let mill = letters().await;
    let done = run(&mill, job(&mill, Default::default()).await).await;
    assert_eq!(done.state, State::Done, "{done:?}");
    let counts = done.counts;
    assert_eq!((counts.redriven, counts.failed, counts.skipped), (4, 4, 6), "{done:?}");
    let left: Vec<String> = done
        .left
        .iter()
        .map(|(why, n)| format!("{n} {}", why.split(": ").next().unwrap()))
        .collect();
    assert_eq!(
        left,
        [
            "2 letters of stage \"errors\" stay",
            "1 letters of stage \"gone\" stay",
            "1 letters of stage \"idle\" stay",
            "4 letters stay",
            "2 letters stay"
        ]
    );
    let whys: String = done.left.keys().map(String::as_str).collect();
    for what in ["keeps state", "not in the configuration", "apply", "kept apart", "no stage"] {
        assert!(whys.contains(what), "{whys}");
    }
    let sent = mill.messages("shop-retry", 4).await;
    let mut ids: Vec<&str> =
        sent.iter().filter_map(|it| get(&it.headers, "Millstream-Event-Id")).collect();
    ids.sort_unstable();
    assert_eq!(ids, ["e-1", "e-2", "e-3", "e-4"]);
    assert_eq!(mill.broker.stream_state("shop-dlq").await.unwrap().messages, 10);
}

#[tokio::test]
async fn letters_that_cannot_be_read_stop_no_command() {
    let mill = letters().await;
    let shell = Shell::new(PIPELINE, mill.server.server.url());
    let exported = shell.run("dlq export").await;
    assert_eq!((exported.code, exported.out.lines().count()), (0, 14), "{}", exported.err);
    assert!(exported.out.lines().all(|line| serde_json::from_str::<Value>(line).is_ok()));
    for (command, lines) in [
        ("dlq ls --json", 14),
        ("dlq ls --json --where .eventData.n<4", 3),
        ("dlq groups --json", 1),
    ] {
        let ran = shell.run(command).await;
        assert!(ran.code < 2, "{command}: {}", ran.err);
        assert!(ran.out.lines().count() >= lines, "{command}: {}", ran.out);
    }
    let dry = shell.run("dlq redrive --all --dry-run").await;
    assert_eq!(dry.code, 0, "{}", dry.err);
    assert!(dry.out.contains("would leave 2 letters of stage \"errors\""), "{}", dry.out);
    let redriven = shell.run("dlq redrive --all --yes").await;
    assert_eq!(redriven.code, 1, "{}", redriven.err);
    for line in [
        "redrove 4 letters, 4 failed, 6 skipped",
        "  2 letters of stage \"errors\" stay:",
        "  4 letters stay: their payloads",
    ] {
        assert!(redriven.out.contains(line), "{}", redriven.out);
    }
}

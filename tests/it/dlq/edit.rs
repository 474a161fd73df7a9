//! Edit: payloads that are changed by a flag, in an editor and from a file, and checked first.

use std::{fs, os::unix::fs::PermissionsExt as _};

use expect_test::expect;
use serde_json::json;

use super::{Shell, failing};
use crate::support::{domain, scanned, timeless};

#[tokio::test]
async fn an_edit_is_held_against_the_schema_keeps_the_original_and_is_redriven() {
    let mut mill = failing().await;
    let shell = Shell::new(&mill);
    let body = concat!(
        r#"{"eventId":"o-1","eventType":"order.created","#,
        r#""eventData":{"orderId":"o-1","amount":-150,"currency":"EUR"},"#,
        r#""z":1.0,"a":12345678901234567890123}"#
    );
    mill.publish("events.order.created", body).await;
    let (_, letter) = mill.next_dead_letter().await;
    let number = letter.seq.to_string();
    shell.check(&["edit", &number, "--set", "eventData.amount=-2"], expect![[r#"
        exit 2
        error: the edited payload is not fit, so letter 1 is as it was: stage "validate" rejects it: /eventData/amount: -2 is less than the minimum of 0
         hint: mend it, or --no-check stores it all the same
    "#]]).await;
    shell.check(&["edit", &number, "--set", "eventId=other"], expect![[r#"
        exit 2
        error: the edited payload is not fit, so letter 1 is as it was: it has the id "other", and the event's is "o-1": an event keeps its id
         hint: mend it, or --no-check stores it all the same
    "#]]).await;
    shell
        .check(
            &["edit", &number, "--set", "nope.amount=-2"],
            expect![[r#"
        exit 2
        error: there is no "nope" in the payload, so "nope.amount" cannot be set
    "#]],
        )
        .await;
    shell
        .check(
            &["edit", &number, "--set", "eventData.amount=-150"],
            expect![[r#"
        exit 0
        nothing changed
    "#]],
        )
        .await;
    shell
        .check(
            &["edit", &number],
            expect![[r#"
                exit 2
                error: there is no editor: set VISUAL or EDITOR, or say what to change with --set or --file
            "#]],
        )
        .await;
    assert_eq!(mill.letters().await.len(), 1, "nothing was stored");

    // The editor fails, changes nothing, types what does not pass, then what does.
    let failed = shell.run_with(&["edit", &number], "", Some("exit 3")).await;
    assert!(failed.code == 2 && failed.err.contains("exit status: 3"), "{}", failed.err);
    let unchanged =
        shell.run_with(&["edit", &number], "", Some("grep -q '  \"z\": 1.0' \"$1\"")).await;
    assert_eq!(
        (unchanged.code, unchanged.out.as_str()),
        (0, "nothing changed\n"),
        "{}",
        unchanged.err
    );
    assert_eq!(shell.scratch(), Vec::<std::path::PathBuf>::new());
    let bad = shell.run_with(&["edit", &number], "", Some("sed -i s/-150/-7/ \"$1\"")).await;
    assert!(
        bad.code == 2 && bad.err.contains("your text is kept") && bad.err.contains("--no-check"),
        "{}",
        bad.err
    );
    let [kept] = <[_; 1]>::try_from(shell.scratch()).unwrap();
    assert!(fs::read_to_string(&kept).unwrap().contains("-7"));
    assert_eq!(fs::metadata(&kept).unwrap().permissions().mode() & 0o777, 0o600);
    let good = shell.run_with(&["edit", &number], "", Some("sed -i s/-150/150/ \"$1\"")).await;
    assert_eq!(good.code, 0, "{}", good.err);
    assert_eq!(
        good.out,
        "letter 1 is letter 3 now; what it was is kept\nnext: millstream dlq redrive 3\n"
    );

    let messages = scanned(&mill.broker, &mill.names.dlq_stream()).await;
    let [original, edited] = <[_; 2]>::try_from(messages).unwrap();
    assert_eq!(
        (&*timeless(&original.subject), original.body),
        ("shop.dlq.validate.shop-in-events.1.original", body.into())
    );
    // Every other byte is as it was.
    assert_eq!(edited.body, body.replace("-150", "150"));
    assert_eq!(edited.subject, letter.subject);
    // A second edit keeps the first original.
    let again = shell.json(&["edit", "3", "--set", "eventData.amount=2", "--json"]).await;
    assert_eq!(again, json!({ "changed": true, "letter": 4, "was": 3 }));
    let shown = shell.json(&["show", "4", "--json"]).await;
    assert_eq!(shown["original"]["eventData"]["amount"], -150);
    assert_eq!(shown["headers"]["Millstream-Edited-By"], "ann@desk");
    let stale = shell.run(&["edit", "3", "--set", "eventData.amount=9"]).await;
    assert!(stale.code == 2 && stale.err.contains("there is no dead letter 3"), "{}", stale.err);
    mill.drain().await;
    assert_eq!(shell.run(&["redrive", "4"]).await.code, 0);
    // Services that refused it are told by its key that it is not what it was.
    let sent = mill.messages("shop-retry", 1).await.swap_remove(0);
    let edited = shown["headers"]["Millstream-Edited-At"].as_str().unwrap();
    let edited: jiff::Timestamp = edited.parse().unwrap();
    let edit = sent.headers.get("Millstream-Edit").unwrap().as_str();
    assert_eq!(edit, edited.as_millisecond().to_string());
    mill.work().await;
    mill.idle("validate").await;
    mill.idle("work").await;
    assert_eq!(shell.run(&["ls"]).await.out, "no dead letters\n", "the original is no letter");
}

#[tokio::test]
async fn what_could_not_be_decoded_is_given_its_identity_by_an_edit() {
    let mill = failing().await;
    let shell = Shell::new(&mill);
    mill.publish("events.order.created", "{\"eventId\":").await;
    mill.next_dead_letter().await;
    let still_not = shell.run_with(&["edit", "1", "--file", "-"], "{}", None).await;
    assert!(
        still_not.code == 2 && still_not.err.contains("eventId is missing"),
        "{}",
        still_not.err
    );
    let event = domain("o-9", "order.unknown", json!({}));
    let edited = shell.run_with(&["edit", "1", "--file", "-"], &event, None).await;
    assert_eq!(edited.code, 0, "{}", edited.err);
    let shown = shell.json(&["ls", "--json"]).await;
    assert_eq!((&shown["eventId"], &shown["eventType"]), (&json!("o-9"), &json!("order.unknown")));
    assert!(shown["traceId"].is_string() && shown["editedAt"].is_string(), "{shown}");
    // Whatever it is, where someone insists.
    let seq = shown["seq"].to_string();
    let forced =
        shell.run_with(&["edit", &seq, "--file", "-", "--no-check"], "rubbish", None).await;
    assert_eq!(forced.code, 0, "{}", forced.err);
    let shown = shell.run(&["show", &(shown["seq"].as_u64().unwrap() + 1).to_string()]).await;
    assert!(shown.out.contains("payload (7 bytes, not JSON)\nrubbish"), "{}", shown.out);
    assert!(
        shown.out.contains("payload before it was edited (11 bytes, not JSON)\n{\"eventId\":"),
        "{}",
        shown.out
    );
}

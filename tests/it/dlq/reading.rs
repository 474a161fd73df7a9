//! Reading: letters that are listed by page, grouped, counted, shown and exported.

use std::fs;

use expect_test::expect;
use futures_util::TryStreamExt as _;
use millstream::{
    broker::Outgoing,
    dead_letter::{
        LetterFilter,
        read::{Letters, Span},
    },
    stages::headers,
};
use serde_json::{Value, json};

use super::{Shell, failing, letter, publish, still};
use crate::support::{eventually, scanned};

/// Text that tries to take over a terminal.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}gone\u{9b}31m";

#[tokio::test]
async fn pages_newest_first_are_those_of_a_naive_reading_whatever_the_gaps() {
    let mill = still().await;
    let tenant = |n: u64| if n.is_multiple_of(97) { "rare" } else { "common" };
    publish(&mill, (1..=1500).map(|n| letter(n, &[(headers::TENANT, tenant(n))], "{}"))).await;
    // A gap that is wider than the first windows, small ones, and what is no letter.
    let stream = mill.names.dlq_stream();
    let gone = (400..1100).chain((1..=1500).filter(|n| n % 7 == 0));
    for deleted in
        futures_util::future::join_all(gone.map(|seq| mill.broker.delete_message(&stream, seq)))
            .await
    {
        deleted.unwrap();
    }
    publish(
        &mill,
        [Outgoing {
            subject: "shop.dlq.work.shop-in-events.5.original".into(),
            ..letter(1, &[], "")
        }],
    )
    .await;
    let all = scanned(&mill.broker, &stream).await;
    let letters = Letters { broker: mill.broker.clone(), names: mill.names.clone() };
    for filter in [
        LetterFilter::default(),
        LetterFilter { stage: Some("work".into()), ..LetterFilter::default() },
        LetterFilter { tenant: Some("rare".into()), ..LetterFilter::default() },
        LetterFilter { tenant: Some("none".into()), ..LetterFilter::default() },
        LetterFilter {
            condition: Some(". == {}".into()),
            tenant: Some("rare".into()),
            ..LetterFilter::default()
        },
    ] {
        let selecting = filter.compile().unwrap();
        for (span, limit) in [
            (Span::default(), 50),
            (Span::default(), 5000),
            (Span { after: 0, before: Some(1200) }, 300),
            (Span { after: 390, before: Some(1105) }, 20),
            (Span { after: 2000, before: None }, 20),
            (Span { after: 0, before: Some(1) }, 20),
            (Span::default(), 0),
        ] {
            let page = letters.newest_first(&selecting, span, limit).await.unwrap();
            let page: Vec<_> = page.try_collect().await.unwrap();
            let page: Vec<u64> =
                page.into_iter().filter_map(|seen| Some(seen.letter?.seq)).collect();
            let mut meant = Vec::new();
            for letter in all.iter().filter(|letter| mill.names.is_dlq(&letter.subject)) {
                let is_inside =
                    letter.seq > span.after && span.before.is_none_or(|before| letter.seq < before);
                if is_inside && selecting.takes(&mill.broker, &mill.names, letter).await.unwrap() {
                    meant.push(letter.seq);
                }
            }
            let naive: Vec<u64> = meant.iter().rev().copied().take(limit).collect();
            assert_eq!(page, naive, "{filter:?} {span:?} {limit}");
            let oldest: Vec<_> =
                letters.oldest_first(&selecting, span, false).try_collect().await.unwrap();
            let oldest: Vec<u64> =
                oldest.into_iter().filter_map(|seen| Some(seen.letter?.seq)).collect();
            assert_eq!(oldest, meant, "oldest first: {filter:?} {span:?}");
        }
    }
    let all_letters = all.iter().filter(|letter| mill.names.is_dlq(&letter.subject)).count() as u64;
    assert_eq!(letters.count(&LetterFilter::default()).await.unwrap(), Some(all_letters));
}

#[tokio::test]
async fn a_page_says_the_command_for_the_next_one() {
    let mill = still().await;
    let shell = Shell::new(&mill);
    let at = [
        (headers::DEAD_AT, "2026-11-21T08:00:00.000Z"),
        (headers::EVENT_ID, "e"),
        (headers::EVENT_TYPE, "t"),
    ];
    for n in 1..=5 {
        publish(&mill, [letter(n, &at, "{}")]).await;
    }
    let class = ["ls", "--class", "Time*", "--limit", "2"];
    shell
        .check(
            &class,
            expect![[r#"
                exit 1
                LETTER  DEAD AT                   STAGE  REASON     CLASS         EVENT  TYPE  TRIES  ERROR
                     5  2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t         0  no answer
                     4  2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t         0  no answer
                2 shown; next: millstream dlq ls --class 'Time*' --limit 2 --before 4
            "#]],
        )
        .await;
    shell
        .check(
            &[&class[..], &["--before", "2"]].concat(),
            expect![[r#"
                exit 1
                LETTER  DEAD AT                   STAGE  REASON     CLASS         EVENT  TYPE  TRIES  ERROR
                     1  2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t         0  no answer
            "#]],
        )
        .await;
    shell
        .check(
            &["ls", "--oldest", "--limit", "2", "--after", "2", "--stage", "work"],
            expect![[r#"
                exit 1
                LETTER  DEAD AT                   STAGE  REASON     CLASS         EVENT  TYPE  TRIES  ERROR
                     3  2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t         0  no answer
                     4  2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t         0  no answer
                2 of 5 shown; next: millstream dlq ls --stage work --oldest --limit 2 --after 4
            "#]],
        )
        .await;
    shell
        .check(
            &["ls", "--class", "Nope"],
            expect![[r#"
        exit 0
        no dead letters that these flags mean
    "#]],
        )
        .await;
    shell
        .check(
            &["ls", "--stage", "nope"],
            expect![[r#"
        exit 2
        error: there is no stage "nope", and no letter of one; the stages are validate, work
    "#]],
        )
        .await;
    shell.check(&["groups"], expect![[r#"
        exit 1
        COUNT  GROUP     STAGE  CLASS         FIRST                     LAST                      TYPES  SAMPLE  MESSAGE
            5  abcd1234  work   TimeoutError  2026-11-21T08:00:00.000Z  2026-11-21T08:00:00.000Z  t           5  no answer

        5 letters in 1 group
        look:    millstream dlq ls --fingerprint abcd1234
        one:     millstream dlq show 5
        mended?  millstream dlq redrive --fingerprint abcd1234 --canary 10
    "#]]).await;
    shell
        .check(
            &["stats"],
            expect![[r#"
                exit 1
                5 dead letters, 0 in the last hour, 0 in the last 24 h
                oldest 2026-11-21T08:00:00.000Z, newest 2026-11-21T08:00:00.000Z; payloads 10B, the stream 2235B

                STAGE  ALL  EXHAUSTED
                work     5          5

                CLASS         LETTERS
                TimeoutError        5

                what went wrong: millstream dlq groups
            "#]],
        )
        .await;
}

#[tokio::test]
async fn show_tells_what_happened_over_all_lives_and_no_text_reaches_the_terminal_raw() {
    let mill = failing().await;
    let shell = Shell::new(&mill);
    mill.event("e-1", "order.unknown", json!({ "fail": HOSTILE, "exact": 1 })).await;
    let (_, first) = mill.next_dead_letter().await;
    assert_eq!(shell.run(&["redrive", &first.seq.to_string()]).await.code, 0);
    let again = eventually(async || {
        mill.letters().await.into_iter().find(|letter| letter.seq != first.seq)
    })
    .await;
    let number = again.seq.to_string();
    let shown = shell.json(&["show", &number, "--json"]).await;
    let attempts: Vec<&Value> = shown["history"]["attempts"].as_array().unwrap().iter().collect();
    let told: Vec<(u64, u64, &str)> = attempts
        .iter()
        .map(|attempt| {
            let number = |name: &str| attempt[name].as_u64().unwrap();
            (number("redrives"), number("attempt"), attempt["outcome"].as_str().unwrap())
        })
        .collect();
    assert_eq!(told, [(0, 1, "retry"), (0, 2, "exhausted"), (1, 1, "retry"), (1, 2, "exhausted")]);
    assert_eq!(attempts[0]["message"], format!("attempt 1: {HOSTILE}"));
    assert_eq!(shown["payload"]["eventId"], "e-1");
    assert_eq!(shown["sourceStored"], true);
    let what: Vec<&str> = shown["timeline"]
        .as_array()
        .unwrap()
        .iter()
        .map(|moment| moment["what"].as_str().unwrap())
        .collect();
    assert_eq!(what, ["stored", "failed", "failed", "redriven", "failed", "failed", "dead"]);
    for args in [
        &["show", &number][..],
        &["ls"],
        &["groups"],
        &["stats"],
        &["export"],
        &["show", &number, "--json"],
    ] {
        let ran = shell.run(args).await;
        assert!(ran.out.contains("work"), "{args:?}: {}{}", ran.out, ran.err);
        let raw = ran.out.chars().chain(ran.err.chars()).find(|c| c.is_control() && *c != '\n');
        assert_eq!(raw, None, "{args:?}: {}", ran.out);
    }
}

#[tokio::test]
async fn an_export_is_one_line_a_letter_whatever_its_payload_is() {
    let mill = still().await;
    let shell = Shell::new(&mill);
    let binary = Outgoing { body: vec![0xff, 0x00].into(), ..letter(3, &[], "") };
    publish(&mill, [letter(1, &[], "{ \"a\":\n 1.10 }")]).await;
    publish(&mill, [letter(2, &[], "two\nlines")]).await;
    publish(&mill, [binary]).await;
    publish(&mill, [letter(4, &[(headers::BODY, "apart")], "")]).await;
    publish(&mill, [Outgoing::new("shop.dlq.work.shop-in-events.4.body", "kept apart")]).await;
    let ran = shell.run(&["export", "--out", "letters.jsonl"]).await;
    assert_eq!((ran.code, ran.out.as_str()), (0, ""), "{}", ran.err);
    let text = fs::read_to_string(shell.folder.path().join("letters.jsonl")).unwrap();
    let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines.len(), 4);
    assert!(text.lines().next().unwrap().ends_with(r#""payload":{"a":1.10}}"#), "{text}");
    assert_eq!(
        (&lines[1]["payloadText"], &lines[2]["payloadBase16"]),
        (&json!("two\nlines"), &json!("ff00"))
    );
    assert_eq!(
        (&lines[3]["payloadText"], &lines[3]["letter"]["apart"]),
        (&json!("kept apart"), &json!(true))
    );
    assert_eq!(
        (&lines[0]["letter"]["seq"], &lines[0]["headers"]["Millstream-Stage"]),
        (&json!(1), &json!("work"))
    );
    let again = shell.run(&["export", "--out", "letters.jsonl"]).await;
    assert!(again.code == 2 && again.err.contains("is there already"), "{}", again.err);
    assert_eq!(shell.run(&["export", "--limit", "2"]).await.out.lines().count(), 2);
    assert_eq!(shell.run(&["export", "--where", ".a > 1"]).await.out.lines().count(), 1);
}

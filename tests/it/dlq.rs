//! Dead letters as an operator has them: read by page, grouped, shown, edited, dropped and
//! exported, by the built program.

mod apart;

use std::{
    fs,
    os::unix::fs::PermissionsExt as _,
    process::Stdio,
    time::{Duration, SystemTime},
};

use expect_test::{Expect, expect};
use futures_util::TryStreamExt as _;
use millstream::{
    broker::{Expects, Headers, Outgoing},
    dead_letter::{
        LetterFilter,
        read::{Letters, Span},
    },
    handlers::{Registry, handler_fn},
    stages::{Failure, Reply, headers},
    wire::rfc3339,
};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::{io::AsyncWriteExt as _, process::Command};

use crate::support::{DEADLINE, Mill, TestServer, domain, eventually, scanned};

/// A source, a stage that checks, and one that does what its events say.
const PIPELINE: &str = r#"
    [pipeline]
    name = "shop"
    [source.events]
    subjects = ["events.>"]
    [stage.validate]
    kind = "validate"
    inputs = ["source.events"]
    schemas = "schemas"
    unknown = "pass"
    [stage.work]
    kind = "handle"
    inputs = ["validate"]
    handler = { HANDLER }
    [retry.default]
    attempts = 2
    backoff = { fixed = "20ms" }
"#;

/// What a text that tries to take over a terminal looks like.
const HOSTILE: &str = "\u{1b}[2J\u{1b}]0;owned\u{7}gone\u{9b}31m";

fn toml(handler: &str) -> String {
    PIPELINE.replace("HANDLER", handler)
}

/// A pipeline whose `work` fails with `eventData.fail` for a message, once with `eventData.once`.
async fn failing() -> Mill {
    let work = handler_fn(
        async |event: millstream::stages::Event, delivery: millstream::stages::Delivery| {
            let data = event.json().unwrap()["eventData"].clone();
            match data["fail"].as_str() {
                Some(fail) => {
                    Err(Failure::retry("Flaky", format!("attempt {}: {fail}", delivery.attempt)))
                }
                None => Ok(Reply::Pass),
            }
        },
    );
    Mill::with(&toml("rust = \"work\""), Registry::new().with("work", work)).await
}

/// A folder with the pipeline's file in it, where the built program runs.
struct Shell {
    folder: TempDir,
    url: String,
}

struct Ran {
    code: i32,
    out: String,
    err: String,
}

impl Shell {
    fn new(mill: &Mill) -> Self {
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("pipeline.toml"), toml("log = \"debug\"")).unwrap();
        fs::create_dir(folder.path().join("schemas")).unwrap();
        for file in fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/schemas")).unwrap().flatten()
        {
            fs::copy(file.path(), folder.path().join("schemas").join(file.file_name())).unwrap();
        }
        Self { folder, url: mill.server.server.url().to_owned() }
    }

    async fn run(&self, args: &[&str]) -> Ran {
        self.run_with(args, "", None).await
    }

    async fn run_with(&self, args: &[&str], stdin: &str, editor: Option<&str>) -> Ran {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.arg("dlq").args(args).current_dir(self.folder.path()).kill_on_drop(true);
        command.env("MILLSTREAM_NATS__URL", &self.url).env("TMPDIR", self.folder.path());
        command
            .env("USER", "ann")
            .env("HOSTNAME", "desk")
            .env_remove("VISUAL")
            .env_remove("EDITOR");
        if let Some(editor) = editor {
            let path = self.folder.path().join("editor.sh");
            fs::write(&path, format!("#!/bin/sh\n{editor}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
            command.env("EDITOR", path);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(stdin.as_bytes()).await.ok();
        let output =
            tokio::time::timeout(DEADLINE, child.wait_with_output()).await.unwrap().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ran {
            code: output.status.code().unwrap(),
            out: text(output.stdout),
            err: text(output.stderr),
        }
    }

    async fn json(&self, args: &[&str]) -> Value {
        let Ran { out, err, .. } = self.run(args).await;
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}\n{out}\n{err}"))
    }

    async fn check(&self, args: &[&str], expect: Expect) {
        let Ran { code, out, err } = self.run(args).await;
        expect.assert_eq(&format!("exit {code}\n{out}{err}"));
    }

    /// Files that an edit left behind.
    fn scratch(&self) -> Vec<std::path::PathBuf> {
        let all = fs::read_dir(self.folder.path()).unwrap().flatten().map(|entry| entry.path());
        all.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with("millstream-"))
            .collect()
    }
}

/// A letter by its headers, as the contract has them, over `life` of stage `work`.
fn letter(life: u64, more: &[(&'static str, &str)], body: &str) -> Outgoing {
    let mut all = Headers::new();
    let dead_at = rfc3339(SystemTime::now() - Duration::from_secs(60));
    let source = format!("shop-in-events:{life}");
    for (name, value) in [
        (headers::STAGE, "work"),
        (headers::REASON, "exhausted"),
        (headers::ERROR_CLASS, "TimeoutError"),
        (headers::ERROR_MESSAGE, "no answer"),
        (headers::FINGERPRINT, "abcd12340000"),
        (headers::DEAD_AT, &dead_at),
        (headers::SOURCE, &source),
        (headers::ENVELOPE, "domain"),
    ]
    .iter()
    .chain(more)
    {
        all.insert(*name, *value);
    }
    let subject = format!("shop.dlq.work.shop-in-events.{life}");
    Outgoing { subject, headers: all, body: body.to_owned().into(), expects: Expects::Nothing }
}

async fn still() -> Mill {
    Mill::still(TestServer::start().await, &toml("log = \"debug\""), Registry::new()).await
}

async fn publish(mill: &Mill, letters: impl IntoIterator<Item = Outgoing>) {
    let publishes = letters.into_iter().map(|letter| mill.broker.publish(letter));
    futures_util::future::try_join_all(publishes).await.unwrap();
}

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
        5       2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t     0      no answer
        4       2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t     0      no answer
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
        1       2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t     0      no answer
    "#]],
        )
        .await;
    shell
        .check(
            &["ls", "--oldest", "--limit", "2", "--after", "2", "--stage", "work"],
            expect![[r#"
        exit 1
        LETTER  DEAD AT                   STAGE  REASON     CLASS         EVENT  TYPE  TRIES  ERROR
        3       2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t     0      no answer
        4       2026-11-21T08:00:00.000Z  work   exhausted  TimeoutError  e      t     0      no answer
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
        5      abcd1234  work   TimeoutError  2026-11-21T08:00:00.000Z  2026-11-21T08:00:00.000Z  t      5       no answer

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
        work   5    5

        CLASS         LETTERS
        TimeoutError  5

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
async fn an_edit_is_held_against_the_schema_keeps_the_original_and_is_redriven() {
    let mill = failing().await;
    let shell = Shell::new(&mill);
    let body = r#"{"eventId":"o-1","eventType":"order.created","eventData":{"orderId":"o-1","amount":-150,"currency":"EUR"},"z":1.0,"a":12345678901234567890123}"#;
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
        (original.subject.as_str(), original.body),
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
    assert_eq!(shell.run(&["redrive", "4"]).await.code, 0);
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

#[tokio::test]
async fn letters_are_dropped_only_where_that_was_meant() {
    let mill = still().await;
    let shell = Shell::new(&mill);
    let class = |n: u64| [(headers::ERROR_CLASS, if n <= 3 { "Odd" } else { "Even" })];
    for n in 1..=9 {
        publish(&mill, [letter(n, &class(n), "{}")]).await;
    }
    shell.check(&["drop"], expect![[r#"
        exit 2
        error: say which letters to drop, as `millstream dlq ls` numbers them, or by flags such as --stage and --class; --all drops every letter
    "#]]).await;
    shell
        .check(
            &["drop", "1", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 2
        error: name letters by their numbers, or by flags: not both
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--all", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 2
        error: --all drops every letter, whatever the flags say; leave out the one or the other
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--class", "Odd"],
            expect![[r#"
        exit 2
        error: 3 letters would be dropped for good; there is no terminal to ask on, so say --yes if that is meant
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "1", "77", "--yes"],
            expect![[r#"
        exit 2
        error: there is no dead letter 77; `millstream dlq ls` lists them
    "#]],
        )
        .await;
    assert_eq!(mill.letters().await.len(), 9);
    shell
        .check(
            &["drop", "--class", "Nope", "--yes"],
            expect![[r#"
        exit 0
        no dead letters that these flags mean: nothing to drop
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 0
        dropped 3 letters
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "9", "4", "--yes", "--json"],
            expect![[r#"
        exit 0
        {"dropped":2}
    "#]],
        )
        .await;
    let left: Vec<u64> = mill.letters().await.iter().map(|letter| letter.seq).collect();
    assert_eq!(left, [5, 6, 7, 8]);
    shell
        .check(
            &["drop", "--all", "--yes"],
            expect![[r#"
        exit 0
        dropped 4 letters
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--all", "--yes"],
            expect![[r#"
        exit 0
        no dead letters: nothing to drop
    "#]],
        )
        .await;
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

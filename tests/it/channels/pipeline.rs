//! Pipeline: channels of a pipeline at work, of which a bad one delays no other and ends in dead
//! letters, and no secret is shown anywhere.

use std::{
    process::{Command, Stdio},
    time::{Duration, Instant},
};

use futures_util::TryStreamExt as _;
use serde_json::json;

use super::{
    CODE,
    peer::{How, Peer},
};
use crate::{
    reaper::Start as _,
    support::{DEADLINE, Mill, Running, TestServer, eventually},
};

/// Pipeline whose errors go to the channels `good` and `bad`, with as many `bad` retries as are
/// needed to see it fail.
fn two(good: &str, bad: &str) -> String {
    format!(
        r#"
        [pipeline]
        name = "shop"
        [source.errors]
        subjects = ["errors.>"]
        envelope = "error"
        [stage.errors]
        kind = "aggregate-errors"
        inputs = ["source.errors"]
        [[stage.errors.rule]]
        code = ["*"]
        severity = "critical"
        threshold = 1
        window = "5m"
        [stage.alerts]
        kind = "alert"
        inputs = ["errors"]
        channels = ["good", "bad"]
        [retry.default]
        attempts = 2
        backoff = {{ exponential = "100ms", factor = 2.0, max = "1s" }}
        [channel.good]
        rate = "600/min"
        {good}
        [channel.bad]
        rate = "600/min"
        {bad}
        "#
    )
}

fn report(n: usize) -> String {
    // A letter makes it an error of its own: numbers are taken for the same.
    let letter = char::from(b'a' + u8::try_from(n).unwrap());
    json!({
        "errorCode": format!("{CODE}_{letter}"),
        "severity": "critical",
        "message": "down",
        "serviceName": "till",
    })
    .to_string()
}

#[tokio::test]
async fn a_channel_that_hangs_or_answers_garbage_delays_no_other_and_ends_in_dead_letters() {
    for how in [How::Hang, How::Garbage] {
        let (good, bad) = (Peer::start(200, "ok").await, Peer::start(200, "ok").await);
        bad.answer(how);
        let keys = |peer: &Peer, timeout: &str| {
            format!(
                "kind = \"slack\"\nurl = \"http://{}/hook\"\nallow_private = true\n\
                 timeout = \"{timeout}\"",
                peer.address
            )
        };
        let mill = Mill::start(&two(&keys(&good, "5s"), &keys(&bad, "1s"))).await;
        let (began, mut arrived) = (Instant::now(), 0);
        for n in 0..8 {
            mill.publish("errors.till", report(n)).await;
        }
        let last = eventually(async || {
            let sent = good.sent().len();
            (sent > 0).then_some(sent)
        });
        arrived += last.await;
        while arrived < 8 {
            arrived += eventually(async || Some(good.sent().len()).filter(|sent| *sent > 0)).await;
        }
        // Eight that hang for a second each, twice, four at a time, would have taken four seconds.
        let took = began.elapsed();
        assert!(took < Duration::from_secs(3), "{how:?}: the good channel waited {took:?}");
        let letters = mill.messages(&mill.names.dlq_stream(), 8).await;
        let class = if how == How::Hang { "TimeoutError" } else { "UnexpectedAnswer" };
        for letter in letters {
            assert!(letter.subject.starts_with("shop.dlq.notify-bad."), "{}", letter.subject);
            let said = letter.headers.get("Millstream-Error-Class").unwrap().as_str();
            assert_eq!(said, class);
            assert_eq!(letter.headers.get("Millstream-Attempts").unwrap().as_str(), "2");
        }
        assert_eq!(good.sent().len(), 0, "nothing came twice");
    }
}

/// Beginning of everything secret below.
const SECRET: &str = "s3cr3t";

#[tokio::test]
async fn no_secret_of_a_channel_is_in_a_log_an_error_check_a_letter_or_a_metric() {
    let server = TestServer::start().await;
    let peer = Peer::start(200, "ok").await;
    // It sends back whatever it was sent: headers, query, body.
    peer.answer(How::Repeat);
    let base = format!("http://{}", peer.address);
    let port = super::peer::nobody().port();
    let url = server.server.url();
    let channels = format!(
        r#"
        [channel.hook]
        kind = "webhook"
        url = "{base}/s3cr3t-path/x?k=s3cr3t-query"
        headers = {{ authorization = "Bearer s3cr3t-header" }}
        secret = "s3cr3t-to-sign-with"
        [channel.chat]
        kind = "slack"
        url = "{base}/services/s3cr3t-slack"
        [channel.duty]
        kind = "pagerduty"
        url = "{base}/v2"
        routing_key = "s3cr3t0123456789"
        [channel.ding]
        kind = "dingtalk"
        url = "{base}/robot?access_token=s3cr3t-ding"
        secret = "s3cr3t-SEC"
        [channel.work]
        kind = "wecom"
        url = "{base}/robot?key=s3cr3t-work"
        [channel.manager]
        kind = "alertmanager"
        url = "{base}/s3cr3t-am"
        user = "shop"
        password = "s3cr3t-am-password"
        [channel.mail]
        kind = "email"
        smtp = "localhost:{}"
        tls = "none"
        user = "shop"
        password = "s3cr3t-mail"
        from = "a@shop.test"
        to = ["b@shop.test"]
        [channel.page]
        kind = "websocket"
        listen = "127.0.0.1:{port}"
        token = "s3cr3t-token-0123456"
        "#,
        super::peer::raw_first(b"220 mail ready\r\n535 s3cr3t-mail is wrong\r\n").await.port()
    );
    let channels = channels.replace("url = \"http", "allow_private = true\n        url = \"http");
    let channels = channels.replace("smtp =", "allow_private = true\n        smtp =");
    let names = ["hook", "chat", "duty", "ding", "work", "manager", "mail", "page"];
    let text = two("kind = \"log\"", "kind = \"log\"")
        .replace("channels = [\"good\", \"bad\"]", &format!("channels = {names:?}"))
        .replace("[pipeline]", "[observe]\n        listen = \"127.0.0.1:0\"\n        [pipeline]");
    let folder = tempfile::TempDir::new().unwrap();
    std::fs::write(folder.path().join("pipeline.toml"), format!("{text}\n{channels}")).unwrap();
    let run = |args: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_millstream"));
        command.args(args).args(["--config", "pipeline.toml", "--set", &format!("nats.url={url}")]);
        command.current_dir(folder.path()).stdin(Stdio::null());
        command
    };
    let mut shown = String::new();
    // A slip of the hand beside each secret, and a number in place of each: neither is shown
    // either.
    let path = folder.path().join("pipeline.toml");
    let fine = std::fs::read_to_string(&path).unwrap();
    for slip in [
        ("allow_private", "allow_privat"),
        ("kind = \"slack\"", "kind = \"slak\""),
        ("= \"s3cr3t", "= s3cr3t"),
    ] {
        std::fs::write(&path, fine.replace(slip.0, slip.1)).unwrap();
        let output = run(&["check"]).output().unwrap();
        assert!(
            !output.status.success() && output.stdout.len() + output.stderr.len() > 100,
            "{slip:?}: {output:?}"
        );
        shown += &format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    std::fs::write(&path, fine).unwrap();
    for args in [&["check"][..], &["plan"], &["apply"], &["graph"]] {
        let output = run(args).output().unwrap();
        assert!(
            output.status.success() || args == ["plan"],
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        shown += &format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let mut worker =
        run(&["run", "--log", "millstream=trace,reqwest=debug,hyper=debug,lettre=trace"]);
    let _worker = Running(worker.stdout(log.try_clone().unwrap()).stderr(log).start());
    let broker = server.connect().await;
    eventually(async || {
        broker.publish(millstream::broker::Outgoing::new("errors.till", report(0))).await.ok()
    })
    .await;
    // One letter of each channel but the websocket, whose notification nobody misses.
    let failed = names.len() - 1;
    let letters = eventually(async || {
        let found: Vec<_> =
            broker.scan("shop-dlq", "shop.dlq.*.*.*", 1).try_collect().await.ok()?;
        Some(found).filter(|found| found.len() >= failed)
    })
    .await;
    for letter in &letters {
        shown += &format!(
            "{} {:?} {}\n",
            letter.subject,
            letter.headers,
            String::from_utf8_lossy(&letter.body)
        );
    }
    let errors: Vec<_> = broker.scan("shop-failed", "", 1).try_collect().await.unwrap();
    for error in &errors {
        shown += &format!("{:?} {}\n", error.headers, String::from_utf8_lossy(&error.body));
    }
    for args in [&["status"][..], &["dlq", "ls"], &["dlq", "stats"]] {
        let output = run(args).output().unwrap();
        shown += &format!(
            "{}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
    }
    let log = std::fs::read_to_string(folder.path().join("log")).unwrap();
    let address = log
        .split("listening=\"")
        .nth(1)
        .and_then(|rest| rest.split('"').next())
        .expect("it says where it listens");
    let client = reqwest::Client::builder().tls_certs_only([]).build().unwrap();
    let metrics =
        client.get(format!("http://{address}/metrics")).timeout(DEADLINE).send().await.unwrap();
    shown += &metrics.text().await.unwrap();
    shown += &log;
    assert!(shown.contains("millstream_"), "the metrics are there: {log}");
    assert!(shown.contains("you sent"), "the answers that repeat everything are there");
    let lines: Vec<&str> = shown.lines().filter(|line| line.contains(SECRET)).collect();
    assert!(lines.is_empty(), "{lines:#?}");
}

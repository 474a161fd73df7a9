//! Email: mails to a real mail server with TLS and a login, and the meaning of its answers.

use std::{
    fs,
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Command, Stdio},
    sync::mpsc,
    time::{Duration, Instant},
};

use expect_test::expect;
use millstream::channels::sample::SampleKind;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::{
    CODE, HOSTILE, built, channel, context, hostile, notification, outcome,
    peer::{nobody, raw_first},
    send,
};
use crate::{
    reaper::Start as _,
    support::{DEADLINE, Running, python_package},
};

const PASSWORD: &str = "s3cr3t-password";

/// Mail server, until it is dropped.
struct MailServer {
    port: u16,
    lines: mpsc::Receiver<String>,
    folder: TempDir,
    _process: Running,
}

impl MailServer {
    /// Starts a server that speaks TLS from STARTTLS on, from the start, or not at all.
    fn start(tls: &str) -> Self {
        let folder = TempDir::new().unwrap();
        certificates(folder.path());
        let file = |name: &str| folder.path().join(name);
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/it/channels/mail_server.py");
        let mut command = Command::new("python3");
        command.arg(script).args(["--tls", tls, "--user", "shop", "--password", PASSWORD]);
        command.arg("--cert").arg(file("server.pem")).arg("--key").arg(file("server.key"));
        command
            .env("PYTHONPATH", mail_package())
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("PYTHONWARNINGS", "ignore");
        let mut process = Running(command.stdin(Stdio::piped()).stdout(Stdio::piped()).start());
        let out = BufReader::new(process.0.stdout.take().unwrap());
        let (say, lines) = mpsc::channel();
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|line| say.send(line))
        });
        let port =
            lines.recv_timeout(DEADLINE).expect("the mail server says its port").parse().unwrap();
        Self { port, lines, folder, _process: process }
    }

    /// Keys of a channel that sends to it.
    fn options(&self, tls: &str, to: &[&str]) -> Value {
        json!({
            "smtp": format!("localhost:{}", self.port),
            "tls": tls,
            "ca": self.folder.path().join("ca.pem"),
            "user": "shop",
            "password": PASSWORD,
            "from": "Millstream <alerts@shop.test>",
            "to": to,
            "allow_private": true,
            "timeout": "5s",
        })
    }

    fn mail(&self) -> Value {
        serde_json::from_str(&self.lines.recv_timeout(DEADLINE).expect("a mail comes")).unwrap()
    }
}

/// Package of the mail server, with the one that it needs.
fn mail_package() -> std::path::PathBuf {
    python_package("aiosmtpd==1.4.6")
}

/// Writes an authority, `ca.pem`, and the certificate that it gave `localhost`, `server.pem` and
/// `server.key`.
fn certificates(folder: &Path) {
    let authority_key = KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&authority_key).unwrap();
    let key = KeyPair::generate().unwrap();
    let issuer = Issuer::from_params(&authority, &authority_key);
    let server = CertificateParams::new(vec!["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    for (name, pem) in
        [("ca.pem", ca.pem()), ("server.pem", server.pem()), ("server.key", key.serialize_pem())]
    {
        fs::write(folder.join(name), pem).unwrap();
    }
}

/// Values of a header.
fn header<'a>(mail: &'a Value, name: &str) -> Vec<&'a str> {
    let headers = mail["headers"].as_array().unwrap().iter();
    let named = headers.filter(|pair| pair[0].as_str().unwrap().eq_ignore_ascii_case(name));
    named.map(|pair| pair[1].as_str().unwrap()).collect()
}

#[tokio::test]
async fn mail_is_encrypted_logged_in_text_and_html_and_a_thread_per_group() {
    for tls in ["starttls", "tls", "none"] {
        let server = MailServer::start(tls);
        let channel =
            channel("email", &server.options(tls, &["ana@shop.test", "Bo <bo@shop.test>"]));
        let (mut mails, mut peers) = (Vec::new(), Vec::new());
        for about in SampleKind::ALL {
            send(&channel, &notification(about))
                .await
                .unwrap_or_else(|failure| panic!("{tls} {about:?}: {failure}"));
            let mail = server.mail();
            assert_eq!(
                (&mail["encrypted"], &mail["login"]),
                (&json!(tls != "none"), &json!("shop")),
                "{mail:#}"
            );
            assert_eq!(
                (&mail["from"], &mail["to"]),
                (&json!("alerts@shop.test"), &json!(["ana@shop.test", "bo@shop.test"]))
            );
            assert_eq!(
                (&mail["type"], &mail["defects"]),
                (&json!("multipart/alternative"), &json!([]))
            );
            assert_eq!(header(&mail, "auto-submitted"), ["auto-generated"]);
            let word = if about == SampleKind::Digest { "opened" } else { CODE };
            for part in ["text/plain", "text/html"] {
                assert!(
                    mail["parts"][part].as_str().unwrap().contains(word),
                    "{about:?}: {mail:#}"
                );
            }
            assert_eq!(
                header(&mail, "x-millstream-status"),
                [if about == SampleKind::Resolved { "resolved" } else { "firing" }]
            );
            peers.push(mail["peer"].clone());
            mails.push(mail);
        }
        // The one that opened, the one that is over, and the test are of one group; each mail has
        // an id of its own.
        let root = |n: usize| header(&mails[n], "references")[0];
        assert_eq!([root(0), root(0)], [root(1), root(4)]);
        assert_ne!(root(0), root(3));
        assert_eq!(header(&mails[0], "in-reply-to"), [root(0)]);
        let ids: std::collections::BTreeSet<_> =
            mails.iter().map(|mail| header(mail, "message-id")).collect();
        assert_eq!(ids.len(), mails.len());
        // Connections are used again. The pool takes one back by itself a moment later, so that the
        // next mail may find none.
        let different: std::collections::BTreeSet<String> =
            peers.iter().map(ToString::to_string).collect();
        assert!(different.len() < mails.len(), "{tls}: {peers:?}");
    }
}

#[tokio::test]
async fn what_the_preview_shows_is_what_is_sent() {
    let server = MailServer::start("starttls");
    let channel = channel("email", &server.options("starttls", &["ana@shop.test"]));
    let notification = notification(SampleKind::Firing);
    let preview = channel.preview(&notification).unwrap();
    send(&channel, &notification).await.unwrap();
    let mail = server.mail();
    for part in ["text/plain", "text/html"] {
        let part = mail["parts"][part].as_str().unwrap().replace("\r\n", "\n");
        assert!(preview.contains(part.trim_end()), "{preview}\n---\n{part}");
    }
    for name in ["subject", "auto-submitted", "message-id", "references", "x-millstream-why"] {
        assert!(preview.contains(header(&mail, name)[0]), "{name}: {preview}");
    }
    assert!(!preview.contains(PASSWORD));
}

#[tokio::test]
async fn hostile_text_is_neither_a_header_nor_html() {
    let server = MailServer::start("starttls");
    let channel = channel("email", &server.options("starttls", &["ana@shop.test"]));
    send(&channel, &hostile()).await.unwrap();
    let mail = server.mail();
    assert_eq!(
        (&mail["to"], &mail["defects"]),
        (&json!(["ana@shop.test"]), &json!([])),
        "{mail:#}"
    );
    assert!(header(&mail, "bcc").is_empty() && header(&mail, "subject").len() == 1, "{mail:#}");
    let html = mail["parts"]["text/html"].as_str().unwrap();
    assert!(
        html.contains("&lt;script&gt;")
            && !html.contains("<script")
            && !html.contains("evil.example|click>"),
        "{html}"
    );
    let text = mail["parts"]["text/plain"].as_str().unwrap();
    assert!(text.contains(&HOSTILE[..40]) && text.len() < 20_000, "{text}");
}

#[tokio::test]
async fn what_a_mail_server_says_is_retried_or_rejected_and_never_shows_the_password() {
    let (starttls, plain) = (MailServer::start("starttls"), MailServer::start("none"));
    let options = |change: &[(&str, Value)]| {
        let mut options = starttls.options("starttls", &["ana@shop.test"]);
        change.iter().for_each(|(key, value)| options[*key] = value.clone());
        options
    };
    let smtp =
        |address: std::net::SocketAddr| ("smtp", json!(format!("localhost:{}", address.port())));
    let mut system = options(&[]);
    system.as_object_mut().unwrap().remove("ca");
    let cases = [
        ("later", options(&[("to", json!(["later@shop.test"]))])),
        ("never", options(&[("to", json!(["never@shop.test"]))])),
        ("wrong password", options(&[("password", json!("s3cr3t-wrong"))])),
        ("no login", options(&[("user", Value::Null), ("password", Value::Null)])),
        ("unknown authority", system),
        ("no starttls", options(&[("smtp", json!(format!("localhost:{}", plain.port)))])),
        ("tls from the start", options(&[("tls", json!("tls"))])),
        ("another name", options(&[("smtp", json!(format!("127.0.0.1:{}", starttls.port)))])),
        ("hang", options(&[("to", json!(["hang@shop.test"])), ("timeout", json!("400ms"))])),
        ("garbage", options(&[smtp(raw_first(b"HTTP/1.1 400 no\r\n\r\n").await)])),
        ("closed", options(&[smtp(raw_first(b"").await)])),
        ("nobody", options(&[smtp(nobody())])),
    ];
    let mut lines = String::new();
    for (what, options) in cases {
        let channel = channel("email", &options);
        let answer = send(&channel, &notification(SampleKind::Firing)).await;
        assert!(!format!("{answer:?} {channel:?}").contains("s3cr3t"), "{answer:?}");
        lines += &format!("{what}: {}\n", outcome(&answer));
    }
    expect![[r#"
        later: retry SmtpTemporaryError: channel "ops": the mail server cannot now: 451: 4.3.0 the queue is full, try again later
        never: reject SmtpPermanentError: channel "ops": the mail server refuses: 550: 5.1.1 no such mailbox
        wrong password: reject AuthenticationError: channel "ops": the mail server refuses the login (535: 5.7.8 Authentication credentials invalid): look at "user" and "password"
        no login: reject AuthenticationError: channel "ops": the mail server refuses the login (530: 5.7.0 Authentication required): look at "user" and "password"
        unknown authority: retry TlsError: channel "ops": no encrypted connection to the mail server: invalid peer certificate: UnknownIssuer: it should offer STARTTLS, with a certificate for this host; see "tls" and "ca"
        no starttls: retry TlsError: channel "ops": no encrypted connection to the mail server: STARTTLS is not supported on this server: see "tls"
        tls from the start: retry TlsError: channel "ops": no encrypted connection to the mail server: received corrupt message of type InvalidContentType: it should have a certificate for this host; see "tls" and "ca"
        another name: retry TlsError: channel "ops": no encrypted connection to the mail server: invalid peer certificate: certificate not valid for name "127.0.0.1"; certificate is only valid for DnsName("localhost"): it should offer STARTTLS, with a certificate for this host; see "tls" and "ca"
        hang: retry TimeoutError: channel "ops": the mail server did not answer in 400ms
        garbage: retry ConnectionError: channel "ops": could not reach the mail server: error Tag at: HTTP/1.1 400 no
        closed: retry ConnectionError: channel "ops": could not reach the mail server: incomplete response
        nobody: retry ConnectionError: channel "ops": could not reach the mail server: Connection refused (os error 111)
    "#]].assert_eq(&lines);
    // A private address is refused by name, too, and nothing is sent.
    let said = outcome(
        &send(
            &channel("email", &options(&[("allow_private", json!(false))])),
            &notification(SampleKind::Firing),
        )
        .await,
    );
    assert!(
        said.starts_with(
            "retry ConnectionError: channel \"ops\": the name leads to a private address"
        ),
        "{said}"
    );
}

#[tokio::test]
async fn a_mail_server_that_is_back_is_used_again_and_one_mail_takes_little() {
    let server = MailServer::start("starttls");
    let channel = channel("email", &server.options("starttls", &["ana@shop.test"]));
    let mut took = Vec::new();
    for _ in 0..50 {
        let began = Instant::now();
        send(&channel, &notification(SampleKind::Firing)).await.unwrap();
        took.push(began.elapsed());
    }
    took.sort();
    println!("email accepted: median {:?}, the slowest of 50 {:?}", took[25], took[49]);
    // The first opens the connection; the promise is 500 ms for 99 of 100, on a machine that does
    // nothing else.
    assert!(took[25] < Duration::from_millis(500), "{took:?}");
}

/// Piece that one read finds after `DATA`; the mail server of the other tests cannot tell.
#[test]
fn keys_of_email_are_checked_before_anything_is_sent() {
    let mut lines = String::new();
    for options in [
        json!({ "smtp": "mail.example", "from": "nobody", "to": ["a@b.example", "x y"] }),
        json!({
            "smtp": "mail.example:25",
            "from": "a@b.example",
            "to": ["a@b.example\r\nBcc: c@d.example"],
        }),
        json!({ "smtp": "mail.example:25", "from": "a@b.example", "to": [], "user": "shop" }),
        json!({
            "smtp": "mail.example:25",
            "from": "a@b.example",
            "to": ["a@b.example"],
            "user": "shop",
            "password": "s3cr3t",
            "tls": "none",
        }),
        json!({
            "smtp": "10.0.0.1:25",
            "from": "a@b.example",
            "to": ["a@b.example"],
            "ca": "Cargo.toml",
        }),
        json!({
            "smtp": "[::1]:25",
            "from": "a@b.example",
            "to": ["a@b.example"],
            "ca": "nowhere.pem",
        }),
    ] {
        for problem in built("email", &options, &context()).unwrap_err() {
            let hint = problem.hint.map(|hint| format!(" ({hint})")).unwrap_or_default();
            lines += &format!("{}: {}{hint}\n", problem.at.join("."), problem.message);
        }
    }
    assert!(!lines.contains("s3cr3t"));
    expect![[r#"
        from: "nobody" is not a mail address: Invalid input (write it like "alerts@example.com" or "Alerts <alerts@example.com>")
        to.1: "x y" is not a mail address: Invalid input (write it like "alerts@example.com" or "Alerts <alerts@example.com>")
        smtp: "mail.example" is not a host and a port (write it like "smtp.example.com:587")
        to.0: "a@b.example  Bcc: c@d.example" is not a mail address: Invalid input (write it like "alerts@example.com" or "Alerts <alerts@example.com>")
        to: expected one to 100 addresses
        user: "user" and "password" go together
        tls: a password would be sent where anyone on the way can read it (use tls = "starttls" or "tls")
        smtp: the mail server has a private address (set allow_private = true if it should)
        ca: could not read the certificates in "Cargo.toml": there is none in it (it is a PEM file with -----BEGIN CERTIFICATE-----)
        smtp: the mail server has a private address (set allow_private = true if it should)
        ca: could not read the certificates in "nowhere.pem": No such file or directory (os error 2)
    "#]].assert_eq(&lines);
}

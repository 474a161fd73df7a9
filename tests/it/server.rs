//! Server: errors of a connection that cannot be, and an embedded server that is never left behind.

use std::{
    io::{BufRead as _, BufReader},
    process::{Command, Stdio},
};

use bytes::Bytes;
use millstream::broker::{Auth, Broker, ConnectError, Nats, server::Server};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use crate::{
    reaper::Start as _,
    support::{TestServer, bucket, eventually, failure, is_alive},
};

#[tokio::test]
async fn a_server_without_jetstream_is_one_clear_error() {
    let server = TestServer::launch(false, None).await;
    let error = failure(Broker::connect(&server.nats(), "test").await);
    assert_eq!(
        error.to_string(),
        format!(
            "the NATS server at {} has JetStream off: start it with -js, \
             or enable it for this account",
            server.server.url()
        )
    );
    assert!(!error.may_pass());
}

#[tokio::test]
async fn an_account_without_jetstream_is_the_same_error() {
    let server = TestServer::configured(concat!(
        r#"accounts { A { users: [{user: "a", password: "p"}] }, "#,
        r#"B { jetstream: enabled, users: [{user: "b", password: "p"}] } }"#
    ))
    .await;
    let nats =
        |user: &str| Nats { auth: Auth::User(user.to_owned(), "p".to_owned()), ..server.nats() };
    let error = failure(Broker::connect(&nats("a"), "test").await);
    assert!(matches!(error, ConnectError::NoJetStream { .. }), "{error:?}");
    Broker::connect(&nats("b"), "test").await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_too_old_is_named_with_its_version() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://{}", listener.local_addr().unwrap());
    let old = tokio::spawn(async move {
        let (mut socket, _) = listener.accept().await.unwrap();
        let info = concat!(
            r#"{"server_id":"X","server_name":"old","version":"2.9.11","proto":1,"#,
            r#""host":"127.0.0.1","port":4222,"headers":true,"max_payload":1048576,"#,
            r#""jetstream":true}"#
        );
        socket.write_all(format!("INFO {info}\r\nPONG\r\n").as_bytes()).await.unwrap();
        tokio::io::copy(&mut socket, &mut tokio::io::sink()).await.unwrap();
    });
    let error =
        failure(Broker::connect(&Nats { url: vec![url.clone()], ..Nats::default() }, "test").await);
    assert!(matches!(error, ConnectError::TooOld { .. }), "{error:?}");
    assert!(
        error
            .to_string()
            .starts_with(&format!("the NATS server at {url} is version 2.9.11, and 2.12")),
        "{error}"
    );
    old.abort();
}

#[tokio::test]
async fn an_unreachable_server_is_named_and_waited_for_if_told() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("nats://me:secret@{}", listener.local_addr().unwrap());
    drop(listener);
    let nats = Nats { url: vec![url], ..Nats::default() };
    let error = failure(Broker::connect(&nats, "test").await);
    assert!(matches!(error, ConnectError::Unreachable { .. }), "{error:?}");
    assert!(
        error.to_string().starts_with("could not reach a NATS server at nats://127.0.0.1:"),
        "{error}"
    );

    let (said, heard) = std::sync::mpsc::channel();
    let waiting =
        Broker::connect_patiently(&nats, "test", |error| said.send(error.to_string()).unwrap());
    tokio::select! {
        connected = waiting => panic!("it connected to nothing: {connected:?}"),
        () = eventually(async || heard.try_recv().ok().map(drop)) => {}
    }
}

#[tokio::test]
async fn a_wrong_password_is_one_clear_error_that_shows_no_secret() {
    let server =
        TestServer::configured(r#"authorization { user: "mill", password: "right" }"#).await;
    let nats =
        |password: &str| Nats { auth: Auth::User("mill".into(), password.into()), ..server.nats() };
    let error = failure(Broker::connect(&nats("wr0ng"), "test").await);
    assert!(matches!(error, ConnectError::Refused { .. }), "{error:?}");
    assert!(error.to_string().contains("refused our credentials (user and password)"), "{error}");
    assert!(!format!("{error:?} {error}").contains("wr0ng"));
    Broker::connect(&nats("right"), "test").await.unwrap();
}

#[tokio::test]
async fn a_refused_subject_is_named_at_once() {
    let server = TestServer::configured(concat!(
        r#"authorization { users: [{ user: "a", password: "p", "#,
        r#"permissions: { publish: { deny: ["shop.dlq.>"] } } }] }"#
    ))
    .await;
    let nats = Nats { auth: Auth::User("a".into(), "p".into()), ..server.nats() };
    let broker = Broker::connect(&nats, "test").await.unwrap();
    let publish =
        broker.publish(millstream::broker::Outgoing::new("shop.dlq.orders.x.1", Bytes::new()));
    let refusal = tokio::select! {
        refusal = broker.refused() => refusal,
        published = publish => published.unwrap_err().refusal().unwrap().clone(),
    };
    assert_eq!(
        (refusal.operation.as_str(), refusal.subject.as_str()),
        ("publish", "shop.dlq.orders.x.1")
    );
}

#[tokio::test]
async fn a_refused_jetstream_api_is_named_at_once() {
    let server = TestServer::configured(concat!(
        r#"authorization { users: [{ user: "a", password: "p", "#,
        r#"permissions: { publish: { deny: ["$JS.API.>"] } } }] }"#
    ))
    .await;
    let nats = Nats { auth: Auth::User("a".into(), "p".into()), ..server.nats() };
    let error = failure(Broker::connect(&nats, "test").await);
    assert!(
        matches!(&error, ConnectError::Denied(refusal) if refusal.subject == "$JS.API.INFO"),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_restart_keeps_the_port_and_the_data() {
    let mut server = TestServer::start().await;
    let broker = server.connect().await;
    let (url, pid) = (server.server.url().to_owned(), server.server.pid());
    broker.create_stream(&bucket("b")).await.unwrap();
    broker.kv_put("b", "k", "v").await.unwrap();
    server.server.kill_hard();
    assert!(!is_alive(pid));
    server.server.restart().await.unwrap();
    assert_eq!(server.server.url(), url);
    assert_ne!(server.server.pid(), pid);
    let (value, _) = eventually(async || broker.kv_get("b", "k").await.ok().flatten()).await;
    assert_eq!(value, "v");

    let pid = server.server.pid();
    server.server.stop().await;
    assert!(!is_alive(pid));
}

/// Variable that makes this binary the process that the next test kills, and no test.
const HOLDER: &str = "MILLSTREAM_TEST_HOLD_A_SERVER";

#[tokio::test]
async fn a_server_is_gone_soon_after_its_parent_was_killed_with_kill_9() {
    if std::env::var_os(HOLDER).is_some() {
        let server = TestServer::start().await;
        println!("\nholding {}", server.server.pid());
        std::future::pending::<()>().await;
    }
    let test = "server::a_server_is_gone_soon_after_its_parent_was_killed_with_kill_9";
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact", "--nocapture"])
        .env(HOLDER, "1")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .start();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let pid = lines
        .map_while(Result::ok)
        .find_map(|line| line.strip_prefix("holding ")?.parse().ok())
        .unwrap();
    assert!(is_alive(pid));
    holder.kill().unwrap();
    holder.wait().unwrap();
    eventually(async || (!is_alive(pid)).then_some(())).await;
}

#[tokio::test]
async fn a_program_that_is_no_nats_server_is_refused_with_its_path() {
    let error = failure(Server::find(Some("/bin/echo".as_ref())).await);
    let text = error.to_string();
    assert!(
        text.starts_with(
            "the nats-server at /bin/echo cannot be used: it does not say its version"
        ),
        "{text}"
    );
}

#[tokio::test]
async fn a_server_that_ends_at_once_shows_the_end_of_its_log() {
    let program = Server::find(None).await.unwrap();
    let data = tempfile::TempDir::new().unwrap();
    let config = data.path().join("broken.conf");
    std::fs::write(&config, "jetstream { store_dir: \"/proc/none\" }").unwrap();
    let launch = millstream::broker::server::Launch {
        data: data.path().to_owned(),
        port: 0,
        jetstream: false,
        config: Some(config),
    };
    let error = failure(Server::launch(&program, launch).await);
    assert!(error.to_string().contains("ended at once"), "{error}");
    assert!(error.to_string().contains("/proc/none"), "{error}");
}

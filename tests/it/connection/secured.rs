//! Secured: every way to prove who we are, and TLS, over cuts and with credentials made anew.

use std::{fs, path::Path};

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use millstream::broker::{Auth, Broker, ConnectError, Nats, Outgoing, Retention};
use nkeys::KeyPair;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::consumer;
use crate::{
    proxy::Proxy,
    support::{TestServer, failure, stream},
};

/// Publishes and pulls, so that more than the greeting is seen to work.
async fn works(broker: &Broker) {
    broker.create_stream(&stream("s", "s.>", Retention::Limits)).await.unwrap();
    broker.create_consumer(&consumer("c")).await.unwrap();
    let stored = broker.publish(Outgoing::new("s.x", "x").id("one")).await.unwrap();
    let mut pull = broker.pull("s", "c", 10).await.unwrap();
    let delivered = pull.next().await.unwrap().unwrap();
    assert_eq!((delivered.seq, stored.seq), (1, 1));
    delivered.ack().await;
    assert_eq!(broker.message("s", 1).await.unwrap().unwrap().body, "x");
}

fn nats(server: &TestServer, auth: Auth) -> Nats {
    Nats { auth, ..server.nats() }
}

#[tokio::test]
async fn a_user_a_token_and_an_nkey_are_let_in_and_others_are_not() {
    let pair = KeyPair::new_user();
    let cases = [
        (
            "user: u, password: p".to_owned(),
            Auth::User("u".into(), "p".into()),
            Auth::User("u".into(), "q".into()),
        ),
        ("token: t".to_owned(), Auth::Token("t".into()), Auth::Token("x".into())),
        (
            format!("users: [{{ nkey: {} }}]", pair.public_key()),
            Auth::Nkey(pair.seed().unwrap()),
            Auth::Nkey(KeyPair::new_user().seed().unwrap()),
        ),
    ];
    for (config, right, wrong) in cases {
        let server = TestServer::configured(&format!("authorization {{ {config} }}")).await;
        works(&Broker::connect(&nats(&server, right), "right").await.unwrap()).await;
        let refused = failure(Broker::connect(&nats(&server, wrong), "wrong").await);
        assert!(matches!(refused, ConnectError::Refused { .. }), "{refused}");
    }
}

/// A JWT of NATS, version 2.
fn jwt(signer: &KeyPair, subject: &str, name: &str, kind: &str, nats: Value) -> String {
    let mut nats = nats;
    nats["type"] = kind.into();
    nats["version"] = 2.into();
    let part = |value: Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let head = part(json!({ "typ": "JWT", "alg": "ed25519-nkey" }));
    let claims = part(json!({
        "jti": name, "iat": 1_700_000_000, "iss": signer.public_key(), "name": name,
        "sub": subject, "nats": nats,
    }));
    let signed = format!("{head}.{claims}");
    let signature = URL_SAFE_NO_PAD.encode(signer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}

fn write_creds(path: &Path, account: &KeyPair) {
    let user = KeyPair::new_user();
    let jwt = jwt(
        account,
        &user.public_key(),
        "worker",
        "user",
        json!({ "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1 }),
    );
    let text = format!(
        "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
         -----BEGIN USER NKEY SEED-----\n{}\n------END USER NKEY SEED------\n",
        user.seed().unwrap()
    );
    fs::write(path, text).unwrap();
}

#[tokio::test]
async fn a_credentials_file_is_read_anew_for_each_connection() {
    let (operator, account, system) =
        (KeyPair::new_operator(), KeyPair::new_account(), KeyPair::new_account());
    let limits = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1, "mem_storage": -1, "disk_storage": -1, "streams": -1,
        "consumer": -1,
    });
    let of = |pair: &KeyPair, name: &str, limits: Value| {
        jwt(&operator, &pair.public_key(), name, "account", json!({ "limits": limits }))
    };
    let plain = json!({
        "subs": -1, "data": -1, "payload": -1, "imports": -1, "exports": -1, "wildcards": true,
        "conn": -1, "leaf": -1,
    });
    let system_key = system.public_key();
    let claims = json!({ "system_account": system_key });
    let config = format!(
        "operator: {}\nsystem_account: {system_key}\nresolver: MEMORY\n\
         resolver_preload: {{ {}: {}, {system_key}: {} }}\n",
        jwt(&operator, &operator.public_key(), "op", "operator", claims),
        account.public_key(),
        of(&account, "shop", limits),
        of(&system, "sys", plain),
    );
    let server = TestServer::configured(&config).await;
    let proxy = Proxy::before(server.server.url()).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("worker.creds");
    write_creds(&path, &account);
    let settings =
        Nats { url: vec![proxy.url()], auth: Auth::Creds(path.clone()), ..Nats::default() };
    let broker = Broker::connect(&settings, "worker").await.unwrap();
    works(&broker).await;
    // Another user of the account, as after a rotation.
    write_creds(&path, &account);
    proxy.cut();
    broker.publish(Outgoing::new("s.x", "y")).await.unwrap();
}

/// Authority, and a certificate for `127.0.0.1` and one of a client, as files.
fn certificates(folder: &Path) {
    let authority_key = rcgen::KeyPair::generate().unwrap();
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = authority.self_signed(&authority_key).unwrap();
    fs::write(folder.join("ca.pem"), ca.pem()).unwrap();
    let issuer = Issuer::from_params(&authority, &authority_key);
    for name in ["server", "client"] {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &issuer).unwrap();
        fs::write(folder.join(format!("{name}.pem")), certificate.pem()).unwrap();
        fs::write(folder.join(format!("{name}.key")), key.serialize_pem()).unwrap();
    }
}

#[tokio::test]
async fn tls_with_certificates_on_both_sides_holds_over_a_cut() {
    let folder = TempDir::new().unwrap();
    certificates(folder.path());
    let at = |name: &str| folder.path().join(name);
    let server = TestServer::configured(&format!(
        "tls {{ cert_file: {:?}, key_file: {:?}, ca_file: {:?}, verify: true }}\n\
         authorization {{ user: u, password: p }}",
        at("server.pem"),
        at("server.key"),
        at("ca.pem")
    ))
    .await;
    let address = server.server.url().trim_start_matches("tls://").to_owned();
    let proxy = Proxy::before(&address).await;
    let settings = Nats {
        url: vec![proxy.url().replace("nats://", "tls://")],
        auth: Auth::User("u".into(), "p".into()),
        tls_ca: Some(at("ca.pem")),
        tls_identity: Some((at("client.pem"), at("client.key"))),
    };
    let broker = Broker::connect(&settings, "worker").await.unwrap();
    works(&broker).await;
    proxy.cut();
    broker.publish(Outgoing::new("s.x", vec![7; 500_000])).await.unwrap();
    let large = broker.message("s", 2).await.unwrap().unwrap();
    assert_eq!(large.body.len(), 500_000);

    let stranger = Nats { tls_identity: None, ..settings.clone() };
    failure(Broker::connect(&stranger, "stranger").await);
    let distrustful = Nats { tls_ca: None, tls_identity: None, ..settings };
    let refused = failure(Broker::connect(&distrustful, "distrustful").await);
    assert!(matches!(refused, ConnectError::Tls { .. }), "{refused:?}");
}

#[tokio::test]
async fn a_refused_subject_fails_at_once_and_is_reported() {
    let server = TestServer::denying("s.secret").await;
    let nats = nats(&server, Auth::User("worker".into(), "w".into()));
    let broker = Broker::connect(&nats, "worker").await.unwrap();
    let began = std::time::Instant::now();
    let wait = std::time::Duration::from_secs(30);
    failure(broker.request("s.secret", Default::default(), "x".into(), wait).await);
    assert!(began.elapsed() < wait / 2, "it does not wait for an answer that cannot come");
    assert_eq!(broker.refused().await.subject, "s.secret");
}

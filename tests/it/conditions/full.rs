//! Full: a stream, and an account, that take nothing more.

use millstream::{broker::Outgoing, handlers::Registry};

use super::*;

const CONFIG: &str = r#"
    accounts {
        SYS: { users: [{ user: sys, password: s }] }
        SHOP: { jetstream: { max_file: 400KB }, users: [{ user: u, password: p }] }
    }
    system_account: SYS
    no_auth_user: u
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_full_account_and_a_full_stream_are_named() {
    let bounded = format!("{SHOP}[storage]\ndlq_max_bytes = \"16KiB\"\n");
    let server = TestServer::configured(CONFIG).await;
    let mut mill = Mill::still(server, &bounded, Registry::new()).await;
    let shell = Shell::new(&bounded, mill.server.server.url());
    mill.work().await;
    let at = mill.worker.as_ref().unwrap().listening.unwrap();
    ready(at).await;

    // Until one is refused.
    let letter = |n: usize| {
        let subject = format!("shop.dlq.work.shop-out-first.{n}");
        mill.broker.publish(Outgoing::new(subject, "x".repeat(2000)))
    };
    let mut stored = 0;
    while letter(stored).await.is_ok() {
        stored += 1;
    }
    let told = missing(at, "stream shop-dlq").await;
    assert_eq!(told["why"], "it is full (16KiB): what is new is refused", "{stored} stored");
    assert!(told["remedy"].as_str().unwrap().contains("millstream dlq"), "{told}");
    status_names(&shell, "stream shop-dlq").await;

    let event = || mill.broker.publish(Outgoing::new("events.order", "x".repeat(8000)));
    while event().await.is_ok() {}
    let told = missing(at, "storage").await;
    assert!(told["why"].as_str().unwrap().contains("nothing new is taken"), "{told}");
    status_names(&shell, "storage").await;

    // Room again.
    mill.broker.purge_up_to("shop-in-events", "", u64::MAX - 1).await.unwrap();
    mill.broker.purge_up_to("shop-dlq", "", u64::MAX - 1).await.unwrap();
    ready(at).await;
    mill.drain().await;
}

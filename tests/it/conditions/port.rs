//! Port: an address for metrics and health that another worker on the host has.

use super::*;
use crate::support::Mill;

#[tokio::test(flavor = "multi_thread")]
async fn a_second_worker_on_an_address_works_without_it_until_it_is_free() {
    let mut mill = Mill::start(SHOP).await;
    let at = mill.worker.as_ref().unwrap().listening.unwrap();
    ready(at).await;
    let shell = Shell::new(SHOP, mill.server.server.url());
    mill.pipeline =
        pipeline(&SHOP.replace("127.0.0.1:0", &at.to_string()), mill.server.server.url());
    let second = worker(&mill, None).await;
    assert_eq!(second.listening, None);
    // It has no port to say it at, so `status` does.
    let told = status_names(&shell, &format!("port {at}")).await;
    assert!(told["remedy"].as_str().unwrap().contains("--set observe.listen="), "{told}");
    assert_eq!(told["workers"].as_array().unwrap().len(), 1, "{told}");
    mill.drain().await;
    ready(at).await;
    eventually(async || (shell.run("status").await.code == 0).then_some(())).await;
    second.drain(std::future::pending()).await;
}

//! HTTP client: calls of handlers and channels, without redirects or proxies, in bounded time.

use std::time::Duration;

use reqwest::{Client, ClientBuilder, Error, Url, redirect};

use crate::{
    limits,
    tls::{self},
};

/// Client for calls to `url`, each within `timeout`. `set` adds the caller's own settings.
pub(crate) fn build(
    url: &Url,
    timeout: Duration,
    set: impl FnOnce(ClientBuilder) -> ClientBuilder,
) -> Result<Client, Error> {
    tls::install_provider();
    let client = Client::builder()
        .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(limits::HTTP_CONNECT_TIMEOUT)
        .pool_idle_timeout(limits::HTTP_IDLE)
        .timeout(timeout);
    let client = set(client);
    // Without TLS nothing is verified, so the system's certificates are not loaded (or missed, in a
    // bare container).
    if url.scheme() == "http" { client.tls_certs_only([]).build() } else { client.build() }
}

//! Check: health check of the service that a stage depends on.

use std::time::Duration;

use bytes::Bytes;

use crate::{
    broker::{Broker, Headers},
    config::pipeline::CheckOf,
    limits,
};

/// Asks the service once; the error is one line.
pub(super) async fn ask(broker: &Broker, of: &CheckOf) -> Result<(), String> {
    let patience = limits::CHECK_TIMEOUT;
    match of {
        CheckOf::Http(url) => http(url, patience).await,
        CheckOf::Tcp(address) => {
            match tokio::time::timeout(patience, tokio::net::TcpStream::connect(address)).await {
                Ok(Ok(_)) => Ok(()),
                Ok(Err(error)) => Err(format!("{address} takes no connection: {error}")),
                Err(_) => Err(format!("{address} takes no connection in {patience:?}")),
            }
        }
        CheckOf::Nats(subject) => {
            match broker.request(subject, Headers::new(), Bytes::new(), patience).await {
                Ok(_) => Ok(()),
                Err(error) => Err(error.to_string()),
            }
        }
    }
}

async fn http(url: &str, patience: Duration) -> Result<(), String> {
    // A check is seldom: a connection that was kept would show the service as it was.
    let client = reqwest::Client::builder().timeout(patience).pool_max_idle_per_host(0).no_proxy();
    // Without TLS nothing is verified, so the system's certificates are not loaded (or missed, in a
    // bare container).
    let client = if url.starts_with("https") { client } else { client.tls_certs_only([]) };
    crate::tls::install_provider();
    let client = client.build().map_err(|error| error.to_string())?;
    match client.get(url).send().await {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(format!("{} answers {}", host(url), answer.status())),
        Err(error) if error.is_timeout() => {
            Err(format!("{} does not answer in {patience:?}", host(url)))
        }
        Err(error) => Err(format!("{} cannot be reached: {}", host(url), error.without_url())),
    }
}

/// URL without its user, path and query, which may be secret.
fn host(url: &str) -> &str {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    let start = rest[..end].rfind('@').map_or(0, |at| at + 1);
    let from = if start > 0 || scheme.is_empty() { url.len() - rest.len() + start } else { 0 };
    &url[from..url.len() - rest.len() + end]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_told_without_user_path_and_query() {
        assert_eq!(host("http://a.b:80/health?key=s"), "http://a.b:80");
        assert_eq!(host("https://u:p@a.b/x"), "a.b");
    }
}

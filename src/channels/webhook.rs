//! `webhook`: posts notifications, as JSON, to a URL.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use millstream_stages::{
    Delivery, Failure, Pending, Problem, failure::class, headers, notification::Notification, replies, units::Period,
};
use reqwest::{
    Client, Url,
    dns::{Addrs, Name, Resolve, Resolving},
    header::{HeaderMap, HeaderName, HeaderValue, RETRY_AFTER},
    redirect,
};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use super::{Built, Channel, ChannelContext, ChannelKind};
use crate::limits;

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "webhook",
    about: "posts notifications, as JSON, to a URL",
    options: || schemars::schema_for!(Options),
    build,
};

/// The header that a receiver can tell a repeat by.
const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The keys of a `webhook` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The URL, `http://` or `https://`. It is a secret: nothing shows it.
    url: String,
    /// Headers to add, such as `authorization = "Bearer ${TOKEN}"`. Their values are never shown.
    #[serde(default)]
    headers: BTreeMap<String, String>,
    /// How long a call may take.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Whether the URL may lead to loopback, link-local and private addresses.
    #[serde(default)]
    allow_private: bool,
}

fn default_timeout() -> Period {
    Period::seconds(10)
}

struct Webhook {
    client: Client,
    url: Url,
    headers: HeaderMap,
    timeout: Duration,
    /// The channel's name: what errors say in place of the URL.
    name: String,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let options: Options = super::read(options)?;
    let hint = "write it like \"https://hooks.example.com/T1/B2\"";
    // The URL is a secret, so no message repeats it.
    let url = match Url::parse(&options.url) {
        Ok(url) if ["http", "https"].contains(&url.scheme()) => Ok(url),
        Ok(_) => Err(Problem::new(&["url"], "only http and https URLs can be posted to").hint(hint)),
        Err(error) => Err(Problem::new(&["url"], format!("not a URL: {error}")).hint(hint)),
    };
    let mut problems = Vec::new();
    let mut headers = HeaderMap::new();
    for (name, value) in &options.headers {
        match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            (Ok(name), Ok(mut value)) => {
                value.set_sensitive(true);
                headers.insert(name, value);
            }
            (Err(_), _) => {
                problems.push(Problem::new(&["headers", name], format!("\"{name}\" is not the name of a header")))
            }
            (_, Err(_)) => problems.push(Problem::new(&["headers", name], "the value has control characters")),
        }
    }
    let url = url.map_err(|problem| problems.push(problem));
    let literal = url
        .as_ref()
        .ok()
        .and_then(|url| url.host_str())
        .and_then(|host| host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().ok());
    if !options.allow_private && literal.is_some_and(is_private) {
        let problem = Problem::new(&["url"], "the URL leads to a private address");
        problems.push(problem.hint("set allow_private = true if it should"));
    }
    let Ok(url) = url else { return Err(problems) };
    if !problems.is_empty() {
        return Err(problems);
    }
    let client = client(&url, options.timeout.0, options.allow_private).map_err(|error| {
        vec![Problem::new(&["url"], format!("no HTTP client: {}", root_cause(&error.without_url())))]
    })?;
    Ok(Arc::new(Webhook { client, url, headers, timeout: options.timeout.0, name: context.name.clone() }))
}

fn client(url: &Url, timeout: Duration, allow_private: bool) -> Result<Client, reqwest::Error> {
    // Fails where a provider is installed already, which is as good.
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = Client::builder()
        .user_agent(concat!("millstream/", env!("CARGO_PKG_VERSION")))
        .redirect(redirect::Policy::none())
        .no_proxy()
        .referer(false)
        .connect_timeout(limits::HTTP_CONNECT_TIMEOUT)
        .pool_idle_timeout(limits::HTTP_IDLE)
        .timeout(timeout);
    let client = if allow_private { client } else { client.dns_resolver(Arc::new(PublicOnly)) };
    // Without TLS nothing is verified, so the system's certificates are not loaded (or missed, in a bare container).
    if url.scheme() == "http" { client.tls_certs_only([]).build() } else { client.build() }
}

impl Channel for Webhook {
    fn send<'a>(&'a self, notification: &'a Notification, delivery: &'a Delivery) -> Pending<'a, ()> {
        Box::pin(async move {
            let body = serde_json::to_vec(notification).expect("a notification is plain data");
            let mut request = self
                .client
                .post(self.url.clone())
                .header("content-type", "application/json")
                .header(IDEMPOTENCY_KEY, headers::clean(&notification.notification_id))
                .headers(self.headers.clone());
            if let Some(traceparent) = &delivery.traceparent {
                request = request.header(headers::TRACEPARENT, headers::clean(traceparent));
            }
            let mut response = request.body(body).send().await.map_err(|error| self.no_answer(error))?;
            let status = response.status().as_u16();
            let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
            let retry_after = retry_after.and_then(|value| replies::retry_after(value, delivery.now));
            // The first chunk says what is wrong, if anything; and it is not needed to know that.
            let said = response.chunk().await.ok().flatten().unwrap_or_default();
            replies::http_reply(status, retry_after, &String::from_utf8_lossy(&said))
        })
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.timeout)
    }
}

impl Webhook {
    fn no_answer(&self, error: reqwest::Error) -> Failure {
        let (name, error) = (&self.name, error.without_url());
        if error.is_timeout() && !error.is_connect() {
            return Failure::retry(
                class::TIMEOUT,
                format!("no answer on channel \"{name}\" in {}", Period(self.timeout)),
            );
        }
        Failure::retry(class::CONNECTION, format!("could not reach channel \"{name}\": {}", root_cause(&error)))
    }
}

/// The innermost error: what the system or the peer said.
fn root_cause(error: &dyn std::error::Error) -> String {
    let mut root = error;
    while let Some(source) = root.source() {
        root = source;
    }
    headers::clean(&root.to_string())
}

/// Resolves names to public addresses only: what a name leads to is known when it is connected to, not when it is checked.
struct PublicOnly;

impl Resolve for PublicOnly {
    fn resolve(&self, name: Name) -> Resolving {
        Box::pin(async move {
            let found = tokio::net::lookup_host((name.as_str(), 0)).await?;
            let public: Vec<SocketAddr> = found.filter(|address| !is_private(address.ip())).collect();
            if public.is_empty() {
                return Err("the name leads to a private address, and allow_private is not set".into());
            }
            Ok(Box::new(public.into_iter()) as Addrs)
        })
    }
}

/// Whether an address is not one of the public Internet.
///
/// Source: the IANA special-purpose address registries (RFC 6890 and what updates it).
fn is_private(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, _] = ip.octets();
            ip.is_private()
                || ip.is_loopback()
                || ip.is_link_local()
                || ip.is_multicast()
                || ip.is_documentation()
                || a == 0
                || a >= 240
                || (a == 100 && (64..128).contains(&b))
                || (a == 198 && (b == 18 || b == 19))
                || (a, b, c) == (192, 0, 0)
        }
        IpAddr::V6(ip) => {
            let s = ip.segments();
            let embedded = || Ipv4Addr::from((u32::from(s[6]) << 16) | u32::from(s[7]));
            // IPv4 in IPv6: mapped (::ffff:0:0/96), compatible (::/96), and translated (64:ff9b::/96).
            let carries_v4 =
                (s[..5] == [0; 5] && [0, 0xffff].contains(&s[5])) || (s[..6] == [0x64, 0xff9b, 0, 0, 0, 0]);
            ip.is_loopback()
                || ip.is_unspecified()
                || ip.is_multicast()
                || (s[0] & 0xfe00) == 0xfc00
                || (s[0] & 0xffc0) == 0xfe80
                || (s[0], s[1]) == (0x2001, 0x0db8)
                || s[0] == 0x2002
                || (carries_v4 && is_private(IpAddr::V4(embedded())))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_not_public_is_private() {
        for ip in [
            "127.0.0.1",
            "0.0.0.0",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "169.254.169.254",
            "100.64.0.1",
            "224.0.0.1",
            "255.255.255.255",
            "::1",
            "::",
            "fe80::1",
            "fd00::1",
            "::ffff:10.0.0.1",
            "::ffff:127.0.0.1",
            "64:ff9b::a00:1",
            "::127.0.0.1",
            "ff02::1",
            "2002:a00:1::",
        ] {
            assert!(is_private(ip.parse().unwrap()), "{ip}");
        }
        for ip in ["1.1.1.1", "100.63.0.1", "172.32.0.1", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"] {
            assert!(!is_private(ip.parse().unwrap()), "{ip}");
        }
    }

    #[test]
    fn a_private_or_broken_url_is_a_problem_that_does_not_repeat_it() {
        let context = ChannelContext { name: "ops".to_owned(), broker: None };
        for url in
            ["http://127.0.0.1/secret", "http://[::1]:9/secret", "http://0x7f.1/secret", "ftp://x/secret", "secret"]
        {
            let problems = build(&json!({ "url": url }), &context).err().unwrap();
            assert!(!format!("{problems:?}").contains("secret"), "{problems:?}");
        }
        assert!(build(&json!({ "url": "http://127.0.0.1/secret", "allow_private": true }), &context).is_ok());
        let wrong = json!({ "url": "http://a.example/", "headers": { "a b": "x", "x": "secret\n" } });
        let problems = build(&wrong, &context).err().unwrap();
        assert_eq!(problems.len(), 2);
        assert!(!format!("{problems:?}").contains("secret"));
    }
}

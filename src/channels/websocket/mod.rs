//! WebSocket channel: notifications, and incidents as they change, pushed to browsers.
//!
//! A browser may be connected to any worker, not only to the one that delivers a notification: the
//! notification is sent over the broker, and every worker that serves browsers listens there.
//! Workers on one host share the address: the first has it, the next takes it over.

mod auth;
mod client;
mod serve;

use std::{net::SocketAddr, sync::Arc, time::Duration};

use millstream_stages::{Delivery, Pending, Problem, notification::Notification};
use reqwest::Url;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::{
    Built, Channel, ChannelContext, ChannelKind, Endpoint, nats,
    websocket::auth::{Auth, TOKEN_BYTES_MIN},
};
use crate::limits;

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "websocket",
    about: "pushes notifications, and incidents as they change, to browsers that are connected",
    per_minute: 1200,
    options: || schemars::schema_for!(Options),
    build,
};

/// The keys of a `websocket` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The address browsers connect to: an IP address and a port. If they are not on this host,
    /// they should reach it through a proxy that speaks TLS.
    #[serde(default = "default_listen")]
    listen: String,
    /// The path they connect to.
    #[serde(default = "default_path")]
    path: String,
    /// The token that clients present, at least 16 letters, digits, `-`, `.`, `_` or `~`. They
    /// send it as `Authorization: Bearer <token>`, or, since a browser cannot set headers, as the
    /// subprotocol `bearer.<token>` beside `millstream`. It is never shown.
    token: String,
    /// The sites whose pages may connect, such as `https://ops.example.com`. What is no browser
    /// says no origin, and needs none.
    #[serde(default)]
    origins: Vec<String>,
}

fn default_listen() -> String {
    "127.0.0.1:9465".to_owned()
}

fn default_path() -> String {
    "/live".to_owned()
}

struct WebSocket {
    listen: SocketAddr,
    auth: Arc<Auth>,
    context: ChannelContext,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let Options { listen, path, token, origins } = super::read(options)?;
    let mut problems = Vec::new();
    let address = listen.parse::<SocketAddr>().map_err(|_| {
        let problem =
            Problem::new(&["listen"], format!("\"{listen}\" is not an address to listen on"));
        problems.push(problem.hint(
            "write an IP address and a port, such as \"127.0.0.1:9465\" or \"0.0.0.0:9465\"",
        ));
    });
    if !path.starts_with('/')
        || !path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/-._~".contains(&byte))
    {
        problems.push(
            Problem::new(&["path"], format!("\"{path}\" is not a path"))
                .hint("write it like \"/live\""),
        );
    }
    if token.len() < TOKEN_BYTES_MIN
        || !token.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte))
    {
        let message =
            format!("a token is at least {TOKEN_BYTES_MIN} letters, digits, -, ., _ or ~");
        problems
            .push(Problem::new(&["token"], message).hint("make one with: openssl rand -hex 32"));
    }
    let mut allowed = Vec::new();
    for (n, origin) in origins.iter().enumerate() {
        match Url::parse(origin).map(|url| url.origin().ascii_serialization()) {
            Ok(known) if known == origin.trim_end_matches('/').to_ascii_lowercase() => {
                allowed.push(known)
            }
            _ => {
                let problem = Problem::new(
                    &["origins", &n.to_string()],
                    format!("\"{origin}\" is not an origin"),
                );
                problems.push(problem.hint(
                    "write a scheme, a host and, if need be, a port: \"https://ops.example.com\"",
                ));
            }
        }
    }
    match address {
        Ok(listen) if problems.is_empty() => {
            let auth = Arc::new(Auth::new(path, &token, allowed));
            Ok(Arc::new(WebSocket { listen, auth, context: context.clone() }))
        }
        _ => Err(problems),
    }
}

impl Channel for WebSocket {
    fn send<'a>(&'a self, notification: &'a Notification, _: &'a Delivery) -> Pending<'a, ()> {
        Box::pin(async move {
            let live = self.context.names.live_subject(&self.context.name);
            nats::announce(self.context.broker.as_ref(), &live, notification).await
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        super::pretty(&json!({ "type": "notification", "notification": notification }))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(limits::PUBLISH_TIMEOUT)
    }

    fn endpoint(self: Arc<Self>, stop: CancellationToken) -> Option<Endpoint> {
        let broker = self.context.broker.clone()?;
        Some(Box::pin(async move {
            serve::serve(self.listen, &self.auth, &self.context, &broker, &stop).await
        }))
    }
}

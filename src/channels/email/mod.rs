//! Email channel: notifications sent as mail over SMTP, as text and as HTML, one thread per group.

mod mail;
mod server;

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime},
};

use lettre::message::Mailbox;
use millstream_stages::{Delivery, Pending, Problem, notification::Notification, units::Period};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;

use self::server::{Encryption, Login, Server};
use super::{
    Built, Channel, ChannelContext, ChannelKind,
    address::{is_private, literal},
};
use crate::{bounded_file, error_chain::root_cause, limits};

pub(super) const KIND: ChannelKind = ChannelKind {
    name: "email",
    about: "sends notifications as mail over SMTP",
    per_minute: 30,
    options: || schemars::schema_for!(Options),
    build,
};

/// Most recipients of one mail: a list of many belongs on a mail server.
const RECIPIENTS_MAX: usize = 100;

/// The keys of an `email` channel.
#[derive(Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
struct Options {
    /// The mail server, such as `smtp.example.com:587`.
    smtp: String,
    /// Encryption of the connection.
    #[serde(default)]
    tls: Encryption,
    /// A certificate authority to trust besides the system's: the path of a PEM file.
    #[serde(default)]
    ca: Option<String>,
    /// The user name to log in with; goes with `password`.
    #[serde(default)]
    user: Option<String>,
    /// The user's password, better written as `${VAR}` or `${file:PATH}`. It is never shown.
    #[serde(default)]
    password: Option<String>,
    /// The sender, such as `Millstream <alerts@example.com>`.
    from: String,
    /// The list of recipients.
    #[schemars(length(min = 1, max = 100))]
    to: Vec<String>,
    /// Time limit of sending one mail.
    #[serde(default = "default_timeout")]
    timeout: Period,
    /// Allows the server to have a loopback, link-local or private address.
    #[serde(default)]
    allow_private: bool,
}

fn default_timeout() -> Period {
    Period::seconds(20)
}

struct Email {
    server: Server,
    from: Mailbox,
    to: Vec<Mailbox>,
    pipeline: String,
}

fn build(options: &Value, context: &ChannelContext) -> Built {
    let options: Options = super::read(options)?;
    let mut problems = Vec::new();
    let mut address = |at: &[&str], text: &str| {
        text.parse::<Mailbox>().map_err(|error| {
            let shown = millstream_stages::text::excerpt(text, 100);
            let problem = Problem::new(at, format!("\"{shown}\" is not a mail address: {error}"));
            problems.push(
                problem.hint(
                    "write it like \"alerts@example.com\" or \"Alerts <alerts@example.com>\"",
                ),
            );
        })
    };
    let from = address(&["from"], &options.from);
    let to: Vec<_> =
        options.to.iter().enumerate().map(|(n, to)| address(&["to", &n.to_string()], to)).collect();
    if options.to.is_empty() || options.to.len() > RECIPIENTS_MAX {
        problems.push(Problem::new(&["to"], format!("expected one to {RECIPIENTS_MAX} addresses")));
    }
    let place = options
        .smtp
        .rsplit_once(':')
        .and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
    let place = place
        .filter(|(host, _)| !host.is_empty() && (!host.contains(':') || host.starts_with('[')));
    if place.is_none() {
        let problem =
            Problem::new(&["smtp"], format!("\"{}\" is not a host and a port", options.smtp));
        problems.push(problem.hint("write it like \"smtp.example.com:587\""));
    }
    let host = place.map_or("", |(host, _)| host);
    if !options.allow_private && literal(host).is_some_and(is_private) {
        let problem = Problem::new(&["smtp"], "the mail server has a private address");
        problems.push(problem.hint("set allow_private = true if it should"));
    }
    let login = match (options.user, options.password) {
        (Some(user), Some(password)) => Some(Login { user, password }),
        (None, None) => None,
        (user, _) => {
            let (given, absent) =
                if user.is_some() { ("user", "password") } else { ("password", "user") };
            problems
                .push(Problem::new(&[given], format!("\"{given}\" and \"{absent}\" go together")));
            None
        }
    };
    let local = host == "localhost" || literal(host).is_some_and(|ip| ip.is_loopback());
    if login.is_some() && options.tls == Encryption::None && !local {
        let problem =
            Problem::new(&["tls"], "a password would be sent where anyone on the way can read it");
        problems.push(problem.hint("use tls = \"starttls\" or \"tls\""));
    }
    let ca = options.ca.as_deref().map(|path| authority(&context.base, path)).transpose();
    let ca = ca.map_err(|problem| problems.push(problem));
    let (Ok(from), Ok(to), Ok(ca), Some((host, port))) =
        (from, to.into_iter().collect(), ca, place)
    else {
        return Err(problems);
    };
    if !problems.is_empty() {
        return Err(problems);
    }
    let server = Server::new(server::Keys {
        host: host.trim_start_matches('[').trim_end_matches(']').to_owned(),
        port,
        tls: options.tls,
        ca,
        login,
        hello: from.email.domain().to_owned(),
        timeout: options.timeout,
        allow_private: options.allow_private,
        channel: context.name.clone(),
    });
    let server = server
        .map_err(|error| vec![Problem::new(&["tls"], format!("TLS cannot be set up: {error}"))])?;
    Ok(Arc::new(Email { server, from, to, pipeline: context.names.pipeline().to_owned() }))
}

/// Reads the certificates in a PEM file.
fn authority(base: &Path, path: &str) -> Result<Vec<u8>, Problem> {
    let wrong = |why: String| {
        Problem::new(&["ca"], format!("could not read the certificates in \"{path}\": {why}"))
    };
    let pem = bounded_file::read(&base.join(path), limits::CERTIFICATES_BYTES_MAX)
        .map_err(|error| wrong(root_cause(&error)))?;
    if !String::from_utf8_lossy(&pem).contains("-----BEGIN CERTIFICATE-----") {
        return Err(wrong("there is none in it".to_owned())
            .hint("it is a PEM file with -----BEGIN CERTIFICATE-----"));
    }
    Ok(pem)
}

impl Channel for Email {
    fn send<'a>(
        &'a self,
        notification: &'a Notification,
        delivery: &'a Delivery,
    ) -> Pending<'a, ()> {
        Box::pin(async move {
            let mail = mail::Mail {
                from: &self.from,
                to: &self.to,
                pipeline: &self.pipeline,
                notification,
            };
            let message =
                mail.message(delivery.now).map_err(|failure| self.server.failure(failure))?;
            self.server.send(message).await
        })
    }

    fn preview(&self, notification: &Notification) -> String {
        let mail =
            mail::Mail { from: &self.from, to: &self.to, pipeline: &self.pipeline, notification };
        self.server.redact(&mail.preview(SystemTime::from(notification.at)))
    }

    fn timeout(&self) -> Option<Duration> {
        Some(self.server.timeout())
    }
}

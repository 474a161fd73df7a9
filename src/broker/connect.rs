//! Connect: the first connection, with one clear error if it fails, and its later events.

use std::{sync::Arc, time::Duration};

use async_nats::{
    ConnectErrorKind, ConnectOptions, Event, ServerError,
    jetstream::{ErrorCode, context::AccountErrorKind, context::ContextBuilder},
};
use tokio::sync::Semaphore;

use super::{
    Broker,
    budget::Budget,
    connection::{Connection, DialError},
    refusal::{self, Refusal, Refusals},
    settings::{Auth, Nats},
};
use crate::{limits, tls};

/// Oldest server version with what we need: message schedules and atomic batches.
pub const SERVER_VERSION_MIN: (u64, u64) = (2, 12);

/// Failed connection to the broker.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// No server named.
    #[error("no NATS server is named: set \"url\" in [nats], or MILLSTREAM_NATS__URL")]
    NoServer,
    /// Address that cannot be read.
    #[error("the address of the NATS server {address} cannot be read")]
    Address {
        /// Address, without secrets.
        address: String,
        /// Error of the client.
        source: Source,
    },
    /// No answer there, or not one of a NATS server.
    #[error("could not reach a NATS server at {address}")]
    Unreachable {
        /// Addresses, without secrets.
        address: String,
        /// Error of the client.
        source: Source,
    },
    /// Credentials that the server refuses.
    #[error(
        "the NATS server at {address} refused our credentials ({auth}): \
         check [nats] creds, nkey, user, password or token"
    )]
    Refused {
        /// Addresses, without secrets.
        address: String,
        /// Kind of credentials that we gave.
        auth: &'static str,
    },
    /// Credentials file or nkey that cannot be used.
    #[error("could not use the {auth} of [nats]")]
    Credentials {
        /// Kind of credentials.
        auth: &'static str,
        /// Reason it cannot be used.
        source: Source,
    },
    /// TLS handshake that failed.
    #[error(
        "could not agree on TLS with the NATS server at {address}: \
         check [nats.tls] ca, cert and key"
    )]
    Tls {
        /// Addresses, without secrets.
        address: String,
        /// Error of the client.
        source: Source,
    },
    /// JetStream off.
    #[error(
        "the NATS server at {address} has JetStream off: \
         start it with -js, or enable it for this account"
    )]
    NoJetStream {
        /// Addresses, without secrets.
        address: String,
    },
    /// Server that is too old.
    #[error(
        "the NATS server at {address} is version {version}, and 2.12 or newer is needed: \
         upgrade it, or leave out [nats] url so that `millstream dev` starts one of its own"
    )]
    TooOld {
        /// Addresses, without secrets.
        address: String,
        /// Version of the server.
        version: String,
    },
    /// Server that is there, but did not answer a question about JetStream.
    #[error("the NATS server at {address} did not say whether JetStream is on")]
    Silent {
        /// Addresses, without secrets.
        address: String,
        /// Error of the client.
        source: Source,
    },
    /// Subject that the server refuses.
    #[error(transparent)]
    Denied(#[from] Refusal),
}

type Source = Box<dyn std::error::Error + Send + Sync>;

impl ConnectError {
    /// True if trying again can help without anyone changing the configuration or the account.
    pub fn may_pass(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Silent { .. } => true,
            Self::NoServer
            | Self::Address { .. }
            | Self::Refused { .. }
            | Self::Credentials { .. }
            | Self::Tls { .. }
            | Self::NoJetStream { .. }
            | Self::TooOld { .. }
            | Self::Denied(_) => false,
        }
    }
}

impl Broker {
    /// Connects, and makes sure that the server is new enough and has JetStream. `name` is the
    /// connection's name in the server's lists.
    ///
    /// A first connection that is not made within twice [`limits::CONNECT_TIMEOUT`] fails; one that
    /// breaks later is mended for ever.
    ///
    /// # Errors
    /// [`ConnectError`], one sentence that names what is wrong and what to do.
    pub async fn connect(nats: &Nats, name: &str) -> Result<Self, ConnectError> {
        let addresses = addresses(nats)?;
        let address = addresses.iter().map(without_secrets).collect::<Vec<_>>().join(", ");
        let refusals = Arc::<Refusals>::default();
        let options = options(nats, name, Arc::clone(&refusals)).await?;
        let connecting = options.connect(addresses.as_slice());
        let client = match tokio::time::timeout(limits::CONNECT_TIMEOUT * 2, connecting).await {
            Ok(connected) => {
                connected.map_err(|error| refused(error, &address, auth_name(&nats.auth)))?
            }
            Err(elapsed) => {
                return Err(ConnectError::Unreachable { address, source: elapsed.into() });
            }
        };
        let version = client.server_info().version;
        if version_of(&version).is_some_and(|version| version < SERVER_VERSION_MIN) {
            return Err(ConnectError::TooOld { address, version });
        }
        let jetstream = ContextBuilder::new()
            .timeout(limits::PUBLISH_TIMEOUT)
            .max_ack_inflight(limits::PUBLISHES_IN_FLIGHT_MAX)
            .backpressure_on_inflight(true)
            .build(client.clone());
        let inbox = client.new_inbox();
        let connection = Connection::open(nats, name, addresses, inbox, Arc::clone(&refusals))
            .await
            .map_err(|error| not_dialled(error, &address, auth_name(&nats.auth)))?;
        let broker = Self {
            address: address.as_str().into(),
            connection,
            client,
            jetstream,
            refusals,
            clock: Arc::default(),
            budget: Budget::default(),
            publishes: Arc::new(Semaphore::new(limits::PUBLISHES_IN_FLIGHT_MAX)),
            raw_reads: Arc::new(Semaphore::new(limits::RAW_READS_MAX)),
        };
        tokio::select! {
            // A refused subject shows as a timeout; the cause comes by another way, and sooner.
            biased;
            denied = broker.refused() => return Err(denied.into()),
            asked = broker.jetstream.query_account() => match asked {
                Ok(_) => {}
                Err(error) => match error.kind() {
                    AccountErrorKind::JetStreamUnavailable => {
                        return Err(ConnectError::NoJetStream { address });
                    }
                    AccountErrorKind::JetStream(refused)
                        if [
                            ErrorCode::JETSTREAM_NOT_ENABLED,
                            ErrorCode::JETSTREAM_NOT_ENABLED_FOR_ACCOUNT,
                        ]
                        .contains(&refused.error_code()) =>
                    {
                        return Err(ConnectError::NoJetStream { address });
                    }
                    AccountErrorKind::JetStream(_)
                    | AccountErrorKind::TimedOut
                    | AccountErrorKind::Other => {
                        return Err(ConnectError::Silent { address, source: error.into() });
                    }
                },
            },
        }
        Ok(broker)
    }

    /// Connects, and tries again with growing waits for as long as that can help, or someone may
    /// grant what is refused. `on_wait` is given the reason, at the first failure and then each
    /// time that the time spent has doubled.
    ///
    /// # Errors
    /// A [`ConnectError`] that does not pass by itself.
    pub async fn connect_patiently(
        nats: &Nats,
        name: &str,
        on_wait: impl Fn(&ConnectError),
    ) -> Result<Self, ConnectError> {
        let started = tokio::time::Instant::now();
        let (mut wait, mut say_after) = (Duration::from_millis(100), Duration::ZERO);
        loop {
            match Self::connect(nats, name).await {
                Err(error) if error.may_pass() || matches!(error, ConnectError::Denied(_)) => {
                    let spent = started.elapsed();
                    if spent >= say_after {
                        on_wait(&error);
                        say_after = (spent * 2).max(limits::CONNECT_TIMEOUT);
                    }
                }
                done => return done,
            }
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(limits::CONNECT_WAIT_MAX);
        }
    }

    /// Reason why the server does not let us in again, where it does not.
    pub fn credentials_refused(&self) -> Option<String> {
        self.connection.refused()
    }

    /// Panics of the connection that were caught, each of which broke it, and the last one's
    /// message.
    pub fn panics(&self) -> (u64, String) {
        self.connection.panics()
    }

    /// True while both connections stand: that of messages, and the client's.
    pub fn is_connected(&self) -> bool {
        self.connection.is_up()
            && self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Reason why it is not connected, with the address; `None`: it is.
    pub fn why_disconnected(&self) -> Option<String> {
        if self.is_connected() {
            return None;
        }
        let address = &self.address;
        let why = match (self.connection.is_up(), self.connection.why_down()) {
            (true, _) => "its connection for the API is down".to_owned(),
            (false, why) if why.is_empty() => "the connection broke".to_owned(),
            (false, why) => why,
        };
        Some(format!("not connected to {address}: {why}"))
    }

    /// Addresses of the settings, without secrets.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Flushes what waits to be sent, settlements among it.
    pub async fn flush(&self) {
        // It fails only where the connection is closed, and then there is nothing to send it on.
        tokio::time::timeout(limits::REQUEST_TIMEOUT, self.client.flush()).await.ok();
        self.connection.flush(limits::REQUEST_TIMEOUT).await.ok();
    }
}

/// Remedy of a broker that cannot be reached, or that refuses us.
pub const BROKER_REMEDY: &str = "start the server, or mend url (and credentials) in [nats]";

fn addresses(nats: &Nats) -> Result<Vec<async_nats::ServerAddr>, ConnectError> {
    if nats.url.is_empty() {
        return Err(ConnectError::NoServer);
    }
    let parse = |url: &String| {
        url.parse().map_err(|error: std::io::Error| {
            // An address that cannot be read may hold a password in a place where it is not looked
            // for.
            ConnectError::Address { address: hide_userinfo(url), source: error.into() }
        })
    };
    nats.url.iter().map(parse).collect()
}

fn without_secrets(address: &async_nats::ServerAddr) -> String {
    format!("{}://{}:{}", address.scheme(), address.host(), address.port())
}

fn hide_userinfo(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("nats", url));
    format!("\"{scheme}://{}\"", rest.rsplit_once('@').map_or(rest, |(_, host)| host))
}

async fn options(
    nats: &Nats,
    name: &str,
    refusals: Arc<Refusals>,
) -> Result<ConnectOptions, ConnectError> {
    tls::install_provider();
    let options = ConnectOptions::new()
        .name(name)
        .connection_timeout(limits::CONNECT_TIMEOUT)
        .request_timeout(Some(limits::REQUEST_TIMEOUT))
        .max_reconnects(None)
        .event_callback(move |event| {
            let refusals = Arc::clone(&refusals);
            async move { on_event(&event, &refusals) }
        });
    let auth = auth_name(&nats.auth);
    let mut options = match &nats.auth {
        Auth::None => options,
        Auth::Creds(path) => options
            .credentials_file(path)
            .await
            .map_err(|error| ConnectError::Credentials { auth, source: error.into() })?,
        Auth::Nkey(seed) => options.nkey(seed.clone()),
        Auth::User(user, password) => options.user_and_password(user.clone(), password.clone()),
        Auth::Token(token) => options.token(token.clone()),
    };
    if let Some(ca) = &nats.tls_ca {
        options = options.add_root_certificates(ca.clone()).require_tls(true);
    }
    if let Some((certificate, key)) = &nats.tls_identity {
        options =
            options.add_client_certificate(certificate.clone(), key.clone()).require_tls(true);
    }
    Ok(options)
}

fn auth_name(auth: &Auth) -> &'static str {
    match auth {
        Auth::None => "none given",
        Auth::Creds(_) => "credentials file",
        Auth::Nkey(_) => "nkey",
        Auth::User(..) => "user and password",
        Auth::Token(_) => "token",
    }
}

fn on_event(event: &Event, refusals: &Refusals) {
    match event {
        Event::Connected => tracing::info!("connected to the broker"),
        Event::Disconnected => tracing::warn!("lost the connection to the broker"),
        Event::LameDuckMode => tracing::warn!("the broker is about to shut down"),
        Event::Draining | Event::Closed => tracing::debug!("closing the connection to the broker"),
        Event::SlowConsumer(_) => {
            tracing::warn!("messages were dropped because they were not taken fast enough")
        }
        Event::ServerError(ServerError::Other(text)) => match refusal::denied(text) {
            Some(denied) => refusals.report(denied),
            None => tracing::warn!(error = text, "the broker reports an error"),
        },
        Event::ServerError(error) => tracing::warn!(%error, "the broker reports an error"),
        Event::ClientError(error) => {
            // One for each try to connect again; why that fails is said once, by a condition.
            tracing::debug!(%error, "the client of the broker reports an error")
        }
    }
}

fn refused(error: async_nats::ConnectError, address: &str, auth: &'static str) -> ConnectError {
    let address = address.to_owned();
    match error.kind() {
        ConnectErrorKind::AuthorizationViolation => ConnectError::Refused { address, auth },
        ConnectErrorKind::Authentication => {
            ConnectError::Credentials { auth, source: error.into() }
        }
        ConnectErrorKind::ServerParse => ConnectError::Address { address, source: error.into() },
        ConnectErrorKind::Tls => ConnectError::Tls { address, source: error.into() },
        // The handshake fails as an I/O error of the connection.
        ConnectErrorKind::Io if is_tls(&error) => {
            ConnectError::Tls { address, source: error.into() }
        }
        ConnectErrorKind::Dns
        | ConnectErrorKind::TimedOut
        | ConnectErrorKind::Io
        | ConnectErrorKind::MaxReconnects => {
            ConnectError::Unreachable { address, source: error.into() }
        }
    }
}

/// Error of the second connection, whose settings are those that the first was made with.
fn not_dialled(error: DialError, address: &str, auth: &'static str) -> ConnectError {
    let address = address.to_owned();
    match error {
        DialError::Tls(_) => ConnectError::Tls { address, source: error.into() },
        DialError::Auth(_) => ConnectError::Credentials { auth, source: error.into() },
        DialError::Refused(ref why) if why.to_ascii_lowercase().contains("authorization") => {
            ConnectError::Refused { address, auth }
        }
        DialError::Refused(_)
        | DialError::Io(_)
        | DialError::Silent
        | DialError::Garbled(_)
        | DialError::Info(_) => ConnectError::Unreachable { address, source: error.into() },
    }
}

fn is_tls(error: &async_nats::ConnectError) -> bool {
    let io =
        std::error::Error::source(error).and_then(|source| source.downcast_ref::<std::io::Error>());
    io.and_then(std::io::Error::get_ref).is_some_and(|inner| inner.is::<rustls::Error>())
}

/// First two numbers of a version such as `2.12.1` or `v2.15.0-RC.2`.
pub(super) fn version_of(text: &str) -> Option<(u64, u64)> {
    let mut numbers = text.trim().trim_start_matches('v').split('.');
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_compare_by_number() {
        assert_eq!(version_of("v2.15.0-RC.2"), Some((2, 15)));
        assert!(version_of("2.9.11").unwrap() < SERVER_VERSION_MIN);
        assert_eq!(version_of("nightly"), None);
    }

    #[test]
    fn no_password_shows_in_an_address() {
        assert_eq!(hide_userinfo("nats://me:pa@ss@host:x"), "\"nats://host:x\"");
        let address = "nats://me:secret@host:4222".parse().unwrap();
        assert_eq!(without_secrets(&address), "nats://host:4222");
    }
}

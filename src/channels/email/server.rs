//! Server: a mail server, its connections kept open, connected to at addresses that were checked.

use std::{
    net::{IpAddr, SocketAddr},
    sync::atomic::{AtomicUsize, Ordering},
    time::{Duration, Instant},
};

use lettre::{
    AsyncSmtpTransport, AsyncTransport as _, Message, Tokio1Executor,
    transport::smtp::{
        self, PoolConfig,
        authentication::Credentials,
        client::{Certificate, Tls as SmtpTls, TlsParameters},
        extension::ClientId,
    },
};
use millstream_stages::{Failure, failure::class, units::Period};
use schemars::JsonSchema;
use serde::Deserialize;
use tokio::sync::Mutex;

use crate::{
    channels::{
        address::{self, LEADS_INSIDE},
        redact::Secrets,
    },
    error_chain::root_cause,
    limits,
    shortage::Shortage,
};

/// Class of an answer that a mail server cannot take the mail now.
pub(super) const SMTP_LATER: &str = "SmtpTemporaryError";
/// Class of an answer that a mail server refuses the mail.
pub(super) const SMTP_REFUSED: &str = "SmtpPermanentError";
/// Class of a login that is refused.
pub(super) const LOGIN: &str = "AuthenticationError";
/// Class of a connection that could not be encrypted, or is to someone else.
pub(super) const TLS: &str = "TlsError";

/// Encryption of a connection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
#[schemars(inline)]
pub(super) enum Encryption {
    /// From STARTTLS on, before anything is said. The usual way, on port 587.
    #[default]
    Starttls,
    /// From the start. The way of port 465.
    Tls,
    /// Not at all.
    None,
}

/// Login at the mail server.
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Keys that [`Server::new`] makes a server of.
pub(super) struct Keys {
    pub(super) host: String,
    pub(super) port: u16,
    pub(super) tls: Encryption,
    /// Certificates to trust besides the system's, as PEM.
    pub(super) ca: Option<Vec<u8>>,
    pub(super) login: Option<Login>,
    /// Domain that we greet with.
    pub(super) hello: String,
    pub(super) timeout: Period,
    pub(super) allow_private: bool,
    /// Name of the channel, for errors.
    pub(super) channel: String,
}

/// Mail server.
pub(super) struct Server {
    keys: Keys,
    tls: SmtpTls,
    secrets: Secrets,
    /// Address that is used now.
    current: Mutex<Option<Current>>,
    /// Index of the next address, when one does not answer.
    next: AtomicUsize,
}

struct Current {
    ip: IpAddr,
    checked: Instant,
    transport: Transport,
}

/// Pool of connections to one address.
type Transport = AsyncSmtpTransport<Tokio1Executor>;

impl Server {
    /// Returns a server that has not been connected to.
    ///
    /// # Errors
    /// Error of TLS that cannot be set up with these certificates.
    pub(super) fn new(keys: Keys) -> Result<Self, String> {
        let mut secrets = Secrets::default();
        keys.login.iter().for_each(|login| secrets.add(&login.password));
        let parameters = || -> Result<TlsParameters, smtp::Error> {
            // The name of the certificate stays the host's, whatever address is connected to.
            let mut builder = TlsParameters::builder(keys.host.clone());
            if let Some(pem) = &keys.ca {
                builder = builder.add_root_certificate(Certificate::from_pem(pem)?);
            }
            builder.build_rustls()
        };
        let said = |error: smtp::Error| root_cause(&error);
        let tls = match keys.tls {
            Encryption::Starttls => SmtpTls::Required(parameters().map_err(said)?),
            Encryption::Tls => SmtpTls::Wrapper(parameters().map_err(said)?),
            Encryption::None => SmtpTls::None,
        };
        Ok(Self { keys, tls, secrets, current: Mutex::default(), next: AtomicUsize::new(0) })
    }

    /// Most time that sending one mail may take.
    pub(super) fn timeout(&self) -> Duration {
        self.keys.timeout.0
    }

    /// Text with the password redacted.
    pub(super) fn redact(&self, text: &str) -> String {
        self.secrets.redact(text)
    }

    /// Failure as this channel's.
    pub(super) fn failure(&self, failure: Failure) -> Failure {
        Failure {
            message: format!(
                "channel \"{}\": {}",
                self.keys.channel,
                self.redact(&failure.message)
            ),
            ..failure
        }
    }

    /// Sends a mail. An address that does not answer is left for the next one.
    pub(super) async fn send(&self, message: Message) -> Result<(), Failure> {
        let sent = tokio::time::timeout(self.timeout(), self.try_each(&message)).await;
        sent.unwrap_or_else(|_| {
            Err(Failure::retry(
                class::TIMEOUT,
                format!("the mail server did not answer in {}", self.keys.timeout),
            ))
        })
        .map_err(|failure| self.failure(failure))
    }

    async fn try_each(&self, message: &Message) -> Result<(), Failure> {
        let mut tried = 0;
        loop {
            let (transport, addresses) = self.transport().await?;
            let error = match transport.send(message.clone()).await {
                Ok(_) => return Ok(()),
                Err(error) => error,
            };
            if error.status().is_none() {
                *self.current.lock().await = None;
            }
            tried += 1;
            if !nobody_there(&error) || tried >= addresses {
                return Err(self.meaning(&error));
            }
            self.next.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Connections to an address of the server that was checked a moment ago, and how many
    /// addresses there are to try.
    async fn transport(&self) -> Result<(Transport, usize), Failure> {
        let mut current = self.current.lock().await;
        if let Some(Current { checked, transport, .. }) = &*current
            && checked.elapsed() < limits::SMTP_ADDRESS_TTL
        {
            return Ok((transport.clone(), 1));
        }
        let Keys { host, port, allow_private, .. } = &self.keys;
        let found = address::resolve(host, *port, *allow_private).await;
        let addresses: Vec<SocketAddr> = found.map_err(|error| match error.to_string() {
            inside if inside == LEADS_INSIDE => Failure::retry(class::CONNECTION, inside),
            why => {
                let what = "could not resolve the mail server's name";
                match Shortage::of_connect(&error) {
                    Some(shortage) => shortage.failure(what),
                    None => Failure::retry(class::CONNECTION, format!("{what}: {why}")),
                }
            }
        })?;
        let address = addresses[self.next.load(Ordering::Relaxed) % addresses.len()];
        let transport = match current.take() {
            Some(Current { ip, transport, .. }) if ip == address.ip() => transport,
            Some(_) | None => self.pool(address.ip()),
        };
        *current = Some(Current {
            ip: address.ip(),
            checked: Instant::now(),
            transport: transport.clone(),
        });
        Ok((transport, addresses.len()))
    }

    /// Connections to one address, checked against the host's certificate and not the address's.
    fn pool(&self, ip: IpAddr) -> Transport {
        let Keys { port, hello, login, .. } = &self.keys;
        let connections = PoolConfig::new()
            .max_size(limits::CHANNEL_CONCURRENCY as u32)
            .idle_timeout(limits::SMTP_IDLE);
        let mut transport = Transport::builder_dangerous(ip.to_string())
            .port(*port)
            .tls(self.tls.clone())
            .hello_name(ClientId::Domain(hello.clone()))
            .timeout(Some(self.timeout()))
            .pool_config(connections);
        if let Some(Login { user, password }) = login {
            transport = transport.credentials(Credentials::new(user.clone(), password.clone()));
        }
        transport.build()
    }

    /// Failure that an error means for the notification.
    ///
    /// Source: RFC 5321, section 4.2.1: 4yz "try again", 5yz "do not"; RFC 4954, section 6: 530,
    /// 534, 535 and 538 are about the login.
    fn meaning(&self, error: &smtp::Error) -> Failure {
        let said = root_cause(error);
        let code = error.status().map(u16::from);
        let shortage = code.is_none().then(|| Shortage::of_connect(error)).flatten();
        if let Some(shortage) = shortage {
            return shortage.failure("could not reach the mail server");
        }
        match code {
            Some(530 | 534 | 535 | 538) => Failure::reject(
                LOGIN,
                format!(
                    "the mail server refuses the login ({}): look at \"user\" and \"password\"",
                    with_code(code, &said)
                ),
            ),
            Some(500..) => Failure::reject(
                SMTP_REFUSED,
                format!("the mail server refuses: {}", with_code(code, &said)),
            ),
            Some(_) => Failure::retry(
                SMTP_LATER,
                format!("the mail server cannot now: {}", with_code(code, &said)),
            ),
            None if error.is_tls() || is_tls(error) => {
                let hint = match self.keys.tls {
                    Encryption::Starttls => {
                        "it should offer STARTTLS, with a certificate for this host; \
                         see \"tls\" and \"ca\""
                    }
                    Encryption::Tls | Encryption::None => {
                        "it should have a certificate for this host; see \"tls\" and \"ca\""
                    }
                };
                Failure::retry(
                    TLS,
                    format!("no encrypted connection to the mail server: {said}: {hint}"),
                )
            }
            None if error.is_timeout() => Failure::retry(
                class::TIMEOUT,
                format!("the mail server did not answer in {}", self.keys.timeout),
            ),
            None if error.is_client() => {
                let missing = "STARTTLS is not supported on this server";
                match said.contains(missing) || said.contains("STARTTLS") {
                    true => Failure::retry(
                        TLS,
                        format!("no encrypted connection to the mail server: {said}: see \"tls\""),
                    ),
                    false => Failure::reject(
                        SMTP_REFUSED,
                        format!("the mail server cannot be used: {said}"),
                    ),
                }
            }
            None => Failure::retry(
                class::CONNECTION,
                format!("could not reach the mail server: {said}"),
            ),
        }
    }
}

/// Text of an answer with its code, such as `535: what it said`.
fn with_code(code: Option<u16>, said: &str) -> String {
    code.map_or_else(|| said.to_owned(), |code| format!("{code}: {said}"))
}

/// True if nothing answers at the address, so that nothing was sent.
fn nobody_there(error: &smtp::Error) -> bool {
    use std::io::ErrorKind::{ConnectionRefused, HostUnreachable, NetworkUnreachable};
    causes(error)
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|io| matches!(io.kind(), ConnectionRefused | HostUnreachable | NetworkUnreachable))
}

/// True if the cause is TLS, in whatever it is wrapped.
fn is_tls(error: &smtp::Error) -> bool {
    causes(error).any(|cause| {
        let inner = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause.is::<rustls::Error>() || inner.is_some_and(|inner| inner.is::<rustls::Error>())
    })
}

fn causes<'a>(
    error: &'a (dyn std::error::Error + 'static),
) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    std::iter::successors(Some(error), |error| error.source())
}

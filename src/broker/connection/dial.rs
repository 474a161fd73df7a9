//! Dial: one connection to one of the servers, from the socket to the first PONG.

use std::{collections::VecDeque, io, path::Path, sync::Arc};

use async_nats::ServerAddr;
use bytes::BytesMut;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject as _},
};
use serde::Deserialize;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use super::{
    auth::{AuthError, Greeting},
    parse::{self, Garbled, Op},
};
use crate::{broker::settings::Nats, limits};

/// Socket of a connection, with or without TLS.
pub(super) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// State of a server, as it tells it.
#[derive(Debug, Clone, Deserialize)]
pub(crate) struct Info {
    /// Largest message, headers included.
    #[serde(default)]
    pub(crate) max_payload: usize,
    /// True if it speaks TLS only.
    #[serde(default)]
    tls_required: bool,
    /// Text to be signed.
    #[serde(default)]
    nonce: String,
    /// Addresses of its cluster.
    #[serde(default)]
    pub(crate) connect_urls: Vec<String>,
    /// True if it is about to shut down.
    #[serde(default)]
    pub(crate) ldm: bool,
}

/// Connection that stands.
pub(super) struct Dialled {
    pub(super) stream: Box<dyn Duplex>,
    /// Bytes that came behind the first PONG.
    pub(super) input: BytesMut,
    pub(super) info: Info,
}

/// Connection that was not made.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DialError {
    /// No way there, or no answer.
    #[error("could not reach it")]
    Io(#[from] io::Error),
    /// No answer in time.
    #[error("no greeting in {:?}", limits::CONNECT_TIMEOUT)]
    Silent,
    /// TLS that cannot be agreed on.
    #[error("could not agree on TLS")]
    Tls(#[source] io::Error),
    /// Answer that is not one of NATS.
    #[error(transparent)]
    Garbled(#[from] Garbled),
    /// State of the server that cannot be read.
    #[error("its greeting cannot be read")]
    Info(#[from] serde_json::Error),
    /// Credentials that cannot be used.
    #[error(transparent)]
    Auth(#[from] AuthError),
    /// Refusal of the server.
    #[error("it refuses us: {0}")]
    Refused(String),
}

/// Servers that are tried in turn.
pub(super) struct Dialler {
    nats: Nats,
    name: String,
    /// Servers, the next one to try first.
    servers: VecDeque<ServerAddr>,
    /// Name of a server of the settings: certificates are for names, and a cluster names its
    /// servers by their numbers.
    known_as: Option<String>,
    /// Hosts of the settings.
    configured: Vec<String>,
}

impl Dialler {
    pub(super) fn new(nats: &Nats, name: &str, servers: Vec<ServerAddr>) -> Self {
        let known_as = servers.iter().map(ServerAddr::host).find(|host| !is_ip(host));
        let known_as = known_as.map(str::to_owned);
        let configured = servers.iter().map(|server| server.host().to_owned()).collect();
        let (nats, name) = (nats.clone(), name.to_owned());
        Self { nats, name, servers: servers.into(), known_as, configured }
    }

    /// Number of servers known.
    pub(super) fn count(&self) -> usize {
        self.servers.len()
    }

    /// Adds the servers that a cluster names, at most [`limits::CLUSTER_SERVERS_MAX`] in all.
    pub(super) fn learn(&mut self, urls: &[String]) {
        for url in urls {
            let Ok(server) = url.parse::<ServerAddr>() else { continue };
            let known = |at: &ServerAddr| (at.host(), at.port()) == (server.host(), server.port());
            if !self.servers.iter().any(known) && self.servers.len() < limits::CLUSTER_SERVERS_MAX {
                self.servers.push_back(server);
            }
        }
    }

    /// Tries the next server; after it comes the one behind it.
    ///
    /// # Errors
    /// [`DialError`].
    pub(super) async fn dial(&mut self) -> Result<Dialled, DialError> {
        let Some(server) = self.servers.front().cloned() else {
            return Err(DialError::Io(io::Error::other("no server is named")));
        };
        self.servers.rotate_left(1);
        let dialled = tokio::time::timeout(limits::CONNECT_TIMEOUT, self.dial_one(&server))
            .await
            .map_err(|_| DialError::Silent)??;
        self.learn(&dialled.info.connect_urls);
        Ok(dialled)
    }

    async fn dial_one(&self, server: &ServerAddr) -> Result<Dialled, DialError> {
        let socket = TcpStream::connect((bare(server.host()), server.port())).await?;
        socket.set_nodelay(true)?;
        let mut stream: Box<dyn Duplex> = Box::new(socket);
        let mut input = BytesMut::with_capacity(limits::READ_BUFFER_BYTES);
        let info: Info = loop {
            match operation(&mut stream, &mut input).await? {
                Op::Info(text) => break serde_json::from_slice(&text)?,
                Op::Refused(why) => return Err(DialError::Refused(why)),
                Op::Message(_) | Op::Ping | Op::Pong | Op::Fine => {}
            }
        };
        let must_tls =
            server.tls_required() || self.nats.tls_ca.is_some() || self.nats.tls_identity.is_some();
        if must_tls || info.tls_required {
            stream = self.secured(stream, server).await?;
            // What stood behind the greeting was not under TLS: nobody may slip it in.
            input.clear();
        }
        let user = server.username().map(ToOwned::to_owned);
        let greeting = Greeting::new(&self.name, &self.nats.auth, &info.nonce, must_tls)
            .await?
            .or_user(user, server.password().map(ToOwned::to_owned));
        stream.write_all(&greeting.line()).await?;
        stream.flush().await?;
        let mut info = info;
        loop {
            match operation(&mut stream, &mut input).await? {
                Op::Pong => return Ok(Dialled { stream, input, info }),
                Op::Info(text) => info = serde_json::from_slice(&text)?,
                Op::Refused(why) => return Err(DialError::Refused(why)),
                Op::Ping => stream.write_all(b"PONG\r\n").await?,
                Op::Message(_) | Op::Fine => {}
            }
        }
    }

    async fn secured(
        &self,
        stream: Box<dyn Duplex>,
        server: &ServerAddr,
    ) -> Result<Box<dyn Duplex>, DialError> {
        let nats = self.nats.clone();
        let config = tokio::task::spawn_blocking(move || config(&nats))
            .await
            .map_err(|error| DialError::Tls(io::Error::other(error)))?
            .map_err(DialError::Tls)?;
        let host = match &self.known_as {
            Some(known_as)
                if is_ip(server.host())
                    && !self.configured.iter().any(|host| host == server.host()) =>
            {
                known_as
            }
            _ => bare(server.host()),
        };
        let name = ServerName::try_from(host.to_owned())
            .map_err(|error| DialError::Tls(io::Error::other(error)))?;
        let secured = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        Ok(Box::new(secured.map_err(DialError::Tls)?))
    }
}

/// Host without the brackets of an IPv6 address.
fn bare(host: &str) -> &str {
    host.trim_start_matches('[').trim_end_matches(']')
}

fn is_ip(host: &str) -> bool {
    bare(host).parse::<std::net::IpAddr>().is_ok()
}

/// Next operation of a server that greets.
async fn operation(stream: &mut Box<dyn Duplex>, input: &mut BytesMut) -> Result<Op, DialError> {
    loop {
        if let Some(op) = parse::next(input)? {
            return Ok(op);
        }
        if stream.read_buf(input).await? == 0 {
            let closed = io::Error::new(io::ErrorKind::UnexpectedEof, "it closed the connection");
            return Err(closed.into());
        }
    }
}

/// TLS as the settings ask for: the system's authorities, or the one that is named.
fn config(nats: &Nats) -> io::Result<ClientConfig> {
    let mut roots = RootCertStore::empty();
    match &nats.tls_ca {
        Some(path) => {
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(io::Error::other)?;
            }
        }
        None => {
            roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
        }
    }
    let builder = ClientConfig::builder().with_root_certificates(roots);
    match &nats.tls_identity {
        Some((certificate, key)) => {
            let key = PrivateKeyDer::from_pem_file(key).map_err(io::Error::other)?;
            builder.with_client_auth_cert(certificates(certificate)?, key).map_err(io::Error::other)
        }
        None => Ok(builder.with_no_client_auth()),
    }
}

fn certificates(path: &Path) -> io::Result<Vec<CertificateDer<'static>>> {
    CertificateDer::pem_file_iter(path).and_then(Iterator::collect).map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_a_cluster_names_are_learnt_once_and_not_without_end() {
        let first: ServerAddr = "nats://broker.example:4222".parse().unwrap();
        let mut dialler = Dialler::new(&Nats::default(), "n", vec![first]);
        let urls = ["10.0.0.1:4222", "[::1]:4222", "10.0.0.1:4222", "not an address at all"];
        dialler.learn(&urls.map(str::to_owned));
        assert_eq!(dialler.count(), 3);
        assert_eq!(dialler.known_as.as_deref(), Some("broker.example"));
        assert!(is_ip(dialler.servers[2].host()), "{}", dialler.servers[2].host());
        let many: Vec<String> = (0..1000).map(|n| format!("10.0.1.1:{}", 5000 + n)).collect();
        dialler.learn(&many);
        assert_eq!(dialler.count(), limits::CLUSTER_SERVERS_MAX);
    }
}

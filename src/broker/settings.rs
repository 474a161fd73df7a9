//! Settings: address, credentials and TLS of the connection to the broker.

use std::path::PathBuf;

/// Connection settings of the broker. `Debug` shows no secret.
#[derive(Clone, Default)]
pub struct Nats {
    /// Servers to try; empty: none is named, and `demo` and `dev` start one of their own.
    pub url: Vec<String>,
    /// Credentials.
    pub auth: Auth,
    /// Certificate authority to trust, besides the system's.
    pub tls_ca: Option<PathBuf>,
    /// Client certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

/// Credentials of the connection.
#[derive(Clone, Default)]
pub enum Auth {
    /// No credentials.
    #[default]
    None,
    /// Credentials file.
    Creds(PathBuf),
    /// Seed of an nkey.
    Nkey(String),
    /// User and password.
    User(String, String),
    /// Token.
    Token(String),
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("servers", &self.url.len()).finish_non_exhaustive()
    }
}

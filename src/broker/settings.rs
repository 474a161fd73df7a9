//! Settings: how to reach the broker, and as whom.

use std::path::PathBuf;

/// How to reach the broker.
#[derive(Clone, Default)]
pub struct Nats {
    /// Servers to try; empty: none is named, and `demo` and `dev` start one of their own.
    pub url: Vec<String>,
    /// How to say who we are.
    pub auth: Auth,
    /// The certificate authority to trust, besides the system's.
    pub tls_ca: Option<PathBuf>,
    /// Our certificate and its key.
    pub tls_identity: Option<(PathBuf, PathBuf)>,
}

/// How to say who we are. Its `Debug` shows no secret.
#[derive(Clone, Default)]
pub enum Auth {
    /// We do not.
    #[default]
    None,
    /// A credentials file.
    Creds(PathBuf),
    /// An nkey seed.
    Nkey(String),
    /// A user and password.
    User(String, String),
    /// A token.
    Token(String),
}

impl std::fmt::Debug for Nats {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Nats").field("servers", &self.url.len()).finish_non_exhaustive()
    }
}

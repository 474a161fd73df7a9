//! Auth: the CONNECT line, with credentials that are read anew for each connection.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use nkeys::KeyPair;
use serde::Serialize;

use crate::{bounded_file, broker::settings::Auth, limits};

/// Content of the CONNECT line. No `Debug`: it holds secrets.
#[derive(Serialize, Default)]
pub(super) struct Greeting<'a> {
    verbose: bool,
    pedantic: bool,
    tls_required: bool,
    name: &'a str,
    lang: &'static str,
    version: &'static str,
    /// 1: the server may send INFO at any time.
    protocol: u8,
    echo: bool,
    headers: bool,
    no_responders: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pass: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    auth_token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    jwt: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nkey: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sig: Option<String>,
}

/// Credentials that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    /// Credentials file that cannot be read.
    #[error("could not read the credentials file")]
    File(#[source] std::io::Error),
    /// Credentials file without what it should hold.
    #[error("the credentials file has no {0}: make it with `nsc generate creds`")]
    Part(&'static str),
    /// Seed of an nkey that cannot sign.
    #[error("the seed of the nkey cannot be used")]
    Seed(#[source] nkeys::error::Error),
}

impl<'a> Greeting<'a> {
    /// Greeting of a connection called `name` that proves who we are by the server's `nonce`.
    ///
    /// # Errors
    /// [`AuthError`].
    pub(super) async fn new(
        name: &'a str,
        auth: &Auth,
        nonce: &str,
        tls_required: bool,
    ) -> Result<Self, AuthError> {
        let mut greeting = Self {
            tls_required,
            name,
            lang: "rust",
            version: env!("CARGO_PKG_VERSION"),
            protocol: 1,
            echo: true,
            headers: true,
            no_responders: true,
            ..Self::default()
        };
        match auth {
            Auth::None => {}
            Auth::User(user, password) => {
                (greeting.user, greeting.pass) = (Some(user.clone()), Some(password.clone()));
            }
            Auth::Token(token) => greeting.auth_token = Some(token.clone()),
            Auth::Nkey(seed) => {
                let pair = KeyPair::from_seed(seed.trim()).map_err(AuthError::Seed)?;
                greeting.nkey = Some(pair.public_key());
                greeting.sig = Some(signed(&pair, nonce)?);
            }
            Auth::Creds(path) => {
                let text = bounded_file::read_text(path, limits::CREDENTIALS_BYTES_MAX)
                    .map_err(AuthError::File)?;
                let jwt = part(&text, "NATS USER JWT").ok_or(AuthError::Part("JWT"))?;
                let seed = part(&text, "USER NKEY SEED").ok_or(AuthError::Part("seed"))?;
                let pair = KeyPair::from_seed(seed).map_err(AuthError::Seed)?;
                greeting.jwt = Some(jwt.to_owned());
                greeting.sig = Some(signed(&pair, nonce)?);
            }
        }
        Ok(greeting)
    }

    /// Takes the user of an address, where the settings name none.
    pub(super) fn or_user(mut self, user: Option<String>, password: Option<String>) -> Self {
        let is_open = self.jwt.is_none() && self.nkey.is_none() && self.auth_token.is_none();
        if is_open && self.user.is_none() {
            match (user, password) {
                (Some(token), None) => self.auth_token = Some(token),
                (user, password) => (self.user, self.pass) = (user, password),
            }
        }
        self
    }

    /// The line.
    pub(super) fn line(&self) -> Vec<u8> {
        let text = serde_json::to_string(self).expect("a greeting is plain data");
        format!("CONNECT {text}\r\nPING\r\n").into_bytes()
    }
}

fn signed(pair: &KeyPair, nonce: &str) -> Result<String, AuthError> {
    pair.sign(nonce.as_bytes())
        .map(|signature| URL_SAFE_NO_PAD.encode(signature))
        .map_err(AuthError::Seed)
}

/// Content between the two lines of dashes that name a part of a credentials file.
fn part<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let begin = format!("BEGIN {name}");
    let mut lines = text.lines().map(str::trim).skip_while(|line| !line.contains(&begin)).skip(1);
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with('-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_credentials_file_gives_its_two_parts() {
        let text = "-----BEGIN NATS USER JWT-----\r\neyJ0\r\n------END NATS USER JWT------\r\n\r\n\
                    ***** IMPORTANT *****\r\n\r\n-----BEGIN USER NKEY SEED-----\r\nSUAX\r\n\
                    ------END USER NKEY SEED------\r\n";
        assert_eq!(part(text, "NATS USER JWT"), Some("eyJ0"));
        assert_eq!(part(text, "USER NKEY SEED"), Some("SUAX"));
        assert_eq!(part("-----BEGIN NATS USER JWT-----\n-----END", "NATS USER JWT"), None);
        assert_eq!(part("", "NATS USER JWT"), None);
    }

    #[tokio::test]
    async fn a_seed_signs_the_nonce() {
        let pair = KeyPair::new_user();
        let auth = Auth::Nkey(pair.seed().unwrap());
        let greeting = Greeting::new("n", &auth, "nonce", false).await.unwrap();
        assert_eq!(greeting.nkey, Some(pair.public_key()));
        let signature = URL_SAFE_NO_PAD.decode(greeting.sig.unwrap()).unwrap();
        pair.verify(b"nonce", &signature).unwrap();
        let wrong = Greeting::new("n", &Auth::Nkey("SUAX".into()), "", false).await;
        assert!(matches!(wrong, Err(AuthError::Seed(_))));
    }

    #[tokio::test]
    async fn the_user_of_an_address_counts_where_none_is_set() {
        let by_address = |auth| async move {
            let greeting = Greeting::new("n", &auth, "", false).await.unwrap();
            greeting.or_user(Some("a".to_owned()), Some("b".to_owned())).user
        };
        assert_eq!(by_address(Auth::None).await.as_deref(), Some("a"));
        assert_eq!(by_address(Auth::User("u".into(), "p".into())).await.as_deref(), Some("u"));
        assert_eq!(by_address(Auth::Token("t".into())).await, None);
    }
}

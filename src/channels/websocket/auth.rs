//! Auth: the origins whose pages may connect, and the token that everyone needs.

use axum::http::{HeaderMap, StatusCode, header};
use ring::{hmac, rand::SystemRandom};

/// Shortest token that is taken, in bytes.
pub(super) const TOKEN_BYTES_MIN: usize = 16;
/// Subprotocol that is spoken.
pub(super) const PROTOCOL: &str = "millstream";
/// Prefix of the subprotocol that brings the token.
const BEARER: &str = "bearer.";

/// Path, token and origins of connections that are admitted.
pub(super) struct Auth {
    pub(super) path: String,
    /// Key of this process, under which the token given is compared with the token known: that
    /// takes the same time whatever is given.
    key: hmac::Key,
    token: hmac::Tag,
    origins: Vec<String>,
}

impl Auth {
    pub(super) fn new(path: String, token: &str, origins: Vec<String>) -> Self {
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())
            .expect("the system has random numbers");
        Self { path, token: hmac::sign(&key, token.as_bytes()), key, origins }
    }

    /// Admits a request with these headers, or refuses it.
    ///
    /// # Errors
    /// 403 for a page of another origin, 401 without the token.
    pub(super) fn admit(&self, headers: &HeaderMap) -> Result<(), StatusCode> {
        if let Some(origin) = headers.get(header::ORIGIN) {
            let origin = origin.to_str().unwrap_or_default().to_ascii_lowercase();
            if !self.origins.contains(&origin) {
                return Err(StatusCode::FORBIDDEN);
            }
        }
        let text = |name| headers.get_all(name).into_iter().filter_map(|value| value.to_str().ok());
        let bearer = text(header::AUTHORIZATION).filter_map(|value| {
            let (scheme, token) = value.split_once(' ')?;
            scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
        });
        let offered = text(header::SEC_WEBSOCKET_PROTOCOL).flat_map(|value| value.split(','));
        let offered = offered.filter_map(|protocol| protocol.trim().strip_prefix(BEARER));
        let known =
            |token: &str| hmac::verify(&self.key, token.as_bytes(), self.token.as_ref()).is_ok();
        if bearer.chain(offered).any(known) { Ok(()) } else { Err(StatusCode::UNAUTHORIZED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;

    #[test]
    fn a_page_needs_its_origin_and_everyone_the_token() {
        let auth = Auth::new(
            "/live".to_owned(),
            "0123456789abcdef",
            vec!["https://ops.example.com".to_owned()],
        );
        let admit = |pairs: &[(&'static str, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()));
            auth.admit(&headers.collect()).map_err(|status| status.as_u16())
        };
        assert_eq!(admit(&[("authorization", "Bearer 0123456789abcdef")]), Ok(()));
        let offer = "millstream, bearer.0123456789abcdef";
        assert_eq!(
            admit(&[("sec-websocket-protocol", offer), ("origin", "https://Ops.example.com")]),
            Ok(())
        );
        assert_eq!(
            admit(&[("sec-websocket-protocol", offer), ("origin", "https://evil.example")]),
            Err(403)
        );
        assert_eq!(admit(&[("sec-websocket-protocol", offer), ("origin", "null")]), Err(403));
        for wrong in
            ["Bearer 0123456789abcdeF", "Bearer ", "Basic 0123456789abcdef", "0123456789abcdef"]
        {
            assert_eq!(admit(&[("authorization", wrong)]), Err(401), "{wrong}");
        }
        assert_eq!(admit(&[]), Err(401));
    }
}

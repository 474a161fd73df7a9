//! Redact: the secrets of one channel, taken out of whatever is shown of it.

use reqwest::Url;

/// Text that a secret is shown as.
pub const MASK: &str = "***";

/// Shortest part of a URL's path that counts as a secret by itself: `hook` and `api` do not, tokens
/// do.
const PATH_SECRET_BYTES_MIN: usize = 6;
/// Shortest secret that is looked for: a shorter one is in every other word.
const SECRET_BYTES_MIN: usize = 4;

/// Secrets of one channel. A peer may repeat in its answer what it was sent, so that not even that
/// is shown as it is.
#[derive(Clone, Default)]
pub(super) struct Secrets(Vec<String>);

impl Secrets {
    /// Adds a secret.
    pub(super) fn add(&mut self, secret: &str) {
        if secret.len() >= SECRET_BYTES_MIN && !self.0.iter().any(|known| known == secret) {
            self.0.push(secret.to_owned());
            // The longest first: one may be part of another.
            self.0.sort_by_key(|known| std::cmp::Reverse(known.len()));
        }
    }

    /// Adds a URL: as a whole, its path and its query, and what in them may be a token.
    pub(super) fn add_url(&mut self, url: &Url) {
        self.add(url.as_str());
        if url.path() != "/" {
            self.add(url.path());
        }
        let segments = url.path_segments().into_iter().flatten();
        segments
            .filter(|segment| segment.len() >= PATH_SECRET_BYTES_MIN)
            .for_each(|segment| self.add(segment));
        url.query().into_iter().for_each(|query| self.add(query));
        url.query_pairs().for_each(|(_, value)| self.add(&value));
        url.password().into_iter().for_each(|password| self.add(password));
    }

    /// Text with the secrets masked.
    pub(super) fn redact(&self, text: &str) -> String {
        self.0.iter().fold(text.to_owned(), |text, secret| text.replace(secret, MASK))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_and_its_parts_are_taken_out() {
        let mut secrets = Secrets::default();
        secrets.add_url(
            &Url::parse("https://me:hunter2@a.example/services/T0/XyZ123?access_token=t0ken")
                .unwrap(),
        );
        secrets.add("abc");
        let said = "no /services/T0/XyZ123 here, nor XyZ123, nor t0ken, nor hunter2; abc";
        assert_eq!(secrets.redact(said), "no *** here, nor ***, nor ***, nor ***; abc");
    }
}

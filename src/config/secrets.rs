//! Secrets: keys with values that must never be shown.

pub use crate::channels::MASK;

/// Names that mean a secret wherever they stand, misspelt ones included.
const WORDS: &[&str] =
    &["password", "passwd", "secret", "token", "nkey", "apikey", "authorization", "routing_key"];

/// True if the value at this path must never be shown.
pub fn is_secret(keys: &[&str]) -> bool {
    let Some(last) = keys.last() else { return false };
    let named = WORDS.iter().any(|word| {
        last.to_lowercase().contains(word) || strsim::damerau_levenshtein(word, last) <= 2
    });
    match keys {
        ["nats", ..] => named,
        // A filter over events, not a misspelt nkey.
        ["stage", _, "key"] => false,
        ["channel", _, "url" | "headers" | "webhook", ..] => true,
        ["channel", _, ..] => named,
        _ => keys.contains(&"headers") || (named && keys.len() > 2),
    }
}

/// True if a line that could not be parsed may hold a secret.
pub fn may_hold_one(line: &str) -> bool {
    let words = line.split(|c: char| !c.is_alphanumeric() && c != '_');
    words.into_iter().any(|word| is_secret(&["nats", word]) || is_secret(&["channel", "", word]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_secret_is_a_secret() {
        for keys in [
            ["nats", "password", ""],
            ["nats", "pasword", ""],
            ["nats", "tokn", ""],
            ["nats", "nkye", ""],
        ] {
            assert!(is_secret(&keys[..2]), "{keys:?}");
        }
        assert!(is_secret(&["channel", "ops", "url"]));
        assert!(is_secret(&["channel", "ops", "headers", "X-Key"]));
        assert!(!is_secret(&["channel", "ops", "rate"]));
        assert!(!is_secret(&["stage", "orders", "inputs"]));
        assert!(!is_secret(&["stage", "token"]));
        assert!(!is_secret(&["stage", "once", "key"]) && is_secret(&["nats", "key"]));
        assert!(may_hold_one("nats = { user = \"shop\", password = hunter2"));
        assert!(!may_hold_one("subjects = [\"events.>\""));
    }
}

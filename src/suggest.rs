//! Suggest: "did you mean", for every name that people type. Pure.

use crate::limits;

/// Name among `names` that `text` was probably meant to be; `None`: none is near.
pub(crate) fn nearest<'a>(text: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let length = text.chars().count();
    let most = (length / 3).clamp(1, 3);
    names
        .into_iter()
        .take(limits::SUGGESTED_AMONG_MAX)
        .filter(|name| name.chars().count().abs_diff(length) <= most)
        .map(|name| (strsim::damerau_levenshtein(text, name), name))
        .filter(|(distance, _)| *distance <= most)
        .min()
        .map(|(_, name)| name)
}

/// Text "did you mean …?" if a name is near, else the names there are.
pub(crate) fn suggest<'a>(
    text: &str,
    what: &str,
    names: impl IntoIterator<Item = &'a str> + Clone,
) -> String {
    if let Some(name) = nearest(text, names.clone()) {
        return format!("did you mean \"{name}\"?");
    }
    let names: Vec<&str> = names.into_iter().collect();
    if names.is_empty() {
        format!("there is no {what}")
    } else {
        format!("{what}: {}", names.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_recognised_and_another_word_is_not() {
        assert_eq!(nearest("timout", ["http", "timeout", "headers"]), Some("timeout"));
        assert_eq!(nearest("htpp", ["http", "timeout"]), Some("http"));
        assert_eq!(nearest("banana", ["http", "timeout"]), None);
    }
}

//! Names: rules for the names of pipelines, sources, stages, channels and policies.

use super::{Finder, KeyPath};

/// Regular expression of a name, which becomes part of subjects, streams and metric labels.
pub const PATTERN: &str = "^[a-z][a-z0-9_-]{0,31}$";

/// Reports a name that may not be used. `what` is the kind of the named thing, such as `stage`.
pub fn check(what: &str, name: &str, at: &KeyPath, finder: &mut Finder) {
    if !is_name(name) {
        let fitted = fitted(name);
        let words =
            "a name is a lower-case letter, then letters, digits, \"_\" or \"-\", 32 at the most";
        let hint = if is_name(&fitted) {
            format!("{words}: \"{fitted}\" would do")
        } else {
            words.to_owned()
        };
        let shown = finder.shown(at, name);
        finder.error_on(at, format!("{shown} cannot be the name of a {what}")).hint(hint);
    } else if what == "stage"
        && (matches!(name, "router" | "source" | "monitor") || name.starts_with("notify-"))
    {
        let hint = "Millstream uses \"router\", \"source\", \"monitor\" and names with \"notify-\" \
                    for itself";
        finder.error_on(at, format!("a stage cannot be called \"{name}\"")).hint(hint);
    }
}

/// True if this can be a name.
pub fn is_name(name: &str) -> bool {
    name.len() <= 32
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-'))
}

/// Returns the name as it might have been meant.
pub fn fitted(name: &str) -> String {
    name.trim()
        .to_lowercase()
        .chars()
        .map(|c| if matches!(c, ' ' | '.' | '/') { '-' } else { c })
        .take(32)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_a_subject_token_and_a_label() {
        assert!(is_name("orders-2_b") && is_name("a"));
        for name in ["", "2a", "Orders", "a.b", "a b", "ä", "-a", &"a".repeat(33)] {
            assert!(!is_name(name), "{name}");
        }
        assert_eq!(fitted("My Orders"), "my-orders");
    }
}

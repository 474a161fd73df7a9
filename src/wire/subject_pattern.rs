//! Subject pattern: subjects with NATS wildcards, matched, covered and overlapping. Pure.
//!
//! `*` is one token, a final `>` is one or more.

/// True if a dotted name matches a pattern with NATS wildcards: `*` is one token, a final `>` is
/// one or more.
pub fn matches(pattern: &str, subject: &str) -> bool {
    let (mut pattern, mut subject) = (pattern.split('.'), subject.split('.'));
    loop {
        match (pattern.next(), subject.next()) {
            (None, None) => return true,
            (Some(">"), Some(_)) => return true,
            (Some(token), Some(name)) if token == "*" || token == name => {}
            (Some(_) | None, Some(_) | None) => return false,
        }
    }
}

/// True if every subject that matches `inner` matches `outer` too.
pub fn covers(outer: &str, inner: &str) -> bool {
    let (mut outer, mut inner) = (outer.split('.'), inner.split('.'));
    loop {
        match (outer.next(), inner.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(token)) if token != ">" => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// True if some subject matches both patterns.
///
/// Source: nats-server 2.15, `server/sublist.go`, `SubjectsCollide`.
pub fn overlap(a: &str, b: &str) -> bool {
    let (mut a, mut b) = (a.split('.'), b.split('.'));
    loop {
        match (a.next(), b.next()) {
            (Some(">"), Some(_)) | (Some(_), Some(">")) | (None, None) => return true,
            (Some("*"), Some(_)) | (Some(_), Some("*")) => {}
            (Some(a), Some(b)) if a == b => {}
            _ => return false,
        }
    }
}

/// The filters that no other one covers, sorted: the server refuses a consumer whose filters
/// overlap.
pub fn uncovered(mut filters: Vec<String>) -> Vec<String> {
    filters.sort();
    filters.dedup();
    let covered =
        |filter: &String| filters.iter().any(|other| other != filter && covers(other, filter));
    filters.iter().filter(|filter| !covered(filter)).cloned().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_as_they_do_in_nats() {
        for (pattern, subject, expected) in [
            ("order.*", "order.created", true),
            ("order.*", "order.item.added", false),
            ("order.>", "order.item.added", true),
            ("order.>", "order", false),
            (">", "order", true),
            ("*", "order", true),
            ("order", "order", true),
            ("order.created", "order", false),
        ] {
            assert_eq!(matches(pattern, subject), expected, "{pattern} against {subject}");
        }
    }

    #[test]
    fn patterns_overlap_where_some_subject_matches_both() {
        for (a, b, both) in [
            ("a.>", "a.b", true),
            ("a.>", "a", false),
            ("*.b", "a.*", true),
            ("a.*.c", "a.b.>", true),
            ("a.b", "a.c", false),
            ("a", "a", true),
            (">", "x", true),
            ("a.*", "a.b.c", false),
        ] {
            assert_eq!(overlap(a, b), both, "{a} and {b}");
            assert_eq!(overlap(b, a), both, "{b} and {a}");
        }
    }

    #[test]
    fn a_pattern_covers_what_it_matches_all_of() {
        assert!(!covers("a.*", "a.>") && !covers("a.>", "a") && covers("a.>", "a.*"));
    }

    #[test]
    fn a_filter_that_another_covers_is_dropped() {
        let filters = |texts: &[&str]| uncovered(texts.iter().map(ToString::to_string).collect());
        assert_eq!(
            filters(&["a.order.*", "a.order.created", "a.user.x"]),
            ["a.order.*", "a.user.x"]
        );
        assert_eq!(filters(&["a.>", "a.b.>", "a.*"]), ["a.>"]);
        assert_eq!(filters(&["a.*.c", "a.b.*"]), ["a.*.c", "a.b.*"]);
    }
}

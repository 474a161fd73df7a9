//! Text: excerpts of outside text, short and fit for one line of a message.

/// Returns at most `bytes_max` bytes of `text` on one line; an ellipsis stands for the rest.
///
/// Control characters become spaces, so that a message stays one line wherever it is printed.
pub fn excerpt(text: &str, bytes_max: usize) -> String {
    let text = text.trim_matches(|c: char| c.is_whitespace() || c.is_control());
    let mut out = String::with_capacity(text.len().min(bytes_max));
    for character in text.chars() {
        if out.len() + character.len_utf8() > bytes_max {
            out.push('…');
            break;
        }
        out.push(if character.is_control() { ' ' } else { character });
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_one_line_cut_between_characters() {
        assert_eq!(excerpt("  two\r\nlines\0 ", 80), "two  lines");
        assert_eq!(excerpt("äöü", 3), "ä…");
        assert_eq!(excerpt("abc", 3), "abc");
    }
}

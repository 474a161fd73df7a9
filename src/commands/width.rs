//! Width: columns that a text takes on a terminal; texts cut and padded by it.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Width of a text in terminal columns: a CJK character has two, a combining mark none.
///
/// Source: UAX #11 as `unicode-width` 0.2 reads it; ambiguous characters have one column.
pub(super) fn columns(text: &str) -> usize {
    text.width()
}

/// Text cut to `width` columns between two characters, with an ellipsis where it was cut.
pub(super) fn shorten(text: &str, width: usize) -> String {
    if columns(text) <= width {
        return text.to_owned();
    }
    let Some(room) = width.checked_sub(1) else { return String::new() };
    let (mut used, mut end) = (0, 0);
    for cluster in Clusters(text) {
        used += columns(cluster);
        if used > room {
            break;
        }
        end += cluster.len();
    }
    format!("{}…", &text[..end])
}

/// Text with spaces after it up to `width` columns; a wider one as it is.
pub(super) fn pad(text: &str, width: usize) -> String {
    format!("{text}{}", blank(text, width))
}

/// Text with spaces before it up to `width` columns; a wider one as it is.
pub(super) fn pad_left(text: &str, width: usize) -> String {
    format!("{}{text}", blank(text, width))
}

fn blank(text: &str, width: usize) -> String {
    " ".repeat(width.saturating_sub(columns(text)))
}

/// Pieces of a text between which it may be cut: a character with all that takes no room of its
/// own, such as the marks on it or the rest of a joined emoji.
struct Clusters<'a>(&'a str);

impl<'a> Iterator for Clusters<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        let first = self.0.chars().next()?;
        let (mut end, mut wide) = (first.len_utf8(), columns(&self.0[..first.len_utf8()]));
        for next in self.0[end..].chars() {
            let longer = end + next.len_utf8();
            if next.width() != Some(0) {
                let is_flag = is_regional(first) && is_regional(next) && end == first.len_utf8();
                if columns(&self.0[..longer]) > wide && !is_flag {
                    break;
                }
            }
            // A variation selector takes none itself, and may make its character wider.
            (end, wide) = (longer, columns(&self.0[..longer]));
        }
        let cluster;
        (cluster, self.0) = self.0.split_at(end);
        Some(cluster)
    }
}

/// True for half of a flag.
const fn is_regional(character: char) -> bool {
    matches!(character, '\u{1f1e6}'..='\u{1f1ff}')
}

#[cfg(test)]
mod tests;

//! Tests of widths: cuts between characters, and laws over any text.

use proptest::prelude::*;

use super::*;

#[test]
fn a_cut_is_between_characters_and_marks_stay_with_theirs() {
    let cut = |text, width| shorten(text, width);
    assert_eq!(cut("一二三四", 8), "一二三四");
    assert_eq!(cut("一二三四", 7), "一二三…");
    // A wide character that does not fit leaves a column free.
    assert_eq!(cut("一二三四", 6), "一二…");
    assert_eq!(cut("e\u{301}e\u{301}e\u{301}", 2), "e\u{301}…");
    assert_eq!(cut("אבגד", 3), "אב…");
    // Emoji joined, coloured, chosen and paired.
    assert_eq!(cut("👩\u{200d}🚀👩\u{200d}🚀", 3), "👩\u{200d}🚀…");
    assert_eq!(cut("👍🏽👍🏽", 3), "👍🏽…");
    assert_eq!(cut("❤\u{fe0f}❤\u{fe0f}", 2), "…");
    assert_eq!(cut("🇩🇪🇫🇷", 3), "🇩🇪…");
    assert_eq!((cut("ab", 1), cut("ab", 0), cut("", 0)), ("…".into(), "".into(), "".into()));
}

#[test]
fn padding_counts_columns() {
    assert_eq!(pad("中文", 6), "中文  ");
    assert_eq!(pad_left("中文", 6), "  中文");
    assert_eq!(pad("e\u{301}", 2), "e\u{301} ");
    assert_eq!(pad("wide", 2), "wide");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]
    #[test]
    fn a_cut_text_fits_and_is_the_beginning_of_what_it_was(
        text in "\\PC{0,40}|[a一\u{301}\u{200d}\u{fe0f}👩🏽🇩א\u{17d2}\u{1780}لا]{0,40}",
        width in 0_usize..40,
    ) {
        let cut = shorten(&text, width);
        prop_assert!(columns(&cut) <= width);
        if columns(&text) > width {
            let kept = cut.strip_suffix('…').unwrap_or("");
            prop_assert!(text.starts_with(kept));
            let rest = text[kept.len()..].chars().next().expect("something was cut off");
            prop_assert!(kept.is_empty() || rest.width() != Some(0), "{rest:?} lost its base");
        } else {
            prop_assert_eq!(cut, text);
        }
    }
}

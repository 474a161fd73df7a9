//! Tests of the table: cuts, alignment, hostile text, and laws over any rows.

use proptest::prelude::*;

use super::*;

#[test]
fn wide_columns_give_way_to_the_last_and_empty_ones_go() {
    let mut table = Table::new(&["A", "EMPTY", "ID", "ERROR"]);
    table.row(
        ["1", "", "0199a3f2-77aa-7bbb-8ccc-ddddeeeeffff", "no answer within five seconds"]
            .map(String::from),
    );
    table.without_empty("EMPTY");
    table.without_empty("ERROR");
    expect_test::expect![[r#"
        A  ID                 ERROR
        1  0199a3f2-77aa-7b…  no answer within five secon…"#]]
    .assert_eq(&table.lines(Some(50)).join("\n"));
    let mut table = Table::new(&["JOB", "CLASS", "ERROR"]);
    table.row(
        ["r-20261121-124326-2sps", "ValidationError", "no answer within five seconds"]
            .map(String::from),
    );
    expect_test::expect![[r#"
        JOB                     CLASS            ERROR
        r-20261121-124326-2sps  ValidationError  no answer within f…"#]]
    .assert_eq(&table.lines(Some(60)).join("\n"));
}

#[test]
fn columns_line_up_and_hostile_text_stays_in_its_cell() {
    let mut table = Table::new(&["A", "B", "C"]);
    table.row(["1".into(), "x\u{1b}[31m\r\ny".into(), "end".into()]);
    table.row(["22".into(), "z".into(), "a long last cell".into()]);
    expect_test::expect![[r#"
        A   B              C
        1   x\u{1b}[31m\…  end
        22  z              a long last cell"#]]
    .assert_eq(&table.lines(Some(35)).join("\n"));
}

#[test]
fn wide_characters_take_two_columns_and_numbers_are_aligned_right() {
    let mut table = Table::new(&["STAGE", "LETTERS", "MESSAGE", "ALL"]).right(&["LETTERS", "ALL"]);
    table.row(["支付".into(), "7".into(), "余额不足".into(), "12".into()]);
    table.row(["orders".into(), "12345678".into(), "cafe\u{301}".into(), "3".into()]);
    table.row(["הזמנות".into(), "12".into(), "אין יתרה".into(), "1234".into()]);
    expect_test::expect![[r#"
        STAGE    LETTERS  MESSAGE    ALL
        支付           7  余额不足    12
        orders  12345678  café         3
        הזמנות        12  אין יתרה  1234"#]]
    .assert_eq(&table.lines(None).join("\n"));
}

#[test]
fn numbers_stay_whole_and_the_first_column_gives_way_last() {
    let mut table = Table::new(&["CLASS", "SERVICE", "LETTERS"]).right(&["LETTERS"]);
    table.row(["C".repeat(60), "a-service-with-a-long-name".into(), "123456789".into()]);
    expect_test::expect![[r#"
        CLASS                                                         SERVICE                       LETTERS
        CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC  a-service-with-a-long-name  123456789"#]]
    .assert_eq(&table.lines(None).join("\n"));
    expect_test::expect![[r#"
        CLASS                                                         SERVICE     LETTERS
        CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC  a-servi…  123456789"#]]
    .assert_eq(&table.lines(Some(81)).join("\n"));
    expect_test::expect![[r#"
        CLASS                                 SERVICE     LETTERS
        CCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCCC…  a-servi…  123456789"#]]
    .assert_eq(&table.lines(Some(57)).join("\n"));
}

#[test]
fn columns_that_can_be_spared_go_one_by_one() {
    let table = |width| {
        let mut table = Table::new(&["STAGE", "P50", "P99", "MORE"]).right(&["P50", "P99"]);
        table.row(["orders", "800µs", "40ms", "x"].map(String::from));
        table.spare(width, &["P50", "MORE"]);
        table.lines(width)[0].clone()
    };
    assert_eq!(table(None), "STAGE     P50   P99  MORE");
    assert_eq!(table(Some(25)), "STAGE     P50   P99  MORE");
    assert_eq!(table(Some(24)), "STAGE    P99  MORE");
    assert_eq!(table(Some(17)), "STAGE    P99");
    assert_eq!(table(Some(5)), "STAG…");
}

/// Cells of every kind: ids, CJK, right-to-left, marks, emoji, controls and formatting, anything.
fn cell() -> impl Strategy<Value = String> {
    prop_oneof![
        "[0-9a-f-]{0,64}",
        "[0-9]{1,9}",
        "[a-z ]{0,80}",
        "[一-龥ぁ-ん、。]{0,40}",
        "[א-ת ]{0,40}|[ا-ي ]{0,40}",
        "[ae\u{301}\u{308}👩🏽🇩🇪\u{200d}\u{fe0f}\u{fe0e}]{0,20}",
        "[\\x00-\\x1f\\x7f-\\x9f\u{202a}-\u{202e}\u{2066}-\u{2069}\u{200e}\u{200f}\u{61c}b]{0,9}",
        "\\PC{0,40}",
    ]
}

fn table() -> impl Strategy<Value = Table> {
    (1_usize..9).prop_flat_map(|wide| {
        let rows = prop::collection::vec(prop::collection::vec(cell(), wide), 0..6);
        let columns = prop::collection::vec(("[A-Z]{1,12}|[一-龥]{1,6}", any::<bool>()), wide);
        (columns, rows).prop_map(|(columns, rows)| {
            let headings: Vec<&String> = columns.iter().map(|(name, _)| name).collect();
            let mut table = Table::new(&headings);
            for (column, (_, is_right)) in table.columns.iter_mut().zip(&columns) {
                column.is_right = *is_right;
            }
            rows.into_iter().for_each(|row| table.row(row));
            table
        })
    })
}

proptest! {
    #[test]
    fn no_line_is_wider_than_the_terminal(table in table(), width in 20_usize..=200) {
        for line in table.lines(Some(width)) {
            prop_assert!(columns(&line) <= width, "{line:?}");
            prop_assert_eq!(&super::super::printable(&line), &line, "it is fit for a terminal");
            prop_assert!(!line.contains('\n'));
        }
    }

    #[test]
    fn columns_begin_at_the_same_place_in_each_line_and_two_spaces_part_them(
        table in table(),
        width in prop::option::of(20_usize..=200),
    ) {
        let widths = table.widths(width);
        for line in table.lines(width) {
            let mut start = 0;
            for wide in &widths[..widths.len() - 1] {
                start += wide + GAP;
                // Padded, so that a line that ends before is blank from there on.
                let padded = pad(&line, start);
                if width.is_some_and(|width| start >= width) {
                    break;
                }
                let before: Vec<usize> = padded
                    .char_indices()
                    .map(|(at, _)| at)
                    .chain([padded.len()])
                    .filter(|at| columns(&padded[..*at]) == start)
                    .collect();
                prop_assert!(
                    before.iter().any(|at| padded[..*at].ends_with("  ")),
                    "glued at {start}: {line:?}"
                );
            }
        }
    }
}

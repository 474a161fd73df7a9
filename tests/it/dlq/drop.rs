//! Drop: letters that are deleted only where that was meant.

use expect_test::expect;
use millstream::stages::headers;

use super::{Shell, letter, publish, still};

#[tokio::test]
async fn letters_are_dropped_only_where_that_was_meant() {
    let mill = still().await;
    let shell = Shell::new(&mill);
    let class = |n: u64| [(headers::ERROR_CLASS, if n <= 3 { "Odd" } else { "Even" })];
    for n in 1..=9 {
        publish(&mill, [letter(n, &class(n), "{}")]).await;
    }
    shell.check(&["drop"], expect![[r#"
        exit 2
        error: say which letters to drop, as `millstream dlq ls` numbers them, or by flags such as --stage and --class; --all drops every letter
    "#]]).await;
    shell
        .check(
            &["drop", "1", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 2
        error: name letters by their numbers, or by flags: not both
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--all", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 2
        error: --all drops every letter, whatever the flags say; leave out the one or the other
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--class", "Odd"],
            expect![[r#"
        exit 2
        error: 3 letters would be dropped for good; there is no terminal to ask on, so say --yes if that is meant
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "1", "77", "--yes"],
            expect![[r#"
        exit 2
        error: there is no dead letter 77; `millstream dlq ls` lists them
    "#]],
        )
        .await;
    assert_eq!(mill.letters().await.len(), 9);
    shell
        .check(
            &["drop", "--class", "Nope", "--yes"],
            expect![[r#"
        exit 0
        no dead letters that these flags mean: nothing to drop
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--class", "Odd", "--yes"],
            expect![[r#"
        exit 0
        dropped 3 letters
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "9", "4", "--yes", "--json"],
            expect![[r#"
        exit 0
        {"dropped":2}
    "#]],
        )
        .await;
    let left: Vec<u64> = mill.letters().await.iter().map(|letter| letter.seq).collect();
    assert_eq!(left, [5, 6, 7, 8]);
    shell
        .check(
            &["drop", "--all", "--yes"],
            expect![[r#"
        exit 0
        dropped 4 letters
    "#]],
        )
        .await;
    shell
        .check(
            &["drop", "--all", "--yes"],
            expect![[r#"
        exit 0
        no dead letters: nothing to drop
    "#]],
        )
        .await;
}

//! Tests of the fingerprint: failures that merge, failures that do not, and the cost.

use super::*;
use expect_test::expect;
use proptest::prelude::*;

#[test]
fn a_fingerprint_never_changes() {
    let got = [
        fingerprint("REDIS_CONNECTION_FAILED", "cart", "connect ECONNREFUSED 10.0.0.7:6379"),
        fingerprint("", "", ""),
        fingerprint("TimeoutError", "shop/orders", "no answer in 5s"),
    ];
    expect!["bb4f03d4c8e7da7c 3db8f5d791a77001 f44d523ae3502359"].assert_eq(&got.join(" "));
}

#[test]
fn what_varies_becomes_a_placeholder() {
    let messages = [
        "connect to 10.0.0.7:5432 failed after 30s (request 3f2a9c01-4b5d-4e6f-8a7b-0c1d2e3f4a5b)",
        "connect to [::1]:5432 or fe80::1 failed",
        "user 'bob' can't read \"a b\" of `orders`, isn't it",
        "an unclosed \" quote of 'one kind and 12 numbers",
        "GET https://u:p@payments.internal:8443/charge/12?x=1 -> 502.",
        "open /var/lib/x/1.db: no such file, see C:\\temp\\a.log or src/app/main.rs:42:7",
        "at 2026-11-21T12:30:45.123Z and 2026-11-21 12:30:45, batch [1, 2, 3] of 99.9%",
        "pod payments-6d4b75cb6d-x7k2p worker12 object 0xdeadbeef sha 9ae1bf00c3",
        "E11000 duplicate key a.b@example.com\r\n\tand/or std::io::Error v1.2.3",
        "Größe 12 überschritten: “Ware 7” 日本語 5件",
    ];
    let got: Vec<String> = messages.iter().map(|message| normalise(message)).collect();
    expect![[r#"
        connect to <ip> failed after <n> (request <n>)
        connect to <ip> or <ip> failed
        user <text> can't read <text> of <text>, isn't it
        an unclosed " quote of 'one kind and <n> number
        GET https://payments.internal/charge -> <n>.
        open <path>: no such file, see <path> or <path>/main.rs
        at <time> and <time>, batch [<n>] of <n>
        pod payments-<n>-<n> worker<n> object <n> sha <n>
        E11000 duplicate key <email> and/or std::io::Error v<n>.<n>.<n>
        Größe <n> überschritten: <text> 日本語 <n>件
    "#]]
    .assert_eq(&(got.join("\n") + "\n"));
}

#[test]
fn the_same_failure_merges_and_another_does_not() {
    let same = |a: &str, b: &str| normalise(a) == normalise(b);
    for (a, b) in [
        ("timeout after 5000ms", "timeout after 3s"),
        ("order 1234 not found", "order 99 not found"),
        ("order 1234: stock 5", "order 1: stock -2.5"),
        ("dial tcp 10.1.2.3:5432: refused", "dial tcp 192.168.0.1:6543: refused"),
        ("dial tcp [fe80::1]:5432: refused", "dial tcp [2001:db8::2]:99: refused"),
        (
            "id=550e8400-e29b-41d4-a716-446655440000 gone",
            "id=123e4567-e89b-12d3-a456-426614174000 gone",
        ),
        ("trace 4bf92f3577b34da6a3ce929d0e0e4736", "trace 00f067aa0ba902b7aabbccddeeff0011"),
        ("at 2026-01-02T03:04:05Z", "at 2025-12-31 23:59:59.999"),
        ("no user 'alice'", "no user 'bob o''neill'"),
        ("cannot open /tmp/a.txt", "cannot open /home/x/y/z"),
        ("http://api.shop/orders/1 said 500", "http://api.shop/orders/2?retry=1 said 502"),
        ("mail to a@x.org bounced", "mail to b.c@y.example.com bounced"),
        ("pod web-5d9c7b6f4d-abc12 died", "pod web-7c6b5d4f3e-x9z8y died"),
        ("ids 1, 2 and 3", "ids 7 and 8"),
        ("too   many\nspaces", "too many spaces"),
    ] {
        assert!(same(a, b), "{a:?} and {b:?} should merge:\n{}\n{}", normalise(a), normalise(b));
    }
    for (a, b) in [
        ("connection refused", "connection reset"),
        ("timeout reading from redis", "timeout reading from postgres"),
        ("http://payments/charge failed", "http://stock/charge failed"),
        ("user not found", "order not found"),
        ("can't read config", "can't write config"),
        ("invalid input: missing name", "invalid input: missing price"),
        ("std::io::Error", "std::fmt::Error"),
        ("order 5 not paid", "order not paid"),
    ] {
        assert!(!same(a, b), "{a:?} and {b:?} should not merge");
    }
    assert_ne!(fingerprint("A", "s", "m"), fingerprint("B", "s", "m"));
    assert_ne!(fingerprint("A", "s", "m"), fingerprint("A", "t", "m"));
    assert_ne!(fingerprint("ab", "c", "m"), fingerprint("a", "bc", "m"));
}

#[test]
fn a_hostile_message_is_scanned_once() {
    for piece in [
        "\"",
        "'",
        "' ",
        "`x",
        "http://",
        "a:",
        "1:",
        "/",
        "“",
        "12 ",
        "a/b?",
        "=",
        "eyJa.",
        "a-b_",
        "row contains (",
        "é=",
        "Nov 5 ,",
        "x@y.",
        "»a«",
        "id: A",
        "\"a\":",
        "1e-",
        "/users/",
        "a'b '",
    ] {
        let message = piece.repeat((1 << 20) / piece.len());
        assert!(normalise(&message).len() <= 4 * SCANNED_BYTES_MAX, "{piece}");
    }
}

proptest! {
    #[test]
    fn numbers_never_tell_two_messages_apart(words in "[a-z ]{0,40}", a: u32, b: u32) {
        let message = |n: u32| format!("{words} {n} {words}");
        prop_assert_eq!(normalise(&message(a)), normalise(&message(b)));
    }

    #[test]
    fn any_text_is_taken(text in "\\PC{0,300}|[-0-9a-f:/.@'\"x\\\\ ]{0,100}") {
        prop_assert!(!normalise(&text).contains(char::is_control));
    }

    #[test]
    fn what_is_explained_is_what_is_hashed(
        text in "\\PC{0,100}|[-0-9a-z:/.@'\"(=_é年 ]{0,100}|([A-Z][a-z]{2} ?[0-9]{1,4},? ?){0,9}",
    ) {
        let (said, notes) = explain(&text);
        prop_assert_eq!(&said, &normalise(&text));
        prop_assert!(said.len() <= 8 * text.len());
        prop_assert!(notes.len() <= text.len());
    }

    #[test]
    fn ids_of_one_kind_are_one_message(a in "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", b: u128) {
        let other = format!("{b:032x}");
        let other = [&other[..8], &other[8..12], &other[12..16], &other[16..20], &other[20..]];
        let message = |id: &str| format!("cart_{id} of {id} is gone");
        prop_assert_eq!(normalise(&message(&a)), normalise(&message(&other.join("-"))));
    }

    #[test]
    fn names_of_columns_tell_two_messages_apart(a in "[a-z]{3,12}", b in "[a-z]{3,12}") {
        prop_assume!(a != b && !ids::is_id(&a) && !ids::is_id(&b));
        let message = |column: &str| format!("column \"{column}\" does not exist");
        prop_assert_ne!(normalise(&message(&a)), normalise(&message(&b)));
    }
}

//! Trace context: the W3C trace context of an event.
//!
//! Travels with the event across every hop whether or not spans are exported.

use std::{
    fmt,
    hash::{BuildHasher as _, RandomState},
    sync::{
        LazyLock, OnceLock,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use ring::digest;

/// Trace context: a place in a trace, the value of a `traceparent` header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TraceContext {
    /// Id of the trace, not all zero.
    pub trace_id: [u8; 16],
    /// Id of the span within it, not all zero.
    pub span_id: [u8; 8],
    /// True if the spans of this trace are exported.
    pub sampled: bool,
}

/// Share of the traces begun here that are exported. Unset: spans are not exported.
static SHARE: OnceLock<f64> = OnceLock::new();

impl TraceContext {
    /// Reads a `traceparent` header; `None` if it is not one.
    ///
    /// Source: W3C Trace Context (2021-11-23), section 3.2: lower case only, no all-zero ids,
    /// version `ff` forbidden, and a later version may be longer where a dash follows what version
    /// `00` has.
    pub fn parse(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        let dashes = bytes.len() >= 55 && [2, 35, 52].iter().all(|at| bytes[*at] == b'-');
        if !dashes || (bytes.len() > 55 && (text.starts_with("00") || bytes[55] != b'-')) {
            return None;
        }
        let [version] = hex(&bytes[..2])?;
        let context =
            Self { trace_id: hex(&bytes[3..35])?, span_id: hex(&bytes[36..52])?, sampled: false };
        let [flags] = hex(&bytes[53..55])?;
        let valid = version != 0xff && context.trace_id != [0; 16] && context.span_id != [0; 8];
        valid.then_some(Self { sampled: flags & 1 == 1, ..context })
    }

    /// Returns the context of an event that came without one.
    ///
    /// The ids are derived from the event's id, so that every redelivery, on any worker, continues
    /// the same trace and makes the same choice whether to export it.
    pub fn root(event_id: &str) -> Self {
        let digest = digest::digest(&digest::SHA256, event_id.as_bytes());
        let mut context = Self { trace_id: [0; 16], span_id: [0; 8], sampled: false };
        context.trace_id.copy_from_slice(&digest.as_ref()[..16]);
        context.span_id.copy_from_slice(&digest.as_ref()[16..24]);
        let point = u64::from_be_bytes(context.span_id) as f64 / u64::MAX as f64;
        context.sampled = SHARE.get().is_some_and(|share| point < *share);
        context
    }

    /// Returns the context of something new within the same trace.
    #[must_use]
    pub fn child(self) -> Self {
        // Unlike in any other process, and unlike any before it in this one.
        static KEYS: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let span_id = KEYS.hash_one(NEXT.fetch_add(1, Relaxed)).max(1);
        Self { span_id: span_id.to_be_bytes(), ..self }
    }

    /// Sets the share of the traces begun here that is exported, once for the process.
    pub(crate) fn export_share(share: f64) {
        // A second exporter in one process (tests) keeps the first share.
        SHARE.get_or_init(|| share);
    }
}

impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (trace_id, span_id) =
            (u128::from_be_bytes(self.trace_id), u64::from_be_bytes(self.span_id));
        write!(f, "00-{trace_id:032x}-{span_id:016x}-{:02x}", u8::from(self.sampled))
    }
}

/// Bytes of lower-case hexadecimal digits, two for each byte; `None` for any other text.
fn hex<const N: usize>(digits: &[u8]) -> Option<[u8; N]> {
    let digit = |c: u8| match c {
        b'0'..=b'9' => Some(c - b'0'),
        b'a'..=b'f' => Some(c - b'a' + 10),
        _ => None,
    };
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = digit(pair[0])? << 4 | digit(pair[1])?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const GOOD: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    #[test]
    fn a_traceparent_is_read_strictly() {
        let context = TraceContext::parse(GOOD).unwrap();
        assert!(context.sampled);
        assert_eq!(context.to_string(), GOOD);
        assert!(TraceContext::parse(&GOOD.replacen("00", "cc", 1)).is_some(), "a later version");
        assert!(
            TraceContext::parse(&format!("cc{}-what-comes", &GOOD[2..])).is_some(),
            "a later, longer version"
        );
        for bad in [
            "",
            "00",
            &GOOD.to_uppercase(),
            &format!("{GOOD}-more"),
            &format!("cc{}more", &GOOD[2..]),
            &GOOD.replacen("00", "ff", 1),
            &GOOD.replace("4bf92f3577b34da6a3ce929d0e0e4736", &"0".repeat(32)),
            &GOOD.replace("00f067aa0ba902b7", &"0".repeat(16)),
            &GOOD.replace('-', "_"),
            &GOOD[1..],
        ] {
            assert_eq!(TraceContext::parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn redeliveries_of_an_event_share_a_trace_and_its_children_have_spans_of_their_own() {
        let root = TraceContext::root("e-1");
        assert_eq!(root, TraceContext::root("e-1"));
        assert_ne!(root.trace_id, TraceContext::root("e-2").trace_id);
        let (one, two) = (root.child(), root.child());
        assert_eq!([one.trace_id, two.trace_id], [root.trace_id; 2]);
        assert!(one.span_id != two.span_id && one.span_id != root.span_id);
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_back(
            trace_id in 1..=u128::MAX,
            span_id in 1..=u64::MAX,
            sampled: bool,
        ) {
            let (trace_id, span_id) = (trace_id.to_be_bytes(), span_id.to_be_bytes());
            let context = TraceContext { trace_id, span_id, sampled };
            prop_assert_eq!(TraceContext::parse(&context.to_string()), Some(context));
        }

        #[test]
        fn no_text_panics(text in "\\PC{0,80}|[0-9a-f-]{50,60}") {
            TraceContext::parse(&text);
        }
    }
}

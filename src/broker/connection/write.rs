//! Write: operations of ours, encoded so that no text from outside can end a line.

use std::io::Write as _;

use crate::broker::Headers;

/// Message that cannot be sent as it is.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unsendable {
    /// Subject that is empty, or holds a space or a control character.
    #[error("\"{0}\" is not a subject that can be sent to")]
    Subject(String),
    /// Header name that is empty, or holds a colon, a space or a control character.
    #[error("\"{0}\" is not the name of a header")]
    Name(String),
    /// Message larger than `max_payload`, headers included.
    #[error("{size} bytes are more than the server's max_payload of {max}")]
    TooLarge {
        /// Size of headers and payload.
        size: usize,
        /// `max_payload` of the server.
        max: usize,
    },
}

/// Reply subject of a message.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reply<'a> {
    /// None.
    Nobody,
    /// This one.
    To(&'a str),
    /// Token of an inbox: its prefix and the token's number.
    Inbox(&'a str, u64),
}

/// Message to send.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sending<'a> {
    /// Subject.
    pub(crate) subject: &'a str,
    /// Headers.
    pub(crate) headers: Option<&'a Headers>,
    /// Headers besides, which take the place of those of the same name: what was stored once still
    /// has the conditions that it was stored under.
    pub(crate) extra: &'a [(&'a str, &'a str)],
    /// Payload.
    pub(crate) body: &'a [u8],
}

/// True for a subject that may stand in a line of the protocol.
pub(crate) fn is_subject(subject: &str) -> bool {
    !subject.is_empty() && subject.bytes().all(|byte| byte > b' ' && byte != 0x7f)
}

/// Encodes a message at the end of `out`; nothing of it if it cannot be sent.
///
/// # Errors
/// [`Unsendable`].
pub(crate) fn message(
    out: &mut Vec<u8>,
    sending: &Sending<'_>,
    reply: Reply<'_>,
    max_payload: usize,
) -> Result<(), Unsendable> {
    let Sending { subject, body, .. } = *sending;
    if !is_subject(subject) {
        return Err(Unsendable::Subject(subject.escape_debug().to_string()));
    }
    let head = head_size(sending)?;
    let size = head + body.len();
    if size > max_payload {
        return Err(Unsendable::TooLarge { size, max: max_payload });
    }
    out.reserve(subject.len() + 100 + size);
    out.extend_from_slice(if head > 0 { b"HPUB " } else { b"PUB " });
    out.extend_from_slice(subject.as_bytes());
    match reply {
        Reply::Nobody => {}
        Reply::To(reply) if is_subject(reply) => {
            out.push(b' ');
            out.extend_from_slice(reply.as_bytes());
        }
        Reply::To(_) => {}
        Reply::Inbox(prefix, id) => put(out, format_args!(" {prefix}.{id}")),
    }
    if head > 0 {
        put(out, format_args!(" {head}"));
    }
    put(out, format_args!(" {size}\r\n"));
    if head > 0 {
        out.extend_from_slice(b"NATS/1.0\r\n");
        for (name, value) in lines(sending) {
            line(out, name, value);
        }
        out.extend_from_slice(b"\r\n");
    }
    out.extend_from_slice(body);
    out.extend_from_slice(b"\r\n");
    Ok(())
}

/// Encodes a subscription.
pub(crate) fn subscribe(out: &mut Vec<u8>, subject: &str, sid: u64) {
    put(out, format_args!("SUB {subject} {sid}\r\n"));
}

/// Encodes the end of a subscription.
pub(crate) fn unsubscribe(out: &mut Vec<u8>, sid: u64) {
    put(out, format_args!("UNSUB {sid}\r\n"));
}

/// All lines of the header block.
fn lines<'a>(sending: &Sending<'a>) -> impl Iterator<Item = (&'a str, &'a str)> {
    let extra = sending.extra;
    let is_kept = move |name: &str| !extra.iter().any(|(of, _)| name.eq_ignore_ascii_case(of));
    let given = sending.headers.into_iter().flat_map(|headers| headers.iter());
    let given = given.map(|(name, values)| (AsRef::<str>::as_ref(name), values));
    let given = given
        .filter(move |(name, _)| is_kept(name))
        .flat_map(|(name, values)| values.iter().map(move |value| (name, value.as_str())));
    given.chain(extra.iter().copied())
}

fn head_size(sending: &Sending<'_>) -> Result<usize, Unsendable> {
    let mut size = 0;
    for (name, value) in lines(sending) {
        if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') {
            return Err(Unsendable::Name(name.escape_debug().to_string()));
        }
        size += name.len() + value.len() + ": \r\n".len();
    }
    Ok(if size > 0 { size + "NATS/1.0\r\n\r\n".len() } else { 0 })
}

/// One header. A line's end within a value becomes spaces, of the same length.
fn line(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    if memchr::memchr3(b'\r', b'\n', 0, &out[start..]).is_some() {
        for byte in &mut out[start..] {
            if matches!(*byte, b'\r' | b'\n' | 0) {
                *byte = b' ';
            }
        }
    }
    out.extend_from_slice(b"\r\n");
}

fn put(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    // Writing to memory does not fail.
    out.write_fmt(text).ok();
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sent(
        subject: &str,
        extra: &[(&str, &str)],
        body: &[u8],
        reply: Reply<'_>,
    ) -> Result<Vec<u8>, Unsendable> {
        let mut out = Vec::new();
        let sending = Sending { subject, headers: None, extra, body };
        message(&mut out, &sending, reply, 1000).map(|()| out)
    }

    #[test]
    fn messages_are_written_as_the_protocol_asks() {
        let plain = sent("a.b", &[], b"hi", Reply::To("re")).unwrap();
        assert_eq!(plain, b"PUB a.b re 2\r\nhi\r\n");
        let headed = sent("a", &[("K", "v")], b"hi", Reply::Inbox("in", 7)).unwrap();
        assert_eq!(headed, b"HPUB a in.7 18 20\r\nNATS/1.0\r\nK: v\r\n\r\nhi\r\n");
    }

    #[test]
    fn a_condition_takes_the_place_of_the_one_that_a_message_was_stored_under() {
        let (mut out, mut headers) = (Vec::new(), Headers::new());
        headers.insert("Nats-Expected-Last-Subject-Sequence", "0");
        let extra = [("Nats-Expected-Last-Subject-Sequence", "7")];
        let sending = Sending { subject: "a", headers: Some(&headers), extra: &extra, body: b"" };
        message(&mut out, &sending, Reply::Nobody, 1000).unwrap();
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text.matches("Expected").count(), 1);
        assert!(text.contains("Sequence: 7\r\n"));
    }

    #[test]
    fn headers_count_against_max_payload() {
        let body = [b'x'; 990];
        assert!(sent("a", &[], &body, Reply::Nobody).is_ok());
        assert_eq!(
            sent("a", &[("K", "v")], &body, Reply::Nobody),
            Err(Unsendable::TooLarge { size: 1008, max: 1000 })
        );
    }

    proptest! {
        /// Whatever is in a subject, a header or a payload, the server reads one operation.
        #[test]
        fn nothing_can_be_slipped_into_the_protocol(
            subject in "[a.\r\n \tPUB0é]{0,12}",
            name in "[A:\r\n -]{0,6}",
            value in "[v:\r\n PUBx1é\0]{0,30}",
            body in proptest::collection::vec(any::<u8>(), 0..30),
        ) {
            match sent(&subject, &[(&name, &value)], &body, Reply::Inbox("in", 3)) {
                Err(_) => {
                    let bad_name = name.is_empty() || name.contains([':', '\r', '\n', ' ']);
                    prop_assert!(!is_subject(&subject) || bad_name);
                }
                Ok(out) => {
                    let end = memchr::memmem::find(&out, b"\r\n").unwrap();
                    let line = std::str::from_utf8(&out[..end]).unwrap();
                    let words: Vec<_> = line.split(' ').collect();
                    prop_assert_eq!(&words[..3], ["HPUB", &subject, "in.3"]);
                    let (head, size): (usize, usize) =
                        (words[3].parse().unwrap(), words[4].parse().unwrap());
                    prop_assert_eq!(out.len(), end + 2 + size + 2);
                    let block = &out[end + 2..end + 2 + head];
                    prop_assert_eq!(block.iter().filter(|byte| **byte == b'\n').count(), 3);
                    prop_assert_eq!(&out[end + 2 + head..out.len() - 2], &body[..]);
                }
            }
        }
    }
}

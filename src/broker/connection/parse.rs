//! Parse: bytes of the server, cut into frames; what a message holds is not looked at.

use bytes::{Buf as _, Bytes, BytesMut};

/// The longest control line, in bytes. An INFO of a large cluster is the longest there is.
const LINE_BYTES_MAX: usize = 1 << 20;
/// The largest message, in bytes: more than the server's own upper bound of `max_payload`.
const MESSAGE_BYTES_MAX: usize = 128 << 20;
/// Frames up to this size are copied out of the read buffer, so that one that is held for long does
/// not keep its neighbours in memory.
const COPIED_BYTES_MAX: usize = 8 << 10;

/// Operation of the server.
#[derive(Debug)]
pub(crate) enum Op {
    /// Message on a subscription.
    Message(Frame),
    /// State of the server, as JSON.
    Info(Bytes),
    /// Question if we are alive.
    Ping,
    /// Answer to a ping of ours.
    Pong,
    /// Notice without meaning for us.
    Fine,
    /// Error, with the server's text.
    Refused(String),
}

/// Bytes that are no operation: the connection cannot be read any further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the server sent what is no operation of NATS: {0}")]
pub(crate) struct Garbled(pub(crate) &'static str);

/// Span of a frame's bytes.
#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    end: u32,
}

/// Message as it came: its parts are spans of one piece of memory.
#[derive(Debug, Clone)]
pub(crate) struct Frame {
    bytes: Bytes,
    subject: Span,
    reply: Span,
    head: Span,
    body: Span,
    /// Id of the subscription.
    pub(crate) sid: u64,
    /// Number of the connection that it came by, from 1.
    pub(crate) generation: u64,
}

impl Frame {
    /// The frame as one of the connection of this number.
    pub(crate) fn of(self, generation: u64) -> Self {
        Self { generation, ..self }
    }

    fn part(&self, span: Span) -> &[u8] {
        &self.bytes[span.start as usize..span.end as usize]
    }

    /// Subject; not UTF-8 for certain.
    pub(crate) fn subject(&self) -> &[u8] {
        self.part(self.subject)
    }

    /// Memory of the subject.
    pub(crate) fn subject_bytes(&self) -> Bytes {
        self.bytes.slice(self.subject.start as usize..self.subject.end as usize)
    }

    /// Reply subject; empty if there is none.
    pub(crate) fn reply(&self) -> &[u8] {
        self.part(self.reply)
    }

    /// Memory of the reply subject.
    pub(crate) fn reply_bytes(&self) -> Bytes {
        self.bytes.slice(self.reply.start as usize..self.reply.end as usize)
    }

    /// Header block; empty if there is none.
    pub(crate) fn head(&self) -> &[u8] {
        self.part(self.head)
    }

    /// Payload.
    pub(crate) fn body(&self) -> Bytes {
        self.bytes.slice(self.body.start as usize..self.body.end as usize)
    }

    /// Size as `max_bytes` of a pull counts it: subjects, headers and payload.
    pub(crate) fn size(&self) -> usize {
        [self.subject, self.reply, self.head, self.body]
            .iter()
            .map(|span| (span.end - span.start) as usize)
            .sum()
    }
}

/// Takes the next whole operation out of the buffer; `None` until more has come.
///
/// # Errors
/// [`Garbled`] if the bytes are no operation.
pub(crate) fn next(buffer: &mut BytesMut) -> Result<Option<Op>, Garbled> {
    let Some(end) = memchr::memchr(b'\n', &buffer[..buffer.len().min(LINE_BYTES_MAX)]) else {
        return match buffer.len() < LINE_BYTES_MAX {
            true => Ok(None),
            false => Err(Garbled("a line without an end")),
        };
    };
    let line = &buffer[..end];
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let verb = line.split(|byte| *byte == b' ').next().unwrap_or_default();
    let op = match verb {
        b"MSG" => return message(buffer, end + 1, line.len(), false),
        b"HMSG" => return message(buffer, end + 1, line.len(), true),
        b"PING" => Op::Ping,
        b"PONG" => Op::Pong,
        b"+OK" => Op::Fine,
        b"INFO" => Op::Info(Bytes::copy_from_slice(&line[b"INFO".len()..])),
        b"-ERR" => {
            let text = String::from_utf8_lossy(&line[b"-ERR".len()..]);
            Op::Refused(text.trim().trim_matches('\'').to_owned())
        }
        _ if line.is_empty() => Op::Fine,
        _ => return Err(Garbled("an unknown word")),
    };
    buffer.advance(end + 1);
    Ok(Some(op))
}

fn message(
    buffer: &mut BytesMut,
    content: usize,
    line: usize,
    has_head: bool,
) -> Result<Option<Op>, Garbled> {
    let mut parts = [Span::default(); 6];
    let mut count = 0;
    let mut at = 0;
    for part in buffer[..line].split(|byte| *byte == b' ') {
        if !part.is_empty() {
            let slot = parts.get_mut(count).ok_or(Garbled("a message with too many words"))?;
            *slot = span(at, at + part.len());
            count += 1;
        }
        at += part.len() + 1;
    }
    let number = |span: Span| digits(&buffer[span.start as usize..span.end as usize]);
    let sizes = if has_head { 2 } else { 1 };
    let words = count.checked_sub(sizes).ok_or(Garbled("a message with too few words"))?;
    let reply = match words {
        3 => Span::default(),
        4 => parts[3],
        _ => return Err(Garbled("a message with too few words")),
    };
    let total = number(parts[count - 1])?;
    let head = if has_head { number(parts[count - 2])? } else { 0 };
    let (total, head, sid) = (to_size(total)?, to_size(head)?, number(parts[2])?);
    if head > total {
        return Err(Garbled("a message with more headers than bytes"));
    }
    let whole = content + total + b"\r\n".len();
    if buffer.len() < whole {
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    let bytes = if whole <= COPIED_BYTES_MAX {
        let bytes = Bytes::copy_from_slice(&buffer[..whole]);
        buffer.advance(whole);
        bytes
    } else {
        buffer.split_to(whole).freeze()
    };
    Ok(Some(Op::Message(Frame {
        bytes,
        subject: parts[1],
        reply,
        head: span(content, content + head),
        body: span(content + head, content + total),
        sid,
        generation: 0,
    })))
}

fn span(start: usize, end: usize) -> Span {
    // A message has at most 128 MiB.
    let narrow = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
    Span { start: narrow(start), end: narrow(end) }
}

fn to_size(number: u64) -> Result<usize, Garbled> {
    usize::try_from(number)
        .ok()
        .filter(|size| *size <= MESSAGE_BYTES_MAX)
        .ok_or(Garbled("a message that is too large"))
}

fn digits(text: &[u8]) -> Result<u64, Garbled> {
    if text.is_empty() || text.len() > 18 || !text.iter().all(u8::is_ascii_digit) {
        return Err(Garbled("a number that is none"));
    }
    Ok(text.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0')))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn all(mut buffer: BytesMut) -> Result<Vec<String>, Garbled> {
        let mut seen = Vec::new();
        while let Some(op) = next(&mut buffer)? {
            seen.push(match op {
                Op::Message(frame) => format!(
                    "{} {} [{}] [{}] [{}]",
                    frame.sid,
                    String::from_utf8_lossy(frame.subject()),
                    String::from_utf8_lossy(frame.reply()),
                    String::from_utf8_lossy(frame.head()),
                    String::from_utf8_lossy(&frame.body()),
                ),
                other @ (Op::Info(_) | Op::Ping | Op::Pong | Op::Fine | Op::Refused(_)) => {
                    format!("{other:?}")
                }
            });
        }
        Ok(seen)
    }

    #[test]
    fn operations_are_read_in_turn() {
        let text = "INFO {\"a\":1}\r\nPING\r\n+OK\r\n-ERR 'No Way'\r\nMSG a.b 7 2\r\nhi\r\n\
                    MSG a 8 re.ply 0\r\n\r\nHMSG x 9 r 12 14\r\nNATS/1.0\r\n\r\nyo\r\nPONG\r\n";
        let seen = all(BytesMut::from(text)).unwrap();
        assert_eq!(
            seen,
            [
                "Info(b\" {\\\"a\\\":1}\")",
                "Ping",
                "Fine",
                "Refused(\"No Way\")",
                "7 a.b [] [] [hi]",
                "8 a [re.ply] [] []",
                "9 x [r] [NATS/1.0\r\n\r\n] [yo]",
                "Pong",
            ]
        );
    }

    #[test]
    fn what_frames_nothing_is_an_error_and_not_a_panic() {
        for text in [
            "MSG a 1\r\n\r\n",
            "MSG a x 1\r\nq\r\n",
            "HMSG a 1 9 3\r\nabc\r\n",
            "MSG a 1 99999999999999999999\r\n",
            "MSG a 1 999999999999\r\n",
            "MSG a b c d e f g\r\n",
            "HTTP/1.1 400 Bad Request\r\n",
        ] {
            assert!(all(BytesMut::from(text)).is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(
            bytes in proptest::collection::vec(any::<u8>(), 0..400),
        ) {
            all(BytesMut::from(&bytes[..])).ok();
        }

        /// Pieces of any size read as the whole does, whatever the messages hold.
        #[test]
        fn pieces_read_as_the_whole(
            messages in proptest::collection::vec(
                (proptest::collection::vec(any::<u8>(), 0..60),
                 proptest::collection::vec(any::<u8>(), 0..60), any::<bool>()),
                1..8,
            ),
            cuts in proptest::collection::vec(1_usize..50, 1..60),
        ) {
            let mut text = Vec::new();
            for (head, body, replies) in &messages {
                let reply = if *replies { "re " } else { "" };
                let line = match head.is_empty() {
                    true => format!("MSG s.t 4 {reply}{}\r\n", body.len()),
                    false => {
                        format!("HMSG s.t 4 {reply}{} {}\r\n", head.len(), head.len() + body.len())
                    }
                };
                text.extend_from_slice(line.as_bytes());
                text.extend_from_slice(head);
                text.extend_from_slice(body);
                text.extend_from_slice(b"\r\n");
            }
            let (mut buffer, mut rest, mut seen) = (BytesMut::new(), &text[..], Vec::new());
            for cut in cuts.iter().cycle() {
                let (piece, after) = rest.split_at(rest.len().min(*cut));
                buffer.extend_from_slice(piece);
                rest = after;
                while let Some(op) = next(&mut buffer).unwrap() {
                    let Op::Message(frame) = op else { panic!("{op:?}") };
                    let replies = !frame.reply().is_empty();
                    seen.push((frame.head().to_vec(), frame.body().to_vec(), replies));
                }
                if rest.is_empty() { break; }
            }
            prop_assert_eq!(seen, messages);
        }
    }
}

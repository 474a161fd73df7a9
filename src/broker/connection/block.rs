//! Block: header block of a message, read leniently: what can be read is, and the rest is named.

use std::borrow::Cow;

use async_nats::{HeaderName, HeaderValue};

use crate::broker::Headers;

/// Version line of a well-formed block.
const VERSION: &[u8] = b"NATS/1.0";

/// Header block as it was read.
#[derive(Debug, Default)]
pub(crate) struct Block {
    /// Headers that could be read.
    pub(crate) headers: Headers,
    /// Status of a notice of the server.
    pub(crate) status: Option<u16>,
    /// Words beside the status.
    pub(crate) description: String,
    /// First reason why the block is malformed, if it is.
    pub(crate) malformed: Option<String>,
}

impl Block {
    /// Reads a block; an empty one has no headers. Never fails: the server stores any bytes.
    ///
    /// What the client (async-nats 0.51, `connection.rs`) takes is taken here, but a block that
    /// does not end.
    pub(crate) fn read(bytes: &[u8]) -> Self {
        let mut block = Self::default();
        if bytes.is_empty() {
            return block;
        }
        if !bytes.ends_with(b"\r\n\r\n") {
            block.blame(|| "the block does not end with an empty line".to_owned());
        }
        let mut lines = bytes
            .split(|byte| *byte == b'\n')
            .map(|line| line.strip_suffix(b"\r").unwrap_or(line))
            .enumerate()
            .peekable();
        match lines.next().and_then(|(_, line)| line.strip_prefix(VERSION)) {
            Some(rest) => block.status_line(rest),
            None => block.blame(|| "its first line does not begin with NATS/1.0".to_owned()),
        }
        while let Some((at, line)) = lines.next() {
            if line.is_empty() {
                continue;
            }
            let Some(colon) = line.iter().position(|byte| *byte == b':') else {
                block.blame(|| format!("line {} has no colon", at + 1));
                continue;
            };
            let name = std::str::from_utf8(&line[..colon]).ok().filter(|name| !name.is_empty());
            let name: Option<HeaderName> = name.and_then(|name| name.parse().ok());
            let mut value = Cow::Borrowed(&line[colon + 1..]);
            // A value may go on in lines that begin with a space.
            while let Some((_, more)) =
                lines.next_if(|(_, line)| line.first().is_some_and(u8::is_ascii_whitespace))
            {
                value.to_mut().extend_from_slice(more);
            }
            let Some(name) = name else {
                block.blame(|| format!("line {} has a name that is none", at + 1));
                continue;
            };
            let text = String::from_utf8_lossy(&value);
            // Lossless text is borrowed.
            if matches!(text, Cow::Owned(_)) || text.contains('\r') {
                block.blame(|| format!("line {} has a value that is not text", at + 1));
                let text = text.replace('\r', " ");
                block.headers.append(name, HeaderValue::from(text.trim()));
            } else {
                block.headers.append(name, HeaderValue::from(text.trim()));
            }
        }
        block
    }

    fn status_line(&mut self, rest: &[u8]) {
        let Ok(rest) = std::str::from_utf8(rest) else {
            return self.blame(|| "its status is not text".to_owned());
        };
        let rest = rest.trim();
        if rest.is_empty() {
            return;
        }
        let (status, description) = rest.split_once(' ').unwrap_or((rest, ""));
        match status.parse::<u16>() {
            Ok(status) if (100..1000).contains(&status) => self.status = Some(status),
            _ => self.blame(|| "its status is not a number of three digits".to_owned()),
        }
        self.description = description.trim().to_owned();
    }

    fn blame(&mut self, why: impl FnOnce() -> String) {
        self.malformed.get_or_insert_with(why);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> (Vec<(String, String)>, Option<u16>, Option<String>) {
        let block = Block::read(text);
        let mut headers: Vec<_> = block
            .headers
            .iter()
            .flat_map(|(name, values)| {
                values.iter().map(move |value| (name.to_string(), value.as_str().to_owned()))
            })
            .collect();
        headers.sort();
        (headers, block.status, block.malformed)
    }

    fn pair(name: &str, value: &str) -> (String, String) {
        (name.to_owned(), value.to_owned())
    }

    #[test]
    fn well_formed_blocks_are_read_as_the_client_reads_them() {
        let (headers, status, malformed) =
            read(b"NATS/1.0\r\nA: b \r\nA:c\r\nLong: one\r\n  two\r\n\r\n");
        assert_eq!(headers, [pair("A", "b"), pair("A", "c"), pair("Long", "one  two")]);
        assert_eq!((status, malformed), (None, None));
        let block = Block::read(b"NATS/1.0 409 Consumer Deleted\r\n\r\n");
        assert_eq!((block.status, block.description.as_str()), (Some(409), "Consumer Deleted"));
        assert_eq!(block.malformed, None);
    }

    #[test]
    fn a_malformed_block_gives_what_can_be_read_and_says_why() {
        let good = [pair("A", "b")];
        for (text, says) in [
            (&b"NATS/1.0\r\nno colon here\r\nA: b\r\n\r\n"[..], "line 2 has no colon"),
            (b"NATS/1.0\r\na name: x\r\nA: b\r\n\r\n", "line 2 has a name"),
            (b"NATS/1.0\r\n: x\r\nA: b\r\n\r\n", "line 2 has a name"),
            (b"NATS/1.0\r\nA: b\r\n\xff\xfe: x\r\n\r\n", "line 3 has a name"),
            (b"NATS/2.0\r\nA: b\r\n\r\n", "first line"),
            (b"NATS/1.0 x\r\nA: b\r\n\r\n", "status"),
            (b"NATS/1.0\r\nA: b", "does not end"),
        ] {
            let (headers, _, malformed) = read(text);
            assert_eq!(headers, good, "{}", text.escape_ascii());
            assert!(malformed.unwrap().contains(says), "{}", text.escape_ascii());
        }
        let (headers, _, malformed) = read(b"NATS/1.0\r\nA: \xff\r\n\r\n");
        assert_eq!(headers, [pair("A", "\u{fffd}")]);
        assert!(malformed.is_some());
    }

    proptest! {
        #[test]
        fn any_block_is_read_and_its_values_are_one_line(
            bytes in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (headers, ..) = read(&bytes);
            prop_assert!(headers.iter().all(|(_, value)| !value.contains(['\r', '\n'])));
        }

        #[test]
        fn what_was_written_is_read(
            headers in proptest::collection::vec(
                ("[A-Za-z][A-Za-z0-9-]{0,12}", "[ -~é]{0,30}"),
                0..8,
            ),
        ) {
            let mut text = "NATS/1.0\r\n".to_owned();
            for (name, value) in &headers {
                text.push_str(&format!("{name}: {value}\r\n"));
            }
            text.push_str("\r\n");
            let mut wanted: Vec<_> =
                headers.iter().map(|(name, value)| pair(name, value.trim())).collect();
            wanted.sort();
            prop_assert_eq!(read(text.as_bytes()), (wanted, None, None));
        }
    }
}

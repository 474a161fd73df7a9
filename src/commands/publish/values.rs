//! Values: events of a file as people have it: lines, a JSON array, values one after the other, in
//! any of the usual encodings. Blocking.

use std::io::{self, BufRead, BufReader, Read};

use bytes::Bytes;

use crate::limits;

/// Shape of a file of events.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Shape {
    /// A value on each line.
    Lines,
    /// Values one after the other, over as many lines as they like.
    Values,
    /// One array of values.
    Array,
}

/// Value, and the line that it begins on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Value {
    pub(super) line: u64,
    pub(super) bytes: Bytes,
}

/// Values of a reader, in order.
pub(super) struct Values<R> {
    reader: R,
    shape: Shape,
    /// Line that is read next, from 1.
    line: u64,
    has_begun: bool,
}

/// Opens a reader whatever it is packed and encoded in: gzip, Zstandard, UTF-8 or UTF-16 with a
/// byte order mark.
///
/// # Errors
/// What is packed cannot be read.
pub(super) fn open(reader: impl Read + Send + 'static) -> io::Result<Box<dyn BufRead + Send>> {
    let mut reader: Box<dyn BufRead + Send> =
        Box::new(BufReader::with_capacity(limits::PUBLISH_READ_BYTES, reader));
    let start = reader.fill_buf()?;
    if start.starts_with(&[0x1f, 0x8b]) {
        return open(flate2::bufread::MultiGzDecoder::new(reader));
    }
    if start.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
        let decoder = ruzstd::decoding::StreamingDecoder::new(reader);
        return open(decoder.map_err(io::Error::other)?);
    }
    if start.starts_with(&[0xef, 0xbb, 0xbf]) {
        reader.consume(3);
        return Ok(reader);
    }
    let is_little = start.starts_with(&[0xff, 0xfe]);
    if is_little || start.starts_with(&[0xfe, 0xff]) {
        reader.consume(2);
        let text = Utf16 { reader, is_little, ready: Vec::new() };
        return Ok(Box::new(BufReader::with_capacity(limits::PUBLISH_READ_BYTES, text)));
    }
    Ok(reader)
}

impl<R: BufRead> Values<R> {
    /// Values of a reader; with `lines`, whatever is on each line.
    ///
    /// # Errors
    /// It cannot be read.
    pub(super) fn new(mut reader: R, lines: bool) -> io::Result<Self> {
        let shape = if lines { Shape::Lines } else { shape(reader.fill_buf()?) };
        Ok(Self { reader, shape, line: 1, has_begun: false })
    }

    /// Next value; `None` at the end.
    ///
    /// # Errors
    /// It cannot be read, or a value has no end within [`limits::EDITED_BYTES_MAX`].
    pub(super) fn next(&mut self) -> io::Result<Option<Value>> {
        match self.shape {
            Shape::Lines => self.next_line(),
            Shape::Values | Shape::Array => self.next_value(),
        }
    }

    fn next_line(&mut self) -> io::Result<Option<Value>> {
        loop {
            let mut bytes = Vec::new();
            let most = limits::EDITED_BYTES_MAX + 1;
            if self.reader.by_ref().take(most).read_until(b'\n', &mut bytes)? == 0 {
                return Ok(None);
            }
            let line = self.line;
            if bytes.len() as u64 == most {
                return Err(too_long(line));
            }
            self.line += 1;
            let text = bytes.trim_ascii();
            if !text.is_empty() {
                return Ok(Some(Value { line, bytes: Bytes::copy_from_slice(text) }));
            }
        }
    }

    /// Next value by its brackets; what stands between values and is none is a value, too, so that
    /// it is told.
    fn next_value(&mut self) -> io::Result<Option<Value>> {
        let (mut bytes, mut depth) = (Vec::new(), 0_usize);
        let (mut in_string, mut escaped) = (false, false);
        let mut began = self.line;
        loop {
            let Some(byte) = self.byte()? else {
                let rest = bytes.trim_ascii_end();
                let rest = Bytes::copy_from_slice(rest);
                return Ok((!rest.is_empty()).then_some(Value { line: began, bytes: rest }));
            };
            if bytes.is_empty() {
                let is_between = byte.is_ascii_whitespace()
                    || (self.shape == Shape::Array && matches!(byte, b',' | b']'))
                    || (self.shape == Shape::Array && byte == b'[' && !self.has_begun);
                if is_between {
                    self.has_begun |= byte == b'[';
                    continue;
                }
                began = self.line;
            }
            if bytes.len() as u64 >= limits::EDITED_BYTES_MAX {
                return Err(too_long(began));
            }
            match byte {
                _ if escaped => escaped = false,
                b'\\' if in_string => escaped = true,
                b'"' => in_string = !in_string,
                b'{' | b'[' if !in_string => depth += 1,
                b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
                b',' | b'\n' if !in_string && depth == 0 => {
                    let rest = Bytes::copy_from_slice(bytes.trim_ascii_end());
                    return Ok(Some(Value { line: began, bytes: rest }));
                }
                _ => {}
            }
            bytes.push(byte);
            if depth == 0 && !in_string && matches!(byte, b'}' | b']') {
                return Ok(Some(Value { line: began, bytes: bytes.into() }));
            }
        }
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let Some(byte) = self.reader.fill_buf()?.first().copied() else { return Ok(None) };
        self.reader.consume(1);
        self.line += u64::from(byte == b'\n');
        Ok(Some(byte))
    }
}

fn too_long(line: u64) -> io::Error {
    let most = limits::EDITED_BYTES_MAX >> 20;
    io::Error::other(format!("what begins on line {line} has no end within {most} MiB"))
}

/// Shape of a file that begins so.
fn shape(start: &[u8]) -> Shape {
    let start = start.trim_ascii_start();
    let first_line = start.split(|byte| *byte == b'\n').next().unwrap_or_default();
    match start.first() {
        Some(b'[') => Shape::Array,
        // One that is whole on its line; one that is longer than what was looked at is, too.
        Some(b'{') if first_line.len() < start.len() && !is_whole(first_line) => Shape::Values,
        _ => Shape::Lines,
    }
}

fn is_whole(line: &[u8]) -> bool {
    serde_json::from_slice::<serde::de::IgnoredAny>(line).is_ok()
}

/// UTF-16 as UTF-8. What is no text becomes U+FFFD.
struct Utf16<R> {
    reader: R,
    is_little: bool,
    /// Text that was decoded and not read.
    ready: Vec<u8>,
}

impl<R: Read> Read for Utf16<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.ready.is_empty() {
            self.decode()?;
        }
        let count = self.ready.len().min(buffer.len());
        buffer[..count].copy_from_slice(&self.ready[..count]);
        self.ready.drain(..count);
        Ok(count)
    }
}

impl<R: Read> Utf16<R> {
    /// Decodes some kilobytes; a pair that is cut is read to its end.
    fn decode(&mut self) -> io::Result<()> {
        let mut units = Vec::new();
        while units.len() < 4096 || units.last().is_some_and(|last| (0xd800..0xdc00).contains(last))
        {
            let mut pair = [0; 2];
            let mut have = 0;
            while have < 2 {
                match self.reader.read(&mut pair[have..])? {
                    0 => break,
                    count => have += count,
                }
            }
            match have {
                0 => break,
                1 => units.push(0xfffd),
                _ if self.is_little => units.push(u16::from_le_bytes(pair)),
                _ => units.push(u16::from_be_bytes(pair)),
            }
        }
        let text: String = char::decode_utf16(units)
            .map(|unit| unit.unwrap_or(char::REPLACEMENT_CHARACTER))
            .collect();
        self.ready = text.into_bytes();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PRETTY: &str = "{\n  \"a\": \"}\\\"{\",\n  \"b\": [1, 2]\n}";

    fn read(bytes: &[u8]) -> Vec<(u64, String)> {
        let mut values =
            Values::new(open(io::Cursor::new(bytes.to_vec())).unwrap(), false).unwrap();
        let mut found = Vec::new();
        while let Some(Value { line, bytes }) = values.next().unwrap() {
            found.push((line, String::from_utf8(bytes.to_vec()).unwrap()));
        }
        found
    }

    fn values(text: &str) -> Vec<(u64, String)> {
        read(text.as_bytes())
    }

    #[test]
    fn lines_are_values_whatever_ends_them() {
        let wanted = vec![(1, r#"{"a":1}"#.to_owned()), (3, r#"{"a":2}"#.to_owned())];
        for text in ["{\"a\":1}\n\n{\"a\":2}\n", "{\"a\":1}\r\n  \r\n{\"a\":2}"] {
            assert_eq!(values(text), wanted);
        }
        assert_eq!(values("no\njson"), [(1, "no".into()), (2, "json".into())]);
        assert!(values("").is_empty() && values("\n\n").is_empty());
    }

    #[test]
    fn values_one_after_the_other_and_in_an_array_are_found_by_their_brackets() {
        let both = format!("{PRETTY}\n{PRETTY}\n");
        assert_eq!(values(&both), [(1, PRETTY.into()), (5, PRETTY.into())]);
        let array = format!("[\n{PRETTY},\n{{\"a\":1}}, {{}}\n]\n");
        let wanted = [(2, PRETTY.into()), (6, "{\"a\":1}".into()), (6, "{}".into())];
        assert_eq!(values(&array), wanted);
        assert_eq!(values("[]"), []);
        // What is none is told with its place.
        assert_eq!(values("[{}, 7, x\n]"), [(1, "{}".into()), (1, "7".into()), (1, "x".into())]);
        assert_eq!(values("{\n\"a\":1"), [(1, "{\n\"a\":1".into())]);
    }

    #[test]
    fn a_file_is_read_whatever_it_is_packed_and_encoded_in() {
        use std::io::Write as _;
        let text = "{\"a\":\"ä€😀\"}\n{}\n";
        let wanted = values(text);
        let utf16 = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
            mark.into_iter().chain(text.encode_utf16().flat_map(bytes)).collect()
        };
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        gzip.write_all(text.as_bytes()).unwrap();
        let level = ruzstd::encoding::CompressionLevel::Fastest;
        let zstd = ruzstd::encoding::compress_to_vec(text.as_bytes(), level);
        for packed in [
            [b"\xef\xbb\xbf", text.as_bytes()].concat(),
            utf16([0xff, 0xfe], u16::to_le_bytes),
            utf16([0xfe, 0xff], u16::to_be_bytes),
            gzip.finish().unwrap(),
            zstd,
        ] {
            assert_eq!(read(&packed), wanted, "{:?}", &packed[..4]);
        }
    }

    #[test]
    fn text_in_utf_16_of_any_length_is_whole() {
        let text = "😀ä".repeat(10_000);
        let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let mut utf16 = Utf16 { reader: &bytes[..], is_little: true, ready: Vec::new() };
        let mut out = String::new();
        utf16.read_to_string(&mut out).unwrap();
        assert!(out == text);
    }
}

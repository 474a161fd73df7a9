//! Lines: output of any length, written line by line until its reader stops.

use std::{
    borrow::Cow,
    fmt::Write as _,
    io::{BufWriter, ErrorKind, Write},
};

use anyhow::Context as _;

/// Lines to a reader that may stop reading, such as `head`.
pub(super) struct Lines {
    to: BufWriter<Box<dyn Write + Send>>,
}

impl Lines {
    /// Lines to `to`.
    pub(super) fn to(to: impl Write + Send + 'static) -> Self {
        Self { to: BufWriter::new(Box::new(to)) }
    }

    /// Lines to stdout.
    pub(super) fn stdout() -> Self {
        Self::to(std::io::stdout())
    }

    /// Writes one line, of JSON or of printable text; false once nobody reads on.
    ///
    /// JSON may hold DEL and C1 controls as they are, which some terminals obey: they are written
    /// as escapes.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn line(&mut self, line: &str) -> anyhow::Result<bool> {
        let line = escaped(line);
        let written = self.to.write_all(line.as_bytes()).and_then(|()| self.to.write_all(b"\n"));
        is_read(written)
    }

    /// Writes what is buffered; false once nobody reads on.
    ///
    /// # Errors
    /// It could not be written.
    pub(super) fn flush(&mut self) -> anyhow::Result<bool> {
        is_read(self.to.flush())
    }
}

fn escaped(line: &str) -> Cow<'_, str> {
    let is_risky = |c: char| c.is_control() && c != '\n';
    if !line.contains(is_risky) {
        return line.into();
    }
    let mut out = String::with_capacity(line.len() + 16);
    for character in line.chars() {
        if is_risky(character) {
            _ = write!(out, "\\u{:04x}", u32::from(character));
        } else {
            out.push(character);
        }
    }
    out.into()
}

fn is_read(written: std::io::Result<()>) -> anyhow::Result<bool> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => Err(error).context("could not write the output"),
    }
}

/// Prints a text of one or several lines at once.
///
/// # Errors
/// As [`Lines::line`].
pub(super) fn print(text: &str) -> anyhow::Result<()> {
    let mut lines = Lines::stdout();
    lines.line(text)?;
    lines.flush()?;
    Ok(())
}

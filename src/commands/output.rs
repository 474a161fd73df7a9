//! Output: what commands print, also where nobody reads it or there is no room for it.
//!
//! The macros take the place of the standard ones, which panic then. Once a line could not be
//! written nothing more is. A command does what it was told to all the same; where there was no
//! room, it says so, and exits with 2.

use std::{
    fmt::Arguments,
    io::{self, ErrorKind, Write},
    process::ExitCode,
    sync::atomic::{AtomicBool, Ordering},
};

/// False once stdout took no more.
static IS_OPEN: AtomicBool = AtomicBool::new(true);
/// True once stdout took no more though its reader was there.
static HAS_FAILED: AtomicBool = AtomicBool::new(false);

/// Prints a line on stdout.
macro_rules! println {
    () => { $crate::commands::output::out(format_args!("\n")) };
    ($($part:tt)*) => {
        $crate::commands::output::out(format_args!("{}\n", format_args!($($part)*)))
    };
}

/// Prints text on stdout.
macro_rules! print {
    ($($part:tt)*) => { $crate::commands::output::out(format_args!($($part)*)) };
}

/// Prints a line on stderr.
macro_rules! eprintln {
    () => { $crate::commands::output::err(format_args!("\n")) };
    ($($part:tt)*) => {
        $crate::commands::output::err(format_args!("{}\n", format_args!($($part)*)))
    };
}

/// Prints text on stderr.
macro_rules! eprint {
    ($($part:tt)*) => { $crate::commands::output::err(format_args!($($part)*)) };
}

/// Writes to stdout, unless that took no more before.
pub(crate) fn out(text: Arguments<'_>) {
    if !IS_OPEN.load(Ordering::Relaxed) {
        return;
    }
    let mut stdout = anstream::stdout().lock();
    if let Err(error) = stdout.write_fmt(text).and_then(|()| stdout.flush()) {
        lost(&error);
    }
}

/// Writes to stderr, if that takes it: there is nowhere else to say so.
pub(crate) fn err(text: Arguments<'_>) {
    let mut stderr = anstream::stderr().lock();
    stderr.write_fmt(text).and_then(|()| stderr.flush()).ok();
}

/// Exit status of a command that came to `code`: could not do it, if what it had to print is lost.
pub(crate) fn status(code: ExitCode) -> ExitCode {
    if HAS_FAILED.load(Ordering::Relaxed) { ExitCode::from(2) } else { code }
}

fn lost(error: &io::Error) {
    IS_OPEN.store(false, Ordering::Relaxed);
    if error.kind() != ErrorKind::BrokenPipe {
        HAS_FAILED.store(true, Ordering::Relaxed);
        eprintln!("error: could not write to standard output\n because: {error}");
    }
}

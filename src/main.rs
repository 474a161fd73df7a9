//! The `millstream` program: the command line, with no Rust handlers of its own.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    millstream::Millstream::new().main()
}

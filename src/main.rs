//! The `tidings` command. Everything is in the library; this is the way in.

use std::process::ExitCode;

/// Gives memory back after a crowd has left, which the system's does not, and keeps less per stream: docs/performance.md.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    tidings::cli::run()
}
